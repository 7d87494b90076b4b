//! What accounts are made of logs.

use super::{is_pending, read};
use crate::account::{Access, Account, How, What};
use crate::format::{CHILD, COMPLETE, CUT, Entry, FIRST, HELLO, NOBODY, how, kind, what};
use crate::map::{Map, Memory, gap};
use std::path::Path;

const OURS: &str = "/observer.so";

/// A log that is being written.
struct Story {
    memory: Memory,
    map: Map,
}

impl Story {
    fn new() -> Story {
        let (memory, map) = Memory::new().unwrap();
        Story { memory, map }
    }

    fn entry(&self, process: u32, kind: u8, detail: u8, value: u32, text: impl AsRef<[u8]>) -> &Story {
        // Each process has a number of the kernel.
        let (pid, text) = (process.wrapping_add(100), text.as_ref());
        self.map.append(&Entry { process, kind, detail, object: 0, value, pid, text });
        self
    }

    /// A program begins, and says so.
    fn begins(&self, process: u32, sequence: u32, command: &str) -> &Story {
        self.entry(process, kind::ATTACHED, 0, sequence, command)
    }

    /// A program begins, and the kernel says so of a process with this number.
    fn seen(&self, process: u32, detail: u8, parent: u32, pid: u32, command: &str) -> &Story {
        let text = command.as_bytes();
        self.map.append(&Entry { process, kind: kind::SEEN, detail, object: 0, value: parent, pid, text });
        self
    }

    fn does(&self, process: u32, how: u8, path: impl AsRef<[u8]>) -> &Story {
        self.entry(process, kind::ACCESS, how, 0, path)
    }

    fn bytes(&self) -> Vec<u8> {
        self.memory.read().unwrap()
    }

    fn account(&self) -> Account {
        read(&self.bytes(), Path::new(OURS), true)
    }
}

/// What was done to paths, but for programs that began.
fn accesses(account: &Account) -> Vec<(How, &str)> {
    let others = account.accesses.iter().filter(|access| access.how != How::Exec);
    others.map(|access| (access.how, access.path.to_str().unwrap())).collect()
}

#[test]
fn who_started_whom() {
    let story = Story::new();
    story.begins(0, 1, "/one\0one\0--\0").entry(0, kind::EXEC, 0, 5, "/two").begins(1, 5, "/two\0two\0\0");
    // Out of sight, with the environment of the one that did it.
    story.begins(2, 5, "/three\0");
    let account = story.account();
    let all = account.processes.iter().map(|p| (p.program.to_str().unwrap(), p.argv.len(), p.parent));
    assert_eq!(all.collect::<Vec<_>>(), [("/one", 2, None), ("/two", 2, Some(0)), ("/three", 0, Some(1))]);
    let begun: Vec<_> =
        account.accesses.iter().map(|a| (a.how, a.path.to_str().unwrap(), a.process)).collect();
    assert_eq!(begun, [(How::Exec, "/one", 0), (How::Exec, "/two", 1), (How::Exec, "/three", 2)]);
    assert_eq!(account.gaps, [""; 0]);
}

#[test]
fn programs_that_are_gone_and_arguments_that_are_cut() {
    let story = Story::new();
    story.entry(0, kind::ATTACHED, CUT, 1, "/one (deleted)\0one\0tw").seen(1, CUT, 0, 7, "/two\0");
    story.begins(2, 1, "/three\0three\0").seen(3, CHILD, 0, 8, "/four\0").seen(
        4,
        CHILD | CUT,
        0,
        9,
        "/five\0",
    );
    let account = story.account();
    assert_eq!(account.processes[0].program, Path::new("/one"));
    assert_eq!(account.processes[0].argv, ["one", "tw"]);
    let cut: Vec<bool> = account.processes.iter().map(|process| process.argv_cut).collect();
    assert_eq!(cut, [true, true, false, false, true]);
    // A child executes nothing.
    let begun: Vec<_> = account.accesses.iter().map(|access| access.path.to_str().unwrap()).collect();
    assert_eq!(begun, ["/one", "/two", "/three"]);
}

