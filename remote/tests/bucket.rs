//! Against a real S3 server over HTTP: what comes back is what went there, whatever happens on the way.

// Not every test misbehaves in every way.
#[allow(dead_code)]
#[path = "support/server.rs"]
mod server;

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, Write};
use std::time::Duration;

use kache_remote::{
    Bucket, Credentials, EntryObject, Error, Fact, Hash, Manifest, Mode, Secret, Settings, sign,
};
use server::{ACCESS_KEY, BUCKET, Fault, SECRET_KEY, Server};

fn settings(server: &Server) -> Settings {
    Settings {
        endpoint: Some(server.endpoint()),
        path_style: true,
        prefix: "team/kache".into(),
        credentials: Some(Credentials {
            access_key: Secret(ACCESS_KEY.into()),
            secret_key: Secret(SECRET_KEY.into()),
        }),
        timeout: Duration::from_millis(400),
        ..Settings::new(BUCKET)
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .unwrap()
        .block_on(future)
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn entry(n: u8) -> EntryObject {
    EntryObject {
        invocation: [n; 32],
        record: vec![n, 1],
        key: [n + 100; 32],
        entry: vec![n; 2000],
        facts: vec![Fact { space: "crate".into(), key: [1; 32], value: vec![1] }],
    }
}

async fn put(bucket: &Bucket, bytes: &[u8]) -> kache_remote::Result<(Hash, u64)> {
    let hash = *blake3::hash(bytes).as_bytes();
    let sent = bucket.put_blob(&hash, bytes.len() as u64, file(bytes), &std::env::temp_dir()).await?;
    Ok((hash, sent))
}

async fn get(bucket: &Bucket, hash: &Hash, size: usize) -> kache_remote::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bucket.fetch_blob(hash, size as u64, &mut bytes).await.map(|()| bytes)
}

#[test]
fn blobs_records_entries_and_manifests_come_back_as_they_went() {
    let server = Server::start();
    run(async {
        let bucket = Bucket::connect(&settings(&server)).await.unwrap();
        let words = b"pub fn again() {}\n".repeat(10_000);
        for bytes in [&words[..], b"small", b""] {
            let (hash, sent) = put(&bucket, bytes).await.unwrap();
            assert!(sent > 0 && (bytes.len() < 100 || sent < bytes.len() as u64 / 10));
            assert_eq!(get(&bucket, &hash, bytes.len()).await.unwrap(), bytes);
            assert_eq!(put(&bucket, bytes).await.unwrap().1, 0, "nothing is sent twice");
        }
        assert_eq!(bucket.entry(&[101; 32]).await.unwrap(), None);
        assert_eq!(bucket.records(&[1; 32], &HashSet::new()).await.unwrap(), Vec::<Vec<u8>>::new());
        bucket.put_entry(&entry(1)).await.unwrap();
        assert_eq!(bucket.entry(&[101; 32]).await.unwrap(), Some(entry(1)));
        assert_eq!(bucket.records(&[1; 32], &HashSet::new()).await.unwrap(), vec![vec![1, 1]]);
        let known = HashSet::from([*blake3::hash(&[1, 1]).as_bytes()]);
        assert!(bucket.records(&[1; 32], &known).await.unwrap().is_empty());

        let manifest = |made| Manifest { made, entries: vec![entry(1)], blobs: vec![([5; 32], vec![6])] };
        for made in [2000, 3000, 1000] {
            bucket.put_manifest(&[9; 32], &manifest(made)).await.unwrap();
        }
        assert_eq!(bucket.manifest(&[9; 32]).await.unwrap(), Some(manifest(3000)));
        assert_eq!(bucket.manifest(&[8; 32]).await.unwrap(), None);
    });
    assert!(
        server
            .objects("")
            .iter()
            .all(|p| p.to_string_lossy().contains("team/kache/v1/") || p.to_string_lossy().contains(".s3s")),
        "{:?}",
        server.objects("")
    );
}

#[test]
fn what_is_there_is_not_overwritten() {
    let server = Server::start();
    run(async {
        let bucket = Bucket::connect(&settings(&server)).await.unwrap();
        bucket.put_entry(&entry(1)).await.unwrap();
        let other = EntryObject { entry: b"another".to_vec(), ..entry(1) };
        bucket.put_entry(&other).await.unwrap();
        assert_eq!(bucket.entry(&[101; 32]).await.unwrap(), Some(entry(1)));

        server.misbehave(Fault::Unconditional);
        bucket.put_entry(&entry(2)).await.unwrap();
        assert_eq!(bucket.entry(&[102; 32]).await.unwrap(), Some(entry(2)));
    });
}

#[test]
fn a_misbehaving_server_gives_an_error_and_never_a_wrong_byte() {
    let server = Server::start();
    run(async {
        let bucket = Bucket::connect(&settings(&server)).await.unwrap();
        let bytes = b"pub fn again() {}\n".repeat(10_000);
        let (hash, _) = put(&bucket, &bytes).await.unwrap();
        bucket.put_entry(&entry(1)).await.unwrap();
        for fault in [
            Fault::Status(500, "InternalError"),
            Fault::Status(503, "SlowDown"),
            Fault::Status(403, "AccessDenied"),
            Fault::Status(403, "RequestTimeTooSkewed"),
            Fault::Status(404, "NoSuchBucket"),
            Fault::Reset,
            Fault::Stall,
            Fault::StallInBody,
            Fault::Truncate,
            Fault::Shorten,
            Fault::Corrupt,
        ] {
            server.misbehave(fault);
            let blob = get(&bucket, &hash, bytes.len()).await.expect_err("a blob");
            let entry = bucket.entry(&[101; 32]).await.expect_err("an entry");
            for error in [&blob, &entry] {
                assert!(
                    !error.to_string().contains(SECRET_KEY) && !error.to_string().contains(ACCESS_KEY),
                    "{error}"
                );
            }
            let as_expected = match fault {
                Fault::Status(403, "RequestTimeTooSkewed") => matches!(blob, Error::Skewed { .. }),
                Fault::Status(403, _) => matches!(blob, Error::Denied { .. }),
                Fault::Status(404, _) => matches!(blob, Error::NoBucket { .. }),
                Fault::Status(..) => matches!(blob, Error::Server { .. }),
                Fault::Stall | Fault::StallInBody => {
                    matches!(blob, Error::TimedOut { .. } | Error::Unreachable { .. })
                }
                Fault::Reset | Fault::Truncate => matches!(blob, Error::Unreachable { .. }),
                _ => matches!(blob, Error::Bad { .. }),
            };
            assert!(as_expected, "{fault:?}: {blob:?}");
        }
        server.misbehave(Fault::None);
        assert_eq!(get(&bucket, &hash, bytes.len()).await.unwrap(), bytes);
    });
}

#[test]
fn an_object_under_another_name_is_refused() {
    let server = Server::start();
    run(async {
        let bucket = Bucket::connect(&settings(&server)).await.unwrap();
        bucket.put_entry(&entry(1)).await.unwrap();
        let (hash, _) = put(&bucket, b"one").await.unwrap();
        let (other, _) = put(&bucket, b"two").await.unwrap();
        let at = |hash: &Hash| {
            server
                .objects(&kache_remote::hex(hash))
                .into_iter()
                .find(|p| p.ends_with(kache_remote::hex(hash)))
                .unwrap()
        };
        std::fs::copy(at(&other), at(&hash)).unwrap();
        assert!(matches!(get(&bucket, &hash, 3).await, Err(Error::Bad { .. })));
        std::fs::write(at(&[101; 32]), std::fs::read(at(blake3::hash(&[1, 1]).as_bytes())).unwrap()).unwrap();
        assert!(matches!(bucket.entry(&[101; 32]).await, Err(Error::Bad { .. })));
    });
}

#[test]
fn where_signatures_are_required_others_cannot_poison() {
    let server = Server::start();
    run(async {
        let key = sign::generate().unwrap();
        let main = Settings { signing_key: Some(Secret(key)), require_signed: true, ..settings(&server) };
        let main = Bucket::connect(&main).await.unwrap();
        let stranger = Bucket::connect(&settings(&server)).await.unwrap();
        stranger.put_entry(&entry(1)).await.unwrap();
        assert!(matches!(main.entry(&[101; 32]).await, Err(Error::Untrusted { .. })));
        stranger.put_manifest(&[9; 32], &Manifest { made: 5, ..Manifest::default() }).await.unwrap();
        assert!(matches!(main.manifest(&[9; 32]).await, Err(Error::Untrusted { .. })));
        main.put_manifest(&[9; 32], &Manifest { made: 4, ..Manifest::default() }).await.unwrap();
        assert_eq!(main.manifest(&[9; 32]).await.unwrap().unwrap().made, 4);
        main.put_entry(&entry(2)).await.unwrap();
        assert_eq!(main.entry(&[102; 32]).await.unwrap(), Some(entry(2)));
        assert_eq!(stranger.entry(&[102; 32]).await.unwrap(), Some(entry(2)));
    });
}

#[test]
fn a_probe_leaves_nothing_and_says_what_is_wrong() {
    let server = Server::start();
    run(async {
        let good = settings(&server);
        let probes = Bucket::connect(&good).await.unwrap().probe().await;
        assert_eq!(probes.iter().map(|p| p.what).collect::<Vec<_>>(), ["list", "put", "get", "delete"]);
        assert!(probes.iter().all(|p| p.result.is_ok()), "{probes:?}");
        assert!(server.objects("/probes/").is_empty());

        let read = Settings { mode: Mode::ReadOnly, ..good.clone() };
        assert_eq!(Bucket::connect(&read).await.unwrap().probe().await.len(), 1);

        let first = |s: Settings| async move {
            let probes = Bucket::connect(&s).await.unwrap().probe().await;
            probes[0].result.clone().expect_err("a failure")
        };
        let wrong = Credentials { access_key: Secret(ACCESS_KEY.into()), secret_key: Secret("wrong".into()) };
        assert!(matches!(
            first(Settings { credentials: Some(wrong), ..good.clone() }).await,
            Error::Denied { .. }
        ));
        assert!(matches!(
            first(Settings { bucket: "other".into(), ..good.clone() }).await,
            Error::NoBucket { .. }
        ));
        let nobody = Settings { endpoint: Some("http://127.0.0.1:1".into()), ..good.clone() };
        assert!(matches!(first(nobody).await, Error::Unreachable { .. }));
        let nowhere = Settings { endpoint: Some("http://kache.invalid".into()), ..good.clone() };
        let error = first(nowhere).await;
        assert!(matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. }), "{error:?}");
        let mut poor = Settings { credentials: None, ..good };
        poor.env.insert("AWS_EC2_METADATA_DISABLED".into(), Secret("true".into()));
        poor.env.insert("HOME".into(), Secret("/nonexistent".into()));
        assert!(matches!(first(poor).await, Error::NoCredentials { .. }));
    });
}

