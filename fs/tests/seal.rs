//! Sealing: files become blobs and nobody notices.

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{Map, Rig, bytes, check_blobs, errno, errno_of, rel};
use kache_fs::{Leave, LinkPolicy, SealError};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

fn append(path: impl AsRef<std::path::Path>, data: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(data).unwrap();
}

#[test]
fn sealing_is_not_noticed() {
    let rig = Rig::new();
    let data = bytes(5, 150_000);
    fs::write(rig.path("f"), &data).unwrap();
    fs::set_permissions(rig.path("f"), Permissions::from_mode(0o755)).unwrap();
    let dir_before = fs::metadata(rig.root()).unwrap().modified().unwrap();
    let writer = OpenOptions::new().read(true).write(true).open(rig.path("f")).unwrap();
    let map = Map::private(&writer, data.len()).unwrap();
    let before = writer.metadata().unwrap();

    let (hash, size) = rig.mount().seal(&rel("f"), true).unwrap();
    assert_eq!((hash, size), (blake3::hash(&data), 150_000));
    assert_eq!(rig.blob_of("f"), Some(hash));
    let after = fs::metadata(rig.path("f")).unwrap();
    let seen = |m: &fs::Metadata| (m.ino(), m.mode(), m.nlink(), m.len(), m.mtime(), m.mtime_nsec());
    assert_eq!(seen(&after), seen(&before));
    assert_eq!(fs::metadata(rig.root()).unwrap().modified().unwrap(), dir_before);
    assert_eq!(map.read(), data);
    assert_eq!(common::read_at(&writer, 0, 1 << 20).unwrap(), data);

    // A write that comes late through the old descriptor.
    writer.write_all_at(b"late", 10).unwrap();
    let mut expected = data.clone();
    expected[10..14].copy_from_slice(b"late");
    assert_eq!(fs::read(rig.path("f")).unwrap(), expected);
    assert_eq!(rig.blob_of("f"), None);
    assert_eq!(fs::read(rig.blobs.path(&hash)).unwrap(), data);
}

#[test]
fn a_seal_gives_way_to_a_write() {
    let rig = Rig::new();
    let file = File::create(rig.path("f")).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    type Change = fn(&Rig, &File);
    let changes: [Change; 5] = [
        |_, file| file.write_all_at(b"x", 0).unwrap(),
        |_, file| file.set_len(3).unwrap(),
        |rig, _| rustix::fs::setxattr(rig.path("f"), "user.x", b"1", XattrFlags::empty()).unwrap(),
        |rig, _| rustix::fs::removexattr(rig.path("f"), "user.x").unwrap(),
        |rig, _| fs::remove_file(rig.path("f")).unwrap(),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let ticket = rig.mount().begin_seal(&rel("f")).unwrap();
        let (hash, size) = (ticket.hash().unwrap(), ticket.size);
        change(&rig, &file);
        let refused = rig.mount().commit_seal(ticket, hash, size, true);
        assert!(matches!(refused, Err(SealError::Changed)), "change {at}: {refused:?}");
        assert_eq!(rig.blob_of("f"), None);
    }
}

#[test]
fn what_cannot_be_a_blob_is_not_sealed() {
    let rig = Rig::new();
    let seal = |name: &str| rig.mount().seal(&rel(name), true).unwrap_err();
    rig.view("view", b"v");
    assert!(matches!(seal("view"), SealError::AlreadyView));
    fs::create_dir(rig.path("dir")).unwrap();
    assert!(matches!(seal("dir"), SealError::NotAFile));
    symlink("view", rig.path("link")).unwrap();
    assert!(matches!(seal("link"), SealError::NotAFile));
    fs::write(rig.path("xattr"), "x").unwrap();
    rustix::fs::setxattr(rig.path("xattr"), "user.x", b"1", XattrFlags::empty()).unwrap();
    assert!(matches!(seal("xattr"), SealError::ExtendedAttributes));
    assert!(matches!(seal("nothing"), SealError::Fs(e) if e.is_not_found()));
}

#[test]
fn a_file_that_somebody_else_could_write_is_not_sealed() {
    let mut rig = Rig::unmounted();
    fs::write(rig.path("f"), "shared").unwrap();
    fs::hard_link(rig.path("f"), rig.base().join("outside")).unwrap();
    rig.start();
    assert!(matches!(rig.mount().seal(&rel("f"), true), Err(SealError::ForeignLinks)));
}

