//! Files that build scripts read without a word about them to cargo. After `rm -rf target` (or in a fresh clone) cargo
//! runs them, and so they count.

use crate::table::{Table, Variant, script};

/// A file that changes its text.
fn reads(name: &str, body: &str, file: &str) -> Variant {
    script(name, body)
        .before(&format!("mkdir -p \"$(dirname {file})\"; echo one > {file}"))
        .change(&format!("echo two > {file}"))
}

#[test]
fn texts() {
    Table::new()
        .add(reads(
            "sibling",
            "only_script(); set(text(here().join(\"../proto/a.proto\")));",
            "../proto/a.proto",
        ))
        .add(reads("relative", "set(text(\"../proto/b.proto\"));", "../proto/b.proto"))
        .add(reads(
            "only_env",
            "println!(\"cargo:rerun-if-env-changed=SOME\"); set(text(\"../proto/c.proto\"));",
            "../proto/c.proto",
        ))
        .add(reads(
            "declared",
            "println!(\"cargo:rerun-if-changed=../proto/d.proto\"); set(text(\"../proto/d.proto\"));",
            "../proto/d.proto",
        ))
        .add(
            reads(
                "other_declared",
                "println!(\"cargo:rerun-if-changed=data\"); set(text(\"data/x\")+&text(\"more/y\"));",
                "more/y",
            )
            .file("data/x", "x"),
        )
        .add(
            reads(
                "by_descriptor",
                "only_script(); use std::os::fd::AsRawFd; let dir = fs::File::open(\".\").unwrap(); \
                 set(text(format!(\"/proc/self/fd/{}/at_fd\", dir.as_raw_fd())));",
                "at_fd",
            )
            .not_stored(),
        )
        .add(
            reads(
                "by_input",
                "only_script(); set(prints(&[\"sh\", \"-c\", \"cat /dev/stdin/at_input <.\"]));",
                "at_input",
            )
            .not_stored(),
        )
        .add(reads("by_proc", "only_script(); set(text(\"/proc/self/cwd/notes\"));", "notes").not_stored())
        .add(reads("source", "only_script(); set(text(\"src/ffi.rs\"));", "src/ffi.rs"))
        .add(reads(
            "license",
            "println!(\"cargo:rerun-if-env-changed=CC\"); set(text(\"LICENSE\"));",
            "LICENSE",
        ))
        .add(reads("readme", "only_script(); set(text(\"README.md\"));", "README.md"))
        .add(reads("changelog", "only_script(); set(text(\"../CHANGELOG.md\"));", "../CHANGELOG.md"))
        .add(
            reads(
                "nested_package",
                "println!(\"cargo:rerun-if-env-changed=CC\"); set(text(\"vendor/parser.c\"));",
                "vendor/parser.c",
            )
            .file("vendor/Cargo.toml", "[package]\nname = \"grammar\"\nversion = \"0.1.0\"\n"),
        )
        .add(
            reads("world", "only_script(); set(text(env::var(\"PLACE\").unwrap()+\"/x.cfg\"));", "$T/x.cfg")
                .var("PLACE", "$T", "$T"),
        )
        .add(reads(
            "home",
            "only_script(); set(text(env::var(\"HOME\").unwrap()+\"/.toolrc\"));",
            "\"$HOME/.toolrc\"",
        ))
        .add(reads("by_cat", "only_script(); set(prints(&[\"cat\", \"x\"]));", "x"))
        .add(
            reads("by_helper", "only_script(); set(prints(&[\"sh\", \"helper.sh\"]));", "deep/x")
                .file("helper.sh", "cd deep; exec sh -c 'cat x'"),
        )
        .add(
            reads("helper", "only_script(); set(prints(&[\"sh\", \"h.sh\"]));", "h.sh")
                .before("echo echo one > h.sh")
                .change("echo echo two > h.sh"),
        )
        .add(
            reads("target_of_a_link", "only_script(); set(text(\"current\"));", "two")
                .before("echo 1 > one; echo 2 > two; ln -s one current")
                .change("ln -sfn two current"),
        )
        .add(
            reads("same_size_and_time", "only_script(); set(text(\"x\"));", "x")
                .before("echo one > x; touch -d 2001-01-01 x")
                .change("echo two > x; touch -d 2001-01-01 x"),
        )
        .add(
            reads("size", "only_script(); set(fs::metadata(\"x\").unwrap().len().to_string());", "x")
                .change("echo three > x"),
        )
        .changes();
}

