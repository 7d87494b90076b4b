//! Random edits and random commands, each compared with plain cargo from nothing. `scripts/campaign` starts it.

#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../support/mod.rs"]
mod support;

mod garden;
mod oracle;
mod others;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oracle::{Oracle, Seen};
use support::dice::Dice;
use support::{Checkout, World};

const USAGE: &str = "\
usage: scripts/campaign [OPTION...]

  --builds N       builds that are compared [default: 40]; after each 40 begins another world, with the next seed
  --seed S         what is done depends on it alone [default: 1]
  --project P      garden (a workspace with some of everything), workspace (the one of the tests), ripgrep, just, tokei,
                   git-delta, bat; may be repeated [default: garden]
  --minutes M      end after so many minutes
  --ignore WORD    lines and messages with it are not compared (a known difference); may be repeated
  --keep-going     after a difference begin with the next seed, in a new world
  --ci             the bounded part that tests run: 12 builds with each of two seeds, in no more than three minutes

KACHE=program tries that one instead of this project's. On a difference: seed, steps and difference are shown, the world
stays for a look (but for --keep-going), and the status is 1.";

struct Options {
    builds: u64,
    /// After as many begins another world, with the next seed.
    in_a_world: u64,
    seed: u64,
    projects: Vec<String>,
    ignored: Vec<String>,
    until: Option<Instant>,
    keep_going: bool,
}

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: i32) {
    STOPPED.store(true, Ordering::Relaxed);
}

fn main() {
    // `cargo test` runs every test target; this one is for the script.
    if std::env::var_os("KACHE_TEST_CAMPAIGN").is_none() {
        return;
    }
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM, nix::sys::signal::SIGHUP] {
        let action = nix::sys::signal::SigAction::new(
            nix::sys::signal::SigHandler::Handler(stop),
            nix::sys::signal::SaFlags::empty(),
            nix::sys::signal::SigSet::empty(),
        );
        // Safety: the handler does nothing but store a flag.
        unsafe { nix::sys::signal::sigaction(signal, &action) }.expect("a handler");
    }
    let options = options().unwrap_or_else(|wrong| {
        eprintln!("{wrong}\n{USAGE}");
        std::process::exit(2);
    });
    let (mut builds, mut differences) = (0, 0);
    'all: for project in &options.projects {
        let mut seed = options.seed;
        let mut left = options.builds;
        while left > 0 && !options.is_over() {
            let campaign = Campaign::new(project, seed);
            let (done, difference) = campaign.run(left.min(options.in_a_world), &options);
            builds += done;
            left -= done.min(left);
            seed += 1;
            if let Some(difference) = difference {
                differences += 1;
                println!("{difference}");
                if !options.keep_going {
                    break 'all;
                }
            }
        }
    }
    if STOPPED.load(Ordering::Relaxed) {
        println!("interrupted");
    }
    println!("{builds} builds compared, {differences} differences");
    std::process::exit(match differences {
        0 if STOPPED.load(Ordering::Relaxed) => 130,
        n => i32::from(n > 0),
    });
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        builds: 40,
        in_a_world: 40,
        seed: 1,
        projects: Vec::new(),
        ignored: Vec::new(),
        until: None,
        keep_going: false,
    };
    let minutes = |n: u64| Some(Instant::now() + Duration::from_secs(60 * n));
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match &*arg {
            "--builds" => options.builds = number(value()?)?,
            "--seed" => options.seed = number(value()?)?,
            "--minutes" => options.until = minutes(number(value()?)?),
            "--project" => options.projects.push(value()?),
            "--ignore" => options.ignored.push(value()?),
            "--keep-going" => options.keep_going = true,
            "--ci" => {
                (options.builds, options.in_a_world) = (24, 12);
                options.until = Some(Instant::now() + Duration::from_secs(150));
            }
            "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => return Err(format!("no such option: {arg}")),
        }
    }
    if options.projects.is_empty() {
        options.projects.push("garden".into());
    }
    let known =
        |p: &String| ["garden", "workspace"].contains(&&**p) || others::PUBLISHED.iter().any(|(n, _)| n == p);
    match options.projects.iter().find(|p| !known(p)) {
        Some(unknown) => Err(format!("no such project: {unknown}")),
        None => Ok(options),
    }
}

impl Options {
    fn is_over(&self) -> bool {
        STOPPED.load(Ordering::Relaxed) || self.until.is_some_and(|until| Instant::now() > until)
    }
}

/// Variables of all builds.
#[derive(Clone, Default)]
pub struct Vars(BTreeMap<String, String>);

