//! Cargo asks the compiler what it is before it builds. It need not start for that twice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::{Checkout, World};

/// A toolchain of its own, whose compiler tells of each question that it was asked.
struct Kit {
    world: World,
}

impl Kit {
    fn new(world: &World) -> Kit {
        let kit = Kit { world: world.clone() };
        fs::create_dir_all(kit.rustc().parent().unwrap()).unwrap();
        fs::write(kit.log(), "").unwrap();
        kit.install("");
        world.own(&world.root().join("kit"));
        // The daemon, which asks on behalf of others, has no descriptor of this test.
        world.own(&kit.log());
        kit
    }

    fn rustc(&self) -> PathBuf {
        self.world.root().join("kit/bin/rustc")
    }

    fn log(&self) -> PathBuf {
        self.world.script_log()
    }

    /// Another compiler, with some text more.
    fn install(&self, more: &str) {
        let kit = self.world.root().join("kit");
        let text = format!(
            "#!/bin/sh\n{{ echo \"$*\" >&8; }} 2>/dev/null || echo \"$*\" >> {}\n[ \"$*\" != '--print sysroot' ] || {{ echo {}; exit; }}\n\
             exec {} \"$@\"\n{more}",
            self.log().display(),
            kit.display(),
            self.world.real_rustc().display()
        );
        fs::write(self.rustc(), text).unwrap();
        fs::set_permissions(self.rustc(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What the compiler was started for since the last time this was asked.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap();
        fs::write(self.log(), "").unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn about_targets(asked: &[String]) -> usize {
    asked.iter().filter(|words| words.starts_with("- --crate-name ___")).count()
}

#[test]
fn a_warm_build_starts_no_compiler_at_all() {
    let world = World::new();
    let kit = Kit::new(&world);
    let c = world.checkout("first", "workspace").env("RUSTC", kit.rustc());
    c.cargo("build").ok();
    let cold = kit.asked();
    assert_eq!(about_targets(&cold), 1, "{cold:?}");

    c.clean();
    c.cargo("build").ok().all_hit();
    assert_eq!(kit.asked(), [""; 0]);
    let second = world.checkout("second", "workspace").env("RUSTC", kit.rustc());
    second.cargo("build").ok().all_hit();
    assert_eq!(kit.asked(), [""; 0]);
}

#[test]
fn what_may_change_an_answer_asks_again() {
    let world = World::new();
    let kit = Kit::new(&world);
    let c = world.checkout("first", "workspace").env("RUSTC", kit.rustc());
    let ask = |c: &Checkout, words: &str| {
        let mut command = c.command(world.kache_program());
        let output = command.arg(kit.rustc()).args(words.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), kit.asked().iter().any(|asked| asked == words))
    };
    let plain = ask(&c, "--print=cfg");
    assert!(plain.1 && plain.0.contains("target_os=\"linux\""), "{}", plain.0);
    assert_eq!(ask(&c, "--print=cfg"), (plain.0.clone(), false));

    let more = ask(&c, "--print=cfg -Ctarget-feature=+avx2");
    assert!(more.1 && more.0.contains("avx2"), "{}", more.0);
    assert_eq!(ask(&c, "--print=cfg"), (plain.0.clone(), false));
    assert!(ask(&c.env("RUSTC_BOOTSTRAP", "1"), "--print=cfg").1, "a variable");
    assert!(ask(&c, "--print=cfg -Ctarget-cpu=native").1 && ask(&c, "--print=cfg -Ctarget-cpu=native").1);

    kit.install("# newer\n");
    assert_eq!(ask(&c, "--print=cfg"), (plain.0, true));
    assert!(!ask(&c, "--print=cfg").1);
}

/// The answer to a question with a source is that source's.
#[test]
fn a_source_on_standard_input_is_read() {
    let world = World::new();
    let kit = Kit::new(&world);
    let c = world.checkout("first", "workspace");
    let words = "- --crate-name ___ --print=crate-name";
    for (input, asked) in [("/dev/null", true), ("/dev/null", false), ("source.rs", true)] {
        c.write("source.rs", "fn main() {}");
        let input = fs::File::open(c.dir().join(input)).unwrap();
        let mut command = c.command(world.kache_program());
        let output = command.arg(kit.rustc()).args(words.split_whitespace()).stdin(input).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "___\n");
        assert_eq!(kit.asked().iter().any(|a| a == words), asked, "{:?}", kit.asked());
    }
}

/// A program that only looks like a compiler may look at anything before it answers.
#[test]
fn a_compiler_outside_of_a_toolchain_is_asked_each_time() {
    let world = World::new();
    let c = world.checkout("first", "workspace");
    let log = || fs::read_to_string(world.rustc_log()).unwrap().lines().count();
    for round in 1..=2 {
        let before = log();
        c.command(world.kache_program()).arg(world.shim()).arg("-vV").output().unwrap();
        assert!(log() > before, "round {round}");
    }
}
