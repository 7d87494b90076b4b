//! Compiles what observed programs load, and what starts the programs that load nothing. Both are put into the library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=preload");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let target = env::var("TARGET").expect("cargo sets it");
    let is_known =
        target.contains("-linux-") && (target.starts_with("x86_64-") || target.starts_with("aarch64-"));
    // Without position the launcher needs nobody who relocates it.
    let launch = [
        "-Crelocation-model=static",
        "-Ctarget-feature=+crt-static",
        "-Clink-arg=-static",
        "-Clink-arg=-nostartfiles",
    ];
    let preload: &[&str] = if target.contains("musl") { &["-Ctarget-feature=-crt-static"] } else { &[] };
    for (name, kind, more) in [("preload", "cdylib", preload), ("launch", "bin", &launch)] {
        let file = out.join(name);
        if let Err(why) = if is_known {
            compile(name, kind, more, &target, &file)
        } else {
            Err("not for this machine".into())
        } {
            println!("cargo::warning=nothing can be observed: {name}: {why}");
            fs::write(&file, "").expect("OUT_DIR can be written");
        }
    }
}

fn compile(name: &str, kind: &str, more: &[&str], target: &str, file: &Path) -> Result<(), String> {
    let source = if name == "preload" { "preload/lib.rs" } else { "preload/launch.rs" };
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.args([
        "--edition=2024",
        "--crate-name",
        &format!("kache_trace_{name}"),
        "--crate-type",
        kind,
        "--target",
        target,
    ]);
    // The caller's address is read from the frame. One unit of optimization leaves no panics, and so nothing to unwind.
    rustc.args([
        "-Cpanic=abort",
        "-Copt-level=3",
        "-Cforce-frame-pointers=yes",
        "-Clto=fat",
        "-Ccodegen-units=1",
    ]);
    rustc.args(["-Clink-arg=-nostdlib", "-Cstrip=symbols"]).args(more).arg("-o").arg(file).arg(source);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    let output = rustc.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.lines().find(|line| line.starts_with("error")).unwrap_or("the compiler failed").to_string())
}
