//! What follows from accounts, on real files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kache_trace::{Access, Account, Call, How, Process, Variable, What};

use super::files::occurs_as_path;
use super::places::{is_noise, toolchain_of};
use super::{Beside, Evidence, Scene, declared, is_of_the_system, tokens};
use crate::cache::{Invocation, Node};
use crate::prefixes::{PACKAGE, Prefixes, TARGET, WORKSPACE};
use crate::record::{Input, MAX_INPUTS};

/// A checkout with a package, and an account that is being written.
struct Story {
    dir: tempfile::TempDir,
    /// Has a toolchain.
    elsewhere: tempfile::TempDir,
    env: BTreeMap<String, String>,
    argv: Vec<String>,
    account: Account,
    is_script: bool,
    moved: Option<PathBuf>,
    known: Vec<PathBuf>,
    values_bind: bool,
    started_ns: i64,
}

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const TEXT: &str = "text";
const OUT: &str = "target/debug/build/p-1/out";
const LIBC: &str = "/usr/lib/libc.so.6";

impl Story {
    fn new(is_script: bool) -> Story {
        let [dir, elsewhere] =
            [(); 2].map(|()| tempfile::Builder::new().prefix("evidence").tempdir().unwrap());
        std::fs::create_dir_all(elsewhere.path().join("toolchain/lib/rustlib")).unwrap();
        for inner in ["src", "target/debug/build/p-1/out", "target/debug/deps", "tools"] {
            std::fs::create_dir_all(dir.path().join(inner)).unwrap();
        }
        let mut story = Story {
            dir,
            elsewhere,
            env: BTreeMap::new(),
            argv: Vec::new(),
            account: Account::default(),
            is_script,
            moved: None,
            known: Vec::new(),
            values_bind: true,
            started_ns: i64::MAX,
        };
        story.write("target/debug/build/p-1/build-script-build", "ELF");
        let program = if is_script {
            story.at("target/debug/build/p-1/build-script-build")
        } else {
            story.toolchain("bin/rustc")
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

    fn elsewhere(&self, inner: &str) -> PathBuf {
        self.elsewhere.path().join(inner)
    }

    fn toolchain(&self, inner: &str) -> PathBuf {
        self.elsewhere("toolchain").join(inner)
    }

    fn write(&self, inner: &str, text: &str) -> PathBuf {
        let path = self.at(inner);
        put(&path, text);
        path
    }

    fn link(&self, inner: &str, to: impl AsRef<Path>) -> PathBuf {
        let path = self.at(inner);
        std::os::unix::fs::symlink(to, &path).unwrap();
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
        self.code(self.account.processes[process as usize].program.clone())
    }

    fn code(&mut self, of: impl Into<PathBuf>) -> u32 {
        let of = of.into();
        if let Some(known) = self.account.objects.iter().position(|o| *o == of) {
            return known as u32;
        }
        self.account.objects.push(of);
        self.account.objects.len() as u32 - 1
    }

    fn does(&mut self, process: u32, how: How, path: impl AsRef<Path>) -> &mut Story {
        let object = self.account.processes[process as usize].program.clone();
        self.does_by(object, process, how, path)
    }

    /// A process does it in a library.
    fn does_by(
        &mut self,
        by: impl Into<PathBuf>,
        process: u32,
        how: How,
        path: impl AsRef<Path>,
    ) -> &mut Story {
        let (path, object) = (path.as_ref().to_owned(), self.code(by));
        self.account.accesses.push(Access { path, how, process, object });
        self
    }

    fn asks(&mut self, process: u32, what: What) -> &mut Story {
        let object = self.object(process);
        self.account.calls.push(Call { what, process, object });
        self
    }

    fn asks_for(&mut self, process: u32, name: &str) -> &mut Story {
        let object = self.account.processes[process as usize].program.clone();
        self.asks_for_by(object, process, name)
    }

    fn asks_for_by(&mut self, by: impl Into<PathBuf>, process: u32, name: &str) -> &mut Story {
        let object = self.code(by);
        self.account.variables.push(Variable { name: name.into(), process, object });
        self
    }

    /// A process that has the whole environment.
    fn has_all(&mut self, program: impl Into<PathBuf>, argv: &[&str]) -> u32 {
        let process = self.process(program, argv, Some(0));
        self.account.processes[process as usize].whole_environment = true;
        process
    }

    fn prefixes(&self) -> Prefixes {
        let mut prefixes = Prefixes::default();
        prefixes.add(WORKSPACE, self.dir.path(), "");
        prefixes.add(TARGET, &self.at("target/debug"), "");
        if self.is_script {
            prefixes.add(PACKAGE, self.dir.path(), "");
        }
        prefixes
    }

    fn read(&self) -> Result<Evidence, String> {
        let prefixes = self.prefixes();
        let env = self.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let argv = self.argv.iter().map(Into::into).collect();
        let inv = Invocation { argv, cwd: self.dir.path().to_owned(), env };
        let own = if self.is_script { OUT } else { "target/debug/deps" };
        let scene = Scene {
            inv: &inv,
            prefixes: &prefixes,
            sysroot: &self.elsewhere("toolchain"),
            own: &self.at(own),
            own_is_new: self.is_script,
            moved: self.moved.as_deref(),
            state: &[self.at("target/debug/incremental")],
            crates: &[self.at("target/debug/deps")],
            known: &self.known,
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

    /// Without those that everything has which starts programs, and what texts name.
    fn inputs(&self) -> Vec<Input> {
        let everybody = [Input::LibraryPath, Input::Env("POSIXLY_CORRECT".into())];
        let is_own = |input: &Input| !matches!(input, Input::EnvAmong(_)) && !everybody.contains(input);
        self.evidence().inputs.into_iter().filter(is_own).collect()
    }

    /// May a text that an interpreter was given name a variable?
    fn may_name(&self, name: &str) -> bool {
        self.evidence().inputs.iter().any(|input| match input {
            Input::EnvAmong(filter) => crate::names::may_name(filter, name.as_bytes()),
            _ => false,
        })
    }

    /// Why nothing is proven.
    fn unproven(&self) -> String {
        self.read().expect_err("nothing proven")
    }

    fn is_asked(&self) -> bool {
        !self.evidence().asked.is_empty()
    }

    fn file(&self, inner: &str) -> Input {
        Input::File(self.template(inner))
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
    let link = s.link("src/link", "x");
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
fn where_temporary_files_go_is_no_input() {
    let mut s = Story::compile();
    let (dir, inner) = (s.elsewhere("temp"), s.elsewhere("temp/x"));
    std::fs::create_dir_all(&inner).unwrap();
    s.does(0, How::Stat, &dir);
    assert_ne!(s.inputs(), []);
    s.env.insert("TMPDIR".into(), format!("{}/", dir.display()));
    assert_eq!(s.inputs(), []);
    s.does(0, How::Stat, &inner);
    assert_ne!(s.inputs(), []);
}

#[test]
fn incremental_state_is_the_compilers_own() {
    let mut s = Story::compile();
    s.write("target/debug/incremental/app-1/s-1/query-cache.bin", "state");
    s.write("src/lib.rs", "source");
    let (state, source) = (s.at("target/debug/incremental/app-1/s-1/query-cache.bin"), s.at("src/lib.rs"));
    s.does(0, How::Read, state).does(0, How::Read, source);
    let inputs = s.inputs();
    assert!(inputs.iter().all(|i| !format!("{i:?}").contains("query")), "{inputs:?}");
    assert_eq!(inputs.len(), 1);
}

#[test]
fn moments_are_not_stored() {
    for what in [What::Clock, What::Random] {
        let mut s = Story::script();
        s.asks(0, what.clone());
        assert!(s.unproven().starts_with("it asked for "), "{what:?}");

        for (program, is_told) in [
            ("/usr/bin/date", true),
            ("/usr/bin/cc1", false),
            ("/usr/bin/ar", false),
            ("/usr/lib/git-core/git-sh-i18n--envsubst", false),
        ] {
            let mut s = Story::script();
            let helper = s.process(program, &["x"], Some(0));
            s.asks(helper, what.clone());
            assert_eq!(s.read().is_err(), is_told, "{program} {what:?}");
        }
    }
    for (words, is_told) in [
        ("echo $RANDOM", true),
        ("echo $EPOCHSECONDS", true),
        ("echo hello", false),
        ("test -n \"$RANDOM\" && tmp=./conf$$-$RANDOM", false),
        ("tmp=./conf$$-$RANDOM; echo $RANDOM", true),
        ("echo $$-$SECONDS", true),
    ] {
        let mut s = Story::script();
        let sh = s.process("/usr/bin/bash", &["bash", "-c", words], Some(0));
        s.asks(sh, What::Random);
        assert_eq!(s.read().is_err(), is_told, "{words}");
    }
    // A compiler names its temporary files.
    let mut s = Story::compile();
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
    let mut s = Story::script();
    s.asks(0, What::WorkingDirectory);
    assert!(s.is_asked());
    s.values_bind = false;
    assert!(!s.is_asked(), "of a published package, what it left is searched");
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
        let helper = s.process(s.toolchain(program), words, Some(0));
        s.asks(helper, What::WorkingDirectory);
        assert_eq!(s.is_asked(), tells, "{program}");
    }
    let mut s = Story::script();
    s.has_all("/usr/bin/dash", &["sh", "-c", "echo $PWD $OLDPWD"]);
    assert!(s.is_asked());
    assert_eq!(s.inputs(), []);
    for mut s in [Story::script(), Story::compile()] {
        let words = if s.is_script { "echo ${MODE}" } else { "echo $PWD" };
        s.has_all("/usr/bin/dash", &["sh", "-c", words]);
        assert!(!s.is_asked(), "{words}");
    }
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
    s.process("/usr/bin/dash", &["sh", "-c", "echo ${OTHER}"], Some(0));
    assert!(!s.may_name("OTHER"));
    s.has_all("/usr/bin/dash", &["sh", "-c", "echo ${MODE} ${TERM} $MAKEFLAGS \"SHELL\""]);
    assert_eq!(s.inputs(), [Input::Env("TERM".into())]);
    assert!(s.may_name("MODE") && !s.may_name("OTHER"));
    for (program, words) in [
        ("/usr/bin/perl", &["perl", "-e", "$ENV{MODE} + $ENV{'TERM'}"][..]),
        ("/usr/bin/mawk", &["awk", "BEGIN { print ENVIRON[\"MODE\"] ENVIRON[\"TERM\"] }"]),
        ("/usr/bin/printenv", &["printenv", "MODE", "TERM"]),
        ("/usr/bin/make", &["make", "X=$(origin TERM)$(flavor MODE)"]),
    ] {
        let mut s = Story::script();
        s.has_all(program, words);
        assert!(s.may_name("MODE") && s.inputs().contains(&Input::Env("TERM".into())), "{program}");
    }
    let mut s = Story::script();
    s.has_all("/usr/bin/mawk", &["awk", "/\"TERM\"/"]);
    s.has_all("/usr/bin/make", &["make", "\"ENVIRON\"", "printenv"]);
    assert_eq!(s.inputs(), []);
}

#[test]
fn a_variable_of_the_session_counts_where_a_text_of_an_own_interpreter_asks_for_it() {
    let mut s = Story::script();
    let python = s.write("tools/python3", "ELF");
    s.process(&python, &["python3", "-c", "os.environ['TERM'] + os.environ['MODE']"], Some(0));
    assert_eq!(s.inputs(), [Input::Env("TERM".into()), Input::EnvNamedBy(s.template("tools/python3"))]);
}

#[test]
fn interpreters_read_some_variables_for_themselves() {
    for (program, names) in [
        ("make", &["CFLAGS", "LINK.c", "MAKEFILES"][..]),
        ("dash", &["CDPATH", "ENV", "BASH_FUNC_ls%%", "TZ"]),
        ("perl", &["TZ"]),
        ("cp", &[]),
    ] {
        let mut s = Story::script();
        s.has_all(Path::new("/usr/bin").join(program), &[program]);
        for name in ["CFLAGS", "LINK.c", "MAKEFILES", "CDPATH", "ENV", "BASH_FUNC_ls%%", "TZ"] {
            assert_eq!(s.may_name(name), names.contains(&name), "{program} {name}");
        }
        assert!(s.evidence().inputs.contains(&Input::Env("POSIXLY_CORRECT".into())));
    }
    assert!(!Story::compile().evidence().inputs.contains(&Input::Env("POSIXLY_CORRECT".into())));
}

#[test]
fn names_of_places_are_not_among_what_texts_name() {
    let filter = || {
        let mut s = Story::script();
        let (dir, other) = (s.dir.path().display().to_string(), s.elsewhere("").display().to_string());
        s.has_all("/usr/bin/dash", &["sh", "-c", &format!("cc {dir}/src/x.c -o {other}x.o /tmpdir/$MODE")]);
        assert!(s.may_name("MODE") && s.may_name("tmpdir") && s.may_name("src"));
        let inputs = s.evidence().inputs;
        inputs.into_iter().find(|input| matches!(input, Input::EnvAmong(_))).unwrap()
    };
    assert_eq!(filter(), filter());
}

#[test]
fn an_interpreter_may_have_text_through_a_pipe() {
    let mut s = Story::script();
    let (file, other) = (s.write("src/x.sh", "echo $MODE"), s.write("src/y.sh", "echo $OTHER"));
    let [cat, cc] = ["cat", "cc"].map(|name| s.process(format!("/usr/bin/{name}"), &[name], Some(0)));
    s.does(cat, How::Read, file).does(cc, How::Read, other);
    assert!(!s.may_name("MODE"));
    s.has_all("/usr/bin/dash", &["sh"]);
    assert!(s.may_name("MODE") && !s.may_name("OTHER"));
}

#[test]
fn what_a_build_tool_reads_is_no_text() {
    let mut s = Story::script();
    let file = s.write("src/x.c", "MODE $OTHER");
    let cc = s.has_all("/usr/bin/cc", &["cc", "-DWORD"]);
    s.does(cc, How::Read, &file);
    assert!(!s.may_name("MODE") && s.may_name("OTHER") && !s.may_name("DWORD"));
    let other = s.has_all("/usr/bin/expect-lite", &["expect-lite"]);
    s.does(other, How::Read, file);
    assert!(s.may_name("MODE"));
}

#[test]
fn whoever_uses_all_variables_or_says_more_than_is_seen_is_not_stored() {
    for (program, words, is_stored) in [
        ("make", "$(foreach v,$(.VARIABLES),$v)", false),
        ("dash", "echo $(.VARIABLES)", true),
        ("perl", "keys %ENV", false),
        ("dash", "keys %ENV", true),
    ] {
        let mut s = Story::script();
        s.has_all(Path::new("/usr/bin").join(program), &[program, "-e", words]);
        assert_eq!(s.read().is_ok(), is_stored, "{program} {words}");
    }
    for (words, is_stored) in
        [(["sh", "-c", "x"], false), (["make", "x", "-k"], false), (["sh", "./x", "-c"], true)]
    {
        let mut s = Story::script();
        let process = s.has_all(Path::new("/usr/bin").join(words[0]), &words);
        s.account.processes[process as usize].argv_cut = true;
        assert_eq!(s.read().is_ok(), is_stored, "{words:?}");
    }
}

#[test]
fn arguments_of_scripts_count_for_what_macros_run() {
    let mut s = Story::compile();
    s.has_all("/usr/bin/make", &["make", "ifdef CARGO_PKG_NAME"]);
    assert_eq!(s.inputs(), [Input::Env("CARGO_PKG_NAME".into())]);
    let mut s = Story::script();
    s.has_all("/usr/bin/make", &["make", "ifdef CARGO_PKG_NAME"]);
    assert_eq!(s.inputs(), []);
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
    assert!(
        !found.iter().any(|input| matches!(input, Input::Absent(_) | Input::NowhereAbove(_))),
        "{found:?}"
    );
    let settings = s.at("tools/settings");
    s.does(0, How::Absent, settings);
    assert!(s.inputs().contains(&Input::Absent(s.template("tools/settings"))));
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
fn a_file_that_no_step_from_the_checkout_leads_to_is_the_same_for_all() {
    let mut s = Story::script();
    s.does(0, How::Stat, "/home");
    assert_eq!(s.inputs(), [Input::Exists(b"/home".to_vec())]);
    let mut s = Story::script();
    let up: String = s.dir.path().ancestors().skip(1).map(|_| "../").collect();
    s.does(0, How::Stat, s.at(&format!("{up}home")));
    assert!(s.inputs().contains(&Input::Bound(PACKAGE)));
}

#[test]
fn cargo_reads_what_its_user_told_git() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".gitconfig");
    std::fs::write(&file, TEXT).unwrap();
    for (program, name, is_bound) in
        [("bin/cargo", ".gitconfig", false), ("bin/rustc", ".gitconfig", true), ("bin/cargo", "x", true)]
    {
        std::fs::write(home.path().join(name), TEXT).unwrap();
        let mut s = Story::compile();
        s.env.insert("HOME".into(), home.path().display().to_string());
        let process = s.process(s.toolchain(program), &["-"], Some(0));
        s.does(process, How::Read, home.path().join(name));
        assert_eq!(s.inputs().contains(&Input::Bound(WORKSPACE)), is_bound, "{program} {name}");
    }
}

#[test]
fn crates_are_in_the_key_and_their_neighbours_are_not() {
    let mut s = Story::compile();
    let deps = s.at("target/debug/deps");
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
    assert_eq!(s.inputs(), [Input::File(s.template("src/x")), Input::Real(s.template("tools"))]);
    let mut s = Story::script();
    s.write("far/away/inner", TEXT);
    s.write("far/x", TEXT);
    s.link("near", s.at("far/away"));
    s.does(0, How::Read, s.at("near/../x"));
    assert_eq!(s.inputs(), [Input::File(s.template("far/x")), Input::Real(s.template("near"))]);
}

#[test]
fn of_an_own_program_counts_what_its_words_name() {
    let mut s = Story::script();
    let (tool, made) = (s.write("tools/gen", "ELF"), s.write(&format!("{OUT}/made"), "ELF"));
    s.does(0, How::Write, &made);
    // What the script is known by, what it made itself, and what is gone have no words.
    let script = s.account.processes[0].program.clone();
    for program in [&script, &made, &s.at("tools/gone")] {
        s.has_all(program, &["x"]);
    }
    assert_eq!(s.inputs(), []);
    s.process(tool, &["gen"], Some(0));
    assert_eq!(s.inputs(), [Input::EnvNamedBy(s.template("tools/gen"))]);
}

#[test]
fn showing_the_environment_is_not_stored() {
    let shown = ["env", "env -0", "env A=1", "printenv", "printenv -0"];
    for words in shown.into_iter().chain(["env ls", "env A=1 ls", "printenv A=1", "printenv A", "make"]) {
        let mut s = Story::script();
        let argv: Vec<&str> = words.split(' ').collect();
        s.has_all(Path::new("/usr/bin").join(argv[0]), &argv);
        let why = shown.contains(&words).then_some("it read the whole environment");
        assert_eq!(s.read().err().as_deref(), why, "{words}");
    }
}

#[test]
fn a_search_path_is_an_input_of_a_macro_that_asks_for_it() {
    let (mut s, path) = (Story::compile(), [Input::Env("PATH".into())]);
    let library = s.at("target/debug/deps/libmacro.so");
    let child = s.process(s.at("tools/gen"), &["gen"], Some(0));
    s.asks_for(0, "PATH").asks_for(child, "PATH");
    assert_eq!(s.inputs(), []);
    s.asks_for_by(library, 0, "PATH");
    assert_eq!(s.inputs(), path);
    let mut s = Story::script();
    s.asks_for(0, "PATH");
    assert_eq!(s.inputs(), []);
}

#[test]
fn what_kache_does_in_between_is_no_input() {
    let mut s = Story::script();
    let (own, file) = (std::env::current_exe().unwrap(), s.write("src/x", TEXT));
    let kache = s.process(&own, &["kache"], Some(0));
    s.asks_for_by(LIBC, kache, "MODE").asks_for_by(&own, 0, "MODE");
    s.does_by(LIBC, kache, How::Read, &file).does_by(&own, 0, How::Read, &file).does(0, How::Exec, &own);
    assert_eq!(s.inputs(), []);
    s.does(kache, How::Write, &file).does(0, How::Read, &file);
    assert_eq!(s.inputs(), [], "it was made");
    s.does(0, How::Write, s.write("src/y", TEXT));
    assert_eq!(s.unproven(), "it wrote src/y");
}

#[test]
fn each_who_looks_counts() {
    let mut s = Story::compile();
    let (library, deps) = (s.at("target/debug/deps/libmacro.so"), s.at("target/debug/deps"));
    let (rustc, runtime) = (s.toolchain("bin/rustc"), s.write("lib/libm.so.6", TEXT));
    s.does(0, How::List, &deps);
    s.does(0, How::Resolve, s.at("src")).does(0, How::Read, &runtime);
    assert_eq!(s.inputs(), []);
    s.does_by(&library, 0, How::List, &deps);
    s.does_by(library, 0, How::Resolve, s.at("src"));
    let ld = s.process("/usr/bin/ld", &["ld"], Some(0));
    s.does(ld, How::Read, &runtime).does_by(rustc, 0, How::Read, &runtime);
    let listing = Input::Listing(b"\x1fT\x1f/deps".to_vec());
    assert_eq!(s.inputs(), [s.file("lib/libm.so.6"), listing, Input::Real(s.template("src"))]);
    assert_eq!(s.evidence().asked, [WORKSPACE].into());

    let mut s = Story::script();
    let file = s.write(&format!("{OUT}/linked"), TEXT);
    for program in ["ld", "chmod"] {
        let process = s.process(Path::new("/usr/bin").join(program), &[program], Some(0));
        s.does(process, How::Mode, &file);
    }
    assert!(s.evidence().modes.contains_key(&file));

    let mut s = Story::script();
    for (program, asked) in [("tools/gen", vec![PACKAGE]), ("target/debug/gen", vec![PACKAGE, TARGET])] {
        let process = s.process(s.at(program), &["gen"], Some(0));
        s.does(process, How::Link, "/proc/self/exe");
        assert_eq!(s.evidence().asked, asked.into_iter().collect());
    }
}

#[test]
fn what_it_removes_is_its_own_or_what_it_made() {
    let mut s = Story::script();
    let (dir, replaced) = (s.write("src/dir/x", TEXT), s.write("src/replaced", TEXT));
    let (dir, temporary) = (dir.parent().unwrap(), s.at("src/temporary"));
    s.does(0, How::Write, &temporary).does(0, How::Remove, &temporary);
    s.does(0, How::Write, dir).does(0, How::Remove, dir.join("gone"));
    s.does(0, How::Remove, s.at(OUT).join("left")).does(0, How::Remove, replaced);
    // Whether it could be made was seen.
    assert_eq!(s.inputs(), [Input::Absent(s.template("src/temporary"))]);
    s.does(0, How::Remove, s.at("src/gone"));
    assert_eq!(s.unproven(), "it removed src/gone");
}

#[test]
fn each_kind_of_thing_can_be_left_beside() {
    let mut s = Story::script();
    let (file, dir, own) =
        (s.write("target/debug/a/file", TEXT), s.at("target/debug/a"), s.at("target/debug/b"));
    std::fs::create_dir(&own).unwrap();
    let link = s.link("target/debug/a/link", "file");
    for (path, mode) in [(&file, 0o640), (&own, 0o750)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for path in [&dir, &file, &link, &own] {
        s.does(0, How::Write, path);
    }
    s.does(0, How::Mode, file).does(0, How::Mode, own);
    let nodes = [Node::Dir, Node::Mode(0o640), Node::Link, Node::DirMode(0o750)];
    let left = s.evidence().beside;
    assert_eq!(left.iter().map(|b| b.node).collect::<Vec<_>>(), nodes);
    assert_eq!(left.iter().map(|b: &Beside| b.link.len()).collect::<Vec<_>>(), [0, 0, 4, 0]);
}

#[test]
fn what_leaves_nothing_may_be_written_anywhere() {
    let mut s = Story::script();
    s.does(0, How::Write, "/proc/version");
    s.does(0, How::Write, s.at("src/gone"));
    s.does(0, How::Write, s.write("src/__pycache__/x.pyc", TEXT));
    s.write("data/x", TEXT);
    s.does(0, How::Write, s.at("data"));
    assert!(s.evidence().beside.is_empty());
    std::fs::remove_file(s.at("data/x")).unwrap();
    assert_eq!(s.unproven(), "it wrote data");
    // Of no use: an argument names the whole checkout.
    let mut s = Story::compile();
    s.argv = vec![format!("--remap-path-prefix={}=.", s.dir.path().display())];
    s.does(0, How::Write, s.write("src/x", TEXT));
    assert_eq!(s.unproven(), "it wrote src/x");
}

#[test]
fn what_was_moved_is_of_its_own_directory() {
    let mut s = Story::compile();
    let moved = s.elsewhere("bench");
    put(&moved.join("libx.rlib"), TEXT);
    s.does(0, How::Write, &moved).does(0, How::Write, moved.join("libx.rlib"));
    s.moved = Some(moved);
    assert_eq!(s.evidence().own, [s.at("target/debug/deps/libx.rlib")]);
}

#[test]
fn a_pipe_is_no_input_and_proves_nothing_unless_it_is_the_job_servers() {
    for (how, why) in [(How::Read, "it read "), (How::Write, "it wrote ")] {
        let mut s = Story::script();
        let pipe = s.elsewhere("GMfifo1");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: it is a string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        s.does(0, how, &pipe);
        let text = s.unproven();
        assert!(text.starts_with(why) && text.ends_with(", which is no file"), "{text}");
        s.does(0, How::Stat, &pipe);
        for name in ["CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS"] {
            s.env = [(name.into(), format!("-j --jobserver-auth=fifo:{}", pipe.display()))].into();
            assert_eq!(s.inputs(), []);
        }
    }
    let mut s = Story::script();
    let file = s.write("settings/x", TEXT);
    s.env.insert("MAKEFLAGS".into(), format!("-- SETTINGS={}", file.display()));
    s.does(0, How::Read, &file);
    s.does(0, How::Stat, s.at("settings"));
    assert_eq!(s.inputs(), [s.file("settings/x"), Input::Exists(s.template("settings"))]);
}

#[test]
fn what_says_how_a_program_is_run_is_no_input() {
    let mut s = Story::script();
    let known = s.write("src/known", TEXT);
    s.does(0, How::Read, &known);
    s.does(0, How::Exec, s.account.processes[0].program.clone());
    for path in ["/proc/stat", "/etc/passwd", "/proc/self/status"] {
        s.does(0, How::Read, path);
    }
    let (cc, rustc) = (s.process("/usr/bin/cc", &["cc"], Some(0)), s.toolchain("bin/rustc"));
    let rustc = s.process(rustc, &["rustc"], Some(0));
    s.does(cc, How::Read, "/proc/self/environ").does(rustc, How::Read, "/proc/uptime");
    s.does(0, How::Stat, "/proc/cpuinfo").does(0, How::Stat, "/proc/uptime");
    assert_eq!(s.inputs(), [s.file("src/known")]);
    s.known.push(known);
    assert_eq!(s.inputs(), []);
    s.does(cc, How::Read, "/proc/meminfo");
    assert_eq!(s.inputs(), []);
    s.does(0, How::Read, "/proc/meminfo");
    assert_eq!(s.unproven(), "it read /proc/meminfo");
    let mut s = Story::script();
    s.does(0, How::Read, "/proc/self/environ");
    assert_eq!(s.unproven(), "it read the whole environment");

    for path in ["/tmp", "/run", "/dev/shm", "/proc/self/maps", "/sys/fs/cgroup/cpu.max"] {
        assert!(is_noise(Path::new(path)), "{path}");
    }
    for path in ["/tmp/x", "/dev/shm/x", "/proc/self/exe", "/proc/uptime", "/procs"] {
        assert!(!is_noise(Path::new(path)), "{path}");
    }
}

#[test]
fn a_directory_around_it_is_there_anyway() {
    let mut s = Story::script();
    let file = s.write("target/debug/assets/x", TEXT);
    for dir in ["target", "", "target/debug/assets"] {
        s.does(0, How::Stat, s.at(dir));
    }
    assert_eq!(s.inputs(), []);
    s.does(0, How::Stat, s.at("src")).does(0, How::Stat, file);
    let file = Input::Exists(b"\x1fT\x1f/assets/x".to_vec());
    assert_eq!(s.inputs(), [Input::Exists(s.template("src")), file]);
}

#[test]
fn where_a_link_leads_is_told_to_who_asks() {
    for is_own in [true, false] {
        let mut s = Story::script();
        let by = if is_own { s.account.processes[0].program.clone() } else { LIBC.into() };
        let link = s.link("target/debug/link", "deps");
        for (how, path) in [
            (How::Link, Path::new("/proc/self/exe")),
            (How::Link, &link),
            (How::Resolve, &link),
            (How::Resolve, &s.at("src")),
        ] {
            s.account.accesses.clear();
            s.does_by(&by, 0, how, path);
            assert_eq!(s.is_asked(), is_own, "{how:?} {path:?}");
            let found = if path.ends_with("src") { vec![Input::Real(s.template("src"))] } else { vec![] };
            assert_eq!(s.inputs(), found, "{how:?} {path:?}");
        }
    }
    let mut s = Story::script();
    let cc = s.process("/usr/bin/cc", &["cc"], Some(0));
    s.does(0, How::Resolve, "/usr/bin");
    s.does(cc, How::Resolve, s.at("src"));
    assert_eq!(s.inputs(), []);
}

#[test]
fn neighbours_of_crates_are_looked_at_by_who_asks() {
    let mut s = Story::compile();
    let deps = s.at("target/debug/deps");
    s.does(0, How::Absent, &deps);
    s.does(0, How::Stat, s.write("target/debug/deps/libx.rmeta", TEXT));
    assert_eq!(s.inputs(), []);
    s.does(0, How::Stat, s.write("src/x.rmeta", TEXT));
    assert_eq!(s.inputs(), [Input::Exists(s.template("src/x.rmeta"))]);
}

#[test]
fn what_runs_a_compiler_is_no_input_unless_it_is_linked() {
    let mut s = Story::script();
    let (rustc, cc) = (s.toolchain("bin/rustc"), PathBuf::from("/usr/bin/cc"));
    let [rustc, cc] = [rustc, cc].map(|program| s.process(program, &["x"], Some(0)));
    let names = ["libc.so.6", "libstdc++.so.6", "libLLVM-20.so", "ld-linux-x86-64.so.2"];
    for name in names {
        s.does(rustc, How::Read, s.write(&format!("lib/{name}"), TEXT));
    }
    assert_eq!(s.inputs(), []);
    s.does(rustc, How::Read, s.write("lib/libx.so", TEXT));
    s.does(cc, How::Read, s.at("lib/libc.so.6"));
    assert_eq!(s.inputs(), [s.file("lib/libc.so.6"), s.file("lib/libx.so")]);
}

#[test]
fn a_file_is_new_by_the_stamp_of_its_file_system() {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime};
    let mut s = Story::script();
    let file = s.write("src/x", TEXT);
    let meta = file.metadata().unwrap();
    s.does(0, How::Read, &file);
    let changed = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
    s.started_ns = changed;
    assert!(s.read().is_ok());
    s.started_ns -= 1;
    assert!(s.read().is_err());

    // In the target directory, links are added to a file without a change of it.
    let started = SystemTime::now() - Duration::from_secs(3600);
    let ns = started.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64;
    for (inner, modified, is_new) in [
        ("src/x", started - Duration::from_secs(9), true),
        ("target/debug/x", started - Duration::from_secs(9), false),
        ("target/debug/x", started, false),
        ("target/debug/x", started + Duration::from_nanos(1), true),
        ("target/debug/x", started + Duration::from_secs(7200), false),
    ] {
        let mut s = Story::script();
        let file = s.write(inner, TEXT);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        s.started_ns = ns;
        s.does(0, How::Read, &file);
        assert_eq!(s.read().is_err(), is_new, "{inner} {modified:?}");
    }
    for (dir, is_new) in [("src", true), ("target/debug/deps", false)] {
        let mut s = Story::script();
        s.started_ns = ns;
        s.does(0, How::List, s.at(dir));
        assert_eq!(s.read().is_err(), is_new, "{dir}");
    }
}

#[test]
fn a_step_out_of_what_is_the_same_everywhere_is_no_input() {
    let mut s = Story::script();
    for path in ["/usr/bin/../bin/env", "/tmp/../usr/bin/env"] {
        s.does(0, How::Read, path);
    }
    s.does(0, How::Read, s.toolchain("lib/../lib/x"));
    s.does(0, How::Absent, s.at("gone/../src/x"));
    assert_eq!(s.inputs(), [Input::File(b"/usr/bin/env".to_vec()), Input::Absent(s.template("src/x"))]);
}

#[test]
fn a_link_on_the_way_keeps_its_name_unless_a_step_goes_out_of_it() {
    let mut s = Story::script();
    s.write("far/away/inner/x", TEXT);
    s.write("far/x", TEXT);
    let near = s.link("near", s.at("far/away"));
    s.does(0, How::Read, near.join("inner/../inner/x")).does(0, How::List, near.join(".."));
    for input in [s.file("near/inner/x"), Input::Listing(s.template("far")), Input::Real(s.template("near"))]
    {
        assert!(s.inputs().contains(&input), "{input:?} is not in {:?}", s.inputs());
    }
    // The target directory may be another one here.
    let (link, prefixes) = (s.link("target/debug/near", s.at("far/away")), s.prefixes());
    assert_eq!(declared(&prefixes, &near.join("../x")), s.at("far/x"));
    assert_eq!(declared(&prefixes, &link.join("../x")), s.at("target/debug/x"));
}

#[test]
fn it_has_so_many_inputs_and_no_more() {
    let mut s = Story::script();
    for n in 1..MAX_INPUTS {
        s.asks_for(0, &format!("V{n}"));
    }
    assert_eq!(s.evidence().inputs.len(), MAX_INPUTS);
    s.asks_for(0, "ANOTHER");
    assert_eq!(s.unproven(), format!("it has more than {MAX_INPUTS} inputs"));
}

#[test]
fn what_stands_in_for_toolchains_belongs_to_them() {
    let mut s = Story::script();
    let bin = s.elsewhere("cargo/bin");
    ["rustup", "gen"].iter().for_each(|name| put(&bin.join(name), name));
    std::fs::hard_link(bin.join("rustup"), bin.join("rustc")).unwrap();
    for program in [bin.join("rustup"), bin.join("rustc"), s.toolchain("bin/rustc")] {
        let process = s.process(program, &["x"], Some(0));
        s.asks(process, What::Host);
    }
    assert!(!s.inputs().contains(&Input::Host));
    let process = s.process(bin.join("gen"), &["gen"], Some(0));
    s.asks(process, What::Host);
    assert!(s.inputs().contains(&Input::Host));
}

#[test]
fn a_toolchain_is_alone_or_says_what_it_installed() {
    let s = Story::script();
    let listed = "file:bin/rust-gdb\nfile:lib/libx.so\ndir:share/doc";
    for (root, files) in [
        ("alone", &[][..]),
        ("listed", &["bin/rust-gdb"]),
        ("program", &["bin/gcc"]),
        ("headers", &["include/x.h"]),
    ] {
        let root = s.elsewhere(root);
        put(&root.join("lib/rustlib/manifest-rustc"), listed);
        put(&root.join("lib/rustlib/components"), "file:lib/liby.so");
        put(&root.join("bin/rustc"), "ELF");
        files.iter().for_each(|file| put(&root.join(file), TEXT));
        let is_shared = root.ends_with("program") || root.ends_with("headers");
        let (library, compiler) = ("lib/librustc_driver-1.so", "bin/rustc");
        for inner in
            [compiler, library, "lib/x/libstd-1.so", "lib/rustlib/etc/x.py", "bin/rust-gdb", "lib/libx.so"]
        {
            assert_eq!(toolchain_of(&root.join(inner)), Some(&*root), "{inner}");
        }
        for inner in ["lib/liby.so", "bin/gcc", "libexec/rustc", "share/libstd-1.so", "share/doc/x"] {
            let path = root.join(inner);
            assert_eq!(toolchain_of(&path), (!is_shared).then_some(&*root), "{path:?}");
        }
    }
    assert_eq!(toolchain_of(&s.elsewhere("share/x")), None);
}

#[test]
fn a_toolchain_is_in_the_key_unless_somebody_builds_there() {
    for is_shared in [false, true] {
        let mut s = Story::compile();
        let library = s.at("target/debug/deps/libmacro.so");
        let file = s.toolchain("lib/libx.so");
        put(&file, TEXT);
        if is_shared {
            std::fs::create_dir(s.toolchain("include")).unwrap();
        }
        s.does(0, How::Stat, &file);
        assert_eq!(s.inputs(), []);
        // What others put there is not.
        for (who, how) in [("rustc", How::Read), ("macro", How::Stat), ("ld", How::Stat)] {
            s.account.accesses.clear();
            match who {
                "rustc" => drop(s.does(0, how, &file)),
                "macro" => drop(s.does_by(&library, 0, how, &file)),
                _ => {
                    let ld = s.process("/usr/bin/ld", &["ld"], Some(0));
                    s.does(ld, how, &file);
                }
            }
            assert_eq!(!s.inputs().is_empty(), is_shared, "{who}");
        }
    }
    let mut s = Story::script();
    s.write("vendor/lib/rustlib/x", TEXT);
    s.does(0, How::Read, s.at("vendor/lib/rustlib/x"));
    assert_eq!(s.inputs(), [s.file("vendor/lib/rustlib/x")]);
    let process = s.process(s.at("vendor/bin/cargo"), &["cargo"], Some(0));
    s.asks(process, What::Host);
    assert!(s.inputs().contains(&Input::Host));
}

#[test]
fn the_system_is_where_nobody_builds() {
    let mut prefixes = Prefixes::default();
    prefixes.add(WORKSPACE, Path::new("/usr/src/app"), "");
    let is_of_it = |path: &&str| is_of_the_system(&prefixes, Path::new(path));
    assert!(["/usr/bin/env", "/opt/x", "/usr/src/apps"].iter().all(is_of_it));
    assert!(!["/usr/src/app/x", "/home/x", "/usr2/x"].iter().any(is_of_it));
}

#[test]
fn paths_and_tokens_are_found_as_wholes() {
    for text in ["maps", "-Map=maps/x", "maps:x", "mapsx,maps"] {
        assert!(occurs_as_path(text.as_bytes(), b"maps"), "{text}");
    }
    for text in ["maps-2", "maps.d", "maps_2", "maps\u{e9}", "mymaps", "/maps"] {
        assert!(!occurs_as_path(text.as_bytes(), b"maps"), "{text}");
    }
    assert!(!occurs_as_path(b"x", b""));
    assert_eq!(tokens(b"abc\x1fP\x1f/x \x1fU\x1f \x1fT\x1f"), [PACKAGE, TARGET].into());
    assert!(tokens(b"\x1fPx").is_empty() && tokens(b"\x1fp\x1f").is_empty());
}

#[test]
fn scripts_of_the_user_name_variables_and_others_do_not() {
    let mut s = Story::script();
    let (own, other) = (s.write("tools/x.sh", "echo $MODE"), s.toolchain("lib/x.sh"));
    put(&other, "echo $OTHER");
    let sh = s.has_all("/usr/bin/dash", &["sh", "x.sh"]);
    s.does(sh, How::Read, own).does(sh, How::Read, other).does(sh, How::Read, "/etc/profile");
    assert!(s.may_name("MODE") && !s.may_name("OTHER"));
}
