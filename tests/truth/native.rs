//! Native libraries, however the linker comes by them.

use crate::table::{Table, Variant};

const CALL: &str =
    "unsafe extern \"C\" { fn foo() -> i32; } fn main() { println!(\"{}\", unsafe { foo() }); }";

/// A shell function that makes a library: `lib VALUE FILE`.
const LIB: &str = "lib() { mkdir -p \"$(dirname \"$2\")\"; echo \"int foo(void){return $1;}\" > foo.c; \
                   cc -fPIC -c foo.c -o foo.obj; rm -f \"$2\"; ar crs \"$2\" foo.obj; rm foo.obj; }; \
                   so() { mkdir -p \"$(dirname \"$2\")\"; echo \"int foo(void){return $1;}\" > foo.c; cc -shared -fPIC foo.c -o \"$2\"; }; ";

/// A program whose script tells cargo `lines`, and whose library is changed.
fn linked(name: &str, lines: &[&str], file: &str) -> Variant {
    with_attribute(name, "", lines, file)
}

fn with_attribute(name: &str, attribute: &str, lines: &[&str], file: &str) -> Variant {
    let lines: String = lines
        .iter()
        .map(|l| {
            format!(
                "println!(\"{{}}\", {:?}.replace(\"$here\", here().to_str().unwrap()));\n",
                format!("cargo:{l}")
            )
        })
        .collect();
    Variant::new(name)
        .script(&format!("only_script();\n{lines}"))
        .main(&format!("{attribute} {CALL}"))
        .before(&format!("{LIB} lib 1 {file}"))
        .change(&format!("{LIB} lib 2 {file}"))
}

const IN_NL: &str = "rustc-link-arg=-L$here/nl";

#[test]
fn arguments_of_scripts() {
    Table::new()
        .add(linked("search", &[IN_NL, "rustc-link-arg=-lfoo"], "nl/libfoo.a"))
        .add(linked("bins", &["rustc-link-arg-bins=-L$here/nl", "rustc-link-arg-bins=-lfoo"], "nl/libfoo.a"))
        .add(linked("file", &["rustc-link-arg=$here/nl/libfoo.a"], "nl/libfoo.a"))
        .add(linked("odd_name", &["rustc-link-arg=$here/nl/foo.bin"], "nl/foo.bin"))
        .add(linked("colon", &[IN_NL, "rustc-link-arg=-l:libfoo.a"], "nl/libfoo.a"))
        .add(linked(
            "apart",
            &["rustc-link-arg=-L", "rustc-link-arg=$here/nl", "rustc-link-arg=-l", "rustc-link-arg=foo"],
            "nl/libfoo.a",
        ))
        .add(linked("comma", &["rustc-link-arg=-Wl,-L$here/nl,-lfoo"], "nl/libfoo.a"))
        .add(linked("to_linker", &["rustc-link-arg=-Xlinker", "rustc-link-arg=$here/nl/libfoo.a"], "nl/libfoo.a"))
        .add(linked(
            "whole",
            &["rustc-link-arg=-Wl,--whole-archive", IN_NL, "rustc-link-arg=-lfoo", "rustc-link-arg=-Wl,--no-whole-archive"],
            "nl/libfoo.a",
        ))
        .add(linked("response", &["rustc-link-arg=@$here/args.rsp"], "nl/libfoo.a")
            .before(&format!("{LIB} lib 1 nl/libfoo.a; printf -- '-L%s/nl\\n-lfoo\\n' \"$PWD\" > args.rsp")))
        .add(linked("objects", &["rustc-link-arg=@$here/objs.rsp"], "nl/libfoo.a")
            .before("echo \"$PWD/foo.o\" > objs.rsp; echo 'int foo(void){return 1;}' > f.c; cc -fPIC -c f.c -o foo.o")
            .change("echo 'int foo(void){return 2;}' > f.c; cc -fPIC -c f.c -o foo.o"))
        .add(linked("relative_object", &["rustc-link-arg=relative_object/obj/foo.o"], "nl/libfoo.a")
            .before("mkdir obj; echo 'int foo(void){return 1;}' > f.c; cc -fPIC -c f.c -o obj/foo.o")
            .change("echo 'int foo(void){return 2;}' > f.c; cc -fPIC -c f.c -o obj/foo.o"))
        .add(linked("response_changes", &["rustc-link-arg=@$here/args.rsp"], "nl/x.a")
            .before(&format!("{LIB} lib 1 a.a; lib 2 b.a; echo \"$PWD/a.a\" > args.rsp"))
            .change("echo \"$PWD/b.a\" > args.rsp"))
        .add(linked("linked_directory", &["rustc-link-arg=-L$here/current", "rustc-link-arg=-lfoo"], "x.a")
            .before(&format!("{LIB} lib 1 one/libfoo.a; lib 2 two/libfoo.a; ln -s one current"))
            .change("ln -sfn two current"))
        .changes();
}

