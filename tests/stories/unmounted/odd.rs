//! Unusual command lines and names: the compiler gets exactly what I wrote.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use crate::support::{Checkout, World};

const SOURCE: &str = "pub fn f() -> u8 {\n    1\n}\n";

fn wrapped(c: &Checkout, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = c.command(c.world().kache_program());
    command.arg(c.world().shim()).args(args);
    command
}

fn lib_args(source: &str, out: &str) -> Vec<OsString> {
    let fixed = [
        "--crate-name",
        "odd",
        "--edition=2024",
        "--crate-type=lib",
        "--emit=dep-info,metadata,link",
        "--error-format=json",
        "--json=artifacts",
    ];
    let mut args: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    args.extend(["--out-dir".into(), out.into(), source.into()]);
    args
}

#[track_caller]
fn ok(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// rustc takes no such arguments, and not even such a working directory for everything. Whatever it does, it does the
/// same with kache before it.
#[test]
fn paths_that_are_not_utf8() {
    let world = World::plain();
    let dir = world.root().join(OsString::from_vec(b"caf\xe9".to_vec()));
    let c = world.empty_checkout(&dir);
    c.write("lib.rs", SOURCE);
    std::fs::write(dir.join(OsStr::from_bytes(b"l\xffb.rs")), SOURCE).unwrap();
    c.sh("mkdir -p target/debug/deps");
    let mut full: Vec<OsString> = lib_args("lib.rs", "target/debug/deps");
    let mut metadata = full.clone();
    metadata[4] = "--emit=dep-info,metadata".into();
    full.push("--remap-path-prefix=x=y".into());
    for args in [full, metadata, vec![OsString::from_vec(b"l\xffb.rs".to_vec())]] {
        let plain = c.command(world.real_rustc()).args(&args).output().unwrap();
        for _ in 0..2 {
            let ours = wrapped(&c, &args).output().unwrap();
            assert_eq!(ours.status.code(), plain.status.code(), "{}", String::from_utf8_lossy(&ours.stderr));
        }
    }
}

#[test]
fn a_whole_project_at_a_path_that_is_not_utf8() {
    let world = World::plain();
    let dir = world.root().join(OsString::from_vec(b"caf\xe9".to_vec()));
    let c = world.empty_checkout(&dir);
    c.write("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
    c.write("src/main.rs", "fn main() {\n    println!(\"42\");\n}\n");
    let plain = c.command("cargo").arg("build").env_remove("RUSTC_WRAPPER").output().unwrap();
    c.sh("rm -rf target");
    for _ in 0..2 {
        let ours = c.cargo_output(["build"]);
        assert_eq!(ours.status.code(), plain.status.code(), "{}", String::from_utf8_lossy(&ours.stderr));
        if plain.status.success() {
            assert_eq!(c.prints("target/debug/app"), "42\n");
        }
        c.sh("rm -rf target");
    }
}

#[test]
fn arguments_with_newlines_spaces_and_control_characters() {
    let world = World::plain();
    let source = "fn main() {\n    println!(\"{}\", cfg!(odd = \"a\\nb c\\u{1f}d\"));\n}\n";
    let c = world.project("project", &[("main.rs", source)]);
    c.sh("mkdir -p target/debug/deps");
    for (value, printed) in [("a\nb c\u{1f}d", "true\n"), ("a\nb c", "false\n")] {
        for _ in 0..2 {
            let mut args = lib_args("main.rs", "target/debug/deps");
            args[3] = "--crate-type=bin".into();
            args.extend(["--cfg".into(), format!("odd=\"{}\"", value.replace('\n', "\\n")).into()]);
            args.extend(["--cfg".into(), format!("raw=\"{value}\"").into()]);
            ok(&wrapped(&c, args).output().unwrap());
            assert_eq!(c.prints("target/debug/deps/odd"), printed);
            c.sh("rm target/debug/deps/*");
        }
    }
}

#[test]
fn ten_thousand_arguments() {
    let world = World::plain();
    let c = world.project("project", &[("lib.rs", SOURCE)]);
    c.sh("mkdir -p target/debug/deps");
    let mut args = lib_args("lib.rs", "target/debug/deps");
    args.extend((0..5_000).flat_map(|n| ["--cfg".into(), format!("number_{n}").into()]));
    for started in [1, 1] {
        ok(&wrapped(&c, &args).output().unwrap());
        c.sh("rm target/debug/deps/libodd.rlib");
        let log = std::fs::read_to_string(world.rustc_log()).unwrap();
        assert_eq!(log.lines().filter(|l| l.starts_with("odd\t")).count(), started);
    }
}

/// As cargo does it when a command line is too long for the system.
#[test]
fn arguments_from_a_file() {
    let world = World::plain();
    let c = world.project("project", &[("lib.rs", SOURCE)]);
    c.sh("mkdir -p target/debug/deps");
    let mut lines: Vec<String> =
        lib_args("lib.rs", "target/debug/deps").into_iter().map(|a| a.into_string().unwrap()).collect();
    lines.extend((0..20_000).flat_map(|n| ["--cfg".to_owned(), format!("a_rather_long_name_{n}")]));
    c.write("args", lines.join("\n"));
    for _ in 0..2 {
        ok(&wrapped(&c, ["@args"]).output().unwrap());
        c.sh("rm target/debug/deps/libodd.rlib");
    }
    let log = std::fs::read_to_string(world.rustc_log()).unwrap();
    assert_eq!(log.lines().filter(|l| l.starts_with("argfile\t")).count(), 1, "{log}");
}

#[test]
fn questions_and_standard_streams_pass_through() {
    let world = World::plain();
    let c = world.project("project", &[("lib.rs", SOURCE)]);
    let plain = |args: &[&str]| c.command(world.real_rustc()).args(args).output().unwrap();
    for args in [
        &["-vV"][..],
        &["--version"],
        &["--print", "cfg"],
        &["--print=sysroot"],
        &["--help"],
        &["--explain", "E0001"],
        &["--no-such-option"],
        &["no-such-file.rs"],
        &["lib.rs", "--crate-type=lib", "--emit=dep-info=-"],
    ] {
        let (ours, theirs) = (wrapped(&c, args).output().unwrap(), plain(args));
        assert_eq!(ours.status.code(), theirs.status.code(), "{args:?}");
        assert_eq!(
            String::from_utf8_lossy(&ours.stdout),
            String::from_utf8_lossy(&theirs.stdout),
            "{args:?}"
        );
        assert_eq!(
            String::from_utf8_lossy(&ours.stderr),
            String::from_utf8_lossy(&theirs.stderr),
            "{args:?}"
        );
    }
    let mut child =
        wrapped(&c, ["-", "--crate-name", "typed", "-o", "typed"]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"fn main() { println!(\"typed\") }")
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(c.prints("typed"), "typed\n");
    let stats = c.kache_json("stats --json");
    assert!(stats["pass_reasons"]["query"].as_u64() >= Some(5), "{stats}");
    assert_eq!(stats["pass_reasons"]["source on standard input"], 1, "{stats}");
}

#[test]
fn a_compiler_that_dies_or_is_not_there() {
    let world = World::plain();
    let c = world.project("project", &[("lib.rs", SOURCE)]);
    c.sh("mkdir -p target/debug/deps bin");
    c.write("bin/rustc", "#!/bin/sh\nkill -SEGV $$\n");
    c.sh("chmod +x bin/rustc");
    let args = lib_args("lib.rs", "target/debug/deps");
    let run = |program: &str| {
        let mut command = c.command(world.kache_program());
        command.arg(c.dir().join(program)).args(&args).output().unwrap()
    };
    assert_eq!(run("bin/rustc").status.signal(), Some(11));
    let missing = run("no/rustc");
    assert_eq!(missing.status.code(), Some(127));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("no/rustc"));
}

#[test]
fn wrapped_in_itself() {
    let world = World::plain();
    let c = world.project("project", &[("lib.rs", SOURCE)]);
    c.sh("mkdir -p target/debug/deps");
    let args = lib_args("lib.rs", "target/debug/deps");
    for _ in 0..2 {
        let mut command = c.command(world.kache_program());
        ok(&command.arg(world.kache_program()).arg(world.shim()).args(&args).output().unwrap());
    }
    let stats = c.kache_json("stats --json");
    assert_eq!((&stats["misses"], &stats["hits"]), (&1.into(), &1.into()), "{stats}");
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    let world = World::plain();
    for (args, word) in
        [("stat", "stats"), ("gc --max-size lots", "lots"), ("report --since soon", "soon"), ("", "Usage")]
    {
        let output = world.kache(args);
        assert_eq!(output.status.code(), Some(2), "kache {args}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(word), "kache {args}: {said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_trouble() {
    let world = World::plain();
    let c = world.project("project", &[("lib.rs", SOURCE)]);
    let kache = world.kache_program();
    let said = c.sh(&format!(
        "{{ sleep 0.2; {} config 2>err || echo $? >status; }} | true; cat err status",
        std::path::Path::new(kache).display()
    ));
    assert_eq!(said.trim(), "141");
}
