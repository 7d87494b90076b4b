//! The store's promises, one test each.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kache_wrapper::cache::{
    Cache, Content, Dest, Entry, EntryKey, Event, InvocationKey, LinkMode, Outcome, Output, Placement,
    Publication, Sharing,
};

use super::*;

struct Bench {
    _dir: tempfile::TempDir,
    root: PathBuf,
    store: Store,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let store = Store::open(&root.join("cache"), Options::default()).unwrap();
        Bench { _dir: dir, root, store }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Stores an entry of one output and returns its blob.
    fn publish(&self, n: u8, bytes: &[u8]) -> Hash {
        let path = self.file(&format!("out-{n}"), bytes);
        let blob = self.store.ingest(&path, false, Sharing::Copy, &[]).unwrap();
        let output = Output {
            dest: Dest::OutDir(b"out".to_vec()),
            blob: blob.hash,
            size: blob.size,
            executable: false,
            sharing: Sharing::Copy,
        };
        let entry = Entry {
            crate_name: format!("crate_{n}"),
            kind: "lib".into(),
            outputs: vec![output],
            texts: Vec::new(),
            stdout: Vec::new(),
            stderr: b"warning".to_vec(),
            took_ms: 7,
        };
        let publication = Publication {
            invocation: InvocationKey([n; 32]),
            record: vec![n],
            key: EntryKey([n; 32]),
            entry,
        };
        self.store.publish(&publication).unwrap();
        self.store.flush().unwrap();
        blob.hash
    }

    fn restore(&self, n: u8, hash: Hash, size: u64, sharing: Sharing, to: &str) -> cache::Result<LinkMode> {
        let content = Content::Blob { hash, size, executable: false, sharing };
        self.store.restore(&EntryKey([n; 32]), &[Placement { path: self.root.join(to), content }])
    }

    fn reopened(&self) -> Result<Store> {
        Store::open(&self.root.join("cache"), Options::default())
    }

    fn sql(&self, text: &str) {
        Connection::open(self.root.join("cache/index.db")).unwrap().execute_batch(text).unwrap();
    }

    fn blob(&self, hash: &Hash) -> PathBuf {
        self.store.blob_path(hash)
    }
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_published_is_found_and_restored() {
    let b = Bench::new();
    let hash = b.publish(1, b"bytes");
    let other = b.reopened().unwrap();
    assert_eq!(other.records(&InvocationKey([1; 32])).unwrap(), [vec![1]]);
    let entry = other.entry(&EntryKey([1; 32])).unwrap().unwrap();
    assert_eq!((entry.outputs[0].blob, entry.stderr.as_slice()), (hash, &b"warning"[..]));
    b.restore(1, hash, 5, Sharing::Copy, "deep/er/out").unwrap();
    assert_eq!(fs::read(b.root.join("deep/er/out")).unwrap(), b"bytes");
    assert_eq!(fs::metadata(b.blob(&hash)).unwrap().mode() & 0o777, 0o444);
    assert_eq!(fs::metadata(b.root.join("cache")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn identical_bytes_are_kept_once() {
    let b = Bench::new();
    assert_eq!(b.publish(1, b"same"), b.publish(2, b"same"));
    assert_eq!((b.store.totals().unwrap().entries, b.store.totals().unwrap().blobs), (2, 1));
}

/// A report asks for a flush while the daemon's own is on its way.
#[test]
fn after_a_flush_everything_is_written_whoever_writes_it() {
    let b = Bench::new();
    let inv = kache_wrapper::cache::Invocation { argv: Vec::new(), env: Vec::new(), cwd: b.root.clone() };
    let event = Event::of(&inv, Outcome::Miss, "crate", "lib", "", std::time::Duration::ZERO);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                b.store.flush().unwrap();
            }
        });
        let reader = Connection::open(b.root.join("cache/index.db")).unwrap();
        let mut missing = Vec::new();
        for n in 1..=200 {
            b.store.event(&event);
            b.store.flush().unwrap();
            let count: u32 = reader.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
            if count != n {
                missing.push(n);
            }
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(missing, [0; 0], "flushed and not in the index");
    });
}

#[test]
fn a_hard_link_goes_to_one_target_only() {
    let b = Bench::new();
    let hash = b.publish(1, &[9; 5000]);
    let modes = ["a", "b"].map(|to| b.restore(1, hash, 5000, Sharing::Link, to).unwrap());
    let inodes = ["a", "b"].map(|to| fs::metadata(b.root.join(to)).unwrap().ino());
    assert_ne!(inodes[0], inodes[1], "two targets would share one mtime");
    if modes[0] == LinkMode::Hardlink {
        assert_eq!(modes[1], LinkMode::Copy);
    }
}

