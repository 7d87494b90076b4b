//! My build scripts take long, and what they do depends on little.

use std::process::Stdio;

use crate::support::{Checkout, World};

/// A project whose scripts note in the world's `scripts.log` that they ran: `sys` declares its inputs and has `links`,
/// `app` declares nothing and reads what `sys` left.
struct Project {
    c: Checkout,
}

const SYS: &str = r##"
use std::path::Path;

fn main() {
    note("sys");
    println!("cargo:rerun-if-changed=input.txt");
    println!("cargo::rerun-if-changed=data");
    println!("cargo:rerun-if-env-changed=STORY_WORD");
    let out = std::env::var("OUT_DIR").unwrap();
    let out = Path::new(&out);
    let input = std::fs::read_to_string("input.txt").unwrap();
    if input.contains("fail") {
        println!("cargo:warning=no luck");
        eprintln!("it failed");
        std::process::exit(3);
    }
    if input.contains("source") {
        std::fs::write("src/written.rs", input.as_bytes()).unwrap();
    }
    if input.contains("time") {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        println!("cargo:rustc-env=STORY_TIME={}", now.as_secs());
    }
    let mut names: Vec<_> = std::fs::read_dir("data").unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    let data: String = names.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let word = std::env::var("STORY_WORD").unwrap_or_default();
    std::fs::write(out.join("gen.rs"), format!("pub const TEXT: &str = {:?};\n", format!("{input}{data}{word}"))).unwrap();
    std::fs::create_dir_all(out.join("deep/empty")).unwrap();
    std::fs::write(out.join("deep/tool"), "#!/bin/sh\necho tool\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(out.join("deep/tool"), mode).unwrap();
    let _ = std::fs::remove_file(out.join("link"));
    std::os::unix::fs::symlink("deep/tool", out.join("link")).unwrap();
    if input.contains("extra") {
        std::fs::write(out.join("extra"), "").unwrap();
    }
    if input.contains("binary") {
        let mut bytes = b"\0\x01".to_vec();
        bytes.extend_from_slice(out.to_str().unwrap().as_bytes());
        std::fs::write(out.join("binary"), bytes).unwrap();
    }
    println!("cargo::metadata=root={}", out.display());
    println!("cargo::metadata=greeting=hello");
}
"##;

const APP: &str = r##"
fn main() {
    note("app");
    let root = std::env::var("DEP_STORY_ROOT").unwrap();
    let text = std::fs::read_to_string(std::path::Path::new(&root).join("gen.rs")).unwrap();
    println!("cargo::rustc-env=APP={} {}", std::env::var("DEP_STORY_GREETING").unwrap(), text.len());
    // A path of this checkout in a text.
    let out = std::env::var("OUT_DIR").unwrap();
    let here = std::env::current_dir().unwrap().join("here.txt");
    std::fs::write(format!("{out}/here.rs"), format!("pub const HERE: &str = include_str!({here:?});\n")).unwrap();
}
"##;

impl Project {
    fn new(world: &World, name: &str) -> Project {
        let note = "fn note(name: &str) {\n    use std::{io::Write, os::fd::FromRawFd};\n    \
             let log = unsafe { std::fs::File::from_raw_fd(8) };\n    \
             let mut log = std::mem::ManuallyDrop::new(log);\n    \
             log.write_all(format!(\"{name}\\n\").as_bytes()).unwrap();\n}\n";
        let (sys, app) = (format!("{SYS}\n{note}"), format!("{APP}\n{note}"));
        let c = world.project(
            name,
            &[
                ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"sys\"]\nresolver = \"3\"\n"),
                (
                    "sys/Cargo.toml",
                    "[package]\nname = \"story-sys\"\nversion = \"1.0.0\"\nedition = \"2024\"\nlinks = \"story\"\n",
                ),
                ("sys/build.rs", &sys),
                ("sys/src/lib.rs", "include!(concat!(env!(\"OUT_DIR\"), \"/gen.rs\"));\n"),
                ("sys/input.txt", "one"),
                ("sys/data/a.txt", "-a"),
                (
                    "app/Cargo.toml",
                    "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\nbuild = \"make.rs\"\n\n\
                     [dependencies]\nstory-sys = { path = \"../sys\" }\n",
                ),
                ("app/make.rs", &app),
                (
                    "app/src/main.rs",
                    "include!(concat!(env!(\"OUT_DIR\"), \"/here.rs\"));\n\
                     fn main() {\n    println!(\"{} {} {}\", story_sys::TEXT, env!(\"APP\"), HERE);\n}\n",
                ),
                ("app/here.txt", "here"),
            ],
        );
        // A build script that is being edited is compiled incrementally, and then it is another program.
        Project { c: c.env("CI", "1") }
    }

    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.c.world().script_log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Builds; these scripts must have run, in any order.
    #[track_caller]
    fn builds(&self, scripts: &[&str]) {
        self.builds_with(&self.c, scripts);
    }

    #[track_caller]
    fn builds_with(&self, c: &Checkout, scripts: &[&str]) {
        let before = self.log().len();
        let run = c.cargo("build").ok();
        let mut ran = self.log().split_off(before);
        ran.sort();
        assert_eq!(ran, scripts, "{}\n{}", self.events().join("\n"), run.account());
    }

    #[track_caller]
    fn says(&self, text: &str) {
        assert_eq!(self.c.prints("target/debug/app"), format!("{text}\n"));
    }

    /// What kache says about runs of build scripts: `hit app `, …
    fn events(&self) -> Vec<String> {
        let all = self.c.kache_json("report --format json");
        let events = all.as_array().unwrap().iter();
        let text = |e: &serde_json::Value, name: &str| e[name].as_str().unwrap().to_owned();
        events
            .filter(|e| e["kind"] == "build-script-run")
            .map(|e| format!("{} {} {}", text(e, "outcome"), text(e, "crate_name"), text(e, "reason")))
            .collect()
    }
}

