//! The same operations on a mount and on a plain directory must tell the same, while views are placed, sealed and
//! copied up in between, and the mount is undone and made again.
//!
//! Long runs: `KACHE_MODEL_SEEDS=1000 KACHE_MODEL_OPS=2000 KACHE_MODEL_FIRST=1 cargo test -p kache-fs --test model`.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use common::ops::{Maker, Op, World};
use common::rng::{Rng, setting};
use common::same::{self, Placed};
use common::{Rig, blob_of, place_view};
use kache_fs::{Leave, LinkPolicy, RelPath, SealError};
use rustix::io::Errno;

/// One step of a run.
#[derive(Debug, Clone)]
enum Step {
    /// On both.
    Op(Op),
    Place(Placed),
    Seal(Vec<u8>),
    SealAll,
    Remove(Vec<u8>),
    SetMtime(Vec<u8>, i64),
    Remount(Again),
}

#[derive(Debug, Clone, Copy)]
enum Again {
    Journal,
    Files,
    Dropped,
}

struct Run {
    rig: Rig,
    mounted: World,
    plain: World,
    maker: Maker,
    seeds: Vec<u64>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let rig = Rig::new();
        let plain = rig.base().join("plain");
        std::fs::create_dir(&plain).unwrap();
        let mounted = World::new(rig.root());
        let maker = Maker { rng: Rng::new(seed), paths_only: false };
        Run { rig, mounted, plain: World::new(plain), maker, seeds: vec![seed] }
    }

    fn next(&mut self) -> Step {
        let plain = self.plain.root.clone();
        let choice = self.maker.rng.below(100);
        if choice >= 26 {
            return Step::Op(self.maker.op(&plain));
        }
        if choice == 0 && self.maker.rng.one_in(2) {
            let all = [Again::Journal, Again::Files, Again::Dropped];
            return Step::Remount(self.maker.rng.pick(&all));
        }
        let path = self.maker.path(&plain);
        if !same::is_straight(&plain, &path) && self.maker.rng.below(10) < 9 {
            return Step::Op(Op::Stat { path });
        }
        match choice {
            0..12 => Step::Place(self.placed(path)),
            12..22 => Step::Seal(path),
            22 => Step::SealAll,
            23 => Step::Remove(path),
            _ => Step::SetMtime(path, self.maker.seconds()),
        }
    }

    /// Often the same bytes again, so that blobs are shared.
    fn placed(&mut self, path: Vec<u8>) -> Placed {
        let rng = &mut self.maker.rng;
        let seed = if rng.one_in(3) { rng.next() } else { rng.pick(&self.seeds) };
        self.seeds.push(seed);
        let length = if seed.is_multiple_of(4) { 0 } else { (seed % 200_000) as usize };
        let mode = self.maker.mode();
        let seconds = self.maker.rng.one_in(2).then(|| self.maker.seconds());
        Placed { path, seed, length, mode, seconds }
    }

    /// What the two say about it; the same, one hopes.
    fn take(&mut self, step: &Step) -> (String, String) {
        match step {
            Step::Op(op) => {
                let (mounted, plain) = (self.mounted.apply(op), self.plain.apply(op));
                (short(&mounted), short(&plain))
            }
            Step::Place(placed) => self.place(placed),
            Step::Seal(path) => self.seal(path),
            Step::SealAll => {
                let all = self.rig.mount().seal_quiet(Duration::ZERO, Duration::from_secs(600), &|_| true);
                (format!("{}", all.unwrap().complete), "true".into())
            }
            Step::Remove(path) => {
                let removed = self.rig.mount().remove(&relative(path)).map_err(|e| e.errno());
                if same::is_straight(&self.plain.root, path) {
                    same::remove(&self.plain.root, path);
                    (format!("{removed:?}"), "Ok(())".into())
                } else {
                    (String::new(), String::new())
                }
            }
            Step::SetMtime(path, seconds) => {
                let at = SystemTime::UNIX_EPOCH + Duration::new(*seconds as u64, 123_456_789);
                let set = self.rig.mount().set_mtimes(&[(relative(path), at)]).unwrap();
                let there = same::is_straight(&self.plain.root, path)
                    && self.plain.apply(&Op::Utimes { path: path.clone(), seconds: *seconds }).is_ok();
                (set.to_string(), usize::from(there).to_string())
            }
            Step::Remount(how) => (self.remount(*how), String::new()),
        }
    }

    fn place(&mut self, placed: &Placed) -> (String, String) {
        let data = common::bytes(placed.seed, placed.length);
        let hash = self.rig.blobs.insert(&data).unwrap();
        let path = self.mounted.at(&placed.path);
        let in_place = same::is_straight(&self.plain.root, &placed.path)
            && blob_of(&path) == Some(hash)
            && rustix::fs::lstat(&path).is_ok_and(|s| s.st_nlink == 1);
        let name = OsStr::from_bytes(&placed.path).to_owned();
        let content =
            kache_fs::Content::View { hash, size: data.len() as u64, link_ok: placed.seed.is_multiple_of(2) };
        let placement = kache_fs::Placement {
            path: RelPath::new(name).unwrap(),
            content,
            mode: placed.mode,
            mtime: placed.mtime(),
        };
        let mounted = self.rig.mount().place(&[placement]).map_err(|e| Errno::from_raw_os_error(e.errno()));
        (format!("{mounted:?}"), format!("{:?}", placed.apply(&self.plain.root, in_place)))
    }

    fn seal(&mut self, path: &[u8]) -> (String, String) {
        let sealed = self.rig.mount().seal(&relative(path), false);
        match &sealed {
            Ok((hash, _)) => {
                let shown = blob_of(&self.mounted.at(path));
                (format!("{shown:?}"), format!("{:?}", Some(*hash)))
            }
            Err(SealError::AlreadyView | SealError::NotAFile | SealError::ExtendedAttributes) => {
                (String::new(), String::new())
            }
            Err(SealError::Fs(error))
                if error.is_not_found() || error.errno() == Errno::NOTDIR.raw_os_error() =>
            {
                let there = same::is_straight(&self.plain.root, path)
                    && rustix::fs::lstat(self.plain.at(path)).is_ok();
                (format!("there: {there}"), "there: false".into())
            }
            Err(error) => (format!("{error:?}"), "a seal".into()),
        }
    }

    fn remount(&mut self, how: Again) -> String {
        self.mounted.close_all();
        self.plain.close_all();
        let leave = match how {
            Again::Journal => Leave::Journal,
            Again::Files => Leave::Files(LinkPolicy::Never),
            Again::Dropped => {
                self.rig.forget();
                self.rig.start();
                return self.compare();
            }
        };
        let report = self.rig.stop(leave);
        let mut wrong = String::new();
        if report.lost > 0 {
            wrong += "views were lost\n";
        }
        if !matches!(leave, Leave::Journal) {
            wrong += &same::differences(&self.mounted.root, &self.plain.root);
        }
        self.rig.start();
        wrong + &self.compare()
    }

    fn compare(&self) -> String {
        let mut out = same::differences(&self.mounted.root, &self.plain.root);
        let mut walked: Vec<_> =
            self.rig.mount().walk().unwrap().into_iter().map(|e| e.path.as_bytes().to_vec()).collect();
        walked.sort();
        let mut listed = same::paths(&self.mounted.root);
        listed.sort();
        if walked != listed {
            out += "the daemon's walk and the listing differ\n";
        }
        out
    }
}

