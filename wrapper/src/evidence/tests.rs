//! What follows from accounts, on real files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kache_trace::{Access, Account, Call, How, Process, Variable, What};

use super::{Evidence, Scene};
use crate::cache::{Invocation, Node};
use crate::prefixes::{PACKAGE, Prefixes, TARGET, WORKSPACE};
use crate::record::Input;

/// A checkout with a package, and an account that is being written.
struct Story {
    dir: tempfile::TempDir,
    toolchain: tempfile::TempDir,
    env: BTreeMap<String, String>,
    argv: Vec<String>,
    account: Account,
    is_script: bool,
    values_bind: bool,
    started_ns: i64,
}

const TEXT: &str = "text";

impl Story {
    fn new(is_script: bool) -> Story {
        let dir = tempfile::Builder::new().prefix("evidence").tempdir_in(std::env::temp_dir()).unwrap();
        for inner in ["src", "target/debug/build/p-1/out", "target/debug/deps", "tools"] {
            std::fs::create_dir_all(dir.path().join(inner)).unwrap();
        }
        let toolchain =
            tempfile::Builder::new().prefix("toolchain").tempdir_in(std::env::temp_dir()).unwrap();
        std::fs::create_dir_all(toolchain.path().join("lib/rustlib")).unwrap();
        let mut story = Story {
            dir,
            toolchain,
            env: BTreeMap::new(),
            argv: Vec::new(),
            account: Account::default(),
            is_script,
            values_bind: true,
            started_ns: i64::MAX,
        };
        story.write("target/debug/build/p-1/build-script-build", "ELF");
        let program = if is_script {
            story.at("target/debug/build/p-1/build-script-build")
        } else {
            PathBuf::from("/usr/bin/rustc")
        };
        story.process(program, &["x"], None);
        story
    }

    fn script() -> Story {
        Story::new(true)
    }

    fn compile() -> Story {
        Story::new(false)
    }

    fn at(&self, inner: &str) -> PathBuf {
        self.dir.path().join(inner)
    }

