//! I look after my cache: how big, what is in it, make it smaller, throw things away.

use crate::support::World;

#[test]
fn stats_and_list_tell_what_happened() {
    let world = World::plain();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.clean();
    c.cargo("build").ok().all_hit();
    // Compiles, and runs of build scripts.
    let events = c.kache_json("report --format json");
    let count =
        |outcome| events.as_array().expect("events").iter().filter(|e| e["outcome"] == outcome).count();
    let stats = c.kache_json("stats --json");
    assert!(count("miss") > 5 && count("hit") == count("miss"), "{events}");
    assert_eq!(stats["misses"], count("miss"), "{stats}");
    assert_eq!(stats["hits"], count("hit"), "{stats}");
    assert_eq!(stats["store"]["entries"], count("miss"), "{stats}");
    assert!(stats["saved_ms"].as_u64() > Some(0), "{stats}");
    assert!(stats["restored_bytes"].as_u64() > Some(100_000), "{stats}");
    let list = c.kache_json("list --json");
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), count("miss"));
    let base = list.iter().find(|e| e["crate_name"] == "base").expect("base is in it");
    assert_eq!(base["kind"], "lib");
    assert!(base["bytes"].as_u64() > Some(1000));
    assert_eq!(base["hits"], 1);
    // For people, too.
    assert!(c.kache_prints("stats").contains("hits"));
    assert!(c.kache_prints("list").contains("generated"));
}

#[test]
fn purge_one_crate_or_all() {
    let world = World::plain();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("purge --crate base");
    c.clean();
    c.cargo("build").ok().missed(&["base lib"]);
    c.kache_prints("purge");
    assert_eq!(c.kache_json("stats --json")["store"]["entries"], 0);
    assert_eq!(c.kache_json("stats --json")["store"]["bytes"], 0);
    assert_eq!(c.sh("find \"$KACHE_CACHE_DIR/store/blobs\" -type f"), "");
    c.clean();
    assert!(c.cargo("build").ok().units("hit").is_empty());
    c.clean();
    c.cargo("build").ok().all_hit();
}

#[test]
fn gc_keeps_what_was_used_last() {
    let world = World::plain();
    let c = world.checkout("project", "workspace").env("CI", "1");
    c.cargo("build").ok();
    let size =
        |c: &crate::support::Checkout| c.kache_json("stats --json")["store"]["bytes"].as_u64().unwrap();
    let one_build = size(&c);
    for n in 0..4 {
        c.write("base/src/words.rs", format!("pub fn greeting() -> &'static str {{\n    \"{n}\"\n}}\n"));
        c.cargo("build").ok();
    }
    assert!(size(&c) > one_build);
    c.kache_prints(&format!("gc --max-size {}", one_build + one_build / 2));
    assert!(size(&c) <= one_build + one_build / 2);
    c.kache_prints("doctor --verify");
    c.clean();
    c.cargo("build").ok();
    c.kache_prints("gc --max-size 0");
    assert_eq!(size(&c), 0);
    c.cargo("build").ok().fresh();
    c.clean();
    c.cargo("build").ok();
    assert!(c.prints("target/debug/app").contains("base 3, world"));
}

/// A store that is always too small throws away all the time; no build notices.
#[test]
fn gc_while_building() {
    let world = World::plain();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let checkouts: Vec<_> =
        (0..2).map(|n| world.checkout(&format!("c{n}"), "workspace").env("KACHE_MAX_SIZE", "1MiB")).collect();
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let output = world.kache("gc --max-size 1MiB");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                rounds += 1;
            }
            rounds
        });
        let builders: Vec<_> = checkouts
            .iter()
            .map(|c| {
                scope.spawn(move || {
                    for _ in 0..4 {
                        let output = c.cargo_output(["build"]);
                        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                        assert!(c.prints("target/debug/app").contains("native 42"));
                        c.clean();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = builders.into_iter().map(|b| b.join()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
        assert!(ended.iter().all(Result::is_ok));
    });
    world.kache("doctor --verify");
    let verified = checkouts[0].kache(&["doctor", "--verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn doctor_tells_how_things_stand() {
    let world = World::plain();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    let told = c.kache_prints("doctor");
    assert!(told.contains(world.cache().to_str().unwrap()), "{told}");
    assert!(told.contains("RUSTC_WRAPPER"), "{told}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(c.kache_prints(&format!("completions {shell}")).contains("kache"), "{shell}");
    }
}
