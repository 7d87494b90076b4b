//! How the program is linked. It starts once for every compile, so what its start costs is what a hit costs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    if var("CARGO_CFG_TARGET_OS") == "linux" && var("CARGO_CFG_TARGET_ENV") == "gnu" {
        // Addresses are fixed when it is linked instead of by thousands of relocations at each start.
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