    fn write(&self, inner: &str, text: &str) -> PathBuf {
        let path = self.at(inner);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn process(&mut self, program: impl Into<PathBuf>, argv: &[&str], parent: Option<u32>) -> u32 {
        let program = program.into();
        let argv = argv.iter().map(Into::into).collect();
        self.account.processes.push(Process { program, argv, parent, ..Process::default() });
        self.account.processes.len() as u32 - 1
    }

    /// Code of the process's own program.
    fn object(&mut self, process: u32) -> u32 {
        let program = self.account.processes[process as usize].program.clone();
        if let Some(known) = self.account.objects.iter().position(|o| *o == program) {
            return known as u32;
        }
        self.account.objects.push(program);
        self.account.objects.len() as u32 - 1
    }

    fn does(&mut self, process: u32, how: How, path: impl AsRef<Path>) -> &mut Story {
        let (path, object) = (path.as_ref().to_owned(), self.object(process));
        self.account.accesses.push(Access { path, how, process, object });
        self
    }

    fn asks(&mut self, process: u32, what: What) -> &mut Story {
        let object = self.object(process);
        self.account.calls.push(Call { what, process, object });
        self
    }

    fn asks_for(&mut self, process: u32, name: &str) -> &mut Story {
        let object = self.object(process);
        self.account.variables.push(Variable { name: name.into(), process, object });
        self
    }

    fn read(&self) -> Result<Evidence, String> {
        let mut prefixes = Prefixes::default();
        prefixes.add(WORKSPACE, self.dir.path(), "");
        prefixes.add(TARGET, &self.at("target/debug"), "");
        if self.is_script {
            prefixes.add(PACKAGE, self.dir.path(), "");
        }
        let env = self.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let argv = self.argv.iter().map(Into::into).collect();
        let inv = Invocation { argv, cwd: self.dir.path().to_owned(), env };
        let own = if self.is_script { "target/debug/build/p-1/out" } else { "target/debug/deps" };
        let scene = Scene {
            inv: &inv,
            prefixes: &prefixes,
            sysroot: self.toolchain.path(),
            own: &self.at(own),
            moved: None,
            crates: &[self.at("target/debug/deps")],
            known: &[],
            values_bind: self.values_bind,
            is_script: self.is_script,
            judged: &[],
            is_watched: false,
            started_ns: self.started_ns,
        };
        scene.read(&self.account)
    }

    fn evidence(&self) -> Evidence {
        self.read().expect("something proven")
    }

    /// Without the one that everything has which starts programs.
    fn inputs(&self) -> Vec<Input> {
        self.evidence().inputs.into_iter().filter(|input| *input != Input::LibraryPath).collect()
    }

    /// Why nothing is proven.
    fn unproven(&self) -> String {
        self.read().expect_err("nothing proven")
    }

    fn template(&self, inner: &str) -> Vec<u8> {
        let token = if self.is_script { PACKAGE } else { WORKSPACE };
        format!("\u{1f}{token}\u{1f}/{inner}").into_bytes()
    }
}

#[test]
fn each_way_to_look_at_a_file_is_an_input() {
    let mut s = Story::script();
    let (file, dir) = (s.write("src/x", TEXT), s.at("src"));
    s.does(0, How::Read, &file).does(0, How::Stat, &file).does(0, How::List, &dir);
    s.does(0, How::Absent, s.at("src/y"));
    let link = s.at("src/link");
    std::os::unix::fs::symlink("x", &link).unwrap();
    s.does(0, How::Link, &link).does(0, How::Resolve, &link);
    let found = s.inputs();
    for input in [
        Input::File(s.template("src/x")),
        Input::Exists(s.template("src/x")),
        Input::Listing(s.template("src")),
        Input::Absent(s.template("src/y")),
        Input::Link(s.template("src/link")),
        Input::Real(s.template("src/link")),
    ] {
        assert!(found.contains(&input), "{input:?} is not in {found:?}");
    }
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn what_it_made_itself_is_no_input() {
    let mut s = Story::script();
    let out = s.write("target/debug/build/p-1/out/made", TEXT);
    s.does(0, How::Absent, &out).does(0, How::Write, &out).does(0, How::Read, &out);
    let inner = s.at("target/debug/build/p-1/out/made/inner");
    s.does(0, How::Absent, inner);
    assert_eq!(s.inputs(), []);
    assert_eq!(s.evidence().own, [out]);
}

#[test]
fn what_was_there_before_it_was_written_is_an_input() {
    let mut s = Story::script();
    let out = s.write("target/debug/build/p-1/out/left", TEXT);
    s.does(0, How::Read, &out).does(0, How::Write, &out);
    assert!(s.inputs().iter().any(|input| matches!(input, Input::File(_))));
}

#[test]
fn writing_elsewhere_is_not_stored() {
    let mut s = Story::script();
    let path = s.write("src/generated.rs", TEXT);
    s.does(0, How::Write, path);
    assert_eq!(s.unproven(), "it wrote src/generated.rs");

    let mut s = Story::script();
    let path = s.write("target/debug/build/other-1/out/x", TEXT);
    s.does(0, How::Write, path);
    assert!(s.unproven().starts_with("it wrote "));

    let mut s = Story::script();
    s.does(0, How::Remove, s.at("src/gone"));
    assert_eq!(s.unproven(), "it removed src/gone");

    let mut s = Story::script();
    let path = s.write("src/counter", TEXT);
    s.does(0, How::Read, &path).does(0, How::Write, &path);
    assert!(s.unproven().contains("which it read"));
}

#[test]
fn what_is_beside_the_program_belongs_to_the_result() {
    let mut s = Story::script();
    let (file, program) = (s.write("target/debug/assets/x", TEXT), s.write("target/debug/helper", TEXT));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    s.does(0, How::Write, &file).does(0, How::Write, &program);
    let mut beside: Vec<_> = s.evidence().beside.into_iter().map(|b| (b.path, b.node)).collect();
    beside.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(beside, [(file, Node::File), (program, Node::Program)]);
}

#[test]
fn a_place_that_an_argument_names_may_be_written() {
    let mut s = Story::compile();
    let file = s.write("maps/app.map", TEXT);
    s.does(0, How::Write, &file);
    assert!(s.read().is_err());
    s.argv = vec!["rustc".into(), "-Clink-arg=-Wl,-Map=maps/app.map".into()];
    assert_eq!(s.evidence().beside.len(), 1);
    s.argv = vec!["rustc".into(), "-Clink-arg=-Wl,-Map=maps2/app.map".into()];
    assert!(s.read().is_err());
}

#[test]
fn permissions_count_that_no_linker_set() {
    let mut s = Story::script();
    let file = s.write("target/debug/build/p-1/out/run.sh", TEXT);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o750)).unwrap();
    s.does(0, How::Write, &file).does(0, How::Mode, &file);
    assert_eq!(s.evidence().modes, BTreeMap::from([(file.clone(), 0o750)]));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4750)).unwrap();
    assert!(s.unproven().contains("special permissions"));

    let mut s = Story::script();
    let file = s.write("target/debug/build/p-1/out/linked", TEXT);
    let ld = s.process("/usr/bin/x86_64-linux-gnu-ld.bfd", &["ld"], Some(0));
    s.does(ld, How::Write, &file).does(ld, How::Mode, &file);
    assert!(s.evidence().modes.is_empty());
}

