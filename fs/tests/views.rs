//! Views as programs see them: placed, read, written, linked, and what an unmount leaves of them.

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use common::{Map, Rig, bytes, check_blobs, errno, errno_of, rel};
use kache_fs::{Content, Kind, Leave, LinkPolicy, Mount, Options, Placement};
use rustix::fs::{FallocateFlags, XattrFlags};
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
    let mut rig = Rig::new();
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
    for target in ["upper", "sibling"] {
        rig.view("sibling", b"sibling");
        one("one more", &Content::HardLink(rel(target))).unwrap();
        let (a, b) = (fs::metadata(rig.path(target)).unwrap(), fs::metadata(rig.path("one more")).unwrap());
        assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    }
    rig.stop(Leave::Journal);
    rig.start();
    assert_eq!(fs::read(rig.path("one more")).unwrap(), b"sibling");
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

    // Mounted again, it is no view, and still nobody writes into the blob: not even root.
    rig.start();
    let refused =
        fs::OpenOptions::new().write(true).open(rig.path("view")).and_then(|f| f.write_all_at(b"!", 0));
    if report.linked == 1 {
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    }
    assert_eq!(fs::read(rig.path("view")).unwrap(), b"view");
    fs::remove_file(rig.path("view")).unwrap();
    rig.view("view", b"view");
    rig.stop(Leave::Only(&|_, _| false));
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
