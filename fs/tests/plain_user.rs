//! The same file system for a user without privilege, through `fusermount3`. Root runs this test's inside as `nobody`,
//! in a process of its own; anybody else runs it as themselves. Without /dev/fuse or `fusermount3` it fails.

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Map, Rig, bytes, check_blobs, errno, errno_of, rel};
use kache_fs::{Leave, LinkPolicy, MountState};
use rustix::io::Errno;

const NOBODY: u32 = 65534;
/// Set in the process that has given its privilege up.
const INSIDE: &str = "KACHE_FS_PLAIN_USER";

/// Runs one of the tests below as a plain user: in this process if it is one's, else in another.
fn as_plain_user(test: &str, inside: fn()) {
    if !rustix::process::geteuid().is_root() {
        return inside();
    }
    assert!(std::env::var_os(INSIDE).is_none(), "still root");
    // The program may be where only root can reach it.
    let room = tempfile::Builder::new().prefix("kache-fs-user-").tempdir().unwrap();
    fs::set_permissions(room.path(), Permissions::from_mode(0o755)).unwrap();
    let program = room.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let temporary = room.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    chown(&temporary, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").env("TMPDIR", &temporary);
    let output = command.current_dir("/").uid(NOBODY).gid(NOBODY).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "as uid {NOBODY}:\n{told}");
    assert!(told.contains("1 passed"), "it did not run:\n{told}");
}

#[test]
fn views_and_files_work() {
    as_plain_user("views_and_files_work", || {
        let mut rig = Rig::new();
        assert!(!rig.mount().negotiated().unwrap().capabilities.is_empty());
        let data = bytes(1, 200_000);
        let hash = rig.view("d/view", &data);
        assert_eq!(fs::read(rig.path("d/view")).unwrap(), data);
        assert_eq!(rig.blob_of("d/view"), Some(hash));
        let stat = fs::metadata(rig.path("d/view")).unwrap();
        assert_eq!(stat.uid(), rustix::process::geteuid().as_raw());

        OpenOptions::new().append(true).open(rig.path("d/view")).unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::metadata(rig.path("d/view")).unwrap().len(), 200_001);
        fs::hard_link(rig.path("d/view"), rig.path("linked")).unwrap();
        let sealed = rig.mount().seal(&rel("linked"), true).unwrap().0;
        assert_eq!(rig.blob_of("d/view"), Some(sealed));
        assert_eq!(fs::metadata(rig.path("linked")).unwrap().nlink(), 2);
        fs::rename(rig.path("d"), rig.path("e")).unwrap();
        assert_eq!(fs::read(rig.path("e/view")).unwrap().len(), 200_001);

        let file = OpenOptions::new().read(true).write(true).open(rig.path("linked")).unwrap();
        Map::shared(&file, 100).unwrap().write(0, b"mapped");
        file.sync_all().unwrap();
        assert_eq!(&fs::read(rig.path("e/view")).unwrap()[..6], b"mapped");
        drop(file);

        rig.stop(Leave::Journal);
        assert_eq!(kache_fs::mount_state(&rig.root(), std::time::Duration::from_secs(5)), MountState::None);
        rig.start();
        assert_eq!(fs::read(rig.path("linked")).unwrap().len(), 200_001);
        rig.view_with("last", &data, 0o755, None);
        rig.stop(Leave::Files(LinkPolicy::Never));
        assert_eq!(fs::read(rig.path("last")).unwrap(), data);
        check_blobs(&rig.base().join("blobs"));
    });
}

#[test]
fn permissions_are_checked_and_open_files_outlast_them() {
    as_plain_user("permissions_are_checked_and_open_files_outlast_them", || {
        let rig = Rig::new();
        rig.view_with("readonly", b"view", 0o444, None);
        rig.view_with("secret", b"view", 0o000, None);
        fs::write(rig.path("upper"), "upper").unwrap();
        fs::set_permissions(rig.path("upper"), Permissions::from_mode(0o444)).unwrap();
        let write = |name: &str| OpenOptions::new().write(true).open(rig.path(name)).map(drop);
        assert_eq!(errno(write("readonly")), errno_of(Errno::ACCESS));
        assert_eq!(errno(write("upper")), errno_of(Errno::ACCESS));
        assert_eq!(errno(fs::read(rig.path("secret"))), errno_of(Errno::ACCESS));

        // Made without the permission to write, and written by who made it; with many others in between, so that the
        // daemon has to open it again.
        let open = |mode: u32, name: &str| {
            OpenOptions::new().write(true).create_new(true).mode(mode).open(rig.path(name)).unwrap()
        };
        let files: Vec<File> = (0..100).map(|i| open(0o400 * (i % 2), &format!("made-{i}"))).collect();
        for (i, file) in files.iter().enumerate() {
            file.write_all_at(format!("by {i}").as_bytes(), 0).unwrap();
        }
        for (i, file) in files.iter().enumerate() {
            let path = rig.path(&format!("made-{i}"));
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o400 * (i as u32 % 2));
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), format!("by {i}"));
        }

        // What is sealed without permission to read it can still be sealed, and be read when permitted again.
        rig.mount().seal(&rel("upper"), true).unwrap();
        fs::set_permissions(rig.path("upper"), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(fs::read(rig.path("upper")).unwrap(), b"upper");
        assert_eq!(errno(chown(rig.path("upper"), Some(0), None)), errno_of(Errno::PERM));
    });
}

#[test]
fn what_was_just_written_runs_and_a_dropped_mount_comes_back() {
    as_plain_user("what_was_just_written_runs_and_a_dropped_mount_comes_back", || {
        let mut rig = Rig::new();
        fs::write(rig.path("echo"), fs::read("/bin/echo").unwrap()).unwrap();
        fs::set_permissions(rig.path("echo"), Permissions::from_mode(0o755)).unwrap();
        let run = |rig: &Rig| Command::new(rig.path("echo")).arg("works").output().unwrap().stdout;
        assert_eq!(run(&rig), b"works\n");
        rig.mount().seal(&rel("echo"), true).unwrap();
        assert_eq!(run(&rig), b"works\n");
        rig.forget();
        rig.start();
        assert_eq!(run(&rig), b"works\n");
    });
}

#[test]
fn nobody_else_gets_in() {
    as_plain_user("nobody_else_gets_in", || {
        let rig = Rig::new();
        let options = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = options.lines().find(|line| line.contains(rig.root().to_str().unwrap())).unwrap();
        assert!(line.contains("default_permissions") && !line.contains("allow_other"), "{line}");
        assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    });
}
