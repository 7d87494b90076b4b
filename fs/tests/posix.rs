//! What programs expect of a file system, with views in it, and what a mount refuses.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::process::Command;
use std::time::SystemTime;

use common::{Map, Rig, bytes, errno, errno_of, rel};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

#[test]
fn what_was_just_written_can_be_executed() {
    let rig = Rig::new();
    let run = |name: &str| {
        let done = Command::new(rig.path(name)).arg("works").output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    let echo = fs::read("/bin/echo").unwrap();
    fs::write(rig.path("written"), &echo).unwrap();
    fs::set_permissions(rig.path("written"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run("written"), "works\n");

    // As a linker does: through a shared map, of a file that is made as long as it will be.
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o755).open(rig.path("linked"));
    let file = file.unwrap();
    file.set_len(echo.len() as u64).unwrap();
    let mut map = Map::shared(&file, echo.len()).unwrap();
    map.write(0, &echo);
    drop((map, file));
    assert_eq!(run("linked"), "works\n");

    rig.mount().seal(&rel("linked"), true).unwrap();
    assert_eq!(run("linked"), "works\n");
    assert_eq!(rig.blob_of("linked"), Some(blake3::hash(&echo)), "what was mapped is in the blob");
    rig.view_with("view", &echo, 0o755, None);
    assert_eq!(run("view"), "works\n");
}

#[test]
fn a_file_that_was_removed_lives_while_it_is_open() {
    let rig = Rig::new();
    let data = bytes(8, 20_000);
    rig.view("view", &data);
    fs::write(rig.path("upper"), &data).unwrap();
    fs::write(rig.path("sealed"), &data).unwrap();
    for name in ["view", "upper", "sealed"] {
        let file = OpenOptions::new().read(true).write(true).open(rig.path(name)).unwrap();
        if name == "sealed" {
            rig.mount().seal(&rel(name), true).unwrap();
        }
        fs::remove_file(rig.path(name)).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(common::read_at(&file, 0, 1 << 20).unwrap(), data, "{name}");
        file.write_all_at(b"still", 0).unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        file.set_len(100).unwrap();
        file.sync_all().unwrap();
        assert_eq!(&common::read_at(&file, 0, 1 << 20).unwrap()[..5], b"still");
        assert_eq!(file.metadata().unwrap().len(), 100);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(rig.root()).unwrap().count(), 0);
}

#[test]
fn o_tmpfile_is_refused_so_that_programs_fall_back() {
    let rig = Rig::new();
    let opened = rustix::fs::open(rig.root(), OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600));
    assert_eq!(opened.err(), Some(Errno::OPNOTSUPP));
    // A program that uses it where it can.
    let mut file = tempfile::tempfile_in(rig.root()).unwrap();
    file.write_all(b"temporary").unwrap();
    assert_eq!(common::read_at(&file, 0, 100).unwrap(), b"temporary");
    // linkat of what /proc names, the second half of the idiom.
    fs::write(rig.path("a"), "a").unwrap();
    let a = File::open(rig.path("a")).unwrap();
    let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&a));
    rustix::fs::linkat(CWD, magic, CWD, rig.path("b"), AtFlags::SYMLINK_FOLLOW).unwrap();
    assert_eq!(fs::metadata(rig.path("b")).unwrap().nlink(), 2);
}

