//! What programs do with files.

mod common;

use common::{Place, access, asker, complete, hows, programs};
use kache_trace::{How, What};
use std::fs;
use std::process::Command;

#[test]
fn a_shell_and_its_children() {
    let place = Place::new();
    let input = place.write("input", "text");
    let account =
        complete(place.shell("cat input >output; cat missing 2>&- || true; ls . >&-  2>&-; rm output"));
    assert_eq!(hows(&account, &input), [How::Read]);
    assert_eq!(hows(&account, place.at("output")), [How::Absent, How::Write, How::Stat, How::Remove]);
    assert_eq!(hows(&account, place.at("missing")), [How::Absent]);
    assert!(hows(&account, &place.path).contains(&How::List));
    assert_eq!(programs(&account)[1..], ["cat", "cat", "ls", "rm"]);
    assert_eq!(account.processes[1].argv, ["cat", "input"]);
    assert_eq!(account.processes[1].parent, Some(0));
    assert_eq!(access(&account, How::Read, &input).process, 1);
}

#[test]
fn a_file_that_is_replaced() {
    let place = Place::new();
    place.write("file", "old");
    let account = complete(
        place.shell("echo new >file.tmp && mv file.tmp file; mkdir made; ln -s file link; readlink link"),
    );
    assert!(hows(&account, place.at("file")).contains(&How::Write));
    assert!(hows(&account, place.at("file.tmp")).ends_with(&[How::Remove]));
    assert_eq!(hows(&account, place.at("made")).last(), Some(&How::Write));
    assert!(hows(&account, place.at("link")).contains(&How::Link));
}

#[test]
fn what_is_appended_to_was_read() {
    let place = Place::new();
    place.write("log", "first\n");
    let account = complete(place.shell("echo second >>log; echo third >>new"));
    assert_eq!(hows(&account, place.at("log")), [How::Read, How::Write]);
    assert_eq!(hows(&account, place.at("new")), [How::Absent, How::Write]);
}

#[test]
fn a_directory_that_is_opened_as_a_file_has_no_content() {
    let place = Place::new();
    place.write("dir/file", "text");
    let account = complete(place.shell("cat dir 2>&- || cat dir/file"));
    assert_eq!(hows(&account, place.at("dir")), [How::Stat]);
    assert_eq!(hows(&account, place.at("dir/file")), [How::Read]);
}

#[test]
fn a_file_that_is_opened_as_a_directory_is_there() {
    let place = Place::new();
    place.write("file", "text");
    let account = complete(place.shell("ls file/x 2>&-; ln -s x file 2>&-; true"));
    assert!(!hows(&account, place.at("file")).contains(&How::Absent), "{account:?}");
    assert_eq!(hows(&account, place.at("file/x")), [How::Absent]);
}

#[test]
fn paths_are_absolute_and_as_they_were_named() {
    let place = Place::new();
    place.write("a/b/file", "text");
    std::os::unix::fs::symlink("a", place.at("link")).unwrap();
    let account = complete(place.shell("cd a//./b && cat ./file ../b/file ../../link/b/./file"));
    assert_eq!(hows(&account, place.at("a/b/file")), [How::Read]);
    assert_eq!(hows(&account, place.at("a/b/../b/file")), [How::Read]);
    assert_eq!(hows(&account, place.at("a/b/../../link/b/file")), [How::Read]);
}

#[test]
fn places_where_a_program_is_not() {
    let place = Place::new();
    fs::create_dir(place.at("one")).unwrap();
    fs::create_dir(place.at("two")).unwrap();
    place.write("two/tool", "#!/bin/sh\necho found\n");
    std::os::unix::fs::symlink("/bin/sh", place.at("one/sh")).unwrap();
    Command::new("chmod").arg("+x").arg(place.at("two/tool")).status().unwrap();
    let program = place.rust(
        "search",
        &[],
        r#"fn main() { assert!(std::process::Command::new("tool").env("X", "1").status().unwrap().success()) }"#,
    );
    let path = format!("{}:{}:/bin", place.at("one").display(), place.at("two").display());
    let account = complete(place.observe(Command::new(program).env("PATH", path)));
    assert_eq!(hows(&account, place.at("one/tool")), [How::Absent]);
    assert!(hows(&account, place.at("two/tool")).contains(&How::Exec));
    assert!(hows(&account, "/bin/sh").contains(&How::Exec));
    assert!(account.variables.iter().any(|variable| variable.name == "PATH"));
}

