//! Readers never see torn or wrong bytes while the same paths are placed, sealed, copied up, renamed over, linked and
//! unlinked by others.
//!
//! Long runs: `KACHE_HAMMER_READS=100000 cargo test -p kache-fs --test hammer`.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::process::Served;
use common::rng::{Rng, setting};
use common::{Map, Rig, check_blobs};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

const PATHS: [&str; 3] = ["hot/a", "hot/b", "c"];
const VERSIONS: u64 = 12;

/// A whole file that tells its version in each word. Every version has a length of its own.
fn version(n: u64) -> Vec<u8> {
    let words = 1 + n * 2500;
    (0..words).flat_map(|at| (n << 32 | at).to_le_bytes()).collect()
}

/// Panics unless these are the bytes of one whole version.
fn check(bytes: &[u8], how: &str) {
    let n = bytes.get(4..8).map(|b| u64::from(u32::from_le_bytes(b.try_into().unwrap())));
    let n = n.unwrap_or_else(|| panic!("{how}: {} bytes", bytes.len()));
    assert!(
        n < VERSIONS && bytes == version(n),
        "{how}: torn or wrong bytes of version {n}, {} bytes",
        bytes.len()
    );
}

/// Others remove and replace names all the time. Nothing else may go wrong.
fn unless_gone<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

struct Hammer {
    rig: Rig,
    /// Served by another process: one that has faults in a mount that it serves itself may wait for itself.
    served: Mutex<Served>,
    hashes: Vec<blake3::Hash>,
    done: AtomicBool,
    reads: AtomicU64,
}

impl Hammer {
    fn path(&self, rng: &mut Rng) -> &'static str {
        rng.pick(&PATHS)
    }

    fn read(&self, rng: &mut Rng) {
        let Some(file) = unless_gone(File::open(self.rig.path(self.path(rng)))) else { return };
        match rng.below(4) {
            0 => {
                let size = file.metadata().unwrap().len();
                check(&common::read_at(&file, 0, size as usize).unwrap(), "as long as stat says");
                assert_eq!(common::read_at(&file, size, 10).unwrap(), b"", "beyond the end");
            }
            1 => {
                let size = file.metadata().unwrap().len();
                let map = Map::private(&file, size as usize).unwrap();
                check(&map.read(), "mapped");
            }
            2 => {
                let mut bytes = Vec::new();
                loop {
                    let step = 1 + rng.below(20_000) as usize;
                    let part = common::read_at(&file, bytes.len() as u64, step).unwrap();
                    bytes.extend_from_slice(&part);
                    if part.len() < step {
                        break;
                    }
                    std::thread::yield_now();
                }
                check(&bytes, "in pieces");
            }
            _ => check(&common::read_at(&file, 0, 1 << 20).unwrap(), "to the end"),
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    fn ask(&self, line: &str) -> Result<String, String> {
        self.served.lock().unwrap().ask(line).expect("the server is gone")
    }

    fn place(&self, rng: &mut Rng) {
        let n = rng.below(VERSIONS);
        let (hash, size) = (self.hashes[n as usize], version(n).len());
        self.ask(&format!("view {} 644 {size} {hash}", self.path(rng))).unwrap();
    }

    /// As a compiler does: whole under another name, then renamed over.
    fn rename_over(&self, rng: &mut Rng) {
        let temporary = self.rig.path(&format!("tmp-{}", rng.next()));
        fs::write(&temporary, version(rng.below(VERSIONS))).unwrap();
        fs::rename(&temporary, self.rig.path(self.path(rng))).unwrap();
    }

    fn seal(&self, rng: &mut Rng) {
        if rng.one_in(20) {
            self.ask("quiet").unwrap();
        }
        let Err(why) = self.ask(&format!("seal {}", self.path(rng))) else { return };
        // Others replace the file all the time.
        let expected =
            ["a view already", "changed while", "extended attributes", "(os error 2)", "(os error 116)"];
        assert!(expected.iter().any(|part| why.contains(part)), "{why}");
    }

    /// Changes that copy up without changing what a reader may see.
    fn copy_up(&self, rng: &mut Rng) {
        let path = self.rig.path(self.path(rng));
        if rng.one_in(4) {
            match rustix::fs::setxattr(&path, "user.x", b"1", XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => panic!("{error}"),
            }
            match rustix::fs::removexattr(&path, "user.x") {
                Ok(()) | Err(Errno::NOENT | Errno::NODATA) => {}
                Err(error) => panic!("{error}"),
            }
            return;
        }
        let Some(file) = unless_gone(OpenOptions::new().read(true).write(true).open(&path)) else { return };
        let bytes = common::read_at(&file, 0, 1 << 20).unwrap();
        check(&bytes, "before a write");
        let at = rng.below(bytes.len() as u64) as usize;
        let part = &bytes[at..(at + 5000).min(bytes.len())];
        file.write_all_at(part, at as u64).unwrap();
    }

    fn remove_or_link(&self, rng: &mut Rng) {
        let (one, two) = (self.path(rng), self.path(rng));
        match rng.below(2) {
            0 => drop(unless_gone(fs::remove_file(self.rig.path(one)))),
            _ => match fs::hard_link(self.rig.path(one), self.rig.path(two)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => drop(unless_gone(other)),
            },
        }
    }

    fn until_done(&self, seed: u64, act: fn(&Hammer, &mut Rng)) {
        let mut rng = Rng::new(seed);
        while !self.done.load(Ordering::Relaxed) {
            act(self, &mut rng);
        }
    }
}

/// Ends the others also when a reader panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_whole_versions_only() {
    let rig = Rig::unmounted();
    let blobs = rig.base().join("blobs");
    let served = Mutex::new(Served::start(&rig.root(), &rig.state(), &blobs));
    fs::create_dir(rig.path("hot")).unwrap();
    let hashes = (0..VERSIONS).map(|n| rig.blobs.insert(&version(n)).unwrap()).collect();
    let hammer = Hammer { rig, served, hashes, done: AtomicBool::new(false), reads: AtomicU64::new(0) };
    let reads = setting("KACHE_HAMMER_READS", 2000);
    let acts: [fn(&Hammer, &mut Rng); 5] =
        [Hammer::place, Hammer::rename_over, Hammer::seal, Hammer::copy_up, Hammer::remove_or_link];
    std::thread::scope(|scope| {
        let hammer = &hammer;
        for (seed, act) in acts.into_iter().enumerate() {
            scope.spawn(move || {
                let _ends = Ends(&hammer.done);
                hammer.until_done(seed as u64, act);
            });
        }
        for seed in 10..13 {
            scope.spawn(move || {
                let _ends = Ends(&hammer.done);
                let mut rng = Rng::new(seed);
                while hammer.reads.load(Ordering::Relaxed) < reads && !hammer.done.load(Ordering::Relaxed) {
                    hammer.read(&mut rng);
                }
            });
        }
    });

    // Now that it is quiet: what the kernel remembers is what the file system has.
    let look = || -> Vec<_> {
        let names = common::same::paths(&hammer.rig.root());
        let file = |name: Vec<u8>| {
            let name = String::from_utf8(name).unwrap();
            let path = hammer.rig.path(&name);
            let bytes = path.is_file().then(|| fs::read(&path).unwrap());
            bytes.iter().for_each(|bytes| check(bytes, &name));
            (name, bytes, fs::metadata(&path).unwrap().nlink())
        };
        names.into_iter().map(file).collect()
    };
    let seen = look();
    check_blobs(&blobs);
    hammer.ask("files").unwrap();
    assert!(look() == seen, "the kernel remembered something else");
    check_blobs(&blobs);
}
