//! What docs/ci.md and the GitHub action tell people to do works: their very lines are run here.

use std::path::Path;
use std::process::Output;

use super::restore::machine;
use crate::s3::{BUCKET, Server};
use crate::support::world::Who;
use crate::support::{Checkout, World};

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Runs a script as CI systems do, with the program under test on the PATH as `kache`.
fn bash(checkout: &Checkout, options: &[&str], script: &str, env: &[(String, String)]) -> Output {
    let file = checkout.world().root().join("step.sh");
    std::fs::write(&file, script).unwrap();
    let bin = checkout.world().kache_program().parent().unwrap();
    let path = checkout.sh("echo $PATH");
    let mut command = checkout.command("bash");
    command.args(options).arg(&file).env("PATH", format!("{}:{}", bin.display(), path.trim()));
    // The wrapper is what the script says; and some have their own PATH.
    command.env_remove("RUSTC_WRAPPER").envs(env.iter().cloned()).output().unwrap()
}

#[track_caller]
fn prints(output: Output) -> String {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = said(&output.stdout) + &said(&output.stderr);
    assert!(output.status.success(), "{all}");
    all
}

/// What `shell: bash` means there.
const GITHUB_BASH: &[&str] = &["--noprofile", "--norc", "-eo", "pipefail"];

/// A step of the action: the variables that it sets, and what it runs.
struct Step {
    env: Vec<(String, String)>,
    run: String,
}

/// Defaults of the action's inputs, and its steps. Reads as much YAML as the action uses.
fn action() -> (Vec<(String, String)>, Vec<Step>) {
    let text = file(".github/actions/kache/action.yml");
    let (head, runs) = text.split_once("\nruns:\n").unwrap();
    let mut inputs = Vec::new();
    for line in head.lines() {
        match (line.strip_prefix("  ").and_then(|l| l.strip_suffix(':')), line.strip_prefix("    default: "))
        {
            (Some(name), _) if !name.starts_with(' ') => inputs.push((name.to_owned(), String::new())),
            (_, Some(value)) => inputs.last_mut().unwrap().1 = value.trim_matches('"').to_owned(),
            _ => {}
        }
    }
    let steps = runs.split("    - name: ").skip(1).map(|step| {
        let variables = step.lines().filter_map(|l| l.strip_prefix("        ")?.split_once(": "));
        let variables =
            variables.filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b"_3".contains(&b)));
        let (_, run) = step.split_once("      run: |\n").unwrap();
        let run: Vec<&str> = run.lines().map(|l| l.strip_prefix("        ").unwrap_or(l)).collect();
        Step {
            env: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            run: run.join("\n"),
        }
    });
    let steps: Vec<Step> = steps.collect();
    assert_eq!(steps.len(), 2, "the action has other steps than this reads");
    (inputs, steps)
}

/// Runs the action as GitHub would. Returns the job's summary and what the steps said; the last one fails if `fails`.
fn run_action(checkout: &Checkout, with: &[(&str, &str)], fails: bool) -> (String, String) {
    let (inputs, steps) = action();
    let summary = checkout.world().root().join("summary.md");
    std::fs::write(&summary, "").unwrap();
    checkout.world().own(&summary);
    let value = |text: &str| {
        let Some(name) = text.strip_prefix("${{ inputs.").and_then(|t| t.strip_suffix(" }}")) else {
            return text.to_owned();
        };
        let given = with.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let default = || inputs.iter().find(|(n, _)| n == name).expect("a declared input").1.clone();
        given.unwrap_or_else(default)
    };
    let mut said = String::new();
    for (at, step) in steps.iter().enumerate() {
        let mut env: Vec<(String, String)> =
            step.env.iter().map(|(name, text)| (name.clone(), value(text))).collect();
        for (name, value) in
            [("CI", "true"), ("GITHUB_ACTIONS", "true"), ("KACHE_DAEMON_IDLE_TIMEOUT", "10m")]
        {
            env.push((name.into(), value.into()));
        }
        env.push(("GITHUB_STEP_SUMMARY".into(), summary.display().to_string()));
        env.push(("GITHUB_WORKSPACE".into(), checkout.dir().display().to_string()));
        let output = bash(checkout, GITHUB_BASH, &step.run, &env);
        let last = at + 1 == steps.len();
        assert_eq!(output.status.success(), !(fails && last), "{}", String::from_utf8_lossy(&output.stderr));
        said += &String::from_utf8_lossy(&output.stdout);
        said += &String::from_utf8_lossy(&output.stderr);
    }
    (std::fs::read_to_string(summary).unwrap(), said)
}

