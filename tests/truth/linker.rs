//! Linker scripts and what they include, and who links.

use crate::table::{Table, Variant};

const MAGIC: &str = "unsafe extern \"C\" { static MAGIC: u8; } fn main() { println!(\"{:#x}\", (&raw const MAGIC) as usize); }";
const CALL: &str = "unsafe extern \"C\" { fn x() -> i32; } fn main() { println!(\"{}\", unsafe { x() }); }";
const LIB: &str = "lib() { mkdir -p \"$(dirname \"$2\")\"; echo \"int x(void){return $1;}\" > x.c; cc -fPIC -c x.c -o x.obj; \
                   rm -f \"$2\"; ar crs \"$2\" x.obj; rm x.obj; }; ";

/// A program with a linker script of its own.
fn script(name: &str, text: &str, more: &str) -> Variant {
    Variant::new(name).main(MAGIC).file("app.ld", text).script(&format!(
        "only_script(); println!(\"cargo:rustc-link-arg={{}}/app.ld\", here().display()); {more}"
    ))
}

/// A file that defines a symbol, and in which it changes.
fn defined(variant: Variant, file: &str) -> Variant {
    let line = |value| format!("mkdir -p \"$(dirname {file})\"; echo 'MAGIC = {value};' > {file}");
    variant.before(&line("0x11")).change(&line("0x22"))
}

fn library(variant: Variant, file: &str) -> Variant {
    let lib = |value| format!("{LIB} lib {value} {file}");
    variant.main(CALL).before(&lib("1")).change(&lib("2"))
}

const EMBEDDED: &str = r#"only_script(); fs::write(out().join("link.x"), "INCLUDE memory_NAME.x\n").unwrap();
    println!("cargo:rustc-link-search={0}\ncargo:rustc-link-arg={0}/link.x", out().display());"#;

fn scripts(flags: &str) {
    let search = "println!(\"cargo:rustc-link-search=native={}/inc\", here().display());";
    let group = "println!(\"cargo:rustc-link-arg=-L{}/nl\", here().display());";
    Table::new()
        .env("RUSTFLAGS", &format!("-Crelocation-model=static {flags}"))
        .add(defined(script("direct", "", ""), "app.ld"))
        .add(defined(script("included", "INCLUDE included/consts.x", ""), "consts.x"))
        .add(defined(script("searched", "INCLUDE consts.cmd", search), "inc/consts.cmd"))
        // As crates for embedded systems have it.
        .add(defined(
            Variant::new("embedded").main(MAGIC).script(&EMBEDDED.replace("_NAME", "_e")),
            "\"$W/memory_e.x\"",
        ))
        .add(defined(
            Variant::new("embedded_link").main(MAGIC).script(&EMBEDDED.replace("_NAME", "_l")),
            "x",
        ).before("echo 'MAGIC = 0x11;' > one; echo 'MAGIC = 0x22;' > two; ln -s \"$PWD/one\" \"$W/memory_l.x\"")
        .change("ln -sfn \"$PWD/two\" \"$W/memory_l.x\""))
        .add(defined(
            script("appears", "INCLUDE consts_a.x", search)
        , "inc/consts_a.x").change("echo 'MAGIC = 0x22;' > \"$W/consts_a.x\""))
        .add(library(script("input", "INPUT(-lxin)", group), "nl/libxin.a"))
        .add(library(script("grouped", "GROUP(libxx.a)", group), "nl/libxx.a"))
        // A text in place of a shared library, as libc.so is one.
        .add(library(
            Variant::new("text").script(
                r#"only_script(); let d = here().join("nl"); fs::create_dir_all(&d).unwrap();
                fs::write(out().join("libxs.so"), format!("GROUP({}/other/libxreal.a)", here().display())).unwrap();
                println!("cargo:rustc-link-search=native={}\ncargo:rustc-link-lib=xs", out().display());"#,
            ),
            "other/libxreal.a",
        ))
        .add(defined(
            Variant::new("comma")
                .main(MAGIC)
                .script("only_script(); println!(\"cargo:rustc-link-arg=-Wl,-defsym=UNUSED=1,{}/app.ld\", here().display());"),
            "app.ld",
        ))
        .add(
            Variant::new("responses")
                .main(MAGIC)
                .script("only_script(); println!(\"cargo:rustc-link-arg=@{}/outer.rsp\", here().display());")
                .before("echo \"@$PWD/inner.rsp\" > outer.rsp; echo '-Wl,--defsym=MAGIC=0x11' > inner.rsp")
                .change("echo '-Wl,--defsym=MAGIC=0x22' > inner.rsp"),
        )
        .add(
            Variant::new("dynamic_list")
                .main("#[unsafe(no_mangle)] pub extern \"C\" fn aa() {} #[unsafe(no_mangle)] pub extern \"C\" fn bb() {} fn main() { aa(); bb(); }")
                .script("only_script(); println!(\"cargo:rustc-link-arg=-Wl,--dynamic-list={}/list\", here().display());")
                .look("nm -D \"$D/dynamic_list\" | grep -oE ' T (aa|bb)$'")
                .before("echo '{ aa; };' > list")
                .change("echo '{ bb; };' > list"),
        )
        .changes();
}

#[test]
fn scripts_for_lld() {
    scripts("");
}

#[test]
fn scripts_for_bfd() {
    scripts("-Clinker-features=-lld");
}

/// An object with a note, which tells who linked.
const NOTES: &str = "note() { printf '.section .note.by,\"a\",@note\\n.ascii \"by-%s\"\\n.byte 0\\n' $1 > $1.s; /usr/bin/cc -c $1.s -o $T/$1.o; }; \
                     note one; note two; tool() { mkdir -p \"$(dirname \"$1\")\"; printf '#!/bin/bash\\nunset LD_PRELOAD\\nexec %s\\n' \"$2\" > \"$1\"; chmod +x \"$1\"; }; ";