/// As `rsync --inplace --times` and some patchers do, through the link that a target has.
#[test]
fn a_blob_that_was_changed_in_place_is_not_handed_out_even_if_its_time_was_set_back() {
    let b = Bench::new();
    let hash = b.publish(1, &[9; 5000]);
    if b.restore(1, hash, 5000, Sharing::Link, "a").unwrap() != LinkMode::Hardlink {
        return;
    }
    b.store.flush().unwrap();
    let target = b.root.join("a");
    let before = fs::metadata(&target).unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut file = fs::File::options().write(true).open(&target).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    file.set_modified(before).unwrap();
    assert!(b.reopened().unwrap().has_blob(&hash, 5000).is_ok_and(|sound| !sound));
    assert!(b.restore(1, hash, 5000, Sharing::Link, "b").is_err());
}

/// Of a blob that is in nobody's target, and of one that has just been linked there, nothing is read.
#[test]
fn a_link_made_by_kache_is_no_reason_to_read_a_blob() {
    let b = Bench::new();
    let hash = b.publish(1, &[9; 5000]);
    b.restore(1, hash, 5000, Sharing::Link, "a").unwrap();
    b.store.flush().unwrap();
    assert!(b.store.looks_sound(&hash));
    assert!(b.reopened().unwrap().looks_sound(&hash));
    fs::remove_file(b.root.join("a")).unwrap();
    assert!(b.store.looks_sound(&hash), "nor is the end of one");
}

#[test]
fn a_truncated_blob_is_not_handed_out_and_its_entries_are_forgotten() {
    let b = Bench::new();
    let hash = b.publish(1, b"whole bytes");
    overwrite(&b.blob(&hash), b"whole");
    assert!(b.restore(1, hash, 11, Sharing::Copy, "out").is_err());
    assert!(b.store.entry(&EntryKey([1; 32])).unwrap().is_none());
    assert!(
        !b.blob(&hash).exists() && fs::read_dir(b.root.join("cache/store/quarantine")).unwrap().count() == 1
    );
}

#[test]
fn a_blob_of_the_same_size_with_other_bytes_is_not_handed_out() {
    let b = Bench::new();
    let hash = b.publish(1, b"right");
    overwrite(&b.blob(&hash), b"wrong");
    assert!(b.restore(1, hash, 5, Sharing::Copy, "out").is_err());
    // The same bytes can be stored again.
    assert_eq!(b.publish(1, b"right"), hash);
    b.restore(1, hash, 5, Sharing::Copy, "out").unwrap();
}

#[test]
fn gc_removes_what_was_used_longest_ago() {
    let b = Bench::new();
    let hashes: Vec<Hash> = (1..=4).map(|n| b.publish(n, &vec![n; 100_000])).collect();
    b.sql("UPDATE uses SET used = entry; UPDATE uses SET used = 1000 WHERE entry = 1");
    let bytes = b.store.totals().unwrap().bytes;
    let done = b.store.gc(bytes * 3 / 5).unwrap().unwrap();
    let left: Vec<bool> = hashes.iter().map(|h| b.blob(h).exists()).collect();
    // They go in batches, oldest first; the newest stays unless everything had to go.
    assert!(!left[1], "the oldest is gone");
    assert!(done.blobs >= 1 && b.store.totals().unwrap().bytes <= bytes * 3 / 5);
    assert_eq!(fs::read_dir(b.root.join("cache/store/tmp")).unwrap().count(), 0);
}

#[test]
fn gc_leaves_what_a_mount_shows() {
    let b = Bench::new();
    let hash = b.publish(1, &[1; 100_000]);
    b.store.set_pins("mount /somewhere", &[hash]).unwrap();
    b.store.gc(1).unwrap().unwrap();
    b.store.purge(None).unwrap();
    assert!(b.blob(&hash).exists());
    b.store.set_pins("mount /somewhere", &[]).unwrap();
    b.store.gc(1).unwrap().unwrap();
    b.sql("UPDATE blobs SET published = 0");
    b.store.gc(1).unwrap().unwrap();
    assert!(!b.blob(&hash).exists());
}

#[test]
fn gc_removes_files_that_the_index_does_not_know_once_they_are_old() {
    let b = Bench::new();
    let hash = b.publish(1, b"known");
    let stray = b.root.join("cache/store/blobs/00").join("00".repeat(32));
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, b"?").unwrap();
    b.store.gc(u64::MAX).unwrap().unwrap();
    assert!(stray.exists(), "it may be on its way into the index");
    assert!(b.blob(&hash).exists());
    // Nothing but waiting makes a ctime old, so `doctor --repair` stands in for the day after.
    let found = b.store.verify(true, true).unwrap();
    assert_eq!((found.sound, found.strays), (1, 1));
    assert!(!stray.exists());
}