/// Cargo is told how to install what is in a repository: its newest commit, or another one.
#[test]
fn the_action_installs_kache() {
    let world = World::plain();
    let checkout = world.project(
        "repository",
        &[
            ("Cargo.toml", "[package]\nname = \"kache\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
            ("src/main.rs", "fn main() {\n    println!(\"one\");\n}\n"),
            (".gitignore", "target"),
        ],
    );
    let commit =
        "git add . && git -c user.name=n -c user.email=n@localhost commit -qm c && git rev-parse HEAD";
    checkout.sh("cargo generate-lockfile && git init -qb main");
    let first = checkout.sh(commit).trim().to_owned();
    checkout.edit("src/main.rs", "one", "two");
    checkout.sh(commit);
    let repository = format!("file://{}", checkout.dir().display());
    let (inputs, steps) = action();
    let newest = &inputs.iter().find(|(name, _)| name == "version").unwrap().1;
    for (version, says) in [(newest, "two\n"), (&first, "one\n")] {
        let script = steps[0].run.replace("https://github.com/kache-build/kache", &repository);
        assert!(script.contains(&repository), "{script}");
        let env = [
            ("REVISION".to_owned(), version.clone()),
            ("PATH".to_owned(), checkout.sh("echo $PATH").trim().to_owned()),
            ("CARGO_NET_OFFLINE".to_owned(), "false".to_owned()),
            ("CARGO_INSTALL_ROOT".to_owned(), world.root().join(version).display().to_string()),
        ];
        prints(bash(&checkout, GITHUB_BASH, &script, &env));
        assert_eq!(checkout.prints(world.root().join(version).join("bin/kache")), says);
    }
}

fn runner(world: &World) -> Checkout {
    world.checkout("runner/work/project", "workspace")
}

const BUILD: &str = "cargo build --workspace && cargo test --workspace";

#[test]
fn the_action_shares_between_runners() {
    let server = Server::start();
    let env = server.env();
    let of = |name: &str| env.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    let (endpoint, access, secret) =
        (server.endpoint(), of("KACHE_S3_ACCESS_KEY"), of("KACHE_S3_SECRET_KEY"));
    let with = [
        ("run", BUILD),
        ("bucket", BUCKET),
        ("endpoint", &endpoint),
        ("access-key", &access),
        ("secret-key", &secret),
    ];
    let (one, two, three) = (World::plain(), World::plain(), World::plain());
    let (summary, _) = run_action(&runner(&one), &with, false);
    assert!(summary.starts_with("### kache") && summary.contains("**0** of"), "{summary}");

    // Where the runner can mount, the target is a mount.
    let second = runner(&two);
    let (summary, said) = run_action(&second, &with, false);
    assert!(summary.contains("**18** units were fresh in a fork"), "{summary}{said}");
    assert_eq!(second.kache_json("mounts --json").as_array().unwrap().len(), 1, "{said}");
    assert!(!said.contains(secret.as_str()));

    let never = [&with[..], &[("mount", "never")]].concat();
    let third = runner(&three);
    let (summary, said) = run_action(&third, &never, false);
    assert!(summary.contains("(100 %)"), "{summary}{said}");
    assert_eq!(third.kache_json("mounts --json").as_array().unwrap().len(), 0);
}

#[test]
fn the_action_fails_when_the_commands_fail_and_shares_what_there_is() {
    let server = Server::start();
    let env = server.env();
    let with: Vec<(&str, &str)> = [
        ("run", "cargo build --workspace\ncargo build --no-such-option\ntouch not-reached"),
        ("mount", "never"),
        ("bucket", BUCKET),
    ]
    .into_iter()
    .chain(env.iter().filter_map(|(name, value)| {
        let input = match *name {
            "KACHE_S3_ENDPOINT" => "endpoint",
            "KACHE_S3_ACCESS_KEY" => "access-key",
            "KACHE_S3_SECRET_KEY" => "secret-key",
            _ => return None,
        };
        Some((input, value.as_str()))
    }))
    .collect();
    let world = World::plain();
    let checkout = runner(&world);
    let (summary, _) = run_action(&checkout, &with, true);
    assert!(summary.contains("### kache"));
    assert!(!checkout.dir().join("not-reached").exists());
    assert!(!server.objects("/manifests/").is_empty());
}

#[test]
fn without_a_bucket_the_action_just_builds() {
    let world = World::plain();
    let checkout = runner(&world);
    let (summary, _) = run_action(&checkout, &[("run", "cargo build"), ("mount", "never")], false);
    assert!(summary.contains("### kache"), "{summary}");
}

/// The examples name a bucket that is not ours.
fn ours(text: &str, server: &Server) -> String {
    assert!(text.contains("my-builds") && text.contains("https://s3.example.org"));
    text.replace("my-builds", BUCKET).replace("https://s3.example.org", &server.endpoint())
}

/// The code behind a heading of docs/ci.md.
fn example(heading: &str) -> String {
    let text = file("docs/ci.md");
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap().to_owned();
    let code = section.split("\n```").nth(1).unwrap();
    code.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn the_shell_example_works() {
    let server = Server::start();
    let script = ours(&example("Any shell"), &server);
    let (one, two, three) = (World::plain(), World::mounted_by(Who::Root), World::plain());
    prints(bash(&machine(&one, "first", &server), &[], &script, &[]));
    let said = prints(bash(&machine(&two, "second", &server), &[], &script, &[]));
    assert!(said.contains("**9** units were fresh in a fork"), "{said}");
    // It must not go unnoticed when something was not shared.
    server.misbehave(crate::s3::Fault::Status(403, "AccessDenied"));
    assert!(!bash(&machine(&three, "third", &server), &[], &script, &[]).status.success());
}

/// `variables`, and the commands of `before_script`, `script` and `after_script`, which share no shell.
#[test]
fn the_gitlab_example_works() {
    let server = Server::start();
    let text = ours(&example("GitLab"), &server);
    let of = |name: &str| {
        let block = text.split(&format!("\n  {name}:\n")).nth(1).unwrap();
        block
            .lines()
            .take_while(|l| l.starts_with("    "))
            .map(str::trim)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let variables = of("variables").into_iter().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        let value = value.split(" #").next().unwrap().trim();
        (name.to_owned(), value.to_owned())
    });
    let variables: Vec<(String, String)> = variables.collect();
    let commands = |name: &str| -> String {
        let lines = of(name).into_iter().map(|l| l.strip_prefix("- ").unwrap().to_owned());
        // The program under test is there already.
        lines.filter(|l| !l.starts_with("cargo install")).map(|l| l + "\n").collect()
    };
    let build = commands("before_script") + &commands("script");
    let (one, two) = (World::plain(), World::plain());
    let mut said = String::new();
    for world in [&one, &two] {
        let checkout = machine(world, "builds/project", &server).env("CI", "true");
        prints(bash(&checkout, &["-eo", "pipefail"], &build, &variables));
        said = prints(bash(&checkout, &["-eo", "pipefail"], &commands("after_script"), &variables));
        let counts = checkout.kache_json("stats --json");
        let shared = std::ptr::eq(world, &two);
        assert_eq!(counts["misses"] == 0, shared, "{counts}");
        assert_eq!(counts["hits"] != 0, shared, "{counts}");
    }
    assert!(said.contains("uploaded"), "{said}");
}