#[test]
fn nothing_runs_twice() {
    let world = World::new();
    let p = Project::new(&world, "first");
    p.builds(&["app", "sys"]);
    p.says("one-a hello 32 here");
    p.c.cargo("build").ok().fresh();
    p.c.clean();
    p.builds(&[]);
    p.says("one-a hello 32 here");
    p.c.cargo("build").ok().fresh();
    let hits: Vec<_> = p.events().into_iter().filter(|e| e.starts_with("hit ")).collect();
    assert_eq!(hits, ["hit story_sys ", "hit app "]);
    // Everything that was there is there again.
    let shown =
        p.c.sh("cd target/debug/build/story-sys-*/out && ./link && test -d deep/empty && readlink link");
    assert_eq!(shown, "tool\ndeep/tool\n");

    // Whether the paths that they ask for matter, only another place can show. Then it is known for all.
    Project::new(&world, "the-other-one").builds(&["app", "sys"]);
    let second = Project::new(&world, "elsewhere/and-deeper/second");
    second.c.write("app/here.txt", "here");
    second.builds(&[]);
    second.says("one-a hello 32 here");
    second.c.cargo("build").ok().fresh();
    assert!(!second.c.sh("cat target/debug/build/app-*/out/here.rs").contains("first"));
    second.c.cargo("clean -p app").ok();
    second.builds(&[]);
}

#[test]
fn declared_inputs_count() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.builds(&["app", "sys"]);
    p.c.write("sys/input.txt", "two");
    p.builds(&["app", "sys"]);
    p.says("two-a hello 32 here");
    p.c.write("sys/data/b.txt", "-b");
    p.builds(&["app", "sys"]);
    p.says("two-a-b hello 34 here");
    let word = p.c.env("STORY_WORD", "-word");
    p.builds_with(&word, &["app", "sys"]);
    p.says("two-a-b-word hello 39 here");
    p.c.sh("rm sys/data/b.txt");
    p.builds_with(&word, &["app", "sys"]);
    p.says("two-a-word hello 37 here");
    // Known content.
    p.builds(&[]);
    p.says("two-a hello 32 here");
    p.c.write("sys/input.txt", "one");
    p.builds(&[]);
    p.says("one-a hello 32 here");
    let why = p.c.kache_prints("why-miss story-sys");
    assert!(why.contains("input.txt changed") && why.contains("files in data changed"), "{why}");
    assert!(why.contains("environment variable STORY_WORD changed"), "{why}");
}

