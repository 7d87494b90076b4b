//! Measurements of a large index, run by `scripts/bench/scale`; nothing is asserted about time.

use std::time::{Duration, Instant};

use kache_wrapper::cache::{Cache, Dest, Entry, EntryKey, InvocationKey, Output, Sharing};
use rusqlite::params;

use super::*;

const ENTRIES: u64 = 200_000;
const BLOBS_PER_ENTRY: u64 = 5;

fn key(kind: &str, n: u64) -> Hash {
    *blake3::hash(format!("{kind} {n}").as_bytes()).as_bytes()
}

/// An index of so many entries, whose blobs are not on disk.
fn fill(store: &Store) {
    store
        .with(|conn| {
            let tx = conn.transaction()?;
            for n in 0..ENTRIES {
                let outputs = (0..BLOBS_PER_ENTRY).map(|b| Output {
                    dest: Dest::OutDir(format!("libcrate_{n}-{b}.rlib").into_bytes()),
                    blob: key("blob", n * BLOBS_PER_ENTRY + b),
                    size: 100_000,
                    executable: false,
                    sharing: Sharing::Link,
                });
                let entry = Entry {
                    crate_name: format!("crate_{}", n % 5000),
                    kind: "lib".into(),
                    outputs: outputs.collect(),
                    texts: Vec::new(),
                    stdout: Vec::new(),
                    stderr: vec![b'x'; 300],
                    took_ms: 1000,
                };
                let outputs = entry.outputs.clone();
                let (invocation, key) = (InvocationKey(key("invocation", n)), EntryKey(key("entry", n)));
                let record = n.to_le_bytes().to_vec();
                index::insert_entry(&tx, &Publication { invocation, record, key, entry }, n as i64)?;
                for output in &outputs {
                    tx.prepare_cached("INSERT INTO blobs VALUES (?, ?, ?, 1, 1, ?, ?)")?.execute(params![
                        output.blob,
                        100_000,
                        102_400,
                        store.boot,
                        n as i64
                    ])?;
                }
            }
            tx.commit()?;
            // A store that has grown bit by bit has a short log.
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })
        .unwrap();
}

fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)].as_micros();
    println!("{name:<44} median {:>7} µs   p99 {:>7} µs   longest {:>7} µs", at(500), at(990), at(1000));
}

fn lookup(store: &Store, n: u64) -> Duration {
    let began = Instant::now();
    assert_eq!(store.records(&InvocationKey(key("invocation", n))).unwrap().len(), 1);
    let entry = store.entry(&EntryKey(key("entry", n))).unwrap().expect("an entry");
    for output in &entry.outputs {
        assert!(store.find_blob(&output.blob).unwrap().is_some());
    }
    began.elapsed()
}

#[test]
#[ignore = "a measurement: scripts/bench/scale"]
fn scale() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let open = || Store::open(&cache, Options::default()).unwrap();
    let began = Instant::now();
    fill(&open());
    println!("made {ENTRIES} entries of {BLOBS_PER_ENTRY} blobs in {:.1} s", began.elapsed().as_secs_f64());

    let mut random: u64 = 88_172_645_463_325_252;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % ENTRIES
    };
    percentiles("open", (0..50).map(|_| timed(open)).collect());
    percentiles("open and look one entry up", (0..200).map(|_| timed(|| lookup(&open(), next()))).collect());
    let store = open();
    percentiles("look up, warm", (0..20_000).map(|_| lookup(&store, next())).collect());

    // A tenth goes; meanwhile somebody looks up what stays (the newest), as a build does.
    let bytes = store.totals().unwrap().bytes;
    let collector = std::thread::spawn({
        let store = open();
        move || timed(|| store.gc(bytes - 1).unwrap())
    });
    let mut during = Vec::new();
    while !collector.is_finished() {
        let n = ENTRIES - 1 - next() % 1000;
        let began = Instant::now();
        let _in_use = store.gc_lock.lock().unwrap();
        lookup(&store, n);
        during.push(began.elapsed());
    }
    println!("gc of a tenth: {:.1} s", collector.join().unwrap().as_secs_f64());
    percentiles("lock and look up during gc", during);
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    drop(work());
    began.elapsed()
}