#[test]
fn a_rust_program() {
    let place = Place::new();
    place.write("dir/file", "text");
    let program = place.rust(
        "program",
        &["-Cdebuginfo=0"],
        r#"
        use std::{env, fs};
        fn main() {
            fs::read("dir/file").unwrap();
            assert_eq!(fs::read_dir("dir").unwrap().count(), 1);
            assert!(fs::metadata("dir/other").is_err());
            fs::canonicalize("dir/../dir/file").unwrap();
            let _ = env::var("ASKED");
            env::current_dir().unwrap();
            std::time::SystemTime::now();
            fs::copy("dir/file", "copy").unwrap();
            fs::hard_link("copy", "hard").unwrap();
            fs::rename("copy", "moved").unwrap();
            fs::remove_file("moved").unwrap();
            fs::create_dir_all("deep/er").unwrap();
            fs::remove_dir_all("deep").unwrap();
            let _ = std::net::TcpStream::connect("127.0.0.1:9");
            let _ = std::os::unix::net::UnixStream::connect("socket");
        }"#,
    );
    let account = complete(place.observe(&mut Command::new(&program)));
    assert_eq!(hows(&account, place.at("dir/file")), [How::Read]);
    assert_eq!(hows(&account, place.at("dir")), [How::List]);
    assert_eq!(hows(&account, place.at("dir/other")), [How::Absent]);
    assert_eq!(hows(&account, place.at("dir/../dir/file")), [How::Resolve]);
    assert!(hows(&account, place.at("moved")).ends_with(&[How::Write, How::Remove]));
    assert!(hows(&account, place.at("copy")).ends_with(&[How::Read, How::Remove]));
    assert_eq!(hows(&account, place.at("hard")).last(), Some(&How::Write));
    assert!(hows(&account, place.at("deep/er")).contains(&How::Write));
    assert!(hows(&account, place.at("deep")).contains(&How::Remove));
    assert_eq!(asker(&account, "ASKED"), Some(program));
    let whats: Vec<&What> = account.calls.iter().map(|call| &call.what).collect();
    for what in [
        What::Clock,
        What::WorkingDirectory,
        What::Connect("127.0.0.1:9".into()),
        What::Connect("socket".into()),
    ] {
        assert!(whats.contains(&&what), "{what:?} in {whats:?}");
    }
}

#[test]
fn functions_that_walk() {
    let place = Place::new();
    place.write("tree/one/file", "");
    place.write("tree/two/file", "");
    let program = place.c(
        "walk",
        &[],
        r#"
        #define _GNU_SOURCE
        #include <dirent.h>
        #include <ftw.h>
        #include <glob.h>
        #include <stdlib.h>
        #include <sys/stat.h>
        static int each(const char *p, const struct stat *s, int f, struct FTW *w) { return 0; }
        int main(int argc, char **argv) {
            glob_t found;
            if (argv[1][0] == 'g') return glob("tree/*/file", 0, 0, &found) || found.gl_pathc != 2;
            if (argv[1][0] == 'n') return nftw("tree", each, 8, 0);
            struct dirent **names;
            return scandir("tree", &names, 0, alphasort) != 4;
        }"#,
    );
    for (way, deep) in [("glob", true), ("nftw", true), ("scandir", false)] {
        let account = complete(place.observe(Command::new(&program).arg(way)));
        assert!(hows(&account, place.at("tree")).contains(&How::List), "{way}");
        assert_eq!(hows(&account, place.at("tree/two")).contains(&How::List), deep, "{way}");
        assert_eq!(hows(&account, place.at("tree/two/file")).contains(&How::Stat), deep, "{way}");
    }
}