const BY: &str = "readelf -p .note.by \"$D/program\" | grep -o 'by-[a-z]*' || echo nobody";

fn program() -> Variant {
    Variant::new("program").main("fn main() {}").look(BY)
}

#[test]
fn a_compiler_driver_in_front_in_path() {
    let in_front = || Table::new().in_path("$T/bin");
    // A variable that only the tool reads; a file that only it reads; itself; what it runs.
    in_front()
        .add(
            program()
                .before(&format!("{NOTES} tool $T/bin/cc '/usr/bin/cc \"$@\" $FOR_TOOL'"))
                .var("FOR_TOOL", "$T/one.o", "$T/two.o"),
        )
        .changes();
    for (tool, change) in [
        ("/usr/bin/cc \"$@\" $(cat $T/flags)", "echo $T/two.o > $T/flags"),
        ("$T/bin/inner \"$@\"", "tool $T/bin/inner '/usr/bin/cc \"$@\" $T/two.o'"),
        ("/usr/bin/cc \"$@\" $T/current", "ln -sfn $T/two.o $T/current"),
    ] {
        let before = "echo $T/one.o > $T/flags; ln -s $T/one.o $T/current; tool $T/bin/inner '/usr/bin/cc \"$@\" $T/one.o'";
        in_front()
            .add(
                program()
                    .before(&format!("{NOTES} tool $T/bin/cc '{tool}'; {before}"))
                    .change(&format!("{NOTES} {change}")),
            )
            .changes();
    }
    // It was not there before.
    in_front()
        .add(
            program()
                .before(&format!("{NOTES} mkdir -p $T/bin"))
                .change(&format!("{NOTES} tool $T/bin/cc '/usr/bin/cc \"$@\" $T/two.o'")),
        )
        .changes();
}

#[test]
fn where_the_driver_finds_its_linker() {
    let bfd = "-Clinker-features=-lld";
    for flags in
        ["-Clink-arg=-B -Clink-arg=$T/b", "-Clink-arg=-B$T/b", "-Clink-arg=-B$T/b -Clink-arg=-fuse-ld=bfd"]
    {
        Table::new()
            .env("RUSTFLAGS", &format!("{bfd} {flags}"))
            .add(
                program()
                    .before(&format!(
                        "{NOTES} for l in ld ld.bfd; do tool $T/b/$l '/usr/bin/ld \"$@\" $T/one.o'; done"
                    ))
                    .change(&format!(
                        "{NOTES} for l in ld ld.bfd; do tool $T/b/$l '/usr/bin/ld \"$@\" $T/two.o'; done"
                    )),
            )
            .changes();
    }
    Table::new()
        .env("RUSTFLAGS", bfd)
        .add(
            program()
                .before(&format!("{NOTES} tool $T/b/ld '/usr/bin/ld \"$@\" $T/one.o'; mkdir $T/c; tool $T/c/ld '/usr/bin/ld \"$@\" $T/two.o'"))
                .var("COMPILER_PATH", "$T/b", "$T/c"),
        )
        .changes();
}

/// As `mold -run` does.
#[test]
fn a_linker_by_preload() {
    const PRELOAD: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
extern char **environ;
static const char *swap(const char *p) {
    const char *b = strrchr(p, '/'), *t = getenv("OTHER_LD");
    b = b ? b + 1 : p;
    return t && !strcmp(b, "ld") ? t : p;
}
int execve(const char *p, char *const a[], char *const e[]) {
    int (*f)(const char *, char *const *, char *const *) = dlsym(RTLD_NEXT, "execve");
    return f(swap(p), a, e);
}
int execv(const char *p, char *const a[]) { return execve(p, a, environ); }
int posix_spawn(pid_t *i, const char *p, const posix_spawn_file_actions_t *x, const posix_spawnattr_t *y, char *const a[], char *const e[]) {
    int (*f)() = dlsym(RTLD_NEXT, "posix_spawn");
    return f(i, swap(p), x, y, a, e);
}
int execvp(const char *p, char *const a[]) {
    int (*f)(const char *, char *const *) = dlsym(RTLD_NEXT, "execvp");
    return f(swap(p), a);
}
int posix_spawnp(pid_t *i, const char *p, const posix_spawn_file_actions_t *x, const posix_spawnattr_t *y, char *const a[], char *const e[]) {
    int (*f)() = dlsym(RTLD_NEXT, "posix_spawnp");
    return f(i, swap(p), x, y, a, e);
}
"#;
    let table = || Table::new().env("RUSTFLAGS", "-Clinker-features=-lld");
    let tools = format!(
        "{NOTES} tool $T/ld-one '/usr/bin/ld \"$@\" $T/one.o'; tool $T/ld-two '/usr/bin/ld \"$@\" $T/two.o'; \
         cc -shared -fPIC -o $T/pre.so pre.c"
    );
    table()
        .add(
            program().file("pre.c", PRELOAD).before(&tools).vars("LD_PRELOAD", None, Some("$T/pre.so")).vars(
                "OTHER_LD",
                None,
                Some("$T/ld-one"),
            ),
        )
        .changes();
    // The library is there before the first build; only what it reads changes.
    table()
        .add(
            program()
                .file("pre.c", PRELOAD)
                .before(&format!("{tools}; ln -s ld-one $T/ld"))
                .change("ln -sfn ld-two $T/ld")
                .vars("LD_PRELOAD", Some("$T/pre.so"), Some("$T/pre.so"))
                .vars("OTHER_LD", Some("$T/ld"), Some("$T/ld")),
        )
        .changes();
}
