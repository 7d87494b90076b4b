//! How programs are started, and how they end.

mod common;

use common::{Place, access, asker, complete, hows, programs};
use kache_trace::{How, Observer};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn without_an_environment() {
    let place = Place::new();
    place.write("file", "");
    let account =
        complete(place.shell(
            "env -i /bin/cat file; env -u LD_PRELOAD cat file; unset LD_PRELOAD KACHE_TRACE; cat file",
        ));
    assert_eq!(programs(&account)[1..], ["env", "cat", "env", "cat", "cat"]);
    assert_eq!(account.accesses.iter().filter(|a| a.path == place.at("file")).count(), 3);
}

#[test]
fn every_way_to_start_a_program() {
    let place = Place::new();
    let program = place.c(
        "start",
        &[],
        r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <spawn.h>
        #include <stdlib.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static char *argv[] = { "echo", "a", "b", "c", "d", "e", "f", "g", 0 }, *none[] = { 0 };
        #define CHILD(name, call) if (!strcmp(way, name)) { call; _exit(9); }
        #include <string.h>
        int main(int argc, char **args) {
            char *way = args[1];
            pid_t pid = -1;
            if (!strcmp(way, "posix_spawn")) { if (posix_spawn(&pid, "/bin/echo", 0, 0, argv, none)) return 1; }
            else if (!strcmp(way, "posix_spawnp")) { if (posix_spawnp(&pid, "echo", 0, 0, argv, none)) return 1; }
            else if (!strcmp(way, "moved")) {
                posix_spawn_file_actions_t actions;
                posix_spawn_file_actions_init(&actions);
                posix_spawn_file_actions_addchdir_np(&actions, "/bin");
                if (posix_spawn(&pid, "./echo", &actions, 0, argv, none)) return 1;
            }
            else if (!strcmp(way, "system")) return system("echo a");
            else if (!(pid = vfork())) {
                CHILD("execve", execve("/bin/echo", argv, none))
                CHILD("execv", execv("/bin/echo", argv))
                CHILD("execvp", execvp("echo", argv))
                CHILD("execvpe", execvpe("echo", argv, none))
                CHILD("execl", execl("/bin/echo", "echo", "a", "b", "c", "d", "e", "f", "g", (char *)0))
                CHILD("execlp", execlp("echo", "echo", "a", "b", "c", "d", "e", "f", "g", (char *)0))
                CHILD("execle", execle("/bin/echo", "echo", "a", "b", "c", "d", "e", "f", "g", (char *)0, none))
                CHILD("fexecve", fexecve(open("/bin/echo", O_RDONLY | O_CLOEXEC), argv, none))
                CHILD("execveat", execveat(open("/bin", O_RDONLY | O_DIRECTORY), "echo", argv, none, 0))
                _exit(8);
            }
            int status;
            return waitpid(pid, &status, 0) != pid || status;
        }"#,
    );
    for way in [
        "posix_spawn",
        "posix_spawnp",
        "moved",
        "system",
        "execve",
        "execv",
        "execvp",
        "execvpe",
        "execl",
        "execlp",
        "execle",
        "fexecve",
        "execveat",
    ] {
        let account = complete(place.observe(Command::new(&program).arg(way)));
        let last = account.processes.last().unwrap();
        if way == "system" {
            assert_eq!(programs(&account).len(), 2, "{way}");
            continue;
        }
        assert_eq!(programs(&account).last().unwrap(), "echo", "{way}");
        assert_eq!(last.argv, ["echo", "a", "b", "c", "d", "e", "f", "g"], "{way}");
        assert_eq!(last.parent, Some(0), "{way}");
        assert!(
            hows(&account, "/bin/echo").contains(&How::Exec)
                || hows(&account, "/usr/bin/echo").contains(&How::Exec),
            "{way}"
        );
    }
}

#[test]
fn a_script_and_its_interpreters() {
    let place = Place::new();
    place.write("input", "text");
    place.write("script", "#!./other\n");
    place.write("other", "#! /bin/sh -u\ncat input\n");
    Command::new("chmod").arg("+x").arg(place.at("script")).arg(place.at("other")).status().unwrap();
    let account = complete(place.observe(&mut Command::new("./script")));
    for path in [place.at("script"), place.at("other"), "/bin/sh".into()] {
        let exec = access(&account, How::Exec, &path);
        let object = &account.objects[exec.object as usize];
        assert_eq!((exec.process, object), (0, &account.processes[0].program), "{}", path.display());
    }
    assert_eq!(account.processes[0].argv, ["/bin/sh", "-u", "./other", "./script"]);
    assert_eq!(hows(&account, place.at("input")), [How::Read]);
}