#[test]
fn credentials_come_from_the_given_environment() {
    let server = Server::start();
    run(async {
        let mut settings = Settings { credentials: None, ..settings(&server) };
        for (name, value) in [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)] {
            settings.env.insert(name.into(), Secret(value.into()));
        }
        let bucket = Bucket::connect(&settings).await.unwrap();
        assert!(bucket.put_entry(&entry(1)).await.is_ok());
    });
}

// ---- large blobs

const PART: usize = 8 << 20;
/// Parts that are read ahead at most.
const AHEAD: usize = 4;

/// Does not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Debug builds of a server are slow.
fn patient(server: &Server) -> Settings {
    Settings { timeout: Duration::from_secs(20), ..settings(server) }
}

/// A bucket that has a blob of two parts and a half, and nothing seen yet.
async fn with_large_blob(server: &Server) -> (Bucket, Vec<u8>, Hash) {
    let bucket = Bucket::connect(&patient(server)).await.unwrap();
    let bytes = noise(2 * PART + PART / 2);
    let (hash, _) = put(&bucket, &bytes).await.unwrap();
    server.seen();
    (bucket, bytes, hash)
}

/// What was asked for, in the order of the parts.
fn ranges(server: &Server) -> Vec<String> {
    let mut ranges: Vec<String> = server.seen().into_iter().map(|s| s.range).collect();
    ranges.sort_by_key(|r| (r.len(), r.clone()));
    ranges
}