#[test]
fn a_process_that_both_have_seen_is_one() {
    let story = Story::new();
    story.begins(0, 1, "/one\0").seen(1, 0, 0, 102, "/two\0").begins(2, 9, "/two\0two\0");
    // The process became another program meanwhile.
    story.seen(3, 0, 0, 104, "/three\0").begins(4, 9, "/four\0");
    story.seen(5, CHILD, 4, 106, "/four\0").entry(6, kind::FORKED, 0, 4, "");
    let account = story.account();
    let all = account.processes.iter().map(|p| (p.program.to_str().unwrap(), p.argv.len(), p.parent));
    let expected = [
        ("/one", 0, None),
        ("/two", 1, Some(0)),
        ("/three", 0, Some(0)),
        ("/four", 0, Some(1)),
        ("/four", 0, Some(3)),
    ];
    assert_eq!(all.collect::<Vec<_>>(), expected);
    // What is only seen may have its environment from anywhere.
    let whole: Vec<bool> = account.processes.iter().map(|process| process.whole_environment).collect();
    assert_eq!(whole, [false, false, true, false, false]);
}

#[test]
fn libraries_that_have_the_environment() {
    for (library, imports, whole) in [
        ("/lib/libother.so", 1, true),
        ("/lib/libother.so", 0, false),
        ("/lib/libc.so.6", 1, false),
        ("/lib/libc-2.31.so", 1, false),
        ("/lib/libc.musl-x86_64.so.1", 1, false),
        ("/lib/ld-linux.so.2", 1, false),
        ("/lib/libstdc++.so.6", 1, false),
        ("", 1, true),
    ] {
        let story = Story::new();
        story.begins(0, 1, "/one\0").entry(0, kind::OBJECT, imports, 0, library);
        let account = story.account();
        assert_eq!(account.processes[0].whole_environment, whole, "{library} {imports}");
        let expected = if library.is_empty() { vec![] } else { vec![(How::Read, library)] };
        assert_eq!(accesses(&account), expected);
    }
}

#[test]
fn where_libraries_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    for name in ["one", "two", "three"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    // Of another machine, perhaps.
    for name in ["two/l.so", "three/l.so"] {
        std::fs::write(at(name), "").unwrap();
    }
    let story = Story::new();
    let path = format!("relative:{}:{}:{}:{}", at("one"), at("two"), at("three"), at("four"));
    story.begins(0, 1, "/one\0").entry(0, kind::LIBRARIES, 0, 0, path);
    story.entry(0, kind::OBJECT, 0, 0, at("three/l.so"));
    let account = story.account();
    assert_eq!(accesses(&account), [(How::Absent, &at("one/l.so")[..]), (How::Read, &at("three/l.so"))]);
    assert_eq!(account.variables[0].name, "LD_LIBRARY_PATH");
}

#[test]
fn code_of_one_file_is_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let dir = std::fs::canonicalize(dir.path()).unwrap();
    std::fs::write(dir.join("file"), "").unwrap();
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    let [file, link] = ["file", "link"].map(|name| dir.join(name).to_str().unwrap().to_string());
    let story = Story::new();
    story.begins(0, 1, "/one\0").begins(1, 1, &format!("{file}\0")).begins(2, 1, &format!("{link}\0"));
    let of = |process: u32, object: u16| {
        let text = b"/path";
        let detail = process as u8;
        let kind = kind::ACCESS;
        story.map.append(&Entry { process, kind, detail, object, value: 0, pid: 0, text });
    };
    // Of no file, and of a library that was never introduced.
    of(0, u16::MAX);
    of(1, 3);
    of(2, 0);
    let account = story.account();
    assert_eq!(account.objects, ["/one", &file, ""].map(Path::new));
    let objects = account.accesses.iter().filter(|access| access.path == Path::new("/path"));
    assert_eq!(objects.map(|access| access.object).collect::<Vec<_>>(), [2, 1, 1]);
}

#[test]
fn children_have_the_objects_of_their_parents() {
    let story = Story::new();
    story.begins(0, 1, "/one\0").entry(0, kind::OBJECT, 0, 0, "/lib/l.so").entry(1, kind::FORKED, 0, 0, "");
    story.entry(1, kind::VARIABLE, 0, 0, "NAME").entry(1, kind::VARIABLE, 0, 0, "NAME");
    let account = story.account();
    let [variable] = &account.variables[..] else { panic!("{account:#?}") };
    assert_eq!(
        (variable.process, account.objects[variable.object as usize].to_str()),
        (1, Some("/lib/l.so"))
    );
}

#[test]
fn questions_to_the_system() {
    let story = Story::new();
    story.begins(0, 1, "/one\0");
    for what in [what::CLOCK, what::DIRECTORY, what::HOST, what::CONNECT, what::RANDOM, what::RANDOM] {
        story.entry(0, kind::CALL, what, 0, "there");
    }
    let whats: Vec<What> = story.account().calls.into_iter().map(|call| call.what).collect();
    let there = What::Connect("there".into());
    assert_eq!(whats, [What::Clock, What::WorkingDirectory, What::Host, there, What::Random]);
}