#[test]
fn a_program_that_cannot_be_started() {
    let place = Place::new();
    place.write("plain", "");
    let account = complete(place.shell("./plain 2>&-; ./none 2>&-; true"));
    assert_eq!(hows(&account, place.at("none")), [How::Absent]);
    assert!(programs(&account).len() <= 3);
}

#[test]
fn children_without_a_program() {
    let place = Place::new();
    place.write("file", "");
    let account = complete(place.shell("(read x <file); (read x <file) & wait"));
    // The first may have been optimized into the shell itself.
    let readers: Vec<_> = account.accesses.iter().filter(|a| a.path == place.at("file")).collect();
    assert_eq!(readers.len(), 2);
    let process = &account.processes[readers[1].process as usize];
    assert_eq!(
        (process.program.file_name(), process.parent),
        (account.processes[0].program.file_name(), Some(0))
    );
}

#[test]
fn threads_at_the_same_time() {
    let place = Place::new();
    let program = place.rust(
        "threads",
        &["-Copt-level=1"],
        r#"fn main() {
            std::thread::scope(|scope| for thread in 0..8 {
                scope.spawn(move || for i in 0..1000 {
                    std::fs::write(format!("f{thread}-{i}"), "").unwrap();
                    std::fs::read(format!("f{}-{}", thread, i / 2)).unwrap();
                });
            });
        }"#,
    );
    let account = complete(place.observe(&mut Command::new(program)));
    let count = |how: How| {
        account.accesses.iter().filter(|a| a.how == how && a.path.starts_with(&place.path)).count()
    };
    assert_eq!(count(How::Absent), 8_000);
    assert_eq!(count(How::Write), 8_000);
    assert_eq!(count(How::Read), 4_000);
}

#[test]
fn a_child_that_is_killed() {
    let place = Place::new();
    place.write("file", "");
    let account = complete(place.shell("sh -c 'read x <file; kill -9 $$'; true"));
    assert_eq!(hows(&account, place.at("file")), [How::Read]);
}

#[test]
fn a_child_that_lives_on() {
    let place = Place::new();
    let account = place.shell("setsid sleep 5 >/dev/null 2>&1 & sleep 0.3");
    assert!(
        account.gaps.iter().any(|gap| gap.contains("still runs") && gap.contains("sleep")),
        "{:?}",
        account.gaps
    );
}

#[test]
fn a_child_that_needs_a_moment_to_end() {
    let place = Place::new();
    complete(place.shell("mkfifo go; sh -c 'read x; :' <go >/dev/null 2>&1 & cat /dev/null >go"));
}

#[test]
fn an_exec_that_leads_nowhere() {
    // The program ends before its libraries are loaded.
    let place = Place::new();
    let library = place.c("libgone.so", &["-shared", "-fPIC"], "int gone(void) { return 0; }");
    let program =
        place.c("lost", &["-L.", library.to_str().unwrap()], "int gone(void); int main() { return gone(); }");
    std::fs::remove_file(library).unwrap();
    let account = place.shell("./lost 2>&-; true");
    assert_eq!(account.gaps, [format!("a program could not be observed: {}", program.display())]);
}

#[test]
fn what_somebody_else_preloads() {
    let place = Place::new();
    place.write("real", "");
    let library = place.c(
        "other.so",
        &["-shared", "-fPIC"],
        r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <string.h>
        #include <stdlib.h>
        int open(const char *path, int flags, int mode) {
            int (*next)(const char *, int, int) = dlsym(RTLD_NEXT, "open");
            return next(strcmp(path, "pretended") ? path : getenv("INSTEAD"), flags, mode);
        }"#,
    );
    let program =
        place.c("opens", &[], "#include <fcntl.h>\nint main() { return open(\"pretended\", O_RDONLY) < 0; }");
    let account = complete(
        place.observe(Command::new(&program).env("LD_PRELOAD", &library).env("INSTEAD", place.at("real"))),
    );
    assert_eq!(hows(&account, place.at("real")), [How::Read]);
    assert_eq!(asker(&account, "INSTEAD"), Some(library.clone()));
    // And when the program sets it for a child.
    let account = complete(place.shell(&format!("INSTEAD=real LD_PRELOAD={} ./opens", library.display())));
    assert_eq!(hows(&account, place.at("real")), [How::Read]);
}

