//! The power fails: what was on the disk before the mount, or was promised to be there, is there.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::{Rig, bytes};
use kache_fs::{Leave, LinkPolicy, SealError};

/// A small disk that writes down names at once, and bytes only when asked or after half a minute.
struct Disk {
    dir: tempfile::TempDir,
    mounted: Vec<PathBuf>,
}

impl Disk {
    fn new() -> Disk {
        let mut disk = Disk { dir: tempfile::tempdir().unwrap(), mounted: Vec::new() };
        let image = disk.dir.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-b", "4096"]).arg(&image));
        disk.mount(&image, "disk");
        disk
    }

    fn mount(&mut self, image: &Path, name: &str) -> PathBuf {
        let at = self.dir.path().join(name);
        fs::create_dir(&at).unwrap();
        // The kernel gives the loop device back when the file system goes.
        run(Command::new("mount").args(["-o", "loop,commit=1"]).arg(image).arg(&at));
        self.mounted.push(at.clone());
        at
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Another disk: what this one has, had its power been cut now, after names had time to get there.
    fn cut(&mut self) -> PathBuf {
        sleep(Duration::from_millis(2500));
        let copy = self.dir.path().join("copy");
        fs::copy(self.dir.path().join("image"), &copy).unwrap();
        self.mount(&copy, "after")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for at in &self.mounted {
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const FILES: u64 = 40;

fn old_files() -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..FILES).map(|n| (format!("debug/{n}"), bytes(n, 50_000)))
}

/// Files that are on the disk, and a mount over them.
fn furnish(disk: &Disk) -> Rig {
    let mut rig = Rig::unmounted_in(&disk.path());
    fs::create_dir(rig.path("debug")).unwrap();
    for (name, bytes) in old_files() {
        fs::write(rig.path(&name), bytes).unwrap();
    }
    rustix::fs::syncfs(File::open(disk.path()).unwrap()).unwrap();
    rig.start();
    rig
}

/// The same mount on what is left of the disk.
fn after(disk: &mut Disk, rig: &Rig) -> Rig {
    let cut = disk.cut();
    let mut rig = Rig::at(&cut.join(rig.base().file_name().unwrap()));
    rig.start();
    rig
}

fn seal_all(rig: &Rig) -> u64 {
    rig.mount().seal_quiet(Duration::ZERO, Duration::from_secs(60), &|_| true).unwrap().files
}

fn check(after: &Rig) {
    for (name, bytes) in old_files() {
        assert!(fs::read(after.path(&name)).unwrap() == bytes, "{name}");
    }
}

#[test]
fn old_files_survive_their_sealing() {
    let mut disk = Disk::new();
    let rig = furnish(&disk);
    assert_eq!(seal_all(&rig), FILES);
    let after = after(&mut disk, &rig);
    check(&after);
}

#[test]
fn files_that_were_synced_survive_their_sealing() {
    let mut disk = Disk::new();
    let rig = furnish(&disk);
    let mut file = File::create(rig.path("new")).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    drop(file);
    rig.mount().seal(&common::rel("new"), true).unwrap();
    let after = after(&mut disk, &rig);
    assert_eq!(fs::read(after.path("new")).unwrap(), b"synced");
}

/// The blob that takes an old file's place is on the disk, too.
#[test]
fn old_files_survive_becoming_a_blob_that_is_there() {
    let mut disk = Disk::new();
    let rig = furnish(&disk);
    for (_, bytes) in old_files() {
        rig.blobs.insert(&bytes).unwrap();
    }
    assert_eq!(seal_all(&rig), FILES);
    let after = after(&mut disk, &rig);
    check(&after);
}

#[test]
fn a_line_that_is_added_does_not_cost_the_others() {
    let mut disk = Disk::new();
    let rig = furnish(&disk);
    assert_eq!(seal_all(&rig), FILES);
    for (name, _) in old_files() {
        OpenOptions::new().append(true).open(rig.path(&name)).unwrap().write_all(b"more").unwrap();
    }
    let after = after(&mut disk, &rig);
    for (name, bytes) in old_files() {
        let read = fs::read(after.path(&name)).unwrap();
        assert!(read.starts_with(&bytes), "{name}: {} bytes", read.len());
    }
}

#[test]
fn files_survive_an_unmount() {
    let mut disk = Disk::new();
    let mut rig = furnish(&disk);
    assert_eq!(seal_all(&rig), FILES);
    rig.mount().sync().unwrap();
    let left = rig.stop(Leave::Files(LinkPolicy::Never));
    assert_eq!((left.copied + left.reflinked, left.lost), (FILES, 0));
    let after = after(&mut disk, &rig);
    check(&after);
}

/// Not the power, but as bad: a blob with a writer.
#[test]
fn a_file_that_is_open_since_before_the_mount_does_not_become_a_blob() {
    let mut rig = Rig::unmounted();
    let mut log = File::create(rig.path("log")).unwrap();
    log.write_all(b"one\n").unwrap();
    fs::copy(rig.path("log"), rig.path("twin")).unwrap();
    rig.start();
    assert!(matches!(rig.mount().seal(&common::rel("log"), true), Err(SealError::InUse)));
    assert_eq!(seal_all(&rig), 1, "the twin");
    log.write_all(b"two\n").unwrap();
    assert_eq!(fs::read_to_string(rig.path("log")).unwrap(), "one\ntwo\n");
    assert_eq!(fs::read_to_string(rig.path("twin")).unwrap(), "one\n");
    common::check_blobs(&rig.base().join("blobs"));
    drop(log);
    assert_eq!(seal_all(&rig), 1);
    assert_eq!(fs::read_to_string(rig.path("log")).unwrap(), "one\ntwo\n");
}