#[test]
fn purge_forgets_one_crate_or_all() {
    let b = Bench::new();
    b.publish(1, b"one");
    b.publish(2, b"two");
    assert_eq!(b.store.purge(Some("crate_1")).unwrap().entries, 1);
    assert_eq!(b.store.entries(None).unwrap().len(), 1);
    assert!(b.store.records(&InvocationKey([1; 32])).unwrap().is_empty());
    assert_eq!(b.store.purge(None).unwrap().entries, 1);
    assert_eq!(b.store.totals().unwrap().blobs, 0);
}

#[test]
fn a_corrupt_index_is_set_aside() {
    let b = Bench::new();
    let hash = b.publish(1, b"bytes");
    drop(fs::remove_file(b.root.join("cache/index.db-wal")));
    fs::write(b.root.join("cache/index.db"), b"this is no database, and long enough to look at").unwrap();
    let fresh = b.reopened().unwrap();
    assert!(fresh.entry(&EntryKey([1; 32])).unwrap().is_none());
    let set_aside = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with("index.db.corrupt-");
    assert!(fs::read_dir(b.root.join("cache")).unwrap().flatten().any(|e| set_aside(&e)));
    // The blobs are still there and can be taken in again.
    fresh.verify(false, true).unwrap();
    assert!(fresh.has_blob(&hash, 5).unwrap());
}

#[test]
fn an_index_of_a_newer_kache_is_left_alone() {
    let b = Bench::new();
    b.publish(1, b"bytes");
    b.sql("PRAGMA user_version = 999");
    let error = b.reopened().err().expect("refused").to_string();
    assert!(error.contains("newer") && error.contains("KACHE_CACHE_DIR"), "{error}");
}

#[test]
fn an_altered_entry_is_not_believed() {
    let b = Bench::new();
    b.publish(1, b"bytes");
    b.sql("UPDATE entries SET body = CAST(substr(body, 1, length(body) - 1) || x'00' AS BLOB)");
    assert!(b.store.entry(&EntryKey([1; 32])).unwrap().is_none());
}

#[test]
fn verify_finds_what_is_damaged_and_what_is_missing() {
    let b = Bench::new();
    let hashes: Vec<Hash> = (1..=3).map(|n| b.publish(n, &[n; 100])).collect();
    overwrite(&b.blob(&hashes[0]), &[8; 100]);
    fs::remove_file(b.blob(&hashes[1])).unwrap();
    let found = b.store.verify(true, false).unwrap();
    assert_eq!((found.sound, found.damaged.len(), found.missing), (1, 1, 1));
    b.store.verify(true, true).unwrap();
    let found = b.store.verify(true, false).unwrap();
    assert_eq!((found.sound, found.damaged.len(), found.missing), (1, 0, 0));
}

#[test]
fn the_stat_cache_sees_a_file_rewritten_in_place() {
    let b = Bench::new();
    let path = b.file("source.rs", b"one");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let set_old = || fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    set_old();
    let first = b.store.hash_file(&path).unwrap().unwrap();
    b.store.flush().unwrap();
    fs::write(&path, b"two").unwrap();
    set_old();
    assert_ne!(b.store.hash_file(&path).unwrap().unwrap(), first, "same size, same mtime, other bytes");
}

/// A link changes a file's times, but not its bytes.
#[test]
fn a_file_may_be_linked_while_it_is_hashed() {
    let b = Bench::new();
    let path = b.file("library.rmeta", &vec![7; 8 << 20]);
    let expected = *blake3::hash(&vec![7; 8 << 20]).as_bytes();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = b.root.join("other");
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                fs::hard_link(&path, &other).unwrap();
                fs::remove_file(&other).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        let hashes: Vec<_> = (0..30).map(|_| b.store.hash_file(&path)).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for hash in hashes {
            assert_eq!(hash.unwrap(), Some(expected));
        }
    });
}

#[test]
fn many_threads_publish_and_restore_one_key() {
    let b = Bench::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let b = &b;
            scope.spawn(move || {
                let store = b.reopened().unwrap();
                for round in 0..10 {
                    let path = b.file(&format!("t-{thread}"), &[5; 1000]);
                    let blob = store.ingest(&path, false, Sharing::Copy, &[]).unwrap();
                    let content = Content::Blob {
                        hash: blob.hash,
                        size: 1000,
                        executable: false,
                        sharing: Sharing::Copy,
                    };
                    let to = b.root.join(format!("r-{thread}-{round}"));
                    store.restore(&EntryKey([1; 32]), &[Placement { path: to.clone(), content }]).unwrap();
                    assert_eq!(fs::read(to).unwrap(), [5; 1000]);
                }
            });
        }
    });
}