#[test]
fn a_library_may_come_and_go_often() {
    let place = Place::new();
    let code = "#include <stdlib.h>\nvoid *ask(void) { return getenv(\"FROM_library\"); }";
    let library = place.c("libopened.so", &["-shared", "-fPIC"], code);
    let program = place.c(
        "opens",
        &["-ldl"],
        r#"
        #include <dlfcn.h>
        int main() {
            for (int i = 0; i < 2000; i++) {
                void *library = dlopen("./libopened.so", RTLD_NOW);
                if (!library) return 1;
                ((void *(*)(void))dlsym(library, "ask"))();
                dlclose(library);
            }
        }"#,
    );
    let account = complete(place.observe(&mut Command::new(&program)));
    assert_eq!(asker(&account, "FROM_library"), Some(library));
}

#[test]
fn libraries_and_who_asks() {
    let place = Place::new();
    let code = |name: &str| {
        format!("#include <stdlib.h>\nvoid *ask_{name}(void) {{ return getenv(\"FROM_{name}\"); }}")
    };
    let linked = place.c("liblinked.so", &["-shared", "-fPIC"], &code("linked"));
    let opened = place.c("libopened.so", &["-shared", "-fPIC"], &code("opened"));
    let silent = place.c("libsilent.so", &["-shared", "-fPIC"], "int silent;");
    let program = place.c(
        "asks",
        &[linked.to_str().unwrap(), "-ldl"],
        r#"
        #include <dlfcn.h>
        #include <stdlib.h>
        void *ask_linked(void);
        int main() {
            getenv("FROM_program");
            ask_linked();
            void *library = dlopen("./libopened.so", RTLD_NOW);
            if (!library) return 1;
            ((void *(*)(void))dlsym(library, "ask_opened"))();
            dlclose(library);
            return !dlopen("./libsilent.so", RTLD_NOW);
        }"#,
    );
    let account = complete(place.observe(&mut Command::new(&program)));
    assert_eq!(asker(&account, "FROM_program"), Some(program));
    assert_eq!(asker(&account, "FROM_linked"), Some(linked.clone()));
    assert_eq!(asker(&account, "FROM_opened"), Some(opened.clone()));
    for library in [linked, opened, silent] {
        assert!(hows(&account, &library).contains(&How::Read), "{}", library.display());
    }
    assert!(!account.processes[0].whole_environment);
}

#[test]
fn where_the_loader_looks_first() {
    let place = Place::new();
    let code = "int two(void) { return 0; }";
    std::fs::create_dir(place.at("one")).unwrap();
    std::fs::create_dir(place.at("two")).unwrap();
    let library = place.c("two/libtwo.so", &["-shared", "-fPIC", "-Wl,-soname,libtwo.so"], code);
    let program =
        place.c("uses", &[library.to_str().unwrap()], "int two(void); int main() { return two(); }");
    let path = format!("{}:{}", place.at("one").display(), place.at("two").display());
    let account = complete(place.observe(Command::new(&program).env("LD_LIBRARY_PATH", path)));
    assert_eq!(hows(&account, place.at("one/libtwo.so")), [How::Absent]);
    assert_eq!(hows(&account, library), [How::Read]);
    assert_eq!(asker(&account, "LD_LIBRARY_PATH"), Some(program));
}

#[test]
fn who_has_the_whole_environment() {
    let place = Place::new();
    let program = place.c("has", &[], "extern char **environ; int main() { return environ == 0; }");
    assert!(complete(place.observe(&mut Command::new(program))).processes[0].whole_environment);
    let account = complete(place.shell("cat /proc/self/environ"));
    assert!(
        account.processes.iter().find(|process| process.program.ends_with("cat")).unwrap().whole_environment
    );
}

