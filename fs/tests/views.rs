//! Views as programs see them: placed, read, written, linked, sealed.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Map, Rig, bytes, check_blobs, errno, errno_of, rel};
use kache_fs::{Content, Kind, Leave, LinkPolicy, Mount, Options, Placement, SealError};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

fn append(path: impl AsRef<std::path::Path>, data: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(data).unwrap();
}

#[test]
fn a_view_shows_its_blob_and_takes_no_space() {
    let rig = Rig::new();
    let data = bytes(1, 300_000);
    let mtime = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let hash = rig.view_with("a/b/c", &data, 0o751, Some(mtime));
    let path = rig.path("a/b/c");

    assert_eq!(fs::read(&path).unwrap(), data);
    let stat = fs::metadata(&path).unwrap();
    assert_eq!((stat.len(), stat.mode() & 0o7777, stat.nlink()), (300_000, 0o751, 1));
    assert_eq!(stat.modified().unwrap(), mtime);
    assert_eq!(rig.blob_of("a/b/c"), Some(hash));
    let counts = rig.mount().statistics().unwrap();
    assert_eq!((counts.files, counts.views, counts.bytes_shown, counts.bytes_upper), (1, 1, 300_000, 0));
    assert_eq!(rig.mount().shown(), [hash]);

    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(299_990)).unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, &data[299_990..]);
    assert_eq!(Map::private(&file, data.len()).unwrap().read(), data);
}

#[test]
fn a_view_appears_where_a_program_has_looked_before() {
    let rig = Rig::new();
    fs::create_dir(rig.path("d")).unwrap();
    let names =
        || -> Vec<_> { fs::read_dir(rig.path("d")).unwrap().map(|e| e.unwrap().file_name()).collect() };
    assert_eq!(errno(fs::metadata(rig.path("d/x"))), errno_of(Errno::NOENT));
    assert!(names().is_empty());

    rig.view("d/x", b"first");
    assert_eq!(names(), ["x"]);
    assert_eq!(fs::read(rig.path("d/x")).unwrap(), b"first");

    let old = File::open(rig.path("d/x")).unwrap();
    rig.view("d/x", b"the second one");
    assert_eq!(fs::read(rig.path("d/x")).unwrap(), b"the second one");
    assert_eq!(common::read_at(&old, 0, 100).unwrap(), b"first", "who has it open keeps the old bytes");

    rig.mount().remove(&rel("d")).unwrap();
    assert_eq!(errno(fs::metadata(rig.path("d"))), errno_of(Errno::NOENT));
}

#[test]
fn what_is_placed_replaces_files_and_refuses_directories() {
    let rig = Rig::new();
    fs::create_dir_all(rig.path("dir/sub")).unwrap();
    fs::write(rig.path("upper"), "upper").unwrap();
    rig.view("view", b"view");
    let hash = rig.blobs.insert(b"new").unwrap();
    let new = Content::View { hash, size: 3, link_ok: false };
    let one = |path: &str, content: &Content| {
        let placement = Placement { path: rel(path), content: content.clone(), mode: 0o640, mtime: None };
        rig.mount().place(&[placement]).map_err(|e| e.errno())
    };
    for content in [&new, &Content::Bytes(b"new".to_vec()), &new] {
        one("upper", content).unwrap();
        one("view", content).unwrap();
        for path in ["upper", "view"] {
            assert_eq!(fs::read(rig.path(path)).unwrap(), b"new");
            assert_eq!(fs::metadata(rig.path(path)).unwrap().mode() & 0o7777, 0o640);
        }
        assert_eq!(one("dir", content), Err(Errno::ISDIR.raw_os_error()));
        assert_eq!(one("upper/below", content), Err(Errno::NOTDIR.raw_os_error()));
    }
    one("link", &Content::Symlink(b"upper".to_vec())).unwrap();
    one("view", &Content::Symlink(b"upper".to_vec())).unwrap();
    assert_eq!(fs::read(rig.path("link")).unwrap(), b"new");
    assert_eq!(fs::read_link(rig.path("view")).unwrap().to_str(), Some("upper"));
    one("dir/made", &Content::Directory).unwrap();
    assert!(fs::metadata(rig.path("dir/made")).unwrap().is_dir());
    assert_eq!(one("upper", &Content::Directory), Err(Errno::NOTDIR.raw_os_error()));
}

#[test]
fn what_was_placed_before_an_error_stays() {
    let rig = Rig::new();
    fs::create_dir(rig.path("dir")).unwrap();
    let hash = rig.blobs.insert(b"view").unwrap();
    let view = |path: &str| Placement {
        path: rel(path),
        content: Content::View { hash, size: 4, link_ok: false },
        mode: 0o644,
        mtime: None,
    };
    let error = rig.mount().place(&[view("a"), view("b"), view("dir"), view("c")]).unwrap_err();
    assert_eq!(error.errno(), Errno::ISDIR.raw_os_error());
    assert_eq!(fs::read(rig.path("a")).unwrap(), b"view");
    assert_eq!(fs::read(rig.path("b")).unwrap(), b"view");
    assert!(!rig.path("c").exists());
}