impl Vars {
    /// Sets a variable, or (0) unsets it.
    pub fn set(&mut self, name: &str, n: u64) -> String {
        if n == 0 {
            self.0.remove(name)
        } else {
            self.0.insert(name.into(), n.to_string())
        };
        format!("{name}: {n}")
    }

    /// Sets a variable to a value, or unsets it.
    pub fn flag(&mut self, name: &str, value: &str) -> String {
        if self.0.remove(name).is_none() {
            self.0.insert(name.into(), value.into());
        }
        format!("{name}: {}", self.0.get(name).map_or("not set", |v| v))
    }
}

/// A checkout, and in what state its target directory is.
pub struct Site {
    pub checkout: Checkout,
    name: String,
    mounted: bool,
    built: bool,
    /// Files have changed since the target directory was empty.
    edited: bool,
}

struct Campaign {
    world: World,
    project: String,
    source: Option<PathBuf>,
    seed: u64,
    dice: Dice,
    sites: Vec<Site>,
    vars: Vars,
    oracle: Oracle,
    steps: Vec<String>,
}

impl Campaign {
    fn new(project: &str, seed: u64) -> Campaign {
        let world = World::plain();
        let source = match project {
            "garden" => None,
            "workspace" => Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/workspace")),
            _ => others::PUBLISHED
                .iter()
                .find(|(name, _)| *name == project)
                .map(|(name, version)| others::fetch(name, version)),
        };
        let mut campaign = Campaign {
            oracle: Oracle::new(&world),
            world,
            project: project.to_owned(),
            source,
            seed,
            dice: Dice::new(seed),
            sites: Vec::new(),
            vars: Vars::default(),
            steps: Vec::new(),
        };
        let site = campaign.site();
        match &campaign.source {
            None => garden::lay_out(&site.checkout),
            Some(source) => others::lay_out(&site.checkout, source),
        }
        let lock = site.checkout.cargo_output(["generate-lockfile", "--offline"]);
        assert!(site.checkout.dir().join("Cargo.lock").exists(), "{}", String::from_utf8_lossy(&lock.stderr));
        campaign.sites.push(site);
        campaign
    }