#[test]
fn what_a_script_does_not_read_does_not_concern_it() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.builds(&["app", "sys"]);
    for other in ["app/src/other.rs", "sys/src/other.rs", "sys/other.c", "README.md"] {
        p.c.write(other, "");
        p.c.clean();
        p.builds(&[]);
    }
}

#[test]
fn the_script_itself_counts() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.builds(&["app", "sys"]);
    p.c.edit("sys/build.rs", "{input}{data}{word}", "{input}!{data}{word}");
    p.builds(&["app", "sys"]);
    p.says("one!-a hello 33 here");
    p.c.clean();
    p.builds(&[]);
    p.says("one!-a hello 33 here");
}

#[test]
fn other_flags_are_another_run() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.builds(&["app", "sys"]);
    p.builds_with(&p.c.env("RUSTFLAGS", "--cfg story"), &["app", "sys"]);
    p.builds_with(&p.c.env("RUSTFLAGS", ""), &[]);
    // What is not the script's business is no reason.
    p.c.clean();
    p.builds_with(&p.c.env("SOMETHING_ELSE", "1").env("CARGO_TERM_VERBOSE", "true"), &[]);
}

#[test]
fn failures_are_passed_on_and_not_kept() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.c.write("sys/input.txt", "fail");
    for _ in 0..2 {
        let before = p.log().len();
        let run = p.c.cargo("build");
        assert!(!run.success && run.stderr.contains("exit status: 3") && run.stderr.contains("it failed"));
        assert_eq!(p.log().split_off(before), ["sys"]);
    }
    p.c.write("sys/input.txt", "one");
    p.builds(&["app", "sys"]);
}

#[test]
fn whoever_wants_scripts_to_run_says_so() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.builds(&["app", "sys"]);
    let rebuild = |c: &Checkout, scripts: &[&str]| {
        p.c.clean();
        p.builds_with(c, scripts);
        p.says("one-a hello 32 here");
    };
    rebuild(&p.c.env("KACHE_BUILD_SCRIPTS", "false"), &["app", "sys"]);
    rebuild(&p.c.env("KACHE_BUILD_SCRIPTS_EXCLUDE", "other,story-sys"), &["sys"]);
    rebuild(&p.c.env("KACHE_DISABLED", "1"), &["app", "sys"]);
    rebuild(&p.c, &[]);
    // Launchers are there now. They do without kache when they have to.
    let again = |c: &Checkout, scripts: &[&str]| {
        p.c.sh("touch sys/input.txt; rm target/debug/deps/*");
        p.builds_with(c, scripts);
        p.says("one-a hello 32 here");
    };
    again(&p.c, &[]);
    again(&p.c.without_env("RUSTC_WRAPPER"), &["app", "sys"]);
    again(&p.c.env("KACHE_BUILD_SCRIPTS", "false"), &["app", "sys"]);
    again(&p.c.env("KACHE_BUILD_SCRIPTS_EXCLUDE", "app"), &["app"]);
    again(&p.c.env("KACHE_DISABLED", "1"), &["app", "sys"]);
    again(&p.c, &[]);
}

#[test]
fn what_cannot_be_proven_is_not_kept() {
    let world = World::new();
    let p = Project::new(&world, "project");
    for word in ["source", "time"] {
        p.c.write("sys/input.txt", word);
        p.builds(&["app", "sys"]);
        p.c.clean();
        p.c.sh("rm -f sys/src/written.rs");
        p.builds(&["sys"]);
    }
    let events = p.events().join("\n");
    assert!(events.contains("unstored story_sys it wrote src/written.rs"), "{events}");
    assert!(events.contains("unstored story_sys it asked for the time"), "{events}");
}