#[test]
fn the_first_write_copies_up_and_the_blob_stays() {
    let data = bytes(2, 200_000);
    type Change = (&'static str, fn(&std::path::Path, &mut Vec<u8>));
    let changes: [Change; 7] = [
        ("write", |path, model| {
            OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"hello", 100_000).unwrap();
            model[100_000..100_005].copy_from_slice(b"hello");
        }),
        ("append", |path, model| {
            append(path, b"tail");
            model.extend_from_slice(b"tail");
        }),
        ("O_TRUNC", |path, model| {
            fs::write(path, "new").unwrap();
            *model = b"new".to_vec();
        }),
        ("shorten", |path, model| {
            OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap();
            model.truncate(1000);
        }),
        ("lengthen", |path, model| {
            OpenOptions::new().write(true).open(path).unwrap().set_len(250_000).unwrap();
            model.resize(250_000, 0);
        }),
        ("punch", |path, model| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, hole, 4096, 8192).unwrap();
            model[4096..4096 + 8192].fill(0);
        }),
        ("shared map", |path, model| {
            let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut map = Map::shared(&file, model.len()).unwrap();
            map.write(70_000, b"through the map");
            map.sync().unwrap();
            model[70_000..70_015].copy_from_slice(b"through the map");
        }),
    ];
    let rig = Rig::new();
    for (what, change) in changes {
        rig.view_with(what, &data, 0o640, None);
        let before = fs::metadata(rig.path(what)).unwrap();
        let reader = File::open(rig.path(what)).unwrap();
        let mut model = data.clone();
        change(&rig.path(what), &mut model);
        assert_eq!(fs::read(rig.path(what)).unwrap(), model, "{what}");
        assert_eq!(common::read_at(&reader, 0, 1 << 20).unwrap(), model, "{what}: the same file, as ever");
        assert_eq!(rig.blob_of(what), None, "{what}");
        let after = fs::metadata(rig.path(what)).unwrap();
        assert_eq!((after.ino(), after.mode(), after.nlink()), (before.ino(), before.mode(), 1), "{what}");
    }
    check_blobs(&rig.base().join("blobs"));
}

#[test]
fn metadata_of_a_view_changes_without_copying() {
    let rig = Rig::new();
    let hash = rig.view("f", b"bytes");
    fs::set_permissions(rig.path("f"), Permissions::from_mode(0o4711)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(5, 7);
    File::open(rig.path("f")).unwrap().set_modified(then).unwrap();
    let stat = fs::metadata(rig.path("f")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.modified().unwrap()), (0o4711, then));
    assert_eq!(
        rig.mount().set_mtimes(&[(rel("f"), then + Duration::from_secs(1)), (rel("no"), then)]).unwrap(),
        1
    );
    assert_eq!(fs::metadata(rig.path("f")).unwrap().modified().unwrap(), then + Duration::from_secs(1));
    assert_eq!(rig.blob_of("f"), Some(hash));
}

#[test]
fn other_views_and_other_mounts_keep_the_old_bytes() {
    let (one, mut two) = (Rig::new(), Rig::unmounted());
    two.blobs = one.blobs.clone();
    two.start();
    let data = bytes(3, 100_000);
    for rig in [&one, &two] {
        rig.view("f", &data);
        rig.view("g", &data);
    }
    append(one.path("f"), b"!");
    fs::remove_file(one.path("g")).unwrap();
    assert_eq!(fs::read(two.path("f")).unwrap(), data);
    assert_eq!(fs::read(two.path("g")).unwrap(), data);
    append(two.path("g"), b"?");
    assert_eq!(fs::read(one.path("f")).unwrap().last(), Some(&b'!'));
    check_blobs(&one.base().join("blobs"));
}

