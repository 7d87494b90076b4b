//! Tools that build scripts run, and what these run.

use crate::table::{Table, Variant, expands, script};

/// A shell function that writes a tool: `tool FILE LINE`.
const TOOL: &str = "tool() { mkdir -p \"$(dirname \"$1\")\"; printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\"; chmod +x \"$1\"; }; ";

/// A script that runs `words`.
fn runs(name: &str, words: &str) -> Variant {
    script(name, &format!("only_script(); set(prints(&[{words}]));"))
}

fn tool(name: &str, words: &str, before: &str, change: &str) -> Variant {
    runs(name, words).before(&format!("{TOOL} {before}")).change(&format!("{TOOL} {change}"))
}

#[test]
fn scripts() {
    Table::new()
        .in_path("$T/first:$T/bin")
        .add(tool("in_path", r#""foo-config", "--version""#, "tool $T/bin/foo-config 'echo 1'", "tool $T/bin/foo-config 'echo 2'"))
        .add(tool("appears_in_front", r#""bar-config""#, "tool $T/bin/bar-config 'echo 1'", "tool $T/first/bar-config 'echo 2'"))
        .add(tool("goes_from_the_front", r#""baz-config""#, "tool $T/bin/baz-config 'echo 2'; tool $T/first/baz-config 'echo 1'", "rm $T/first/baz-config"))
        .add(
            script("appears", "only_script(); set(match Command::new(\"late-config\").output() { Ok(o) => String::from_utf8(o.stdout).unwrap(), Err(_) => \"none\".into() });")
                .before(&format!("{TOOL} mkdir -p $T/bin"))
                .change(&format!("{TOOL} tool $T/bin/late-config 'echo 2'")),
        )
        .add(tool("not_executable_in_front", r#""qux-config""#, "tool $T/bin/qux-config 'echo 1'; tool $T/first/qux-config 'echo 2'; chmod -x $T/first/qux-config", "chmod +x $T/first/qux-config"))
        .add(tool("link", r#""linked""#, "tool $T/v1 'echo 1'; tool $T/v2 'echo 2'; mkdir -p $T/bin; ln -s $T/v1 $T/bin/linked", "ln -sfn $T/v2 $T/bin/linked"))
        .add(tool("absolute", "&format!(\"{}/tools/gen\", here().display())", "tool tools/gen 'echo 1'", "tool tools/gen 'echo 2'"))
        .add(tool("relative", "\"./gen\"", "tool ./gen 'echo 1'", "tool ./gen 'echo 2'"))
        .add(tool("runs_another", "\"outer\"", "tool $T/bin/outer 'exec inner-tool'; tool $T/bin/inner-tool 'echo 1'", "tool $T/bin/inner-tool 'echo 2'"))
        .add(tool("by_shell", "\"sh\", \"-c\", \"quux-config | cat\"", "tool $T/bin/quux-config 'echo 1'", "tool $T/bin/quux-config 'echo 2'"))
        .add(tool("by_helper", "\"sh\", \"helper.sh\"", "echo 'x=corge; $x-config' > helper.sh; tool $T/bin/corge-config 'echo 1'", "tool $T/bin/corge-config 'echo 2'"))
        .add(tool("asked_for", "\"sh\", \"-c\", \"command -v grault-config || echo none\"", "true", "tool $T/bin/grault-config 'echo 2'"))
        .add(tool("its_settings", "\"with-settings\"", "tool $T/bin/with-settings 'cat $T/settings'; echo 1 > $T/settings", "echo 2 > $T/settings"))
        .add(tool("its_variable", "\"with-variable\"", "tool $T/bin/with-variable 'echo $FOR_THE_TOOL'", "true").var("FOR_THE_TOOL", "1", "2"))
        .add(
            script("by_variable", "only_script(); set(prints(&[&env::var(\"GENERATOR\").unwrap()]));")
                .before(&format!("{TOOL} tool $T/gen1 'echo 1'; tool $T/gen2 'echo 2'"))
                .var("GENERATOR", "$T/gen1", "$T/gen2"),
        )
        .add(
            script("by_variable_same_name", "only_script(); set(prints(&[&env::var(\"GENERATOR_S\").unwrap()]));")
                .before(&format!("{TOOL} tool $T/gen-s 'echo 1'"))
                .change(&format!("{TOOL} tool $T/gen-s 'echo 2'"))
                .var("GENERATOR_S", "$T/gen-s", "$T/gen-s"),
        )
        .add(tool("together", "&[\"put\", \"together\"].join(\"-\")", "tool $T/bin/put-together 'echo 1'", "tool $T/bin/put-together 'echo 2'"))
        .add(tool("interpreter", "\"./x.lang\"", "tool $T/bin/lang 'echo 1'; printf '#!/usr/bin/env lang\\n' > x.lang; chmod +x x.lang", "tool $T/bin/lang 'echo 2'"))
        .changes();
}

#[test]
fn compiled_tools() {
    const SAYS: &str = "says() { echo \"int puts(const char *); int main(void) { puts(\\\"$1\\\"); return 0; }\" > says.c; cc says.c -o \"$2\"; }; ";
    const MAIN: &str =
        "#include <stdio.h>\nint value(void);\nint main(void) { printf(\"%d\", value()); return 0; }";
    const OPENS: &str = "#include <dlfcn.h>\n#include <stdio.h>\nint main(int n, char **a) { int (*f)(void) = (int (*)(void))dlsym(dlopen(a[1], RTLD_NOW), \"value\"); printf(\"%d\", f()); return 0; }";
    const LIB: &str =
        "lib() { echo \"int value(void) { return $1; }\" > v.c; cc -shared -fPIC v.c -o $2; }; ";
    Table::new()
        .in_path("$T/first:$T/bin")
        .add(
            runs("itself", "\"ctool\"")
                .before("mkdir -p $T/bin; echo 'int puts(const char *); int main(void) { puts(\"1\"); return 0; }' > t.c; cc t.c -o $T/bin/ctool")
                .change("echo 'int puts(const char *); int main(void) { puts(\"2\"); return 0; }' > t.c; cc t.c -o $T/bin/ctool"),
        )
        .add(
            runs("first_in_path", "\"gtool\"")
                .before(&format!("{SAYS} mkdir -p $T/first; says 1 $T/first/gtool"))
                .change(&format!("{SAYS} says 2 $T/first/gtool")),
        )
        .add(
            runs("by_path", "\"./here-tool\"")
                .before(&format!("{SAYS} says 1 here-tool"))
                .change(&format!("{SAYS} says 2 here-tool")),
        )
        .krate(
            "mac",
            "use proc_macro::TokenStream;\n#[proc_macro] pub fn runs(i: TokenStream) -> TokenStream { \
             let tool = std::path::Path::new(&std::env::var(\"CARGO_MANIFEST_DIR\").unwrap()).join(i.to_string().trim_matches('\"')); \
             let o = std::process::Command::new(tool).output().unwrap(); format!(\"{:?}\", String::from_utf8(o.stdout).unwrap()).parse().unwrap() }\n",
        )
        .add(
            expands("by_macro", "runs!(\"macro-tool\")")
                .before(&format!("{SAYS} says 1 macro-tool"))
                .change(&format!("{SAYS} says 2 macro-tool")),
        )
        .add(
            runs("past_the_library", "\"sh\", \"-c\", \"exec ./raw-tool\"")
                .file("t.c", "#include <stdio.h>\n#include <unistd.h>\nint main(void) { char b[9] = {0}; int fd; const char *p = \"data\"; \
                    __asm__ volatile(\"syscall\" : \"=a\"(fd) : \"a\"(2L), \"D\"(p), \"S\"(0L), \"d\"(0L) : \"rcx\", \"r11\", \"memory\"); read(fd, b, 8); puts(b); return 0; }")
                .before("cc -w -O1 t.c -o raw-tool; echo 1 > data")
                .change("echo 2 > data")
                .not_stored(),
        )
        .add(
            runs("library", "\"ltool\"")
                .file("t.c", MAIN)
                .before(&format!("{LIB} mkdir -p $T/bin; lib 1 libvalue.so; cc t.c -o $T/bin/ltool -L. -lvalue -Wl,-rpath,$PWD"))
                .change(&format!("{LIB} lib 2 libvalue.so")),
        )
        .add(
            runs("library_by_variable", "\"vtool\"")
                .file("t.c", MAIN)
                .before(&format!("{LIB} mkdir -p $T/bin $T/l1 $T/l2; lib 1 $T/l1/libvalue.so; lib 2 $T/l2/libvalue.so; cc t.c -o $T/bin/vtool -L$T/l1 -lvalue"))
                .var("LD_LIBRARY_PATH", "$T/l1", "$T/l2"),
        )
        .add(
            runs("opened", "\"otool\", &format!(\"{}/plug.so\", here().display())")
                .file("t.c", OPENS)
                .before(&format!("{LIB} mkdir -p $T/bin; lib 1 plug.so; cc t.c -o $T/bin/otool"))
                .change(&format!("{LIB} lib 2 plug.so")),
        )
        .changes();
}

/// Programs that the loader of the system does not load make their system calls alone.
#[test]
fn static_tools() {
    const READS: &str = "#include <stdio.h>\nint main(void) { char b[9] = {0}; FILE *f = fopen(\"data\", \"r\"); if (f) fgets(b, 9, f); puts(b); return 0; }";
    Table::new()
        .in_path("$T/first:$T/bin")
        .add(
            runs("reads", "\"stool\"")
                .file("t.c", READS)
                .before("mkdir -p $T/bin; cc -static t.c -o $T/bin/stool; echo 1 > data")
                .change("echo 2 > data"),
        )
        .add(
            runs("reads_by_shell", "\"sh\", \"-c\", \"cd sub && stool\"")
                .before("mkdir sub; echo 1 > sub/data")
                .change("echo 2 > sub/data"),
        )
        .changes();
}

/// A program that is built on the way.
#[test]
fn a_program_of_the_script() {
    Table::new()
        .add(
            script("built", "println!(\"cargo:rerun-if-changed=gen.c\"); set(c(\"gen.c\", &[]));")
                .file("gen.c", "#include <stdio.h>\nint main(void) { char b[9] = {0}; FILE *f = fopen(\"data\", \"r\"); fgets(b, 9, f); puts(b); return 0; }")
                .before("echo 1 > data")
                .change("echo 2 > data"),
        )
        .add(
            script("by_rustc", "only_script(); let exe = out().join(\"gen\"); run(&[&env::var(\"RUSTC\").unwrap(), \"gen.rs\", \"-o\", exe.to_str().unwrap()]); set(prints(&[exe.to_str().unwrap()]));")
                .file("gen.rs", "fn main() { println!(\"{}\", include_str!(\"data\")); }")
                .before("echo 1 > data")
                .change("echo 2 > data"),
        )
        .changes();
}
