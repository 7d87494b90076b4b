//! Whatever is wrong with the cache, my build goes through, and nothing is said between the compiler's lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{Checkout, World, disk};

/// A project of two crates; small, since it is built again and again.
fn project(world: &World, name: &str) -> Checkout {
    let c = world.project(
        name,
        &[
            ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"part\"]\nresolver = \"3\"\n"),
            ("part/Cargo.toml", "[package]\nname = \"part\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
            ("part/src/lib.rs", "pub fn part() -> u32 {\n    42\n}\n"),
            (
                "app/Cargo.toml",
                "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\npart = { path = \"../part\" }\n",
            ),
            ("app/src/main.rs", "fn main() {\n    println!(\"{}\", part::part());\n}\n"),
        ],
    );
    world.own(c.dir());
    c
}

/// The build succeeds, the program is right, and stderr has cargo's own words only.
#[track_caller]
fn builds(c: &Checkout) {
    let output = c.cargo_output(["build"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let foreign: Vec<&str> = said
        .lines()
        .filter(|l| !["Compiling", "Finished", "Locking"].iter().any(|w| l.trim().starts_with(w)))
        .collect();
    assert!(foreign.is_empty(), "{said}");
    assert_eq!(c.prints("target/debug/app"), "42\n");
}

/// The log has a line with these words.
#[track_caller]
fn warned(log: &Path, words: &str) {
    let text = fs::read_to_string(log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    assert!(text.contains(words), "no {words:?} in: {text}");
}

fn blobs(world: &World) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in fs::read_dir(world.cache().join("store/blobs")).unwrap() {
        for blob in fs::read_dir(dir.unwrap().path()).unwrap() {
            found.push(blob.unwrap().path());
        }
    }
    assert!(found.len() >= 3, "{found:?}");
    found
}

#[test]
fn cache_directory_that_cannot_be_written() {
    let world = World::plain_unprivileged();
    let c = project(&world, "project");
    fs::create_dir(world.cache()).unwrap();
    fs::set_permissions(world.cache(), fs::Permissions::from_mode(0o555)).unwrap();
    builds(&c);
    assert_eq!(fs::read_dir(world.cache()).unwrap().count(), 0);
}

#[test]
fn cache_directory_that_cannot_be_made() {
    let world = World::plain_unprivileged();
    let c = project(&world, "project").env("KACHE_CACHE_DIR", "/proc/no/such/place");
    builds(&c);
}

#[test]
fn cache_directory_that_is_a_file() {
    let world = World::plain();
    let c = project(&world, "project");
    fs::write(world.cache(), "not a directory").unwrap();
    builds(&c);
    assert_eq!(fs::read_to_string(world.cache()).unwrap(), "not a directory");
}

#[test]
fn cache_became_read_only() {
    let world = World::plain_unprivileged();
    let c = project(&world, "project");
    builds(&c);
    c.sh("chmod -R a-w \"$KACHE_CACHE_DIR\"");
    c.sh("rm -rf target");
    builds(&c);
    c.edit("part/src/lib.rs", "42", "42 + 0");
    builds(&c);
    c.sh("chmod -R u+w \"$KACHE_CACHE_DIR\"");
}

/// Full from the start, full soon, and full in the middle.
#[test]
fn full_disk() {
    for kilobytes_left in [0, 16, 300, 1500] {
        let world = World::plain();
        let disk = disk::mount(&world, "tmpfs", 64);
        let fill = format!(
            "dd if=/dev/zero of={0}/filler bs=1k count={1} status=none",
            disk.display(),
            65536 - kilobytes_left - 8
        );
        let c = project(&world, "project")
            .env("KACHE_CACHE_DIR", disk.join("cache"))
            .env("KACHE_MAX_SIZE", "1GiB");
        c.sh(&fill);
        builds(&c);
        c.sh("rm -rf target");
        builds(&c);
        // With room again everything is as it should be.
        fs::remove_file(disk.join("filler")).unwrap();
        c.sh("rm -rf target");
        builds(&c);
        c.clean();
        c.cargo("build").ok().all_hit();
    }
}

fn index_is_damaged(damage: impl Fn(&Path)) {
    let world = World::plain();
    let c = project(&world, "project");
    builds(&c);
    damage(&world.cache().join("index.db"));
    c.clean();
    builds(&c);
    c.clean();
    builds(&c);
    c.clean();
    // Nobody had to do anything for it to work again.
    c.cargo("build").ok().all_hit();
    c.kache_prints("stats");
}

#[test]
fn index_of_garbage() {
    index_is_damaged(|db| {
        remove_wal(db);
        fs::write(db, "garbage ".repeat(10_000)).unwrap();
    });
}

#[test]
fn empty_index() {
    index_is_damaged(|db| {
        remove_wal(db);
        fs::write(db, "").unwrap();
    });
}

#[test]
fn index_with_a_hole() {
    index_is_damaged(|db| {
        remove_wal(db);
        let mut bytes = fs::read(db).unwrap();
        let end = bytes.len();
        bytes[4096..end].fill(0xa5);
        fs::write(db, bytes).unwrap();
    });
}

#[test]
fn index_cut_short() {
    index_is_damaged(|db| {
        remove_wal(db);
        let bytes = fs::read(db).unwrap();
        fs::write(db, &bytes[..bytes.len() / 2]).unwrap();
    });
}

fn remove_wal(db: &Path) {
    // Brings everything into the main file first, as the last process to close it does.
    let conn = rusqlite::Connection::open(db).unwrap();
    conn.pragma_update(None, "journal_mode", "DELETE").unwrap();
    drop(conn);
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{end}", db.display()));
    }
}

/// What a newer kache wrote is left alone.
#[test]
fn newer_index() {
    let world = World::plain();
    let c = project(&world, "project");
    builds(&c);
    let db = world.cache().join("index.db");
    rusqlite::Connection::open(&db).unwrap().pragma_update(None, "user_version", 9999).unwrap();
    c.sh("rm -rf target");
    builds(&c);
    let conn = rusqlite::Connection::open(&db).unwrap();
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0)).unwrap();
    assert_eq!(version, 9999);
    let entries: i64 = conn.query_row("SELECT count(*) FROM entries", [], |r| r.get(0)).unwrap();
    assert!(entries > 0);
    warned(&world.cache().join("kache.log"), "newer kache");
    let stats = c.kache(&["stats"]);
    assert!(!stats.status.success());
    assert!(String::from_utf8(stats.stderr).unwrap().contains("newer kache"));
}