/// The table of known differences in docs/semantics.md.
#[test]
fn what_a_mount_refuses_it_refuses_as_documented() {
    let rig = Rig::new();
    rig.view("view", &bytes(11, 20_000));
    fs::write(rig.path("upper"), bytes(12, 20_000)).unwrap();
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(rig.path(name)).unwrap();
    let clone = rustix::fs::ioctl_ficlone(open("upper"), open("view"));
    assert!(matches!(clone, Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS)), "{clone:?}");
    for range in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(rustix::fs::fallocate(open("upper"), range, 0, 4096), Err(Errno::OPNOTSUPP));
    }
    let whiteout = rustix::fs::RenameFlags::WHITEOUT;
    let renamed = rustix::fs::renameat_with(CWD, rig.path("upper"), CWD, rig.path("new"), whiteout);
    assert!(matches!(renamed, Err(Errno::INVAL | Errno::PERM)), "{renamed:?}");
    // Version 2; then tag, permissions and id of: owner, user 1, group, mask, others (acl(5), <linux/posix_acl_xattr.h>).
    let mut acl = vec![2, 0, 0, 0];
    for (tag, id) in [(1, !0), (2, 1u32), (4, !0), (16, !0), (32, !0)] {
        acl.extend_from_slice(&[tag, 0, 6, 0]);
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let set = rustix::fs::setxattr(rig.path("upper"), "system.posix_acl_access", &acl, XattrFlags::empty());
    assert_eq!(set, Err(Errno::OPNOTSUPP));
    assert_eq!(errno(fs::rename(rig.path("upper"), rig.base().join("out"))), errno_of(Errno::XDEV));
    assert_eq!(errno(fs::hard_link(rig.path("view"), rig.base().join("out"))), errno_of(Errno::XDEV));
    assert_eq!(errno(fs::remove_dir(rig.root())), errno_of(Errno::BUSY));
    assert_eq!(fs::read(rig.path("upper")).unwrap(), bytes(12, 20_000));
}

#[test]
fn reading_a_directory_is_stable_under_change() {
    let rig = Rig::new();
    fs::create_dir(rig.path("d")).unwrap();
    let name = |kind: &str, i: usize| format!("{kind}-{i}-{}", "x".repeat(100));
    for i in 0..400 {
        fs::write(rig.path("d").join(name("stays", i)), "").unwrap();
        fs::write(rig.path("d").join(name("goes", i)), "").unwrap();
    }
    let mut seen = Vec::new();
    let (mut gone, mut come) = (0, 0);
    for entry in fs::read_dir(rig.path("d")).unwrap() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        if gone < 400 {
            fs::remove_file(rig.path("d").join(name("goes", 399 - gone))).unwrap();
            gone += 1;
        }
        if come < 100 {
            rig.view(&format!("d/{}", name("comes", come)), b"view");
            come += 1;
        }
    }
    let stays = seen.iter().filter(|n| n.starts_with("stays")).count();
    assert_eq!(stays, 400, "what is there all the time is seen exactly once");
    seen.sort();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all, "nothing is seen twice");
    let now = fs::read_dir(rig.path("d")).unwrap().count();
    assert_eq!(now, 400 + 400 - gone + come);
}

#[test]
fn names_are_bytes_of_up_to_255() {
    let rig = Rig::new();
    let odd = rig.root().join(OsStr::from_bytes(b"\xff\xfe\n odd"));
    fs::write(&odd, "odd").unwrap();
    let path = kache_fs::RelPath::new(odd.strip_prefix(rig.root()).unwrap()).unwrap();
    rig.mount().seal(&path, false).unwrap();
    assert_eq!(fs::read(&odd).unwrap(), b"odd");
    assert!(common::blob_of(&odd).is_some());
    let long = "n".repeat(255);
    rig.view(&long, b"long");
    fs::rename(rig.path(&long), rig.path(&"m".repeat(255))).unwrap();
    assert_eq!(fs::read(rig.path(&"m".repeat(255))).unwrap(), b"long");
    assert_eq!(errno(fs::write(rig.path(&"n".repeat(256)), "")), errno_of(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::write(rig.path(".kache-tmp-1"), "")), errno_of(Errno::ACCESS));
}

#[test]
fn locks_exclude_each_other() {
    let rig = Rig::new();
    rig.view("lock", b"");
    let open = || OpenOptions::new().read(true).write(true).open(rig.path("lock")).unwrap();
    let (one, two) = (open(), open());
    one.lock().unwrap();
    assert!(matches!(two.try_lock(), Err(fs::TryLockError::WouldBlock)));
    rig.mount().set_mtimes(&[(rel("lock"), SystemTime::now())]).unwrap();
    one.unlock().unwrap();
    two.try_lock().unwrap();
    assert!(matches!(one.try_lock_shared(), Err(fs::TryLockError::WouldBlock)));
}