#[test]
fn search_directories() {
    let attribute = "#[link(name = \"foo\", kind = \"static\")]";
    let native = "rustc-link-search=native=$here/nl";
    Table::new()
        .add(with_attribute("attribute", attribute, &[native], "nl/libfoo.a"))
        .add(with_attribute("all_kinds", attribute, &["rustc-link-search=$here/nl"], "nl/libfoo.a"))
        .add(with_attribute("unkind", "#[link(name = \"foo\")]", &[native], "nl/libfoo.a"))
        .add(linked("by_lib", &[native, "rustc-link-lib=static=foo"], "nl/libfoo.a"))
        .add(linked("by_flags", &["rustc-flags=-L $here/nl -l foo"], "nl/libfoo.a"))
        .add(
            with_attribute("one_of_many", attribute, &[native], "nl/libfoo.a")
                .before(&format!("{LIB} lib 1 nl/libfoo.a; for i in $(seq 210); do : > nl/libx$i.a; done")),
        )
        .add(
            linked("many_and_argument", &[native, "rustc-link-arg=-lfoo"], "nl/libfoo.a")
                .before(&format!("{LIB} lib 1 nl/libfoo.a; for i in $(seq 210); do : > nl/libx$i.a; done")),
        )
        // A library that appears in front of another one.
        .add(
            linked(
                "appears",
                &["rustc-link-arg=-L$here/first", "rustc-link-arg=-L$here/nl", "rustc-link-arg=-lfoo"],
                "nl/libfoo.a",
            )
            .before(&format!("{LIB} mkdir first; lib 1 nl/libfoo.a"))
            .change(&format!("{LIB} lib 2 first/libfoo.a")),
        )
        .add(
            linked(
                "shadowed",
                &["rustc-link-search=native=$here/first", native, "rustc-link-lib=foo"],
                "nl/libfoo.a",
            )
            .before(&format!("{LIB} lib 1 nl/libfoo.a"))
            .change(&format!("{LIB} lib 2 first/libfoo.a")),
        )
        .add(
            linked(
                "goes",
                &["rustc-link-search=native=$here/first", native, "rustc-link-lib=static=foo"],
                "nl/libfoo.a",
            )
            .before(&format!("{LIB} lib 1 first/libfoo.a; lib 2 nl/libfoo.a"))
            .change("rm first/libfoo.a"),
        )
        // A shared library beside a static one is preferred.
        .add(
            linked(
                "shared",
                &[native, "rustc-link-lib=foo", "rustc-link-arg=-Wl,-rpath,$here/nl"],
                "nl/libfoo.a",
            )
            .change(&format!("{LIB} so 2 nl/libfoo.so")),
        )
        .changes();
}

/// Directories have all kinds of names.
#[test]
fn names_of_directories() {
    let mut table = Table::new();
    for (name, dir) in
        [("at", "job@2"), ("blank", "my dir"), ("comma", "a,b"), ("equals", "a=b"), ("percent", "a%20b")]
    {
        let v = linked(
            name,
            &[&format!("rustc-link-search=native=$here/{dir}"), "rustc-link-lib=static=foo"],
            &format!("'{dir}/libfoo.a'"),
        );
        table = table.add(v);
    }
    table.changes();
}

/// Flags are for the whole build.
#[test]
fn flags() {
    for flags in [
        "-Clink-arg=-L$T/nl -Clink-arg=-lfoo",
        "-Clink-arg=@$T/args.rsp",
        "-Lnative=$T/nl -lstatic=foo",
        "-Clink-arg=$T/nl/libfoo.a",
    ] {
        Table::new()
            .env("RUSTFLAGS", flags)
            .add(
                Variant::new("linked")
                    .main(CALL)
                    .before(&format!(
                        "{LIB} lib 1 $T/nl/libfoo.a; printf -- '-L%s/nl\\n-lfoo\\n' \"$T\" > $T/args.rsp"
                    ))
                    .change(&format!("{LIB} lib 2 $T/nl/libfoo.a")),
            )
            .changes();
    }
}

#[test]
fn variables_of_linkers() {
    Table::new()
        .env("LIBRARY_PATH", "$T/nl")
        .add(linked("argument", &["rustc-link-arg=-lfoo"], "$T/nl/libfoo.a"))
        .add(
            with_attribute("attribute", "#[link(name = \"bar\")]", &[], "")
                .main("#[link(name = \"bar\")] unsafe extern \"C\" { fn foo() -> i32; } fn main() { println!(\"{}\", unsafe { foo() }); }")
                .before(&format!("{LIB} lib 1 $T/nl/libbar.a"))
                .change(&format!("{LIB} lib 2 $T/nl/libbar.a")),
        )
        .changes();
}

/// The library is another one when the linker reads it than when the compiler began.
#[test]
fn a_library_changes_during_the_link() {
    let slow = "#!/bin/sh\n[ -e \"$SLOW\" ] && case \"$*\" in *deps/racing*) cp \"$SLOW\" \"$RACED\"; rm \"$SLOW\";; esac\nexec cc \"$@\"\n";
    let table = Table::new()
        .env("SLOW", "$T/two.a")
        .env("RACED", "$T/nl/libfoo.a")
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "$T/cc");
    let cc = table.world().root().join("cc");
    std::fs::write(&cc, slow).unwrap();
    table
        .add(
            Variant::new("racing")
                .main(CALL)
                .script("only_script(); println!(\"cargo:rustc-link-search=native={}\\ncargo:rustc-link-lib=dylib=foo\", env::var(\"RACED\").unwrap().trim_end_matches(\"libfoo.a\"));")
                .before(&format!("{LIB} chmod +x $T/cc; lib 1 $T/nl/libfoo.a; lib 2 $T/two.a; cp $T/nl/libfoo.a $T/one.a"))
                .change("cp $T/one.a $T/nl/libfoo.a"),
        )
        .changes();
}