fn relative(path: &[u8]) -> RelPath {
    RelPath::new(OsStr::from_bytes(path)).unwrap()
}

/// For people to read: long data as a hash.
fn short<T: std::fmt::Debug>(told: &T) -> String {
    let text = format!("{told:?}").replace(&"108, ".repeat(250), "…");
    if text.len() < 2000 { text } else { format!("{}… {}", &text[..100], blake3::hash(text.as_bytes())) }
}

fn run(seed: u64, steps: u64) {
    let mut run = Run::new(seed);
    let mut log: Vec<String> = Vec::new();
    for at in 0..steps {
        let step = run.next();
        let (mounted, plain) = run.take(&step);
        log.push(format!("{at}: {} -> {}", short(&step), &plain[..plain.len().min(300)]));
        let mut wrong = String::new();
        if mounted != plain {
            wrong = format!("mount: {mounted}\nplain: {plain}\n");
        } else if at % 20 == 19 || at + 1 == steps || setting("KACHE_MODEL_CAREFUL", 0) == 1 {
            wrong = run.compare();
        }
        if !wrong.is_empty() {
            let last = log[log.len().saturating_sub(setting("KACHE_MODEL_SHOW", 30) as usize)..].join("\n");
            panic!("seed {seed}, step {at}:\n{last}\n{wrong}");
        }
    }
    let blobs = run.rig.base().join("blobs");
    run.mounted.close_all();
    run.rig.stop(Leave::Journal);
    common::check_blobs(&blobs);
}

fn run_share(part: u64) {
    let first = setting("KACHE_MODEL_FIRST", 1);
    let seeds = setting("KACHE_MODEL_SEEDS", 40);
    let steps = setting("KACHE_MODEL_OPS", 400);
    (first..first + seeds).filter(|seed| seed % 2 == part).for_each(|seed| run(seed, steps));
}

#[test]
fn a_mount_is_like_a_plain_directory_even_seeds() {
    run_share(0);
}

#[test]
fn a_mount_is_like_a_plain_directory_odd_seeds() {
    run_share(1);
}

#[test]
fn the_comparison_sees_differences() {
    let rig = Rig::new();
    let plain = rig.base().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let hash = rig.blobs.insert(b"one").unwrap();
    place_view(rig.mount(), "f", hash, 3, 0o644, None).unwrap();
    std::fs::write(plain.join("f"), "two").unwrap();
    assert!(same::differences(&rig.root(), &plain).contains("bytes differ"));
    std::fs::write(plain.join("f"), "one").unwrap();
    assert_eq!(same::differences(&rig.root(), &plain), "");
    std::fs::hard_link(plain.join("f"), plain.join("g")).unwrap();
    assert!(same::differences(&rig.root(), &plain).contains("only in the plain directory"));
}
