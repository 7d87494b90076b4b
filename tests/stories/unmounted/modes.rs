//! Permissions: what a hit leaves is as open or closed as what a compiler leaves.

use crate::support::{Checkout, World};

const MODES: &str = "cd target/debug && find . -name '*.o' -prune -o -path ./incremental -prune -o -name '.fingerprint' \
                     -prune -o -path './build/*.real' -prune -o \\( -type f -o -type d \\) -printf '%m %g %P\\n' \
                     | grep -v '\\.cargo-lock\\|kache' | sed -E 's/-[0-9a-f]{16}//g' | sort -u";

fn build(c: &Checkout, umask: &str) -> Vec<String> {
    c.sh(&format!("umask {umask}; cargo build -q"));
    c.sh(MODES).lines().map(str::to_owned).collect()
}

/// Without a daemon, and with one that was started by somebody with another umask.
#[test]
fn the_umask_of_whoever_builds_counts() {
    let world = World::plain();
    let c = world.checkout("project", "workspace");
    let plain = c.without_env("RUSTC_WRAPPER");
    for daemon in [false, true] {
        let c = if daemon { c.env("KACHE_DAEMON_IDLE_TIMEOUT", "10m") } else { c.clone() };
        if daemon {
            c.sh("umask 027; \"$RUSTC_WRAPPER\" daemon start");
        }
        for umask in ["022", "077", "002"] {
            c.clean_plainly();
            let truth = build(&plain, umask);
            c.clean_plainly();
            build(&c, umask);
            c.clean_plainly();
            let ours = build(&c, umask);
            let other: Vec<_> = truth.iter().filter(|line| !ours.contains(line)).collect();
            assert!(other.is_empty(), "umask {umask}, daemon {daemon}: {other:?} not in {ours:?}");
        }
        if daemon {
            c.kache_prints("daemon stop");
        }
    }
}

#[test]
fn a_directory_gives_its_group() {
    let world = World::plain();
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.sh("rm -rf target && mkdir target && chgrp 1 target && chmod 2775 target");
    c.cargo("build").ok().all_hit();
    assert_eq!(c.sh("find target/debug/deps ! -gid 1 -print"), "");
}