#[test]
fn long_arguments_are_cut() {
    let place = Place::new();
    let account = complete(place.observe(Command::new("/bin/true").arg("x".repeat(100_000)).arg("y")));
    assert!(account.processes[0].argv_cut);
    assert_eq!(account.processes[0].argv[0], "/bin/true");
    let account = complete(place.observe(Command::new("/bin/true").args((0..1000).map(|i| i.to_string()))));
    assert_eq!((account.processes[0].argv_cut, account.processes[0].argv.len()), (false, 1001));
}

#[test]
fn one_inside_another() {
    // What runs inside tells what it cannot see itself.
    if std::env::var_os("IS_INSIDE").is_some() {
        assert!(kache_trace::inside());
        return kache_trace::report_gap("told from inside");
    }
    assert!(!kache_trace::inside());
    let place = Place::new();
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["--exact", "one_inside_another"]).env("IS_INSIDE", "1");
    let account = place.observe(&mut command);
    assert_eq!(account.gaps, ["told from inside"]);
}

#[test]
fn descriptors_and_errors_are_left_alone() {
    let place = Place::new();
    let program = place.c(
        "errors",
        &[],
        r#"
        #include <errno.h>
        #include <fcntl.h>
        #include <stdlib.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int main() {
            struct stat s;
            int next = dup(0);
            close(next);
            errno = 77;
            int fd = open("errors", O_RDONLY);
            if (fd != next || errno != 77) return 1;
            getenv("X");
            if (stat("errors", &s) || errno != 77) return 2;
            if (open("none", O_RDONLY) != -1 || errno != ENOENT) return 3;
            if (open((char *)8, O_RDONLY) != -1 || errno != EFAULT) return 4;
            if (stat((char *)8, &s) != -1 || errno != EFAULT) return 5;
            if (mkdir("errors", 0777) != -1 || errno != EEXIST) return 6;
            if (execl("none", "none", (char *)0) != -1 || errno != ENOENT) return 7;
            if (rename("none", "other") != -1 || errno != ENOENT) return 8;
            return 0;
        }"#,
    );
    complete(place.observe(&mut Command::new(program)));
}

/// Where our library cannot be loaded from, programs run without it, and without a word of the loader.
#[test]
fn in_another_root_and_as_another_user() {
    let place = Place::new();
    place.c("program", &["-static"], "#include <stdio.h>\nint main(void) { puts(\"here\"); return 0; }");
    std::fs::set_permissions(&place.path, std::fs::Permissions::from_mode(0o700)).unwrap();
    for (script, expected) in [
        (format!("chroot {} /program", place.path.display()), "here"),
        ("setpriv --reuid 65534 --clear-groups sh -c 'echo \"$(id -u)${LD_PRELOAD-}\"' 2>&1".into(), "65534"),
    ] {
        let check =
            format!("got=$({script}); test \"$got\" = {expected} || {{ echo \"$got\" >&2; exit 1; }}");
        let account = place.shell(&check);
        assert!(account.gaps.iter().any(|gap| gap.contains("cannot be seen")), "{:?}", account.gaps);
    }
}

/// Who asks for it gets what there would be without us.
#[test]
fn the_preloaded_library_is_not_shown() {
    let place = Place::new();
    let shows = "fn main() { std::process::exit(i32::from(std::env::var_os(\"LD_PRELOAD\").is_some())) }";
    let program = place.rust("shows", &[], shows);
    complete(place.observe(&mut Command::new(&program)));
    complete(place.shell("./shows"));
    let theirs = place.c("theirs.so", &["-shared", "-fPIC"], "");
    assert!(
        std::panic::catch_unwind(|| place.observe(Command::new(&program).env("LD_PRELOAD", &theirs)))
            .is_err()
    );
}

#[test]
fn where_no_programs_are_allowed() {
    if let Some(dir) = std::env::var_os("NO_PROGRAMS") {
        let error = Observer::new(dir.as_ref()).err().unwrap();
        return assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
    // Only some users may mount.
    if !Command::new("unshare").args(["-m", "true"]).output().unwrap().status.success() {
        return;
    }
    let place = Place::new();
    let script =
        r#"mount -t tmpfs -o noexec none "$NO_PROGRAMS" && exec "$0" --exact where_no_programs_are_allowed"#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
    assert!(command.env("NO_PROGRAMS", &place.path).output().unwrap().status.success());
}
