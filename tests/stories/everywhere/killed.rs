//! The power button, the OOM killer, Ctrl-C in the wrong moment: what is left is whole.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::World;
use crate::support::dice::Dice;

#[test]
fn kill_9_at_any_moment() {
    let kills: u32 = std::env::var("KACHE_TEST_KILLS").map_or(12, |n| n.parse().expect("a number"));
    let mut dice = Dice::new(0x6b61_6368_6531);
    let world = World::new();
    let c = world.checkout("project", "workspace").env("KACHE_INCREMENTAL", "never");
    for n in 0..kills {
        c.write("base/src/words.rs", format!("pub fn greeting() -> &'static str {{\n    \"try {n}\"\n}}\n"));
        if dice.one_in(2) {
            c.clean();
        }
        let mut command = c.command("cargo");
        command.arg("build").stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut cargo = command.spawn().unwrap();
        let group = cargo.id() as i32;
        std::thread::sleep(Duration::from_millis(dice.below(700)));
        if dice.one_in(3) {
            // All of it, as when a terminal or a container goes.
            kill(Pid::from_raw(-group), Signal::SIGKILL).unwrap();
        } else {
            let victims = members(group, &["kache", "rustc"]);
            if !victims.is_empty() {
                // It may have ended by itself since.
                let _ =
                    kill(Pid::from_raw(victims[dice.below(victims.len() as u64) as usize]), Signal::SIGKILL);
            }
        }
        cargo.wait().unwrap();
        // Cargo remembers for ever that its question to the compiler ended badly, with kache or without.
        c.sh("rm -f target/.rustc_info.json");
        // The compiler of a killed wrapper may still write; cargo, and so the next build, does not wait for it.
        c.cargo("build").ok();
        assert!(
            c.prints("target/debug/app").starts_with(&format!("base try {n}, world\n")),
            "after kill {n}"
        );
    }
    c.kache_prints("doctor --verify");
    let second = world.checkout("second", "workspace").env("KACHE_INCREMENTAL", "never");
    second.write("base/src/words.rs", c.read("base/src/words.rs"));
    second.cargo("build").ok();
    let plain = second.plain("build");
    assert_eq!(second.prints("target/debug/app"), second.prints(plain.join("debug/app")));
}

/// Processes of a group with these names.
fn members(group: i32, names: &[&str]) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let Some((head, tail)) = stat.rsplit_once(')') else { return false };
        let name = head.split_once('(').map_or("", |(_, name)| name);
        let fields: Vec<&str> = tail.split_whitespace().collect();
        names.contains(&name) && fields.get(2).and_then(|g| g.parse().ok()) == Some(group)
    })
    .collect()
}
