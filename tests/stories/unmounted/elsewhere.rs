//! The daemon of my cache sees other files than my build: it is in another mount namespace, as of a container.

use crate::support::{Checkout, World};

fn project(world: &World, name: &str, says: &str) -> Checkout {
    let main = format!("fn main() {{\n    println!(\"{says}\");\n}}\n");
    let manifest = "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n";
    world.project(name, &[("Cargo.toml", manifest), ("src/main.rs", &main)])
}

/// Builds and runs what is mounted at the place of `c`, in a mount namespace of its own.
fn build_inside(c: &Checkout, mount: &str) -> String {
    let script = format!("{mount}; cd {}; cargo build -q; target/debug/app", c.dir().display());
    let output = c.command("unshare").args(["-m", "--propagation", "private", "sh", "-ec", &script]).output();
    let output = output.expect("unshare starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_build_in_another_mount_namespace_has_its_own_files() {
    let world = World::plain();
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let c = project(&world, "project", "outside").env("KACHE_DAEMON_IDLE_TIMEOUT", "10m");
    let other = project(&world, "other", "inside");
    c.kache_prints("daemon start");
    c.cargo("build").ok();
    let before = c.bytes("target/debug/app");
    let bind = format!("mount --bind {} {}", other.dir().display(), c.dir().display());
    assert_eq!(build_inside(&c, &bind), "inside\n");
    assert!(other.dir().join("target/debug/app").exists());
    assert_eq!(c.bytes("target/debug/app"), before);
    // Nor does it make the program from here the result of the sources there.
    c.edit("src/main.rs", "outside", "edited");
    other.clean_plainly();
    assert_eq!(build_inside(&c, &bind), "inside\n");
    c.cargo("build").ok();
    assert_eq!(c.prints("target/debug/app"), "edited\n");
    // Mounts are refused, and said to be.
    let mount =
        c.command("unshare").args(["-m", "sh", "-c", "\"$RUSTC_WRAPPER\" mount target"]).output().unwrap();
    assert!(!mount.status.success());
    assert!(String::from_utf8_lossy(&mount.stderr).contains("mount namespace"));
    assert_eq!(c.kache_json("mounts --json"), serde_json::json!([]));
    c.kache_prints("daemon stop");
}

#[test]
fn a_daemon_of_somebody_else_is_left_alone() {
    let world = World::plain_unprivileged();
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let c = project(&world, "project", "x").env("KACHE_DAEMON_IDLE_TIMEOUT", "10m");
    c.kache_prints("daemon start");
    for command in ["stats", "umount --all", "gc", "daemon stop"] {
        let output = std::process::Command::new(world.kache_program())
            .args(command.split(' '))
            .env("KACHE_CACHE_DIR", world.cache())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{command}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("as that user"), "{command}");
    }
    c.kache_prints("daemon status");
    c.kache_prints("daemon stop");
}