/// What a directory tells of its entries, and a path of itself.
#[test]
fn kinds_of_files() {
    Table::new()
        .add(
            script("listed", "only_script(); set(fs::read_dir(\"d\").unwrap().map(|e| { let e = e.unwrap(); format!(\"{:?} {}\", e.file_name(), e.file_type().unwrap().is_dir()) }).collect::<String>());")
                .before("mkdir d; touch d/a")
                .change("rm d/a; mkdir d/a"),
        )
        .add(
            script("link_to_a_directory", "only_script(); set(fs::symlink_metadata(\"vendor\").unwrap().is_symlink().to_string());")
                .before("mkdir vendor real")
                .change("rmdir vendor; ln -s real vendor"),
        )
        .add(
            script("behind_a_step_up", "only_script(); set(text(\"dir/../data\"));")
                .before("echo 1 > data; mkdir -p dir q/r; echo 2 > q/data")
                .change("rmdir dir; ln -s q/r dir"),
        )
        .add(
            Variant::new("included_behind_a_step_up")
                .main("fn main() { print!(\"{}\", include_str!(\"../dir/../data\")); }")
                .before("echo 1 > data; mkdir -p dir q/r; echo 2 > q/data")
                .change("rmdir dir; ln -s q/r dir"),
        )
        .add(
            script("listed_behind_a_step_up", "only_script(); set(fs::read_dir(\"dir/../inc\").unwrap().count().to_string());")
                .before("mkdir -p inc dir q/r q/inc; touch q/inc/h.h")
                .change("rmdir dir; ln -s q/r dir"),
        )
        .add(
            script("link_to_a_file", "only_script(); set(fs::symlink_metadata(\"x\").unwrap().is_symlink().to_string());")
                .before("touch x y")
                .change("ln -sf y x"),
        )
        .changes();
}

#[test]
fn directories() {
    const NAMES: &str = r#"only_script(); let mut all: Vec<_> = fs::read_dir(env::var("DIR").unwrap_or("d".into())).into_iter().flatten()
        .map(|e| e.unwrap().file_name().into_string().unwrap()).collect(); all.sort(); set(all.join(" "));"#;
    let names = |name: &str| script(name, NAMES).before("mkdir d; touch d/a d/b");
    Table::new()
        .add(names("added").change("touch d/c"))
        .add(names("removed").change("rm d/a"))
        .add(names("renamed").change("mv d/a d/c"))
        .add(names("appears").before("true").change("mkdir d; touch d/x"))
        .add(names("link").change("mkdir e; touch e/z; rm -r d; ln -s e d"))
        .add(script("first_that_exists", "only_script(); set(if Path::new(\"local.cfg\").exists() { text(\"local.cfg\") } else { text(\"default.cfg\") });")
            .before("echo default > default.cfg").change("echo local > local.cfg"))
        .add(script("gone", "only_script(); set(if Path::new(\"local.cfg\").exists() { text(\"local.cfg\") } else { text(\"default.cfg\") });")
            .before("echo default > default.cfg; echo local > local.cfg").change("rm local.cfg"))
        .add(script("file_or_directory", "only_script(); set(format!(\"{}\", Path::new(\"x\").is_dir()));").before("touch x").change("rm x; mkdir x"))
        .add(script("by_find", "only_script(); set(prints(&[\"sh\", \"-c\", \"find d -name '*.c' | sort\"]));").before("mkdir -p d/e; touch d/e/a.c").change("touch d/e/b.c"))
        .add(script("by_glob", "only_script(); set(prints(&[\"sh\", \"-c\", \"echo d/*.c\"]));").before("mkdir d; touch d/a.c").change("touch d/b.c"))
        .add(script("mode", "only_script(); set(prints(&[\"sh\", \"-c\", \"test -x tool && echo yes || echo no\"]));").before("touch tool").change("chmod +x tool"))
        .changes();
}

