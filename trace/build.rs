//! Compiles what observed programs load, and what starts the programs that load nothing. Both are put into the library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The caller's address is read from the frame. One unit of optimization leaves no panics, and so nothing to unwind. Every
/// segment costs each program that loads it.
const OPTIONS: &str = "--edition=2024 -Cpanic=abort -Copt-level=3 -Cforce-frame-pointers=yes -Clto=fat -Ccodegen-units=1 \
    -Cstrip=symbols -Crelro-level=off -Clink-arg=-nostdlib";
/// Without position it needs nobody who relocates it.
const LAUNCH: &str = "--crate-type=bin -Crelocation-model=static -Ctarget-feature=+crt-static -Clink-arg=-static \
    -Clink-arg=-nostartfiles";

fn main() {
    println!("cargo::rerun-if-changed=preload");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let target = env::var("TARGET").expect("cargo sets it");
    let is_musl = target.ends_with("-musl");
    let preload =
        if is_musl { "--crate-type=cdylib -Ctarget-feature=-crt-static" } else { "--crate-type=cdylib" };
    for (name, source, options) in [("preload", "lib.rs", preload), ("launch", "launch.rs", LAUNCH)] {
        let file = out.join(name);
        let done =
            if target.starts_with("x86_64-unknown-linux-") || target.starts_with("aarch64-unknown-linux-") {
                // Not every linker can put code and constants into one segment.
                let one = format!("{options} -Clink-arg=-Wl,--no-rosegment");
                compile(source, &one, &target, &file).or_else(|_| compile(source, options, &target, &file))
            } else {
                Err("not for this machine".into())
            };
        if let Err(why) = done {
            println!("cargo::warning=nothing can be observed: {name}: {why}");
            fs::write(&file, "").expect("OUT_DIR can be written");
        }
    }
}

fn compile(source: &str, options: &str, target: &str, file: &Path) -> Result<(), String> {
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.args(OPTIONS.split_whitespace()).args(options.split_whitespace());
    rustc.args(["--crate-name=kache_trace_part", "--target", target, "-o"]).arg(file);
    rustc.arg(Path::new("preload").join(source));
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
