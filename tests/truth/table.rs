//! Many small packages in one workspace, each with one thing that changes: built with kache, changed, built again, and
//! compared with what plain cargo gives from nothing at the same place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;

use crate::support::{Checkout, Run, World};
pub use crate::variant::{Variant, expands, script};
use crate::variant::{dependency, package};

/// What the variants of a build show, by name.
type Seen = BTreeMap<String, String>;

pub struct Table {
    world: World,
    /// Name, what it depends on, source.
    crates: Vec<(String, String, String)>,
    variants: Vec<Variant>,
    env: Vec<(String, String)>,
    words: String,
    dir: String,
    /// In the world, when it is not in the checkout.
    target: Option<String>,
    /// Where target directories really lie, when they are links.
    links: Option<tempfile::TempDir>,
}

impl Table {
    pub fn new() -> Table {
        Table::in_world(World::plain())
    }

    pub fn in_world(world: World) -> Table {
        Table {
            world,
            crates: Vec::new(),
            variants: Vec::new(),
            env: vec![
                ("CARGO_INCREMENTAL".into(), "0".into()),
                ("CARGO_PROFILE_DEV_DEBUG".into(), "0".into()),
            ],
            words: "build --offline".into(),
            dir: "project".into(),
            target: None,
            links: None,
        }
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// A library that variants use; a macro, if it is one.
    pub fn krate(self, name: &str, lib: &str) -> Table {
        self.krate_using(name, "", lib)
    }

    pub fn krate_using(mut self, name: &str, uses: &str, lib: &str) -> Table {
        self.crates.push((name.to_owned(), uses.to_owned(), lib.to_owned()));
        self
    }

    pub fn add(mut self, variant: Variant) -> Table {
        self.variants.push(variant);
        self
    }

    /// A variable that is always the same; `$T` in it is the world.
    pub fn env(mut self, name: &str, value: &str) -> Table {
        self.env.push((name.to_owned(), value.replace("$T", &self.world.root().display().to_string())));
        self
    }

    pub fn words(mut self, words: &str) -> Table {
        self.words = words.to_owned();
        self
    }

    /// Where the workspace lies in the world.
    pub fn dir(mut self, dir: &str) -> Table {
        self.dir = dir.to_owned();
        self
    }

    /// A directory of the world in front in `PATH`.
    pub fn in_path(self, dirs: &str) -> Table {
        let command = self.world.command("cargo");
        let path = command.get_envs().find_map(|(name, value)| (name == "PATH").then_some(value?.to_owned()));
        let value = format!("{dirs}:{}", path.expect("a PATH").to_string_lossy());
        self.env("PATH", &value)
    }

    /// A target directory outside of the checkout.
    pub fn target(mut self, dir: &str) -> Table {
        self.target = Some(dir.to_owned());
        self.env("CARGO_TARGET_DIR", &format!("$T/{dir}"))
    }

    /// Target directories are links to another place.
    pub fn linked_targets(mut self) -> Table {
        self.links = Some(tempfile::tempdir_in("/var/tmp").expect("a directory"));
        self
    }

    /// Built, changed, `rm -rf target`, built.
    #[track_caller]
    pub fn changes(self) {
        let c = self.first();
        self.change(&c);
        self.clean(&c);
        self.second(&c, &c);
    }

    /// Built, changed, built again in the same target directory.
    #[track_caller]
    pub fn changes_in_place(self) {
        let c = self.first();
        self.change(&c);
        self.second(&c, &c);
    }

    /// Built, copied to another path (with the change), built there.
    #[track_caller]
    pub fn changes_elsewhere(self, dir: &str) {
        let c = self.first();
        let other = self.copy(&c, dir);
        self.change(&other);
        self.second(&c, &other);
    }

    /// Built, copied to another path and built there, changed there, and built again.
    #[track_caller]
    pub fn changes_in_place_elsewhere(self, dir: &str) {
        let c = self.first();
        let other = self.copy(&c, dir);
        let (run, _) = self.kache(&other, false);
        assert!(run.success, "{}", run.account());
        self.change(&other);
        self.second(&c, &other);
    }

    /// Built, and the target directory forked for a changed copy.
    #[track_caller]
    pub fn changes_in_a_fork(self, dir: &str) {
        let c = self.first();
        let other = self.copy(&c, dir);
        self.change(&other);
        c.kache_prints("snapshot");
        other.kache_prints("fork");
        self.second(&c, &other);
    }

    /// Built, copied to another path, and there everything is a hit and as plain cargo has it.
    #[track_caller]
    pub fn hits_elsewhere(self, dir: &str) {
        let c = self.first();
        let other = self.copy(&c, dir);
        let mut wrong = Vec::new();
        self.kept(&other, &mut wrong, None);
        self.judge(wrong);
    }

    /// Of all packages: see [`Variant::not_stored`].
    pub fn stored(mut self, stored: bool) -> Table {
        self.variants.iter_mut().for_each(|v| v.stored &= stored);
        self
    }

    /// Built, `rm -rf target`, and everything is there again.
    #[track_caller]
    pub fn kept_here(self) {
        let c = self.first();
        let mut wrong = Vec::new();
        self.kept(&c, &mut wrong, None);
        self.judge(wrong);
    }

    /// What depends on the moment: another value in each build from nothing, with kache as without.
    #[track_caller]
    pub fn never_the_same(self) {
        self.another_each_time(true);
    }

    /// What cargo runs in each build, also in the same target directory.
    #[track_caller]
    pub fn always(self) {
        self.another_each_time(false);
    }

    #[track_caller]
    fn another_each_time(self, from_nothing: bool) {
        let c = self.lay_out();
        self.each(&c, |v| &v.before);
        let mut last: Option<Seen> = None;
        let mut wrong = Vec::new();
        for round in 0..3 {
            let (run, seen) = self.kache(&c, false);
            assert!(run.success, "round {round}: {}", run.account());
            if let Some(last) = last {
                wrong.extend(seen.iter().filter(|(name, text)| last[*name] == **text).map(|(name, text)| {
                    format!("{name}: round {round}: the build script was not run again: {text}")
                }));
            }
            last = Some(seen);
            // The clock of scripts that print seconds.
            std::thread::sleep(std::time::Duration::from_millis(1100));
            if round == 0 || from_nothing {
                self.clean(&c);
            }
        }
        let [one, two] = [self.plain(&c, false), self.plain(&c, false)];
        let same = one.iter().find(|(name, text)| two[*name] == **text);
        assert!(same.is_none(), "the test is broken: plain cargo gives the same twice: {same:?}");
        self.judge(wrong);
    }

    #[track_caller]
    fn first(&self) -> Checkout {
        let c = self.lay_out();
        self.each(&c, |v| &v.before);
        let (run, seen) = self.kache(&c, false);
        let truth = self.plain(&c, false);
        let mut wrong = Vec::new();
        compare("first build", &seen, &truth, &mut wrong);
        if !wrong.is_empty() {
            wrong.push(run.account());
        }
        self.judge(wrong);
        c
    }

    #[track_caller]
    fn second(&self, first: &Checkout, c: &Checkout) {
        let (run, seen) = self.kache(c, true);
        let truth = self.plain(c, true);
        let before = self.plain_of(first);
        for v in &self.variants {
            let text = &truth[&v.name];
            assert!(
                before[&v.name] != *text,
                "the test is broken: for {} the change does not show in plain cargo: {text}",
                v.name
            );
        }
        let mut wrong = Vec::new();
        compare("after the change", &seen, &truth, &mut wrong);
        if !wrong.is_empty() {
            let errors = run.stderr.lines().filter(|l| l.starts_with("error")).take(5);
            wrong.extend(errors.map(str::to_owned));
        }
        self.kept(c, &mut wrong, Some(&truth));
        self.judge(wrong);
    }

    /// After `rm -rf target` everything that can be kept is a hit, and right.
    fn kept(&self, c: &Checkout, wrong: &mut Vec<String>, truth: Option<&Seen>) {
        self.clean(c);
        let (run, seen) = self.kache(c, truth.is_some());
        let plain;
        let truth = match truth {
            Some(truth) => truth,
            None => {
                plain = self.plain(c, false);
                &plain
            }
        };
        let known = wrong.len();
        compare("nothing changed", &seen, truth, wrong);
        // Said once is enough.
        let said: Vec<String> =
            wrong[..known].iter().filter_map(|w| Some(w.split(": ").next()?.to_owned())).collect();
        let mut n = 0;
        wrong.retain(|w| {
            n += 1;
            n <= known || !said.iter().any(|name| w.starts_with(&format!("{name}: ")))
        });
        let stored = self.variants.iter().any(|v| v.stored);
        let events = run.events.iter().chain(&run.scripts);
        for event in events.filter(|e| stored && e.outcome != "hit") {
            let name = event.unit.split(' ').next().unwrap_or_default();
            let variant = self.variants.iter().find(|v| v.name == name);
            if variant.is_none_or(|v| v.stored) {
                wrong.push(format!(
                    "{}: no hit, but nothing changed: {} {}",
                    event.unit, event.outcome, event.reason
                ));
            }
        }
        if run.events.is_empty() {
            wrong.push("the compiler was not asked for".into());
        }
    }

    #[track_caller]
    fn judge(&self, wrong: Vec<String>) {
        assert!(
            wrong.is_empty(),
            "{} of {} variants or more are wrong:\n  {}",
            wrong.len(),
            self.variants.len(),
            wrong.join("\n  ")
        );
    }

    fn lay_out(&self) -> Checkout {
        let c = self.checkout(&self.dir);
        let names: Vec<&str> = self
            .crates
            .iter()
            .map(|(name, ..)| &**name)
            .chain(self.variants.iter().map(|v| &*v.name))
            .collect();
        c.write("Cargo.toml", format!("[workspace]\nmembers = {names:?}\nresolver = \"2\"\n"));
        for (name, uses, lib) in &self.crates {
            let kind = if lib.contains("proc_macro::") { "[lib]\nproc-macro = true\n" } else { "" };
            let uses: String = uses.split_whitespace().map(dependency).collect();
            c.write(&format!("{name}/Cargo.toml"), package(name, &format!("{kind}[dependencies]\n{uses}")));
            c.write(&format!("{name}/src/lib.rs"), lib);
        }
        for v in &self.variants {
            let uses: String = v.uses.iter().map(|u| dependency(u)).collect();
            let manifest = package(&v.name, &format!("{}[dependencies]\n{uses}", v.manifest));
            c.write(&format!("{}/Cargo.toml", v.name), manifest);
            for (path, text) in &v.files {
                c.write(&format!("{}/{path}", v.name), text);
            }
        }
        self.link(&c);
        let output = c.cargo_output(["generate-lockfile", "--offline"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        c
    }

    fn checkout(&self, dir: &str) -> Checkout {
        let c = self.world.empty_checkout(&self.world.root().join(dir));
        self.env.iter().fold(c, |c, (name, value)| c.env(name, value))
    }

    fn copy(&self, c: &Checkout, dir: &str) -> Checkout {
        let other = self.checkout(dir);
        let _ = std::fs::remove_file(other.dir().join("target"));
        let mut cp = other.command("cp");
        assert!(cp.args(["-r", "--"]).arg(c.dir().join(".")).arg(".").status().expect("cp starts").success());
        match &self.links {
            Some(_) => {
                let _ = std::fs::remove_file(other.dir().join("target"));
                self.link(&other);
            }
            None => other.clean_plainly(),
        }
        other
    }

    /// Where programs of a checkout really are made.
    fn target_of(&self, c: &Checkout) -> PathBuf {
        match (&self.target, &self.links) {
            (Some(dir), _) => self.world.root().join(dir),
            (_, Some(links)) => links.path().join(c.dir().file_name().expect("a name")),
            _ => c.dir().join("target"),
        }
    }

    fn link(&self, c: &Checkout) {
        if self.links.is_some() {
            let target = self.target_of(c);
            std::fs::create_dir_all(&target).expect("our own directory");
            std::os::unix::fs::symlink(target, c.dir().join("target")).expect("our own directory");
        }
    }

    fn clean(&self, c: &Checkout) {
        let target = self.target_of(c);
        if target.exists() {
            std::fs::remove_dir_all(&target).expect("our own directory");
        }
        if self.links.is_some() {
            std::fs::create_dir(&target).expect("our own directory");
        }
    }

    /// With the variables of before or after the change.
    fn with_vars(&self, c: &Checkout, changed: bool) -> Checkout {
        let vars = self.variants.iter().flat_map(|v| &v.vars);
        vars.fold(c.clone(), |c, (name, old, new)| match if changed { new } else { old } {
            Some(value) => c.env(name, value.replace("$T", &self.world.root().display().to_string())),
            None => c.without_env(name),
        })
    }

    fn each<'a>(&'a self, c: &Checkout, what: impl Fn(&'a Variant) -> &'a str) {
        for v in &self.variants {
            let sh = what(v);
            if !sh.is_empty() {
                self.sh(c, v, sh, |output| assert!(output.status.success(), "{}: {sh}: {output:?}", v.name));
            }
        }
    }

    fn sh<T>(&self, c: &Checkout, v: &Variant, sh: &str, then: impl FnOnce(Output) -> T) -> T {
        let mut command = c.command("bash");
        let sh = sh.replace("$T/", &format!("{}/", self.world.root().display()));
        command.args(["-c", &format!("set -e\n{sh}")]).current_dir(c.dir().join(&v.name));
        command.env("W", c.dir()).env("T", self.world.root()).env("D", self.target_of(c).join("debug"));
        then(command.output().expect("bash starts"))
    }

    fn change(&self, c: &Checkout) {
        // More than a tick of file systems' clocks: an edit in the tick of a build is not seen by plain cargo either.
        std::thread::sleep(std::time::Duration::from_millis(50));
        self.each(c, |v| &v.change);
    }

    fn kache(&self, c: &Checkout, changed: bool) -> (Run, Seen) {
        self.each(c, |v| &v.each);
        let building = self.with_vars(c, changed).limited(60);
        let run = building.cargo(&format!("{} --keep-going", self.words));
        let seen = self.seen(c);
        (run, seen)
    }

    /// What plain cargo gives from nothing, at the same place.
    #[track_caller]
    fn plain(&self, c: &Checkout, changed: bool) -> Seen {
        let aside = self.world.root().join("aside");
        let target = self.target_of(c);
        let aside = if self.links.is_some() { target.with_extension("aside") } else { aside };
        let _ = std::fs::rename(&target, &aside);
        self.clean(c);
        self.each(c, |v| &v.each);
        let mut cargo = self.with_vars(c, changed).plain_command();
        let output = cargo.args(self.words.split(' ')).arg("--keep-going").output().expect("cargo starts");
        let seen = self.seen(c);
        if !changed {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "the test is broken: plain cargo fails: {said}");
            let broken = seen.iter().find(|(_, text)| !text.starts_with("exit 0: "));
            assert!(broken.is_none(), "the test is broken: with plain cargo: {broken:?}");
            std::fs::write(c.dir().with_extension("truth"), serde_json::to_vec(&seen).unwrap()).unwrap();
        }
        std::fs::remove_dir_all(&target).expect("our own directory");
        if aside.exists() {
            std::fs::rename(&aside, &target).expect("our own directory");
        }
        seen
    }

    /// What plain cargo gave before the change.
    fn plain_of(&self, c: &Checkout) -> Seen {
        serde_json::from_slice(&std::fs::read(c.dir().with_extension("truth")).unwrap()).unwrap()
    }

    fn seen(&self, c: &Checkout) -> Seen {
        let look = |v: &Variant| {
            self.sh(c, v, &v.look, |output| {
                let code = output.status.code().map_or("a signal".into(), |code| code.to_string());
                format!("exit {code}: {}", String::from_utf8_lossy(&output.stdout).trim_end())
            })
        };
        self.variants.iter().map(|v| (v.name.clone(), look(v))).collect()
    }
}

fn compare(when: &str, kache: &Seen, truth: &Seen, wrong: &mut Vec<String>) {
    for (name, text) in truth.iter().filter(|(name, text)| kache[*name] != **text) {
        wrong.push(format!("{name}: {when}: kache gives {:?}, plain cargo {text:?}", kache[name]));
    }
}

/// Where the standard library is for programs that load it.
pub fn libraries_of_the_toolchain() -> String {
    let out = std::process::Command::new("rustc").args(["--print", "target-libdir"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}
