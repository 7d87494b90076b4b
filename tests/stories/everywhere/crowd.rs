//! Many at once: nothing is compiled twice, and nobody is disturbed.

use std::process::{Child, Stdio};

use crate::support::World;

#[test]
fn sixty_four_wrappers_compile_once() {
    let world = World::new();
    // Enough code to keep the compiler busy until all have come.
    let source: String = (0..400)
        .map(|n| format!("pub fn f{n}(x: u64) -> String {{ format!(\"{{}}\", x * {n}) }}\n"))
        .collect();
    let c = world.project("project", &[("lib.rs", &source), ("other.rs", "")]);
    let compile = |name: &str, n: usize| -> Child {
        c.sh(&format!("mkdir -p target/{n}/debug/deps"));
        let mut command = c.command(world.kache_program());
        command.arg(world.shim()).args(["--crate-name", name, "--edition=2024", "--crate-type=lib"]);
        command.args([
            "--emit=dep-info,metadata,link",
            "--error-format=json",
            "--json=artifacts",
            "--out-dir",
        ]);
        command.arg(c.dir().join(format!("target/{n}/debug/deps")));
        command.arg(if name == "lonely" { "lib.rs" } else { "other.rs" });
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    // So that the 64 do not all get to know the toolchain first.
    assert!(compile("other", 0).wait_with_output().unwrap().status.success());
    let children: Vec<Child> = (0..64).map(|n| compile("lonely", n)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("liblonely.rlib"), "artifacts are announced: {said}");
    }
    let log = std::fs::read_to_string(world.rustc_log()).unwrap();
    let started = log.lines().filter(|l| l.starts_with("lonely\t")).count();
    assert_eq!(started, 1, "{}", c.kache_prints("report"));
    let rlibs = c.find("liblonely.rlib");
    assert_eq!(rlibs.len(), 64);
    let bytes = c.bytes(&rlibs[0]);
    assert!(rlibs.iter().all(|p| c.bytes(p) == bytes));
}

#[test]
fn eight_builds_share_one_store() {
    let world = World::new();
    let checkouts: Vec<_> = (0..8).map(|n| world.checkout(&format!("c{n}"), "workspace")).collect();
    let children: Vec<Child> = checkouts
        .iter()
        .map(|c| {
            c.command("cargo").arg("build").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let expected = checkouts[0].prints("target/debug/app");
    for c in &checkouts {
        assert_eq!(c.prints("target/debug/app"), expected);
        c.cargo("build").ok().fresh();
    }
    // Whoever came second waited for the first.
    let log = std::fs::read_to_string(world.rustc_log()).unwrap();
    for name in ["base", "generated", "native", "macros", "app"] {
        let started = log.lines().filter(|l| l.starts_with(&format!("{name}\t"))).count();
        assert_eq!(started, 1, "{name}:\n{log}");
    }
    let last = world.checkout("last", "workspace");
    last.cargo("build").ok().all_hit();
}