#[test]
fn moments_are_not_stored() {
    for what in [What::Clock, What::Random] {
        let mut s = Story::script();
        s.asks(0, what.clone());
        assert!(s.unproven().starts_with("it asked for "), "{what:?}");

        for (program, is_told) in [("/usr/bin/date", true), ("/usr/bin/cc1", false), ("/usr/bin/ar", false)] {
            let mut s = Story::script();
            let helper = s.process(program, &["x"], Some(0));
            s.asks(helper, what.clone());
            assert_eq!(s.read().is_err(), is_told, "{program} {what:?}");
        }
    }
    for (words, is_told) in [("echo $RANDOM", true), ("echo $EPOCHSECONDS", true), ("echo hello", false)] {
        let mut s = Story::script();
        let sh = s.process("/usr/bin/bash", &["bash", "-c", words], Some(0));
        s.asks(sh, What::Random);
        assert_eq!(s.read().is_err(), is_told, "{words}");
    }
    // A compiler names its temporary files.
    let mut s = Story::compile();
    s.account.processes[0].program = s.toolchain.path().join("bin/rustc");
    s.asks(0, What::Clock).asks(0, What::Random);
    assert!(s.read().is_ok());
}

#[test]
fn other_machines_and_servers_are_not_stored() {
    let mut s = Story::script();
    s.asks(0, What::Connect("10.0.0.1:5432".into()));
    assert_eq!(s.unproven(), "it talked to 10.0.0.1:5432");
    let mut s = Story::script();
    s.asks(0, What::Connect("/var/run/nscd/socket".into()));
    assert!(s.read().is_ok());
}

#[test]
fn a_machine_is_an_input() {
    let mut s = Story::script();
    s.asks(0, What::Host);
    assert_eq!(s.inputs(), [Input::Host]);
    let mut s = Story::script();
    s.does(0, How::Read, "/proc/cpuinfo");
    assert_eq!(s.inputs(), [Input::Cpu]);
    let mut s = Story::script();
    s.does(0, How::Read, "/proc/uptime");
    assert_eq!(s.unproven(), "it read /proc/uptime");
    let mut s = Story::script();
    s.process("/usr/bin/cc", &["cc", "-march=native"], Some(0));
    assert_eq!(s.inputs(), [Input::Cpu]);
}

#[test]
fn whoever_asks_where_it_is_has_a_path() {
    let own = |s: &Story| !s.evidence().asked.is_empty();
    let mut s = Story::script();
    s.asks(0, What::WorkingDirectory);
    assert!(own(&s));
    s.values_bind = false;
    assert!(!own(&s), "of a published package, what it left is searched");
    for (program, words, tells) in [
        ("/usr/bin/pwd", &["pwd"][..], true),
        ("/usr/bin/realpath", &["realpath", "."], true),
        ("/usr/bin/perl", &["perl", "x.pl"], true),
        ("/usr/bin/cc1", &["cc1"], false),
        ("/usr/bin/ld", &["ld"], false),
        ("/usr/bin/dash", &["sh", "-c", "echo"], false),
        ("bin/rustc", &["rustc"], false),
        ("bin/cargo", &["cargo"], true),
    ] {
        let mut s = Story::script();
        let helper = s.process(s.toolchain.path().join(program), words, Some(0));
        s.asks(helper, What::WorkingDirectory);
        assert_eq!(own(&s), tells, "{program}");
    }
    let mut s = Story::script();
    let sh = s.process("/usr/bin/dash", &["sh", "-c", "echo $PWD"], Some(0));
    s.account.processes[sh as usize].whole_environment = true;
    assert!(own(&s));
}

#[test]
fn variables_that_were_asked_for_are_inputs() {
    let mut s = Story::script();
    s.env.insert("MODE".into(), "1".into());
    s.asks_for(0, "MODE").asks_for(0, "UNSET").asks_for(0, "CARGO_PKG_NAME").asks_for(0, "RUSTC");
    assert_eq!(s.inputs(), [Input::Env("MODE".into()), Input::Env("UNSET".into())]);
    assert!(s.evidence().asked.is_empty());
    let root = s.dir.path().display().to_string();
    s.env.insert("MODE".into(), format!("{root}/x"));
    assert!(!s.evidence().asked.is_empty(), "its value is a path");
}

#[test]
fn variables_of_a_session_count_for_who_asks_by_name() {
    let mut s = Story::script();
    let cc = s.process("/usr/bin/cc", &["cc"], Some(0));
    s.asks_for(cc, "LC_ALL");
    assert_eq!(s.inputs(), []);
    s.asks_for(0, "LC_ALL");
    assert_eq!(s.inputs(), [Input::Env("LC_ALL".into())]);
}

