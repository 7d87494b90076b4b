//! The upload queue, and entries that come from elsewhere.

use kache_wrapper::cache::{
    Cache, Content, Dest, Entry, EntryKey, InvocationKey, Output, Placement, Publication, Sharing,
};

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cache"), Options::default()).unwrap();
    (dir, store)
}

fn shared(bytes: &[u8]) -> Shared {
    let blob = *blake3::hash(bytes).as_bytes();
    let output = Output {
        dest: Dest::OutDir(b"out".to_vec()),
        blob,
        size: bytes.len() as u64,
        executable: true,
        sharing: Sharing::Copy,
    };
    let entry = Entry {
        crate_name: "c".into(),
        kind: "lib".into(),
        outputs: vec![output],
        texts: Vec::new(),
        stdout: Vec::new(),
        stderr: Vec::new(),
        took_ms: 7,
    };
    let publication =
        Publication { invocation: InvocationKey([1; 32]), record: vec![2], key: EntryKey([3; 32]), entry };
    let facts = vec![
        ("crate-2".to_owned(), blob, vec![4]),
        ("crate-2".to_owned(), [9; 32], vec![5]),
        ("sysroot".to_owned(), blob, vec![6]),
    ];
    Shared { publication, facts }
}

#[test]
fn an_entry_from_elsewhere_is_found_and_its_blob_is_known_to_be_fetchable() {
    let (dir, store) = store();
    let it = shared(b"bytes");
    let blob = it.publication.entry.outputs[0].blob;
    store.import(&it).unwrap();
    assert_eq!(store.entry(&EntryKey([3; 32])).unwrap(), Some(it.publication.entry.clone()));
    assert_eq!(store.records(&InvocationKey([1; 32])).unwrap(), [vec![2]]);
    assert_eq!(store.fetchable(&blob).unwrap(), Some((5, true)));

    let mut incoming = store.incoming().unwrap();
    std::io::Write::write_all(incoming.file().unwrap(), b"bytes").unwrap();
    store.publish_incoming(incoming, &blob, true).unwrap();
    assert_eq!(store.fetchable(&blob).unwrap(), None);
    let content = Content::Blob { hash: blob, size: 5, executable: true, sharing: Sharing::Copy };
    let path = dir.path().join("out");
    store.restore(&EntryKey([3; 32]), &[Placement { path: path.clone(), content }]).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"bytes");
    assert_eq!(store.shared(&EntryKey([3; 32])).unwrap().unwrap().publication.record, [2]);
}

#[test]
fn facts_from_elsewhere_are_about_outputs_and_replace_nothing() {
    let (_dir, store) = store();
    let it = shared(b"bytes");
    let blob = it.publication.entry.outputs[0].blob;
    store.import(&it).unwrap();
    assert_eq!(store.fact("crate-2", &blob).unwrap(), Some(vec![4]), "at once");
    assert_eq!(store.fact("crate-2", &[9; 32]).unwrap(), None);
    assert_eq!(store.fact("sysroot", &blob).unwrap(), None);
    store.set_fact("crate-2", &blob, &[8]).unwrap();
    store.import(&it).unwrap();
    assert_eq!(store.fact("crate-2", &blob).unwrap(), Some(vec![8]));
}

#[test]
fn a_blob_that_cannot_be_had_takes_its_entries_along() {
    let (_dir, store) = store();
    let it = shared(b"bytes");
    store.import(&it).unwrap();
    store.unfetchable(&it.publication.entry.outputs[0].blob).unwrap();
    assert_eq!(store.entry(&EntryKey([3; 32])).unwrap(), None);
}

#[test]
fn a_download_that_breaks_off_leaves_nothing() {
    let (dir, store) = store();
    drop(store.incoming().unwrap());
    assert_eq!(std::fs::read_dir(dir.path().join("cache/store/tmp")).unwrap().count(), 0);
}

#[test]
fn uploads_wait_until_they_are_done() {
    let (dir, store) = store();
    let (a, b) = (EntryKey([1; 32]), EntryKey([2; 32]));
    for key in [&a, &b, &a] {
        store.enqueue_upload("place", key).unwrap();
    }
    store.enqueue_upload("elsewhere", &a).unwrap();
    store.upload_failed("place", &a).unwrap();
    assert_eq!(store.uploads("place", false).unwrap(), [b], "one that failed has to wait");
    drop(store);
    let store = Store::open(&dir.path().join("cache"), Options::default()).unwrap();
    assert_eq!(store.uploads("place", true).unwrap().len(), 2);
    store.upload_ended("place", &a).unwrap();
    store.upload_ended("place", &b).unwrap();
    assert_eq!(
        (store.uploads_waiting("place").unwrap(), store.uploads_waiting("elsewhere").unwrap()),
        (0, 1)
    );
}

#[test]
fn a_build_is_made_of_the_last_entry_of_each_invocation() {
    let (_dir, store) = store();
    let mut it = shared(b"bytes");
    let mut publish = |invocation: u8, key: u8| {
        it.publication.invocation = InvocationKey([invocation; 32]);
        it.publication.key = EntryKey([key; 32]);
        it.publication.record = vec![key];
        store.publish(&it.publication).unwrap();
        store.note_build(&[7; 32], &it.publication.key);
    };
    publish(1, 10);
    publish(2, 20);
    publish(1, 11);
    assert_eq!(store.recent_builds(60).unwrap(), [[7; 32]]);
    assert_eq!(store.build_entries(&[7; 32]).unwrap(), [EntryKey([20; 32]), EntryKey([11; 32])]);
}