const PRINTS: &str =
    "#include <foo.h>\n#include <stdio.h>\nint main(void) { printf(\"%d\", FOO); return 0; }";

fn header(name: &str, options: &str, file: &str) -> Variant {
    let define = |value| format!("mkdir -p \"$(dirname {file})\"; echo '#define FOO {value}' > {file}");
    script(name, &format!("println!(\"cargo:rerun-if-changed=x.c\"); set(c(\"x.c\", &[{options}]));"))
        .file("x.c", PRINTS)
        .before(&define(1))
        .change(&define(2))
}

#[test]
fn headers() {
    Table::new()
        .add(header("outside", "&format!(\"-I{}/../ext/include\", here().display())", "../ext/include/foo.h"))
        .add(header("inside", "\"-Iinclude\"", "include/foo.h"))
        .add(header("chain", "\"-Iinclude\"", "include/bar.h").before("mkdir include; echo '#include \"bar.h\"' > include/foo.h; echo '#define FOO 1' > include/bar.h"))
        .add(header("appears", "\"-Ifirst\", \"-Iinclude\"", "include/foo.h").change("mkdir first; echo '#define FOO 2' > first/foo.h"))
        .add(header("appears_in_a_directory", "\"-Ifirst\", \"-Iinclude\"", "include/foo.h")
            .before("mkdir first include; echo '#define FOO 1' > include/foo.h").change("echo '#define FOO 2' > first/foo.h"))
        .add(header("shadow_goes", "\"-Ifirst\", \"-Iinclude\"", "include/foo.h")
            .before("mkdir first include; echo '#define FOO 1' > first/foo.h; echo '#define FOO 2' > include/foo.h").change("rm first/foo.h"))
        .add(header("asked_for", "\"-Iinclude\"", "include/foo.h")
            .file("x.c", "#if __has_include(<foo.h>)\n#include <foo.h>\n#else\n#define FOO 0\n#endif\n#include <stdio.h>\nint main(void) { printf(\"%d\", FOO); return 0; }")
            .before("mkdir include"))
        .add(header("forced", "\"-include\", \"config.h\"", "config.h").file("x.c", &PRINTS[17..]))
        .add(header("options_in_a_file", "\"@options\"", "include/foo.h").before("mkdir include; echo '#define FOO 1' > include/foo.h; echo -Iinclude > options"))
        .add(header("package_config", "&String::from_utf8(Command::new(\"pkg-config\").env(\"PKG_CONFIG_PATH\", \"pc\").args([\"--cflags\", \"foo\"]).output().unwrap().stdout).unwrap().trim().to_owned()", "$T/pfx/foo.h")
            .before("mkdir -p pc $T/pfx; echo '#define FOO 1' > $T/pfx/foo.h; printf 'Name: foo\\nDescription: x\\nVersion: 1\\nCflags: -I%s/pfx\\n' $T > pc/foo.pc"))
        .changes();
}

#[test]
fn headers_by_variables() {
    for (variable, value) in
        [("CPATH", "$T/inc"), ("C_INCLUDE_PATH", "$T/inc"), ("FOO_DIR", "$T/inc"), ("CFLAGS", "-I$T/inc")]
    {
        let options = match variable {
            "FOO_DIR" => "&format!(\"-I{}\", env::var(\"FOO_DIR\").unwrap())",
            "CFLAGS" => "&env::var(\"CFLAGS\").unwrap()",
            _ => "",
        };
        Table::new().env(variable, value).add(header("hdr", options, "$T/inc/foo.h")).changes();
    }
}