    /// A new place for a checkout.
    fn site(&self) -> Site {
        let name =
            ["one/work", "two/work", "at/another/depth/work", "my dir/work"][self.sites.len() % 4].to_owned();
        let checkout = self.world.empty_checkout(&self.world.root().join(&name));
        // Everybody has the same registry; nobody the settings of whoever runs this.
        let cargo = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let home = self.world.root().join("cargo-home");
        if !home.exists() {
            std::fs::create_dir(&home).expect("our own directory");
            if let Some(registry) = cargo.map(|c| c.join("registry")).filter(|r| r.exists()) {
                std::os::unix::fs::symlink(registry, home.join("registry")).expect("our own directory");
            }
        }
        let tools = self.world.root().join("tools").display().to_string();
        let path = checkout.command("x").get_envs().find_map(|(n, v)| (n == "PATH").then_some(v?.to_owned()));
        let path = format!("{tools}/first:{tools}:{}", path.expect("a PATH").to_string_lossy());
        let mut checkout = checkout.env("CARGO_HOME", home).env("PATH", path);
        for (name, value) in [
            ("KACHE_DAEMON_IDLE_TIMEOUT", "10m"),
            ("CARGO_PROFILE_DEV_DEBUG", "0"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_AUTHOR_NAME", "t"),
            ("GIT_AUTHOR_EMAIL", "t@t"),
            ("GIT_COMMITTER_NAME", "t"),
            ("GIT_COMMITTER_EMAIL", "t@t"),
        ] {
            checkout = checkout.env(name, value);
        }
        Site { checkout, name, mounted: false, built: false, edited: false }
    }

    /// How many builds were compared, and the difference that was found.
    fn run(mut self, builds: u64, options: &Options) -> (u64, Option<String>) {
        println!("{}, seed {}", self.project, self.seed);
        for done in 0..builds {
            if options.is_over() {
                return (done, None);
            }
            // A command of kache's that fails is a finding, too.
            let compared = catch_unwind(AssertUnwindSafe(|| self.step(&options.ignored)))
                .unwrap_or_else(|_| Err("a command failed, as shown above".into()));
            if STOPPED.load(Ordering::Relaxed) {
                return (done, None);
            }
            if let Err(difference) = compared {
                // With the seed everything can be had again.
                if !options.keep_going {
                    self.world.keep();
                }
                let steps = self.steps.join("\n  ");
                let again = format!(
                    "scripts/campaign --project {} --seed {} --builds {}",
                    self.project,
                    self.seed,
                    done + 1
                );
                let at = match options.keep_going {
                    true => String::new(),
                    false => format!("files are in {}\n", self.world.root().display()),
                };
                return (done + 1, Some(format!("\n{again}\n  {steps}\n{difference}\n{at}")));
            }
        }
        (builds, None)
    }

    fn step(&mut self, ignored: &[String]) -> Result<(), String> {
        for _ in 0..self.dice.below(3) {
            self.change();
        }
        if self.dice.one_in(3) {
            self.rearrange();
        }
        self.build(ignored)
    }

    fn change(&mut self) {
        let at = self.dice.below(self.sites.len() as u64) as usize;
        let site = &mut self.sites[at];
        let (what, seen) = match self.project.as_str() {
            "garden" => garden::edit(site, &mut self.vars, &mut self.dice),
            _ => others::edit(site, &mut self.vars, &mut self.dice),
        };
        site.edited = true;
        let name = &site.name;
        self.steps.push(format!("{name}: {what}{}", if seen { "" } else { ", clean" }));
        if !seen {
            // Variables and tools are everybody's.
            for at in 0..self.sites.len() {
                self.clean(at);
            }
        }
    }

    fn clean(&mut self, at: usize) {
        let site = &mut self.sites[at];
        if site.mounted {
            site.checkout.kache_prints("clean");
        } else {
            site.checkout.clean_plainly();
        }
        (site.built, site.edited) = (false, false);
    }

    /// Cleans, mounts, unmounts, copies, forks, collects.
    fn rearrange(&mut self) {
        let at = self.dice.below(self.sites.len() as u64) as usize;
        let name = self.sites[at].name.clone();
        let step = match self.dice.below(7) {
            0 | 1 => {
                self.clean(at);
                format!("{name}: clean")
            }
            2 if self.sites[at].mounted => {
                self.sites[at].checkout.kache_prints("umount target");
                self.sites[at].mounted = false;
                format!("{name}: kache umount target")
            }
            2 => {
                self.sites[at].checkout.kache_prints("mount target");
                self.sites[at].mounted = true;
                format!("{name}: kache mount target")
            }
            3 => {
                self.sites[at].checkout.kache_prints("gc");
                "kache gc".into()
            }
            4 if !self.sites[at].mounted => {
                let output = self.sites[at].checkout.cargo_output(["clean", "--offline"]);
                (self.sites[at].built, self.sites[at].edited) = (false, false);
                format!("{name}: cargo clean ({})", output.status)
            }
            n if self.sites.len() < 4 => {
                let forked = n == 6 && self.sites[at].built;
                let site = self.site();
                let to = site.name.clone();
                let parent = |s: &Site| s.checkout.dir().parent().expect("a parent").to_owned();
                let (from, into) = (parent(&self.sites[at]), parent(&site));
                // Sources only; what lies beside the workspace goes along.
                let script = format!(
                    "cd '{}' && tar -c --exclude=./work/target . | tar -x -C '{}'",
                    from.display(),
                    into.display()
                );
                site.checkout.sh(&script);
                if forked {
                    self.sites[at].checkout.kache_prints("snapshot");
                    // Where a donor is not known as one of the same project, there is nothing to fork.
                    site.checkout.kache(&["fork"]);
                }
                let edited = forked && self.sites[at].edited;
                let built = forked && site.checkout.dir().join("target").exists();
                self.sites.push(Site { built, edited, ..site });
                format!("{to}: {} of {name}", if forked { "fork" } else { "copy" })
            }
            _ => return,
        };
        self.steps.push(step);
    }

    fn build(&mut self, ignored: &[String]) -> Result<(), String> {
        let at = self.dice.below(self.sites.len() as u64) as usize;
        let words = match self.dice.below(6) {
            0 => "test --no-run --workspace",
            1 => "clippy --workspace",
            2 => "check --workspace --all-targets",
            _ => "build --workspace",
        };
        let site = &self.sites[at];
        let vars = self.vars.0.iter();
        let checkout = vars.fold(site.checkout.clone(), |c, (name, value)| c.env(name, value));
        self.steps.push(format!("{}: cargo {words}", site.name));
        let begun = Instant::now();
        let kache = self.oracle.kache(&checkout, words);
        let took = begun.elapsed();
        let key = self.oracle.key(&checkout, words, &self.vars);
        let truth = self.oracle.plain(&checkout, words, key);
        let outcome = kache.error().unwrap_or_else(|| "ok".into());
        println!("  {:>5} ms  {}: cargo {words}: {outcome}", took.as_millis(), site.name);
        self.sites[at].built = true;
        match Seen::difference(&kache, &truth, ignored) {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    }
}