#[test]
fn every_way_to_look_at_a_path() {
    let story = Story::new();
    story.begins(0, 1, "/one\0");
    (how::READ..=how::MODE + 1).for_each(|how| _ = story.does(0, how, "/path").does(0, how, "/path"));
    // Of a process that nobody introduced.
    story.does(1, how::READ, "/other");
    let hows: Vec<How> = story.account().accesses.iter().skip(1).map(|access| access.how).collect();
    use How::*;
    assert_eq!(hows, [Read, List, Stat, Link, Resolve, Absent, Exec, Write, Remove, Mode]);
}

#[test]
fn what_a_process_learns_of_itself() {
    use How::{Link, Read, Resolve, Stat};
    let own = ["/proc/self", "/proc/thread-self", "/proc/100", "/proc/self/task/7"];
    for (how, path, expected) in [
        (how::LINK, "exe", Some((Link, "/proc/self/exe"))),
        (how::RESOLVE, "exe", Some((Resolve, "/proc/self/exe"))),
        (how::READ, "exe", Some((Read, "/one"))),
        (how::STAT, "exe", None),
        (how::READ, "cmdline", Some((Read, "/proc/self/cmdline"))),
        (how::STAT, "cmdline", None),
        (how::READ, "environ", Some((Read, "/proc/self/environ"))),
        (how::READ, "maps", None),
        (how::LIST, "fd", None),
        (how::LINK, "fd/7", None),
        (how::LINK, "root", None),
        (how::READ, "task", None),
    ] {
        for own in own {
            let story = Story::new();
            story.begins(0, 1, "/one\0").does(0, how, format!("{own}/{path}"));
            let account = story.account();
            assert_eq!(accesses(&account), Vec::from_iter(expected), "{own}/{path}");
            assert_eq!(account.processes[0].whole_environment, path == "environ");
            assert_eq!((account.calls.len(), account.gaps.len()), (0, 0), "{own}/{path}");
        }
    }
    // Of others it is a file as any other.
    for path in
        ["/proc/101/exe", "/proc/101/maps", "/proc/cpuinfo", "/proc/cwd", "/proc", "/proc/selfish/exe"]
    {
        let story = Story::new();
        story.begins(0, 1, "/one\0").does(0, how::STAT, path);
        assert_eq!(accesses(&story.account()), [(Stat, path)]);
    }
}

#[test]
fn links_of_a_process_to_directories() {
    for own in ["/proc/self", "/proc/100", "/proc/101", "/proc/self/task/7"] {
        let story = Story::new();
        story.begins(0, 1, "/one\0").does(0, how::LINK, format!("{own}/cwd"));
        let account = story.account();
        assert_eq!(accesses(&account), []);
        assert_eq!(account.calls[0].what, What::WorkingDirectory, "{own}");
    }
    for (how, path) in [
        (how::READ, "/proc/self/cwd/file"),
        (how::ABSENT, "/proc/self/root/file"),
        (how::READ, "/proc/self/fd/7"),
        (how::STAT, "/proc/self/fd/7/file"),
        (how::STAT, "/dev/fd/7/file"),
    ] {
        let story = Story::new();
        let account = story.begins(0, 1, "/one\0").does(0, how, path).account();
        assert_eq!(accesses(&account), []);
        assert_eq!(account.gaps, [format!("it went by way of {path}")]);
    }
}

#[test]
fn devices_that_are_the_same_everywhere() {
    let story = Story::new();
    story.begins(0, 1, "/one\0");
    for path in ["/dev/null", "/dev/urandom", "/dev/pts/7", "/dev/fd/7", "/dev/fd", "/dev/stdin", OURS] {
        story.does(0, how::READ, path);
    }
    story.does(0, how::ABSENT, HELLO).does(0, how::READ, "/dev/disk").does(0, how::READ, "/dev/nullable");
    let account = story.account();
    assert_eq!(accesses(&account), [(How::Read, "/dev/disk"), (How::Read, "/dev/nullable")]);
    assert_eq!(account.gaps, [""; 0]);
}

