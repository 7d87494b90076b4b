//! When a remote is not worth asking any more.
//!
//! Waiting for a remote that then has nothing is time lost to a build. A gate adds such time up; when a build has lost
//! more than a small part of its time, or the remote fails again and again, the gate closes for the rest of the build.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// A build may lose one part in so many to a remote that does not help.
const SHARE: u32 = 20;
/// … and this much in any case.
const GRACE: Duration = Duration::from_millis(1000);
/// Failures in a row.
const PATIENCE: u32 = 3;
/// After so long without a question, the next one belongs to another build.
const PAUSE: Duration = Duration::from_secs(20);

pub struct Gate {
    state: Mutex<State>,
    /// Actions that wait at the same time lose the same time.
    lanes: u32,
}

struct State {
    began: Instant,
    last: Instant,
    lost: Duration,
    failures: u32,
    closed: bool,
    warned: bool,
}

impl State {
    fn new(now: Instant) -> State {
        State { began: now, last: now, lost: Duration::ZERO, failures: 0, closed: false, warned: false }
    }

    fn close(&mut self, why: &str) -> Option<String> {
        self.closed = true;
        self.warn(format!("the remote is left alone for this build: {why}"))
    }

    /// One is enough for a build.
    fn warn(&mut self, warning: String) -> Option<String> {
        (!std::mem::replace(&mut self.warned, true)).then_some(warning)
    }

    fn allowed(&self, now: Instant) -> Duration {
        GRACE + now.duration_since(self.began) / SHARE
    }
}

impl Gate {
    pub fn new(lanes: usize) -> Gate {
        Gate { state: Mutex::new(State::new(Instant::now())), lanes: lanes.max(1) as u32 }
    }

    /// How long the next question may take at most; `None`: do not ask.
    pub fn patience(&self) -> Option<Duration> {
        self.patience_at(Instant::now())
    }

    fn patience_at(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.last) > PAUSE {
            *state = State::new(now);
        }
        state.last = now;
        (!state.closed).then(|| state.allowed(now).saturating_sub(state.lost / self.lanes))
    }

    /// Time was lost. Returns a warning for people, if it is time for one.
    pub fn lost(&self, time: Duration) -> Option<String> {
        self.lost_at(time, Instant::now())
    }

    fn lost_at(&self, time: Duration, now: Instant) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lost += time;
        state.last = now;
        let lost = state.lost / self.lanes;
        if state.closed || lost < state.allowed(now) {
            return None;
        }
        state.close(&format!("this build has waited {:.1} s for it in vain", lost.as_secs_f64()))
    }

    /// A question failed. Returns a warning for people, if it is time for one.
    pub fn failed(&self, error: &Error) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_about_one_object() {
            return state.warn(error.to_string());
        }
        state.failures += 1;
        if state.closed || (state.failures < PATIENCE && !error.is_lasting()) {
            return None;
        }
        state.close(&error.to_string())
    }

    /// An answer saved time.
    pub fn helped(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Error {
        Error::Unreachable { endpoint: "e".into(), why: "w".into() }
    }

    #[test]
    fn a_slow_remote_is_left_alone_once_and_asked_again_by_the_next_build() {
        let gate = Gate::new(2);
        let start = Instant::now();
        assert!(gate.patience_at(start).is_some());
        assert_eq!(gate.lost_at(Duration::from_millis(1500), start), None);
        assert!(gate.lost_at(Duration::from_millis(1500), start).is_some());
        assert_eq!(gate.lost_at(Duration::from_secs(5), start), None, "one warning is enough");
        assert_eq!(gate.patience_at(start + Duration::from_secs(1)), None);
        assert!(gate.patience_at(start + Duration::from_secs(1) + PAUSE * 2).is_some());
    }

    #[test]
    fn a_long_build_may_lose_a_twentieth() {
        let gate = Gate::new(1);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_secs(1);
            assert!(gate.patience_at(now).is_some());
            assert_eq!(gate.lost_at(Duration::from_millis(50), now), None);
        }
    }

    #[test]
    fn failures_close_it_successes_forgive_them() {
        let gate = Gate::new(1);
        gate.patience();
        for _ in 0..5 {
            assert_eq!(gate.failed(&failure()), None);
            assert_eq!(gate.failed(&failure()), None);
            gate.helped();
        }
        gate.failed(&failure());
        gate.failed(&failure());
        assert!(gate.failed(&failure()).is_some() && gate.failed(&failure()).is_none());
        assert_eq!(gate.patience(), None);

        let gate = Gate::new(1);
        let denied = Error::Denied { endpoint: "e".into(), what: "w", code: "AccessDenied".into() };
        assert!(gate.failed(&denied).is_some());

        // One object that is wrong is a warning, and the only one.
        let gate = Gate::new(1);
        let gone = Error::Gone { name: "n".into() };
        assert!(gate.failed(&gone).is_some() && gate.failed(&gone).is_none());
        assert!(gate.patience().is_some());
        assert_eq!(gate.failed(&denied), None);
        assert_eq!(gate.patience(), None);
    }
}