#[test]
fn locked_index() {
    let world = World::plain();
    let c = project(&world, "project");
    builds(&c);
    let conn = rusqlite::Connection::open(world.cache().join("index.db")).unwrap();
    conn.execute_batch("BEGIN EXCLUSIVE").unwrap();
    c.edit("part/src/lib.rs", "42", "42 + 0");
    builds(&c);
    conn.execute_batch("ROLLBACK").unwrap();
    c.sh("rm -rf target");
    builds(&c);
}

fn blobs_are_damaged(env: &[(&str, &str)], damage: impl Fn(&Path)) {
    let world = World::plain();
    let mut c = project(&world, "project");
    for (name, value) in env {
        c = c.env(name, value);
    }
    builds(&c);
    // No target shares an inode with them.
    c.clean();
    for blob in blobs(&world) {
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
        damage(&blob);
        if blob.exists() {
            fs::set_permissions(&blob, fs::Permissions::from_mode(0o444)).unwrap();
        }
    }
    let run = c.cargo("build").ok();
    assert!(run.units("hit").is_empty(), "{}", run.account());
    assert_eq!(c.prints("target/debug/app"), "42\n");
    c.clean();
    c.cargo("build").ok().all_hit();
    assert_eq!(c.prints("target/debug/app"), "42\n");
    c.kache_prints("doctor --verify");
}