#[test]
fn a_large_blob_comes_in_parts_at_the_same_time() {
    let server = Server::start();
    run(async {
        let bucket = Bucket::connect(&patient(&server)).await.unwrap();
        let bytes = noise(5 * PART);
        let (hash, _) = put(&bucket, &bytes).await.unwrap();
        server.seen();
        server.misbehave(Fault::Together(AHEAD));
        assert!(get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
        let expected: Vec<String> = (0..6)
            .map(|n| format!("bytes={}-{}", n * PART, ((n + 1) * PART).min(5 * PART + 13) - 1))
            .collect();
        assert_eq!(ranges(&server), expected);
    });
}

#[test]
fn a_blob_that_is_large_when_unpacked_takes_as_many_requests_as_it_has_parts_when_packed() {
    let server = Server::start();
    run(async {
        let bucket = Bucket::connect(&patient(&server)).await.unwrap();
        let half = [noise(PART + PART / 2), vec![0; PART]].concat();
        for (bytes, requests) in [(&half, 2), (&vec![0; 4 * PART], 1)] {
            let (hash, sent) = put(&bucket, bytes).await.unwrap();
            assert!(sent < bytes.len() as u64);
            server.seen();
            assert!(&get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
            assert_eq!(server.seen().len(), requests);
        }
    });
}

#[test]
fn a_blob_that_is_not_large_is_asked_for_as_a_whole() {
    let server = Server::start();
    run(async {
        let bucket = Bucket::connect(&patient(&server)).await.unwrap();
        let bytes = noise(PART);
        let (hash, _) = put(&bucket, &bytes).await.unwrap();
        server.seen();
        assert!(get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
        assert_eq!(ranges(&server), [""]);
    });
}

#[test]
fn several_large_blobs_read_no_more_ahead_than_one() {
    let server = Server::start();
    run(async {
        let (bucket, bytes, hash) = with_large_blob(&server).await;
        let others = [noise(2 * PART), noise(3 * PART)];
        for other in &others {
            put(&bucket, other).await.unwrap();
        }
        let all = |bucket: Bucket| {
            let bucket = std::sync::Arc::new(bucket);
            let gets = [&bytes, &others[0], &others[1]].map(|bytes| {
                let (bucket, bytes) = (std::sync::Arc::clone(&bucket), bytes.clone());
                tokio::spawn(async move {
                    let hash = *blake3::hash(&bytes).as_bytes();
                    assert!(get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
                })
            });
            async move {
                for get in gets {
                    get.await.unwrap();
                }
            }
        };
        server.misbehave(Fault::Latency(Duration::from_millis(50)));
        server.busiest();
        all(bucket).await;
        let busiest = server.busiest();
        assert!(busiest <= 3 + AHEAD, "{busiest} requests at the same time");

        let one = Settings { concurrency: 1, ..patient(&server) };
        let one = Bucket::connect(&one).await.unwrap();
        assert!(get(&one, &hash, bytes.len()).await.unwrap() == bytes);
        assert_eq!(server.busiest(), 1);
    });
}

#[test]
fn a_server_without_ranges_sends_large_blobs_as_a_whole() {
    let server = Server::start();
    run(async {
        let (bucket, bytes, hash) = with_large_blob(&server).await;
        server.misbehave(Fault::NoRanges);
        assert!(get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
        assert_eq!(server.seen().len(), 1);

        // Or it forgets about them.
        server.misbehave_at("bytes=8388608-", Fault::NoRanges);
        assert!(matches!(get(&bucket, &hash, bytes.len()).await, Err(Error::Bad { .. })));
    });
}

#[test]
fn a_weak_tag_is_no_condition() {
    let server = Server::start();
    run(async {
        let (bucket, bytes, hash) = with_large_blob(&server).await;
        server.misbehave(Fault::Header("etag", "W/\"weak\""));
        assert!(get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
    });
}

#[test]
fn a_part_that_breaks_off_is_asked_for_once_more_from_there() {
    let server = Server::start();
    run(async {
        let (bucket, bytes, hash) = with_large_blob(&server).await;
        // The part that is taken as it comes, and one that was read ahead.
        for (part, end) in [("bytes=0-", "-8388607"), ("bytes=8388608-", "-16777215")] {
            server.misbehave_at(part, Fault::Truncate);
            assert!(get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
            let ranges = ranges(&server);
            let again = ranges.iter().filter(|r| r.ends_with(end) && !r.starts_with(part)).count();
            assert!(ranges.len() == 4 && again == 1, "{ranges:?}");
        }
        let less_patient = Settings { timeout: Duration::from_secs(3), ..settings(&server) };
        let less_patient = Bucket::connect(&less_patient).await.unwrap();
        server.misbehave_at("bytes=8388608-", Fault::StallInBody);
        assert!(get(&less_patient, &hash, bytes.len()).await.unwrap() == bytes);

        // Once, and not again.
        server.seen();
        server.misbehave(Fault::Truncate);
        assert!(matches!(get(&bucket, &hash, bytes.len()).await, Err(Error::Unreachable { .. })));
        assert_eq!(ranges(&server).iter().filter(|r| r.ends_with("-8388607")).count(), 2);
    });
}

/// Only a later part tells that it is not true.
const LESS: Fault = Fault::Header("content-range", "bytes 0-8388607/20971532");

#[test]
fn one_part_that_is_wrong_is_an_error() {
    let server = Server::start();
    run(async {
        let (bucket, bytes, hash) = with_large_blob(&server).await;
        let hasty = Bucket::connect(&settings(&server)).await.unwrap();
        for part in ["bytes=0-", "bytes=16777216-"] {
            for fault in [
                Fault::Status(500, "InternalError"),
                Fault::Status(403, "AccessDenied"),
                Fault::Status(404, "NoSuchKey"),
                Fault::Status(416, "InvalidRange"),
                Fault::Reset,
                Fault::Stall,
                Fault::Shorten,
                Fault::Lengthen,
                Fault::Corrupt,
                Fault::Header("content-range", "bytes 0-8388607/30000000"),
                LESS,
                Fault::Header("content-range", "bytes 0-8388607/18446744073709551615"),
                Fault::Header("content-range", "bytes 8388608-16777215/20971534"),
                Fault::Header("content-range", "bytes 16777216-16777216/20971533"),
                Fault::Header("content-range", "bytes 0-0/20971533"),
                Fault::Header("content-range", "bytes 0-0/0"),
                Fault::Header("content-range", "bytes 0-8388607/*"),
                Fault::Header("content-range", "none"),
            ] {
                server.misbehave_at(part, fault);
                server.seen();
                let bucket = if fault == Fault::Stall { &hasty } else { &bucket };
                let error = get(bucket, &hash, bytes.len()).await.expect_err("a blob");
                let as_expected = match fault {
                    Fault::Status(403, _) => matches!(error, Error::Denied { .. }),
                    Fault::Status(404, _) => matches!(error, Error::Gone { .. }),
                    Fault::Status(500, _) => matches!(error, Error::Server { .. }),
                    Fault::Reset => matches!(error, Error::Unreachable { .. }),
                    Fault::Stall => matches!(error, Error::TimedOut { .. }),
                    Fault::Shorten | Fault::Lengthen => error.to_string().contains("a part of it is"),
                    _ => matches!(error, Error::Bad { .. }),
                };
                assert!(as_expected, "{part}: {fault:?}: {error:?}");
                if part == "bytes=0-" && matches!(fault, Fault::Header(..)) && fault != LESS {
                    assert_eq!(server.seen().len(), 1, "{fault:?}");
                }
            }
        }
        server.misbehave(Fault::None);
        assert!(get(&bucket, &hash, bytes.len()).await.unwrap() == bytes);
    });
}

#[test]
fn a_blob_is_never_made_of_two_objects() {
    let server = Server::start();
    run(async {
        let (bucket, bytes, hash) = with_large_blob(&server).await;
        server.misbehave(Fault::Replace);
        match get(&bucket, &hash, bytes.len()).await {
            Err(Error::Bad { how, .. }) => assert_eq!(how, "it was replaced while it was read"),
            other => panic!("{other:?}"),
        }
    });
}