#[test]
fn names_that_are_made_up() {
    let place = Place::new();
    let program = place.c(
        "temporary",
        &[],
        r#"
        #include <stdlib.h>
        #include <string.h>
        #include <stdio.h>
        #include <sys/socket.h>
        #include <sys/un.h>
        #include <unistd.h>
        int main() {
            char file[] = "fileXXXXXX", dir[] = "dirXXXXXX";
            if (mkstemp(file) < 0 || !mkdtemp(dir) || !tmpfile()) return 1;
            struct sockaddr_un to = { AF_UNIX, "bound" };
            if (bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&to, sizeof to)) return 2;
            FILE *new = fopen("new", "w"), *old = fopen("new", "r+");
            if (!new || !old || fopen("none", "r") || truncate("new", 3)) return 3;
            unsigned char byte;
            return read(fileno(fopen("/dev/urandom", "r")), &byte, 1) != 1;
        }"#,
    );
    let account = complete(place.observe(&mut Command::new(program)));
    for start in ["file", "dir"] {
        let is_made = |path: &str| path.starts_with(&format!("{}/{start}", place.path.display()));
        assert!(
            account.accesses.iter().any(|a| a.how == How::Write && is_made(a.path.to_str().unwrap())),
            "{start}"
        );
    }
    assert_eq!(hows(&account, place.at("bound")), [How::Write]);
    assert_eq!(hows(&account, place.at("new")), [How::Absent, How::Write, How::Read]);
    assert_eq!(hows(&account, place.at("none")), [How::Absent]);
    assert!(account.calls.iter().any(|call| call.what == What::Random));
}

#[test]
fn system_calls_by_number() {
    let place = Place::new();
    place.write("file", "");
    let program = place.c(
        "numbers",
        &[],
        r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main() {
            char buffer[4096];
            if (syscall(SYS_openat, AT_FDCWD, "file", O_RDONLY) < 0) return 1;
            if (syscall(SYS_openat, AT_FDCWD, "none", O_RDONLY) != -1 || errno != ENOENT) return 2;
            if (syscall(SYS_statx, AT_FDCWD, "file", 0, STATX_ALL, buffer)) return 3;
            if (syscall(SYS_unlinkat, AT_FDCWD, "file", 0)) return 4;
            int pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
            if (!pid) { char *argv[] = { "true", 0 }; syscall(SYS_execve, "/bin/true", argv, 0); _exit(1); }
            int status;
            return waitpid(pid, &status, 0) != pid || status;
        }"#
        .replace("#include <errno.h>", "#include <errno.h>\n#include <signal.h>")
        .as_str(),
    );
    let account = complete(place.observe(&mut Command::new(program)));
    assert_eq!(hows(&account, place.at("file")), [How::Read, How::Stat, How::Remove]);
    assert_eq!(hows(&account, place.at("none")), [How::Absent]);
    assert_eq!(programs(&account).last().unwrap(), "true");
}

#[test]
fn files_behind_links_of_the_process_itself() {
    let place = Place::new();
    place.write("dir/file", "text");
    let code = r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdio.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            char path[64];
            int dir = open("dir", O_PATH | O_DIRECTORY), file = dup2(open("dir/file", O_PATH), 900);
            sprintf(path, argv[1], argv[2][0] == 'd' ? dir : file, getpid());
            return open(path, O_RDONLY) < 0;
        }"#;
    let [loaded, watched] =
        [("loaded", &[][..]), ("watched", &["-static"])].map(|(name, options)| place.c(name, options, code));
    for (path, of) in [
        ("/proc/self/cwd/dir/file", "none"),
        ("/proc/thread-self/cwd/dir/file", "none"),
        ("/proc/self/fd/%d/file", "dir"),
        ("/dev/fd/%d/file", "dir"),
        ("/proc/%2$d/task/%2$d/fd/%1$d/file", "dir"),
        ("/proc/self/fd/%d", "file"),
    ] {
        for program in [&loaded, &watched] {
            let account = place.observe(Command::new(program).args([path, of]));
            assert!(
                account.gaps.iter().any(|gap| gap.contains("by way of")),
                "{program:?} {path}: {account:#?}"
            );
        }
    }
    assert!(!place.shell("cat /dev/stdin/file <dir").gaps.is_empty());
    let account =
        complete(place.shell("read x </proc/self/task/$$/environ; ls /proc/self/fd >&-  2>&- || true"));
    assert!(account.processes[0].whole_environment);
    assert!(!account.processes[1].whole_environment);
}