#[test]
fn a_path_in_a_binary_binds_it_to_its_place() {
    let world = World::new();
    let first = Project::new(&world, "first");
    first.c.write("sys/input.txt", "binary");
    first.builds(&["app", "sys"]);
    first.c.clean();
    first.builds(&[]);
    let second = Project::new(&world, "second");
    second.c.write("sys/input.txt", "binary");
    // And whoever reads what it left reads something else.
    second.builds(&["app", "sys"]);
    let bytes = second.c.sh("cat target/debug/build/story-sys-*/out/binary");
    assert!(bytes.contains("/second/") && !bytes.contains("/first/"), "{bytes}");
    let why = "the result belongs to another target directory";
    assert!(second.events().iter().any(|event| event.contains(why)), "{:?}", second.events());
}

#[test]
fn what_another_run_left_goes() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.builds(&["app", "sys"]);
    p.c.write("sys/input.txt", "extra");
    p.builds(&["app", "sys"]);
    p.c.sh("test -e target/debug/build/story-sys-*/out/extra");
    p.c.write("sys/input.txt", "one");
    p.builds(&[]);
    p.c.sh("test ! -e target/debug/build/story-sys-*/out/extra");
    // And a later run may write over what was restored, without an effect on what is kept.
    p.c.write("sys/input.txt", "three");
    p.builds(&["app", "sys"]);
    p.c.write("sys/input.txt", "one");
    p.builds(&[]);
    p.says("one-a hello 32 here");
}

#[test]
fn many_at_once_run_it_once_each() {
    let world = World::new();
    let all: Vec<Project> = (0..4).map(|n| Project::new(&world, &format!("c{n}"))).collect();
    for p in &all {
        p.c.edit(
            "sys/build.rs",
            "note(\"sys\");",
            "note(\"sys\"); std::thread::sleep(std::time::Duration::from_secs(1));",
        );
    }
    let builds: Vec<_> = all
        .iter()
        .map(|p| p.c.command("cargo").arg("build").stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for build in builds {
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // What the first found out, the others must show for their places, each once.
    for script in ["app", "sys"] {
        assert_eq!(all[0].log().iter().filter(|ran| *ran == script).count(), 4, "{:?}", all[0].events());
    }
    all.iter().for_each(|p| p.says("one-a hello 32 here"));
}

/// Scripts put names together of a prefix and a target (`CC_x86_64-unknown-linux-musl`), of features (`c++17`), …
#[test]
fn variables_that_a_shell_could_not_name_reach_the_script() {
    let world = World::new();
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[features]\n\"c++17\" = []\n"),
            (
                "build.rs",
                "fn main() {\n    println!(\"cargo:rerun-if-env-changed=CFLAGS_story-target\");\n    \
                 let var = |name: &str| std::env::var(name).unwrap_or(\"unset\".into());\n    \
                 println!(\"cargo:rustc-env=SAID={} {}\", var(\"CFLAGS_story-target\"), var(\"CARGO_FEATURE_C++17\"));\n}\n",
            ),
            ("src/main.rs", "fn main() {\n    println!(\"{}\", env!(\"SAID\"));\n}\n"),
        ],
    );
    let says = |c: &Checkout, args: &str, text: &str| {
        c.cargo(&format!("build {args}")).ok();
        assert_eq!(c.prints("target/debug/app"), format!("{text}\n"));
    };
    let with = |value: &str| c.env("CFLAGS_story-target", value);
    says(&with("one"), "--features c++17", "one 1");
    says(&with("two"), "", "two unset");
    c.clean();
    says(&with("one"), "", "one unset");
    c.clean();
    says(&with("two"), "", "two unset");
    // Without kache, too.
    c.sh("rm target/debug/deps/*");
    says(&with("three").without_env("RUSTC_WRAPPER"), "", "three unset");
}

#[test]
fn who_writes_into_what_another_script_left_always_runs() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.c.edit(
        "app/make.rs",
        "note(\"app\");",
        "note(\"app\"); std::fs::write(std::env::var(\"DEP_STORY_ROOT\").unwrap() + \"/deep/more\", \"\").unwrap();",
    );
    p.builds(&["app", "sys"]);
    p.c.clean();
    p.builds(&["app"]);
    p.c.sh("test -e target/debug/build/story-sys-*/out/deep/more");
    let events = p.events().join("\n");
    assert!(events.contains("unstored app it wrote") && events.contains("/out/deep/more"), "{events}");
}