#[test]
fn programs_that_did_not_report() {
    let pending = |story: &Story| (is_pending(&story.bytes()), story.account().gaps);
    let story = Story::new();
    story.begins(0, 1, "/one\0");
    assert_eq!(pending(&story), (false, vec![]));
    for sequence in 2..6 {
        story.entry(0, kind::EXEC, 0, sequence, "/two");
    }
    let gap = "a program could not be observed: /two".to_string();
    assert_eq!(pending(&story), (true, vec![gap.clone()]));
    story.entry(0, kind::EXEC_FAILED, 0, 2, "").entry(NOBODY, kind::WATCHED, 0, 3, "").begins(1, 4, "/two\0");
    assert_eq!(pending(&story), (true, vec![gap]));
    story.begins(2, 5, "/two\0");
    assert_eq!(pending(&story), (false, vec![]));
}

#[test]
fn gaps_are_told_once() {
    let story = Story::new();
    gap(&story.map, "why");
    gap(&story.map, "why");
    story.entry(0, kind::GAP, 0, 0, "also");
    assert_eq!(story.account().gaps, ["why", "also"]);
}

#[test]
fn logs_that_are_damaged() {
    const DAMAGE: &str = "the log is damaged: a process ended while it reported";
    let story = Story::new();
    story.begins(0, 1, "/one\0").does(0, how::READ, "/a").does(0, how::READ, "/b");
    let whole = story.bytes();
    let account = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let account = read(&bytes, Path::new(OURS), true);
        (accesses(&account).iter().map(|(_, path)| path.to_string()).collect::<Vec<_>>(), account.gaps)
    };
    let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let first = FIRST as usize;
    let second = first + (word(&whole, first) & !COMPLETE) as usize;
    let put =
        |bytes: &mut Vec<u8>, at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    let damage = || vec![DAMAGE.to_string()];
    assert_eq!(account(&|_| ()), (vec!["/a".into(), "/b".into()], vec![]));
    // A record that was not completed, and one whose text is longer than itself.
    let incomplete = |bytes: &mut Vec<u8>| put(bytes, second, word(bytes, second) & !COMPLETE);
    assert_eq!(account(&incomplete), (vec!["/b".into()], damage()));
    let room = (word(&whole, second) & !COMPLETE) - 24;
    assert_eq!(account(&|bytes| put(bytes, second + 20, room + 1)), (vec!["/b".into()], damage()));
    assert_eq!(account(&|bytes| put(bytes, second + 20, room)).1, [""; 0]);
    // Where nobody knows how long it is, the rest is lost.
    for length in [0, 23, 4096] {
        assert_eq!(account(&|bytes| put(bytes, second, length | COMPLETE)), (vec![], damage()), "{length}");
    }
    assert_eq!(account(&|bytes| bytes.truncate(whole.len() - 1)), (vec!["/a".into()], damage()));
    assert_eq!(account(&|bytes| bytes.extend([0, 0])), (vec!["/a".into(), "/b".into()], damage()));
    assert_eq!(account(&|bytes| bytes.truncate(first)), (vec![], vec![]));
    for length in [0, first - 1] {
        assert_eq!(account(&|bytes| bytes.truncate(length)), (vec![], damage()));
    }
    // That there was no room explains a last record that is not there.
    let full = |bytes: &mut Vec<u8>| {
        bytes[32] = 1;
        bytes.extend([0; 64]);
    };
    assert_eq!(account(&full).1, ["there was no room for all that was reported"]);
}

#[test]
fn processes_that_still_run() {
    let story = Story::new();
    let account = || read(&story.bytes(), Path::new(OURS), false);
    assert_eq!(account().gaps, ["a process that was started still runs: of unknown name"]);
    let (pid, value, detail, object) = (std::process::id(), 1, 0, 0);
    for (process, text) in [(0, b"/one\0"), (1, b"/two\0")] {
        story.map.append(&Entry { process, kind: kind::ATTACHED, detail, object, value, pid, text });
    }
    // Nobody has this number.
    let (pid, text) = (i32::MAX as u32, b"/end\0");
    story.map.append(&Entry { process: 2, kind: kind::ATTACHED, detail, object, value, pid, text });
    assert_eq!(account().gaps, ["a process that was started still runs: /two"]);
}

#[test]
fn the_same_access_by_another_is_another() {
    let story = Story::new();
    story.begins(0, 1, "/one\0").begins(1, 1, "/one\0");
    story.does(0, how::READ, "/a").does(1, how::READ, "/a").does(0, how::READ, "/a");
    let all: Vec<Access> = story.account().accesses.into_iter().filter(|a| a.how == How::Read).collect();
    assert_eq!(all.iter().map(|access| access.process).collect::<Vec<_>>(), [0, 1]);
}