/// What a script tells those that depend on its package.
fn dependents(tell: &str, use_it: &str) -> Table {
    Table::new()
        .add(
            Variant::new("sys")
                .manifest("links = \"foo\"")
                .script(tell)
                .file("src/lib.rs", "pub const X: i32 = 0;")
                .main("fn main() {}")
                .look("cat include/foo.h")
                .before("mkdir include; echo '#define FOO 1' > include/foo.h")
                .change("echo '#define FOO 2' > include/foo.h"),
        )
        .add(
            Variant::new("user")
                .uses("sys")
                .script(use_it)
                .file("x.c", PRINTS)
                .main("fn main() { let _ = sys::X; println!(\"{}\", env!(\"V\")); }"),
        )
}

const TELL: &str =
    "println!(\"cargo:rerun-if-changed=include\\ncargo:include={}/include\", here().display());";
const TELL_LIST: &str = "println!(\"cargo:rerun-if-changed=include\"); fs::create_dir_all(out().join(\"inc\")).unwrap(); \
    fs::copy(\"include/foo.h\", out().join(\"inc/foo.h\")).unwrap(); println!(\"cargo:include={}/inc:/usr/include\", out().display());";
const TELL_FLAGS: &str =
    "println!(\"cargo:rerun-if-changed=include\\ncargo:include=-DOTHER -I{}/include\", here().display());";
const USE: &str = "println!(\"cargo:rerun-if-changed=x.c\"); set(c(\"x.c\", &[&format!(\"-I{}\", env::var(\"DEP_FOO_INCLUDE\").unwrap())]));";
const USE_LIST: &str = "println!(\"cargo:rerun-if-changed=x.c\"); let v = env::var(\"DEP_FOO_INCLUDE\").unwrap(); let all: Vec<String> = v.split(':').map(|p| format!(\"-I{p}\")).collect(); \
    set(c(\"x.c\", &all.iter().map(|a| &**a).collect::<Vec<_>>()));";
const USE_FLAGS: &str = "println!(\"cargo:rerun-if-changed=x.c\"); set(c(\"x.c\", &env::var(\"DEP_FOO_INCLUDE\").unwrap().split(' ').collect::<Vec<_>>()));";

#[test]
fn headers_of_a_dependency_in_place() {
    for (tell, use_it) in [(TELL, USE), (TELL_LIST, USE_LIST), (TELL_FLAGS, USE_FLAGS)] {
        dependents(tell, use_it).changes_in_place();
    }
}

#[test]
fn headers_of_a_dependency_after_a_clean() {
    dependents(TELL, USE).changes();
    dependents(TELL_LIST, USE_LIST).changes();
    dependents(TELL, USE).changes_elsewhere("other");
}

/// The same with a daemon.
#[test]
fn headers_of_a_dependency_with_a_daemon() {
    dependents(TELL, USE).env("KACHE_DAEMON_IDLE_TIMEOUT", "5m").changes_in_place();
}

#[test]
fn in_a_fork() {
    Table::new()
        .add(reads("declared", "println!(\"cargo:rerun-if-changed=x\"); set(text(\"x\"));", "x"))
        .add(reads("package", "set(text(\"data/x\"));", "data/x"))
        .add(script("new_file", "println!(\"cargo:rerun-if-changed=d\"); set(fs::read_dir(\"d\").unwrap().count().to_string());").before("mkdir d; touch d/a").change("touch d/b"))
        .changes_in_a_fork("at/another/depth");
}

/// Whether something is there shows when it cannot be made.
#[test]
fn what_could_be_made() {
    let tries = |name: &str, line: &str| {
        script(name, &format!("only_script(); set(prints(&[\"sh\", \"-c\", {line:?}]));"))
    };
    Table::new()
        .add(tries("directory", "mkdir q 2>/dev/null && rmdir q && echo free || echo busy").change("mkdir q"))
        .add(tries("file", "set -C; : 2>/dev/null >q && rm q && echo free || echo busy").change("touch q"))
        .add(tries("link", "ln -s x q 2>/dev/null && rm q && echo free || echo busy").change("touch q"))
        .add(
            script(
                "by_itself",
                "only_script(); set(match fs::File::create_new(\"q\") { Ok(_) => { fs::remove_file(\"q\").unwrap(); \"free\" } Err(_) => \"busy\" });",
            )
            .change("touch q"),
        )
        .changes();
}