#[test]
fn files_that_a_variable_names_count() {
    let world = World::new();
    let p = Project::new(&world, "project");
    p.c.edit(
        "sys/build.rs",
        "std::env::var(\"STORY_WORD\").unwrap_or_default()",
        "std::fs::read_to_string(std::env::var(\"STORY_WORD\").unwrap().split('=').last().unwrap()).unwrap()",
    );
    let file = world.root().join("word.txt");
    p.c.sh(&format!("printf -- -one > {}", file.display()));
    let c = p.c.env("STORY_WORD", format!("--word={}", file.display()));
    p.builds_with(&c, &["app", "sys"]);
    p.says("one-a-one hello 36 here");
    p.c.clean();
    p.builds_with(&c, &[]);
    p.c.sh(&format!("printf -- -two > {}", file.display()));
    p.c.clean();
    p.builds_with(&c, &["app", "sys"]);
    p.says("one-a-two hello 36 here");
}

#[test]
fn what_was_made_for_this_processor_is_for_no_other() {
    let world = World::new();
    let p = Project::new(&world, "project");
    let flags = "let cc = std::process::Command::new(\"cc\").args([\"-march=native\", \"-E\", \"-x\", \"c\", \"/dev/null\"]).output(); \
                 assert!(cc.unwrap().status.success());";
    p.c.edit("sys/build.rs", "note(\"sys\");", &format!("note(\"sys\"); {flags}"));
    p.builds(&["app", "sys"]);
    p.c.clean();
    p.builds(&[]);
    // Only root can have another processor.
    if nix::unistd::getuid().is_root() {
        let cpu = world.root().join("cpuinfo");
        std::fs::write(&cpu, "vendor_id\t: Story\nmodel\t: 1\n\n").unwrap();
        crate::support::namespace::show_read_only(&cpu, "/proc/cpuinfo".as_ref());
        p.c.clean();
        p.builds(&["sys"]);
        p.c.clean();
        p.builds(&[]);
        let why = p.c.kache_prints("why-miss story-sys");
        assert!(why.contains("the result is for another processor"), "{why}");
    }
}

#[test]
fn random_changes_never_give_a_stale_result() {
    let world = World::new();
    let p = Project::new(&world, "project");
    let mut dice = crate::support::dice::Dice::new(4);
    let mut word = String::new();
    let mut builds = 0;
    for _ in 0..25 {
        match dice.below(6) {
            0 => p.c.write_changed("sys/input.txt", ["one", "two", "extra"][dice.below(3) as usize]),
            1 => p.c.write_changed(
                &format!("sys/data/{}.txt", dice.below(3)),
                ["x", "y"][dice.below(2) as usize],
            ),
            2 => drop(p.c.sh(&format!("rm -f sys/data/{}.txt", dice.below(3)))),
            3 => word = ["", "-w", "-v"][dice.below(3) as usize].to_owned(),
            4 => p.c.write_changed("app/here.txt", ["here", "there"][dice.below(2) as usize]),
            _ => p.c.clean(),
        }
        let c = if word.is_empty() { p.c.clone() } else { p.c.env("STORY_WORD", &word) };
        c.cargo("build").ok();
        builds += 1;
        let data = p.c.sh("cat sys/input.txt sys/data/*");
        let text = format!("{data}{word}");
        p.says(&format!("{text} hello {} {}", text.len() + 27, p.c.read("app/here.txt")));
    }
    let ran = p.log().len();
    assert!(ran < 2 * builds, "something was a hit: {ran} runs in {builds} builds");
}

/// A pruned target: the launchers are there, what they stand for is not.
#[test]
fn a_program_that_somebody_removed_comes_back() {
    let world = World::new();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    for with_kache in [true, false] {
        c.sh(
            "find target -name '*.real' -delete; rm -rf target/debug/build/*/out target/debug/build/*/output",
        );
        let c = if with_kache { c.clone() } else { c.without_env("RUSTC_WRAPPER") };
        let built = c.cargo_output(["build"]);
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        assert!(c.prints("target/debug/app").starts_with("base hello"));
    }
}