#[test]
fn blobs_cut_short() {
    blobs_are_damaged(&[], |blob| {
        let file = fs::OpenOptions::new().write(true).open(blob).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
}

#[test]
fn empty_blobs() {
    blobs_are_damaged(&[], |blob| fs::write(blob, "").unwrap());
}

#[test]
fn blobs_gone() {
    blobs_are_damaged(&[], |blob| fs::remove_file(blob).unwrap());
}

#[test]
fn altered_blobs() {
    blobs_are_damaged(&[], |blob| {
        let mut bytes = fs::read(blob).unwrap();
        bytes.reverse();
        fs::write(blob, bytes).unwrap();
    });
}

/// Altered by something that covers its tracks: only reading them tells.
#[test]
fn altered_blobs_with_their_old_times() {
    blobs_are_damaged(&[("KACHE_VERIFY", "always")], |blob| {
        let mtime = fs::metadata(blob).unwrap().modified().unwrap();
        let mut bytes = fs::read(blob).unwrap();
        bytes.reverse();
        fs::write(blob, bytes).unwrap();
        fs::File::open(blob).unwrap().set_modified(mtime).unwrap();
    });
}

#[test]
fn doctor_finds_and_repairs_damage() {
    let world = World::plain();
    let c = project(&world, "project");
    builds(&c);
    c.clean();
    c.kache_prints("doctor --verify");
    let blob = &blobs(&world)[0];
    fs::set_permissions(blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(blob, "damaged").unwrap();
    assert!(!c.kache(&["doctor", "--verify"]).status.success());
    c.kache(&["doctor", "--verify", "--repair"]);
    c.kache_prints("doctor --verify");
    builds(&c);
}

#[test]
fn no_home() {
    let world = World::plain_unprivileged();
    let xdg = world.root().join("xdg");
    let c = project(&world, "project")
        .without_env("HOME")
        .without_env("KACHE_CACHE_DIR")
        .env("XDG_CACHE_HOME", &xdg);
    fs::create_dir(&xdg).unwrap();
    world.own(&xdg);
    builds(&c);
    assert!(xdg.join("kache/index.db").is_file());
    c.sh("rm -rf target");
    c.cargo("build").ok().all_hit();
}

#[test]
fn broken_configuration() {
    let world = World::plain();
    let c = project(&world, "project");
    for (file, variable) in [
        ("[cache", ""),
        ("[cache]\nno_such_setting = 1\n", ""),
        ("[cache]\nmax_size = \"lots\"\n", ""),
        ("", "lots"),
    ] {
        c.write(".kache.toml", file);
        let c = if variable.is_empty() { c.clone() } else { c.env("KACHE_MAX_SIZE", variable) };
        c.sh("rm -rf target");
        builds(&c);
        let stats = c.kache(&["stats"]);
        assert!(!stats.status.success(), "{file} {variable}");
        assert!(!stats.stderr.is_empty());
    }
    warned(&world.cache().join("kache.log"), "no_such_setting");
    warned(&world.cache().join("kache.log"), "KACHE_MAX_SIZE");
}

#[test]
fn turned_off() {
    let world = World::plain();
    let c = project(&world, "project").env("KACHE_DISABLED", "1");
    builds(&c);
    assert!(!world.cache().join("index.db").exists());
}

/// rustc's own failure, as without kache, both when there is something to restore and when there is not.
#[test]
fn target_that_cannot_be_written() {
    let world = World::plain_unprivileged();
    let c = world.project("project", &[("lib.rs", "pub fn f() {}\n")]);
    let compile = |program: &Path, out: &str| {
        let mut command = c.command(program);
        if program == world.kache_program() {
            command.arg(world.shim());
        }
        command.args(["--crate-name", "x", "--edition=2024", "--crate-type=lib", "lib.rs"]);
        command.args([
            "--emit=dep-info,metadata,link",
            "--error-format=json",
            "--json=artifacts",
            "--out-dir",
            out,
        ]);
        command.output().unwrap()
    };
    c.sh("mkdir -p a/debug/deps b/debug/deps c/debug/deps && chmod a-w b/debug/deps c/debug/deps");
    let (kache, rustc) = (world.kache_program().to_owned(), world.real_rustc());
    let before = compile(&kache, "b/debug/deps");
    assert!(compile(&kache, "a/debug/deps").status.success());
    let after = compile(&kache, "b/debug/deps");
    let plain = compile(&rustc, "c/debug/deps");
    assert!(!plain.status.success());
    let said = |o: &std::process::Output| String::from_utf8_lossy(&o.stderr).replace("c/debug", "b/debug");
    for output in [&before, &after] {
        assert_eq!(output.status.code(), plain.status.code());
        assert!(said(output).contains("failed") || said(output) == said(&plain), "{}", said(output));
    }
}