#[test]
fn of_a_whole_environment_counts_what_the_words_name() {
    let mut s = Story::script();
    let sh = s.process("/usr/bin/dash", &["sh", "-c", "echo ${MODE}"], Some(0));
    s.account.processes[sh as usize].whole_environment = true;
    assert_eq!(s.inputs(), [Input::Env("MODE".into())]);
    let mut s = Story::script();
    let tool = s.write("tools/gen", "ELF");
    let tool = s.process(tool, &["gen"], Some(0));
    s.account.processes[tool as usize].whole_environment = true;
    assert_eq!(s.inputs(), [Input::EnvNamedBy(s.template("tools/gen"))]);
}

#[test]
fn the_state_of_a_repository_is_not_stored() {
    for how in [How::Read, How::List, How::Link] {
        let mut s = Story::script();
        let head = s.write(".git/HEAD", "ref: refs/heads/main");
        s.does(0, how, head);
        assert_eq!(s.unproven(), "it read the state of a repository", "{how:?}");
    }
    let mut s = Story::script();
    s.does(0, How::Absent, s.at(".git/HEAD"));
    assert_eq!(s.inputs(), [Input::Absent(s.template(".git/HEAD"))]);
}

#[test]
fn a_file_that_changed_meanwhile_proves_nothing() {
    let mut s = Story::script();
    let file = s.write("src/x", TEXT);
    s.does(0, How::Read, &file);
    assert!(s.read().is_ok());
    s.started_ns = 0;
    assert_eq!(s.unproven(), "src/x changed meanwhile");
}

#[test]
fn programs_of_path_are_inputs_by_name() {
    let mut s = Story::script();
    let dir = s.at("tools").display().to_string();
    s.env.insert("PATH".into(), format!("/nowhere:{dir}"));
    let tool = s.write("tools/protoc", TEXT);
    let child = s.process(&tool, &["protoc"], Some(0));
    s.does(0, How::Absent, "/nowhere/protoc").does(child, How::Exec, &tool);
    let found = s.inputs();
    assert!(found.contains(&Input::Program("protoc".into())), "{found:?}");
    assert!(found.contains(&Input::File(s.template("tools/protoc"))), "{found:?}");
    assert!(!found.iter().any(|input| matches!(input, Input::Absent(_))), "{found:?}");
}

#[test]
fn settings_above_the_checkout_are_looked_for_in_all_directories() {
    let mut s = Story::script();
    let above = s.dir.path().parent().unwrap().join(".settings");
    s.does(0, How::Absent, above);
    assert_eq!(s.inputs(), [Input::NowhereAbove(b".settings".to_vec())]);
}

#[test]
fn files_of_another_place_belong_to_this_checkout() {
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("x");
    std::fs::write(&file, TEXT).unwrap();
    let mut s = Story::script();
    s.does(0, How::Read, &file);
    let found = s.inputs();
    assert!(found.contains(&Input::Bound(PACKAGE)), "{found:?}");
    let mut s = Story::script();
    s.does(0, How::Read, "/usr/bin/env");
    assert!(!s.inputs().contains(&Input::Bound(PACKAGE)));
}

#[test]
fn crates_are_in_the_key_and_their_neighbours_are_not() {
    let mut s = Story::compile();
    let deps = s.at("target/debug/deps");
    let toolchain = s.toolchain.path().to_owned();
    s.account.objects.push(toolchain.join("lib/librustc_driver-1.so"));
    s.account.processes[0].program = toolchain.join("bin/rustc");
    let crate_file = s.write("target/debug/deps/libx-1.rlib", TEXT);
    s.does(0, How::Read, &crate_file).does(0, How::List, &deps);
    assert_eq!(s.inputs(), []);
    let text = s.write("target/debug/deps/notes.txt", TEXT);
    s.does(0, How::Read, &text);
    assert_eq!(s.inputs().len(), 1);
}

#[test]
fn what_was_not_seen_proves_nothing() {
    let mut s = Story::script();
    s.account.gaps.push("a process could not be observed".into());
    assert_eq!(s.unproven(), "a process could not be observed");
}

#[test]
fn detours_are_removed_unless_a_link_makes_them_count() {
    let mut s = Story::script();
    s.write("src/x", TEXT);
    s.does(0, How::Read, s.at("tools/../src/x"));
    assert_eq!(s.inputs(), [Input::File(s.template("src/x")), Input::Exists(s.template("tools"))]);
    let mut s = Story::script();
    s.write("far/away/inner", TEXT);
    s.write("far/x", TEXT);
    std::os::unix::fs::symlink(s.at("far/away"), s.at("near")).unwrap();
    s.does(0, How::Read, s.at("near/../x"));
    assert_eq!(s.inputs(), [Input::File(s.template("far/x")), Input::Exists(s.template("near"))]);
}
