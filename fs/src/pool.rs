//! Threads for requests that may take long (a blob to be fetched, a file to be copied up, an fsync), so that the few
//! threads that read from the kernel stay free. Threads come as needed and go when idle.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

const MOST: usize = 64;
const STACK: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    empty: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Pool {
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        queue.jobs.push_back(Box::new(job));
        if queue.idle >= queue.jobs.len() || queue.threads >= MOST {
            self.shared.work.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new().name("kache-slow".into()).stack_size(STACK).spawn({
            let shared = shared.clone();
            move || shared.serve()
        });
        if spawned.is_err() {
            // No thread to be had: this one must do.
            shared.serve_now();
        }
    }

    /// Waits until all jobs are done and their threads gone (idle ones in time).
    pub fn drain(&self) {
        let mut queue = self.shared.queue.lock();
        while queue.threads > queue.idle || !queue.jobs.is_empty() {
            self.shared.empty.wait_for(&mut queue, Duration::from_millis(50));
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                run(job);
                queue = self.queue.lock();
                continue;
            }
            queue.idle += 1;
            self.empty.notify_all();
            let timed_out = self.work.wait_for(&mut queue, LINGER).timed_out();
            queue.idle -= 1;
            if timed_out && queue.jobs.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }

    fn serve_now(&self) {
        let job = {
            let mut queue = self.queue.lock();
            queue.threads -= 1;
            queue.jobs.pop_front()
        };
        if let Some(job) = job {
            run(job);
        }
    }
}

/// A panic is the end of one job: whoever waits for it gets an error.
fn run(job: Job) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn blocked_jobs_do_not_keep_others_waiting() {
        let pool = Pool::default();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        pool.run(move || gate.recv().unwrap());
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let done = done.clone();
            pool.run(move || _ = done.fetch_add(1, Ordering::SeqCst));
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while done.load(Ordering::SeqCst) < 20 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        release.send(()).unwrap();
        pool.drain();
    }
}
