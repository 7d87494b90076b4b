//! The daemon dies without a word.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::dice::Dice;
use crate::support::{Checkout, World, by_root_and_user};

by_root_and_user!(
    a_dead_mount_is_recognised_and_comes_back,
    a_dead_mount_can_be_unmounted,
    doctor_fixes_a_dead_mount,
    a_build_goes_on_without_the_daemon,
    kill_9_at_any_moment_of_a_build,
);

/// A checkout whose commands start no daemon by themselves, as after a crash.
fn without_daemon(c: &Checkout) -> Checkout {
    c.env("KACHE_DAEMON_IDLE_TIMEOUT", "0")
}

fn kill_daemon(world: &World) {
    let pid = world.daemon();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    world.wait_for_end(pid);
}

fn a_dead_mount_is_recognised_and_comes_back(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.sh("echo precious > target/note && sync target/note");
    kill_daemon(&world);
    let dead = c.kache_json("mounts --json");
    assert_eq!((&dead[0]["alive"], dead.as_array().unwrap().len()), (&serde_json::json!(false), 1));
    let told = c.kache(&["doctor"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(!told.status.success() && text.contains("kache mount"), "{text}");
    c.kache_prints("mount");
    assert_eq!(c.sh("cat target/note"), "precious\n");
    c.cargo("build").ok().fresh();
    c.kache_prints("doctor --verify");
}

fn a_dead_mount_can_be_unmounted(world: World) {
    let c = without_daemon(&world.checkout("project", "workspace"));
    c.cargo("build").ok();
    kill_daemon(&world);
    c.kache_prints("umount");
    c.cargo("build").ok().fresh();
    assert!(c.prints("target/debug/app").starts_with("base hello"));
    c.kache_prints("doctor --verify");
}

fn doctor_fixes_a_dead_mount(world: World) {
    let c = without_daemon(&world.checkout("project", "workspace"));
    c.cargo("build").ok();
    kill_daemon(&world);
    assert!(!c.kache(&["doctor"]).status.success());
    c.kache_prints("doctor --fix");
    c.kache_prints("doctor");
    c.cargo("build").ok().fresh();
}

fn a_build_goes_on_without_the_daemon(world: World) {
    let c = without_daemon(&world.checkout("project", "workspace"));
    c.cargo("build").ok();
    kill_daemon(&world);
    // The dead mount cannot be built in, but anything else can.
    let elsewhere = c.env("CARGO_TARGET_DIR", world.root().join("elsewhere"));
    elsewhere.sh("mkdir -p ../elsewhere");
    elsewhere.cargo("build").ok().all_hit();
    c.kache_prints("umount --discard");
}

fn kill_9_at_any_moment_of_a_build(world: World) {
    let kills: u32 = std::env::var("KACHE_TEST_KILLS").map_or(4, |n| n.parse().expect("a number"));
    let mut dice = Dice::new(0x6b61_6368_6533);
    let c = world.checkout("project", "workspace").env("KACHE_INCREMENTAL", "never");
    for n in 0..kills {
        c.write("base/src/words.rs", format!("pub fn greeting() -> &'static str {{\n    \"try {n}\"\n}}\n"));
        let mut command = c.command("cargo");
        command.arg("build").stdout(Stdio::null()).stderr(Stdio::null());
        let mut cargo = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(dice.below(900)));
        // It may be at work for the build in this very mount, and wait for itself: the next command helps it to its end.
        kill(Pid::from_raw(world.daemon()), Signal::SIGKILL).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        c.kache_prints("mount");
        cargo.wait().unwrap();
        // See the story of killed compilers: cargo remembers a bad answer for ever.
        c.sh("rm -f target/.rustc_info.json");
        c.cargo("build").ok();
        let said = c.prints("target/debug/app");
        assert!(said.starts_with(&format!("base try {n}, world\n")), "after kill {n}: {said}");
    }
    c.kache_prints("doctor --verify");
    c.kache_prints("umount");
    c.cargo("build").ok().fresh();
}
