//! What lies in a mount is not lost, whatever becomes of the store, the disk and the checkout.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Checkout, World, by_root_and_user};

by_root_and_user!(
    what_no_build_brings_back_is_not_discarded,
    damaged_products_are_made_again,
    damaged_files_of_others_are_not_lost_in_silence,
    a_checkout_that_is_away_is_kept,
    a_moved_checkout_keeps_its_mount,
    a_moved_checkout_is_recognised_later,
    a_tree_is_not_shown_in_another_directory,
    a_target_is_not_mounted_under_a_build,
    a_linked_target_comes_home,
    a_cache_in_a_target_is_refused,
    a_log_does_not_fill_the_store,
);

fn kill_daemon(world: &World) {
    let pid = world.daemon();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    world.wait_for_end(pid);
}

fn blob_of(world: &World, c: &Checkout, file: &str) -> Option<PathBuf> {
    let asked =
        c.command("getfattr").args(["--only-values", "-n", "user.kache.blob", file]).output().unwrap();
    let hash = String::from_utf8(asked.stdout).unwrap();
    asked.status.success().then(|| world.cache().join("store/blobs").join(&hash[..2]).join(&hash))
}

/// The background makes quiet files views.
fn wait_until_sealed(world: &World, c: &Checkout, file: &str) -> PathBuf {
    let began = Instant::now();
    loop {
        if let Some(blob) = blob_of(world, c, file) {
            return blob;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{file} does not become a view");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// As a disk does it, or root.
fn damage(blob: &PathBuf) {
    fs::set_permissions(blob, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(blob).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 0).unwrap();
}

fn what_no_build_brings_back_is_not_discarded(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.sh("echo notes > target/notes.txt && mkdir -p target/criterion target/dist \
          && echo base > target/criterion/base.json && cp target/debug/app target/dist/app");
    for file in ["target/notes.txt", "target/criterion/base.json", "target/dist/app"] {
        wait_until_sealed(&world, &c, file);
    }
    c.kache_prints("umount --discard");
    assert_eq!(c.sh("cat target/notes.txt target/criterion/base.json"), "notes\nbase\n");
    assert!(c.prints("target/dist/app").starts_with("base hello"));
    assert!(c.find("lib*.rlib").is_empty());
    c.cargo("build").ok().all_hit();
}

fn damaged_products_are_made_again(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    let library = c.find("libbase-*.rlib").remove(0);
    let blob = blob_of(&world, &c, library.to_str().unwrap()).unwrap();
    let read = || c.command("cat").arg(&library).output().unwrap();
    let right = read().stdout;
    // Nothing of it is in the kernel's memory.
    c.kache_prints("daemon restart");
    damage(&blob);
    let shown = read();
    assert!(!shown.status.success() || shown.stdout == right, "wrong bytes were shown");
    let began = Instant::now();
    while !c.find("libbase-*.rlib").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "what is damaged stays");
        std::thread::sleep(Duration::from_millis(100));
    }
    c.edit("app/src/main.rs", "\"base {}\"", "\"basis {}\"");
    c.cargo("build").ok();
    assert!(c.prints("target/debug/app").starts_with("basis hello"));
    c.kache_prints("umount");
    c.cargo("build").ok().fresh();
    c.kache_prints("doctor --verify");
}

fn damaged_files_of_others_are_not_lost_in_silence(world: World) {
    let c = world.checkout("project", "workspace");
    c.sh("echo notes > target/notes.txt");
    let blob = wait_until_sealed(&world, &c, "target/notes.txt");
    damage(&blob);
    let told = c.kache(&["umount"]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && text.contains("notes.txt"), "{text}");
    let stopped = c.kache(&["daemon", "stop"]);
    assert!(!stopped.status.success(), "the daemon has ended");
    c.cargo("build").ok();
    c.sh("rm target/notes.txt");
    c.kache_prints("umount");
    c.cargo("build").ok().fresh();
}

fn a_checkout_that_is_away_is_kept(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.sh("echo notes > target/notes.txt");
    wait_until_sealed(&world, &c, "target/notes.txt");
    kill_daemon(&world);
    let away = world.root().join("away");
    unmount_lazily(&c);
    fs::rename(c.dir(), &away).unwrap();
    world.kache("daemon start");
    world.kache("gc --max-size 1MiB");
    world.kache("daemon stop");
    fs::rename(&away, c.dir()).unwrap();
    c.kache_prints("mount");
    assert_eq!(c.sh("cat target/notes.txt"), "notes\n");
    c.cargo("build").ok().fresh();
}

fn unmount_lazily(c: &Checkout) {
    let target = c.dir().join("target");
    let program = if nix::unistd::geteuid().is_root() { "umount" } else { "fusermount3" };
    let args: &[&str] = if program == "umount" { &["-l"] } else { &["-u", "-z"] };
    assert!(std::process::Command::new(program).args(args).arg(target).status().unwrap().success());
}

fn a_moved_checkout_keeps_its_mount(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    let moved = world.root().join("moved");
    fs::rename(c.dir(), &moved).unwrap();
    let target = moved.join("target");
    let target = target.to_str().unwrap();
    assert!(c.at(&moved).kache_prints("mount").contains("already"));
    let shown = c.at(&moved).kache_json("mounts --json");
    assert_eq!(shown[0]["dir"], target);
    c.at(&moved).kache_prints("umount");
    assert!(crate::support::namespace::mounts_below(&moved).is_empty());
    assert!(c.at(&moved).prints("target/debug/app").starts_with("base hello"));
}

fn a_moved_checkout_is_recognised_later(world: World) {
    let c = world.checkout("project", "workspace");
    c.sh("echo notes > target/notes.txt");
    wait_until_sealed(&world, &c, "target/notes.txt");
    let daemon = world.daemon();
    kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
    world.wait_for_end(daemon);
    let moved = world.root().join("moved");
    fs::rename(c.dir(), &moved).unwrap();
    let c = c.at(&moved);
    c.kache_prints("mount");
    assert_eq!(c.sh("cat target/notes.txt"), "notes\n");
}

fn a_tree_is_not_shown_in_another_directory(world: World) {
    let c = world.checkout("project", "workspace");
    c.sh("echo notes > target/notes.txt");
    wait_until_sealed(&world, &c, "target/notes.txt");
    kill_daemon(&world);
    unmount_lazily(&c);
    let old = world.root().join("old");
    fs::rename(c.dir(), &old).unwrap();
    c.at(world.root()).sh("cp -r old project");
    c.cargo("build").ok();
    assert!(!c.dir().join("target/notes.txt").exists(), "another directory's files");
    c.kache_prints("mount");
    assert!(!c.sh("ls target").contains("notes"));
    let old = c.at(&old);
    old.kache_prints("mount");
    assert_eq!(old.sh("cat target/notes.txt"), "notes\n");
    c.kache_prints("umount");
    old.kache_prints("umount");
    assert_eq!(old.sh("cat target/notes.txt"), "notes\n");
}

fn a_target_is_not_mounted_under_a_build(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("umount");
    let lock = OpenOptions::new().write(true).open(c.dir().join("target/debug/.cargo-lock")).unwrap();
    lock.lock().unwrap();
    let told = c.kache(&["mount"]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && text.contains("a build is at work"), "{text}");
    drop(lock);
    c.kache_prints("mount");
    c.cargo("build").ok().fresh();
}

fn a_linked_target_comes_home(world: World) {
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    c.kache_prints("mount --link");
    c.cargo("build").ok();
    let moved = world.root().join("moved");
    c.kache_prints("daemon stop");
    assert!(c.dir().join("target").is_dir() && !c.dir().join("target").is_symlink(), "it stays in the cache");
    c.kache_prints("mount --link");
    assert!(c.dir().join("target").is_symlink());
    fs::rename(c.dir(), &moved).unwrap();
    let c = c.at(&moved);
    c.kache_prints("mount --link");
    c.kache_prints("umount --all");
    assert!(!c.dir().join("target").is_symlink(), "it stays in the cache");
    c.cargo("build").ok();
    assert!(c.prints("target/debug/app").starts_with("base hello"));
}

fn a_cache_in_a_target_is_refused(world: World) {
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    let inner = c.env("KACHE_CACHE_DIR", c.dir().join("target/cache").to_str().unwrap());
    let told = inner.kache(&["mount"]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    inner.kache(&["daemon", "stop"]);
    assert!(!told.status.success() && text.contains("KACHE_CACHE_DIR"), "{text}");
}

fn a_log_does_not_fill_the_store(world: World) {
    let c = world.checkout("project", "workspace");
    c.sh("yes | head -c 4M > target/server.log");
    let mut blobs = Vec::new();
    for _ in 0..2 {
        blobs.push(wait_until_sealed(&world, &c, "target/server.log"));
        c.sh("echo line >> target/server.log");
    }
    let began = Instant::now();
    while blobs.iter().any(|blob| blob.exists()) {
        assert!(began.elapsed() < Duration::from_secs(60), "superseded blobs stay");
        std::thread::sleep(Duration::from_millis(200));
    }
}