#[test]
fn hard_links_of_a_view_are_one_file() {
    let rig = Rig::new();
    rig.view("deps", &bytes(4, 50_000));
    fs::create_dir(rig.path("d")).unwrap();
    fs::hard_link(rig.path("deps"), rig.path("d/uplifted")).unwrap();
    let stat = |name: &str| fs::metadata(rig.path(name)).unwrap();
    assert_eq!((stat("deps").nlink(), stat("d/uplifted").nlink()), (2, 2));
    assert_eq!(stat("deps").ino(), stat("d/uplifted").ino());
    assert_eq!(rig.blob_of("d/uplifted"), rig.blob_of("deps"));

    append(rig.path("d/uplifted"), b"more");
    assert_eq!(fs::read(rig.path("deps")).unwrap().len(), 50_004, "a copy-up keeps the names together");
    assert_eq!((stat("deps").nlink(), stat("deps").ino()), (2, stat("d/uplifted").ino()));
    rig.mount().seal(&rel("deps"), true).unwrap();
    assert_eq!(stat("d/uplifted").nlink(), 2);
    assert!(rig.blob_of("d/uplifted").is_some(), "sealing one name seals all");

    fs::remove_file(rig.path("deps")).unwrap();
    assert_eq!(stat("d/uplifted").nlink(), 1);
    fs::rename(rig.path("d/uplifted"), rig.path("moved")).unwrap();
    assert_eq!(fs::read(rig.path("moved")).unwrap().len(), 50_004);
}