#[test]
fn a_write_waits_for_a_lease() {
    let mut rig = Rig::unmounted();
    fs::write(rig.path("f"), "old").unwrap();
    let below = File::open(rig.path("f")).unwrap();
    rig.start();
    // SAFETY: it takes an integer.
    let lease = |kind: libc::c_int| unsafe { libc::fcntl(below.as_raw_fd(), libc::F_SETLEASE, kind) };
    // SAFETY: a handler that does nothing takes the place of one that ends the process.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    assert_eq!(lease(libc::F_RDLCK), 0);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| fs::write(rig.path("f"), "new"));
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(lease(libc::F_UNLCK), 0);
        writing.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(rig.path("f")).unwrap(), b"new");
}

#[test]
fn equal_files_become_one_blob() {
    let rig = Rig::new();
    let data = bytes(6, 40_000);
    let hash = rig.sealed("a", &data);
    assert_eq!(rig.sealed("b", &data), hash);
    append(rig.path("a"), b"x");
    assert_eq!(fs::read(rig.path("b")).unwrap(), data);
    check_blobs(&rig.base().join("blobs"));
}

#[test]
fn quiet_files_are_sealed_and_others_are_not() {
    let rig = Rig::new();
    fs::create_dir(rig.path("d")).unwrap();
    for name in ["a", "d/b", "keep"] {
        fs::write(rig.path(name), name).unwrap();
    }
    fs::write(rig.path("empty"), "").unwrap();
    let budget = Duration::from_secs(60);
    let hour = Duration::from_secs(3600);
    assert_eq!(rig.mount().seal_quiet(hour, budget, &|_| true).unwrap().files, 0);
    let wanted = |path: &kache_fs::RelPath| path.as_bytes() != b"keep";
    let sealed = rig.mount().seal_quiet(Duration::ZERO, budget, &wanted).unwrap();
    assert_eq!((sealed.files, sealed.bytes, sealed.skipped, sealed.complete), (2, 4, 0, true));
    for (name, is_view) in [("a", true), ("d/b", true), ("keep", false), ("empty", false)] {
        assert_eq!(rig.blob_of(name).is_some(), is_view, "{name}");
    }
}

#[test]
fn a_running_program_goes_on_when_it_is_sealed_and_replaced() {
    let rig = Rig::new();
    fs::write(rig.path("cat"), fs::read("/bin/cat").unwrap()).unwrap();
    fs::set_permissions(rig.path("cat"), Permissions::from_mode(0o755)).unwrap();
    let mut cat = Command::new(rig.path("cat"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut echo = |text: &str| {
        cat.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        let mut back = vec![0; text.len()];
        cat.stdout.as_mut().unwrap().read_exact(&mut back).unwrap();
        assert_eq!(back, text.as_bytes());
    };
    echo("one");
    let busy = OpenOptions::new().write(true).open(rig.path("cat"));
    assert_eq!(errno(busy), errno_of(Errno::TXTBSY));
    rig.mount().seal(&rel("cat"), true).unwrap();
    echo("two");
    rig.view("cat", b"something else");
    echo("three");
    drop(cat.stdin.take());
    assert!(cat.wait().unwrap().success());
}

#[test]
fn a_store_on_another_file_system_is_filled_by_copying() {
    // Device numbers differ between the upper and a tmpfs.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut rig = Rig::unmounted();
    rig.blobs = Arc::new(kache_fs::DirBlobs::new(elsewhere.path().join("blobs")).unwrap());
    assert_ne!(fs::metadata(elsewhere.path()).unwrap().dev(), fs::metadata(rig.root()).unwrap().dev());
    rig.start();
    let data = bytes(10, 123_456);
    let hash = rig.sealed("f", &data);
    rig.sealed("g", &data[1..]);
    assert_eq!(fs::read(rig.path("f")).unwrap(), data);
    assert_eq!(fs::read(rig.blobs.path(&hash)).unwrap(), data);
    append(rig.path("f"), b"x");
    check_blobs(&elsewhere.path().join("blobs"));
    rig.stop(Leave::Files(LinkPolicy::WhereAllowed));
    assert_eq!(fs::read(rig.path("g")).unwrap(), &data[1..]);
}