#[test]
fn a_placed_view_leaves_the_other_names_of_the_old_file_alone() {
    let rig = Rig::new();
    rig.view("deps", b"old");
    fs::hard_link(rig.path("deps"), rig.path("uplifted")).unwrap();
    rig.view("deps", b"new");
    assert_eq!(fs::read(rig.path("uplifted")).unwrap(), b"old");
    assert_eq!(fs::metadata(rig.path("uplifted")).unwrap().nlink(), 1);
    assert_eq!(fs::read(rig.path("deps")).unwrap(), b"new");
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
fn the_blob_attribute_is_read_only_and_hidden() {
    let rig = Rig::new();
    let hash = rig.view("f", b"bytes");
    let path = rig.path("f");
    assert_eq!(rig.blob_of("f"), Some(hash));
    let mut list = [0u8; 256];
    assert_eq!(rustix::fs::listxattr(&path, &mut list[..]), Ok(0), "copying tools must not copy it along");
    let set = rustix::fs::setxattr(&path, "user.kache.blob", b"x", XattrFlags::empty());
    assert_eq!(set, Err(Errno::PERM));
    assert_eq!(rustix::fs::removexattr(&path, "user.kache.blob"), Err(Errno::NODATA));
    assert_eq!(rig.blob_of("f"), Some(hash));
    assert_eq!(rustix::fs::getxattr(&path, "user.kache.blob", &mut list[..10]), Err(Errno::RANGE));

    rustix::fs::setxattr(&path, "user.mine", b"value", XattrFlags::CREATE).unwrap();
    assert_eq!(rig.blob_of("f"), None, "an attribute of its own needs a file of its own");
    assert_eq!(fs::read(&path).unwrap(), b"bytes");
    let n = rustix::fs::getxattr(&path, "user.mine", &mut list[..]).unwrap();
    assert_eq!(&list[..n], b"value");
    assert_eq!(rustix::fs::getxattr(&path, "user.kache.blob", &mut list[..]), Err(Errno::NODATA));
}

#[test]
fn a_blob_that_vanished_or_shrank_gives_eio_and_the_mount_lives() {
    let rig = Rig::new();
    let data = bytes(7, 100_000);
    type Damage = (&'static str, fn(&std::path::Path));
    let damage: [Damage; 2] = [
        ("vanished", |blob| fs::remove_file(blob).unwrap()),
        ("shrank", |blob| {
            fs::set_permissions(blob, Permissions::from_mode(0o644)).unwrap();
            OpenOptions::new().write(true).open(blob).unwrap().set_len(50_000).unwrap();
        }),
    ];
    for (what, damage) in damage {
        let hash = rig.view(what, &data);
        damage(&rig.blobs.path(&hash));
        let eio = errno_of(Errno::IO);
        assert_eq!(errno(fs::read(rig.path(what))), eio, "{what}: read");
        let file = OpenOptions::new().read(true).write(true).open(rig.path(what)).unwrap();
        assert_eq!(errno(file.write_all_at(b"x", 0)), eio, "{what}: write");
        let copy = File::create(rig.path("copy")).unwrap();
        let (mut at, mut failed) = (0, None);
        while failed.is_none() {
            match rustix::fs::copy_file_range(&file, Some(&mut at), &copy, None, 1 << 20) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        assert_eq!(failed, Some(Errno::IO), "{what}: copy_file_range");
        assert_eq!(fs::metadata(rig.path(what)).unwrap().len(), 100_000);

        // Somebody repairs the store.
        let _ = fs::remove_file(rig.blobs.path(&hash));
        rig.blobs.insert(&data).unwrap();
        assert_eq!(fs::read(rig.path(what)).unwrap(), data, "{what}: repaired");
        fs::remove_file(rig.path(what)).unwrap();
    }
    // Truncated to nothing it needs no blob.
    let hash = rig.view("f", &data);
    fs::remove_file(rig.blobs.path(&hash)).unwrap();
    fs::write(rig.path("f"), "new").unwrap();
    assert_eq!(fs::read(rig.path("f")).unwrap(), b"new");
}

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
fn an_unmount_leaves_a_complete_directory() {
    let mut rig = Rig::new();
    let data = bytes(9, 70_000);
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    rig.view_with("d/view", &data, 0o755, Some(mtime));
    fs::hard_link(rig.path("d/view"), rig.path("linked")).unwrap();
    fs::write(rig.path("upper"), "upper").unwrap();
    rig.sealed("sealed", b"sealed");
    let hash = rig.view("gone", b"no longer there");
    fs::remove_file(rig.blobs.path(&hash)).unwrap();
    let dir_mtime = fs::metadata(rig.path("d")).unwrap().modified().unwrap();

    let report = rig.stop(Leave::Files(LinkPolicy::Never));
    assert_eq!((report.reflinked + report.copied, report.linked, report.lost), (2, 0, 1));
    assert_eq!(fs::read(rig.path("d/view")).unwrap(), data);
    let stat = fs::metadata(rig.path("d/view")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.modified().unwrap(), stat.nlink()), (0o755, mtime, 2));
    assert_eq!(stat.ino(), fs::metadata(rig.path("linked")).unwrap().ino());
    assert_eq!(fs::metadata(rig.path("d")).unwrap().modified().unwrap(), dir_mtime);
    assert_eq!(fs::read(rig.path("upper")).unwrap(), b"upper");
    assert_eq!(fs::read(rig.path("sealed")).unwrap(), b"sealed");
    assert!(!rig.path("gone").exists());
    assert!(!kache_fs::has_journal(&rig.state()));
    append(rig.path("d/view"), b"x");
    check_blobs(&rig.base().join("blobs"));
}

#[test]
fn an_unmount_can_link_or_leave_out_the_views() {
    let mut rig = Rig::new();
    rig.view_with("view", b"view", 0o444, None);
    fs::write(rig.path("upper"), "upper").unwrap();
    let report = rig.stop(Leave::Files(LinkPolicy::WhereAllowed));
    assert_eq!(report.linked + report.reflinked, 1);
    assert_eq!(fs::read(rig.path("view")).unwrap(), b"view");

    fs::remove_file(rig.path("view")).unwrap();
    rig.start();
    rig.view("view", b"view");
    rig.stop(Leave::UpperOnly);
    assert!(!rig.path("view").exists());
    assert_eq!(fs::read(rig.path("upper")).unwrap(), b"upper");
}

#[test]
fn a_busy_mount_says_so_and_goes_on() {
    let mut rig = Rig::new();
    rig.view("f", b"bytes");
    let file = File::open(rig.path("f")).unwrap();
    let mut mount =
        Mount::start(rig.root().as_path(), &Options::new(rig.base().join("other")), rig.blobs.clone());
    assert!(matches!(mount.as_mut().unwrap_err(), kache_fs::MountError::AlreadyMounted(_)));
    let refused = {
        let mount = rig.mount_mut();
        mount.unmount(Leave::Journal, false)
    };
    assert!(matches!(refused, Err(kache_fs::MountError::Busy(_))), "{refused:?}");
    assert_eq!(fs::read(rig.path("f")).unwrap(), b"bytes");
    drop(file);
    rig.stop(Leave::Journal);
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

#[test]
fn the_daemon_sees_what_programs_see() {
    let rig = Rig::new();
    let hash = rig.view("d/view", b"view");
    fs::write(rig.path("d/upper"), "upper").unwrap();
    symlink("view", rig.path("d/link")).unwrap();
    let mount = rig.mount();
    let mut walked: Vec<_> = mount.walk().unwrap();
    walked.sort_by(|a, b| a.path.cmp(&b.path));
    let names: Vec<_> = walked.iter().map(|e| e.path.to_string()).collect();
    assert_eq!(names, ["d", "d/link", "d/upper", "d/view"]);
    let kinds: Vec<_> = walked.iter().map(|e| e.stat.kind).collect();
    assert_eq!(kinds, [Kind::Directory, Kind::Symlink, Kind::File, Kind::File]);
    assert_eq!(walked[1].target.as_deref(), Some(&b"view"[..]));
    assert_eq!((walked[3].stat.blob, walked[2].stat.blob), (Some(hash), None));
    for entry in &walked {
        let seen = fs::symlink_metadata(rig.root().join(entry.path.as_path())).unwrap();
        assert_eq!((seen.ino(), seen.mtime()), (entry.stat.ino, seconds(entry.stat.mtime)));
    }
    let mut text = String::new();
    mount.open_file(&rel("d/view")).unwrap().read_to_string(&mut text).unwrap();
    mount.open_file(&rel("d/upper")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "viewupper");
    assert_eq!(mount.read_link(&rel("d/link")).unwrap(), b"view");
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
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
