//! Variables of the environment that build scripts and macros read, however they come by the names.

use crate::table::{Table, Variant, expands, script};

#[test]
fn build_scripts() {
    Table::new()
        .add(script("user", "only_script(); set(env::var(\"USER\").unwrap());").var("USER", "alice", "bob"))
        .add(
            script(
                "together",
                r#"only_script(); let name = env::var("CARGO_PKG_NAME").unwrap().to_uppercase();
                set(env::var(format!("{name}_DIR")).unwrap_or_default());"#,
            )
            .var("TOGETHER_DIR", "/one", "/two"),
        )
        .add(script("lower", "only_script(); set(env::var(\"app_mode\").unwrap());").var("app_mode", "a", "b"))
        .add(script("short", "only_script(); set(env::var(\"QZ\").unwrap());").var("QZ", "1", "2"))
        .add(
            script("appears", "only_script(); set(env::var(\"VAR_APPEARS\").unwrap_or_default());")
                .vars("VAR_APPEARS", None, Some("x")),
        )
        .add(
            script("goes", "only_script(); set(env::var(\"VAR_GOES\").unwrap_or_default());")
                .vars("VAR_GOES", Some("x"), None),
        )
        .add(
            script("empties", "only_script(); set(format!(\"{:?}\", env::var_os(\"VAR_EMPTIES\")));")
                .vars("VAR_EMPTIES", None, Some("")),
        )
        .add(
            script(
                "prefix",
                r#"only_script(); let mut all: Vec<_> = env::vars().filter(|(n, _)| n.starts_with("WITHPREFIX_")).collect();
                all.sort(); set(format!("{all:?}"));"#,
            )
            .vars("WITHPREFIX_NEW", None, Some("1"))
            // Whoever looks at all variables also sees those of the job server.
            .not_stored(),
        )
        .add(
            script(
                "prefix_os",
                r#"only_script(); set(env::vars_os().filter(|(n, _)| n.to_str().is_some_and(|n| n.starts_with("OSPREFIX_"))).count().to_string());"#,
            )
            .vars("OSPREFIX_NEW", None, Some("1"))
            .not_stored(),
        )
        .add(
            script("by_shell", r#"only_script(); set(prints(&["sh", "-c", "echo $FOR_SHELL"]));"#)
                .var("FOR_SHELL", "1", "2"),
        )
        .add(
            script("by_helper", r#"only_script(); set(prints(&["sh", "helper.sh"]));"#)
                .file("helper.sh", "exec sh inner.sh")
                .file("inner.sh", "name=FOR_HELPER; printenv $name")
                .var("FOR_HELPER", "1", "2"),
        )
        .add(
            script("from_file", "only_script(); set(env::var(text(\"name.txt\").trim()).unwrap());")
                .file("name.txt", "NAMED_BY_FILE")
                .var("NAMED_BY_FILE", "1", "2"),
        )
        .add(
            script("nothing_declared", "set(env::var(\"UNDECLARED\").unwrap());").var("UNDECLARED", "1", "2"),
        )
        .add(
            script("by_library", r#"only_script(); set(c("x.c", &[]));"#)
                .file(
                    "x.c",
                    "#include <stdlib.h>\n#include <stdio.h>\nint main(void) { puts(getenv(\"FOR_GETENV\")); return 0; }",
                )
                .var("FOR_GETENV", "1", "2"),
        )
        .add(
            script("by_environ", r#"only_script(); set(c("x.c", &[]));"#)
                .file(
                    "x.c",
                    "#include <stdio.h>\n#include <string.h>\nextern char **environ;\nint main(void) { \
                     for (char **e = environ; *e; e++) if (!strncmp(*e, \"FOR_ENVIRON=\", 12)) puts(*e); return 0; }",
                )
                .var("FOR_ENVIRON", "1", "2")
                .not_stored(),
        )
        .changes();
}

/// Names of variables stand in texts in many ways, or in none: those that an interpreter reads for itself.
#[test]
fn of_interpreters() {
    let runs = |name: &str, words: &str| script(name, &format!("only_script(); set(prints(&[{words}]));"));
    let make = |name: &str, text: &str| {
        runs(name, r#""make", "-s", "-f", "mk""#).file("mk", &format!("{text}\nall:\n\t@echo '$(X)'"))
    };
    let perl = |name: &str, text: &str| runs(name, r#""perl", "p.pl""#).file("p.pl", text);
    let bash = |name: &str, text: &str| runs(name, r#""bash", "s.sh""#).file("s.sh", text);
    Table::new()
        .add(runs("perl_e", r#""perl", "-e", "print $ENV{PERL_E}""#).vars("PERL_E", None, Some("1")))
        .add(runs("perl_e_exists", r#""perl", "-e", "print exists $ENV{PERL_X} ? 1 : 0""#).vars("PERL_X", None, Some("")))
        .add(perl("perl_bare", "print $ENV{PERL_BARE} // 0;").var("PERL_BARE", "1", "2"))
        .add(perl("perl_slice", "my @k = qw(PERL_S); print map { $_ // 'u' } @ENV{@k};").vars("PERL_S", None, Some("1")))
        .add(perl("perl_session", "print exists $ENV{TERM_PROGRAM} ? 1 : 0;").vars("TERM_PROGRAM", None, Some("1")))
        .add(
            runs("perl_module", r#""perl", "-I.", "-MMod", "-e", "1""#)
                .file("Mod.pm", "package Mod; print $ENV{PERL_M}; 1;")
                .vars("PERL_M", None, Some("1")),
        )
        .add(make("make_ifdef", "ifdef MK_IFDEF\nX=set\nendif").vars("MK_IFDEF", None, Some("1")))
        .add(make("make_ifndef", "ifndef MK_IFNDEF\nX=unset\nendif").vars("MK_IFNDEF", None, Some("1")))
        .add(make("make_origin", "X=$(origin MK_ORIGIN)").vars("MK_ORIGIN", None, Some("1")))
        .add(make("make_value", "X=$(value MK_VALUE)").vars("MK_VALUE", None, Some("1")))
        .add(make("make_call", "X=$(call MK_CALL)").vars("MK_CALL", None, Some("1")))
        .add(make("make_nested", "N=MK_NESTED\nX=$($(N))").vars("MK_NESTED", None, Some("1")))
        .add(make("make_letter", "X=$V").vars("V", None, Some("1")))
        .add(make("make_letter_before", "X=$Wx").vars("W", None, Some("1")))
        .add(make("make_dash", "X=$(mk-dash)").vars("mk-dash", None, Some("1")))
        .add(
            make("make_included", "include inner.mk")
                .file("inner.mk", "ifdef MK_INNER\nX=set\nendif")
                .vars("MK_INNER", None, Some("1")),
        )
        .add(make("make_makefiles", "X=$(M)").before("mkdir $T/mk; echo 'M=1' > $T/mk/more.mk").vars("MAKEFILES", None, Some("$T/mk/more.mk")))
        .add(
            make("make_all", "X=$(foreach v,$(filter MK_ALL%,$(.VARIABLES)),$($(v)))")
                .vars("MK_ALL_1", None, Some("1"))
                .not_stored(),
        )
        .add(
            script("make_rule", r#"only_script(); fs::copy("x.c", out().join("x.c")).unwrap(); env::set_current_dir(out()).unwrap();
                run(&["make", "-s", "x"]); set(prints(&["./x"]));"#)
                .file("x.c", "#include <stdio.h>\n#ifndef N\n#define N 1\n#endif\nint main(void) { printf(\"%d\", N); return 0; }")
                .vars("CPPFLAGS", None, Some("-DN=2")),
        )
        .add(bash("bash_v", "[[ -v SH_V ]] && echo set || echo unset").vars("SH_V", None, Some("")))
        .add(bash("bash_arithmetic", "echo $((SH_N + 1))").vars("SH_N", None, Some("1")))
        .add(bash("bash_indirect", "read -r k < cfg; echo ${!k}").file("cfg", "SH_I").vars("SH_I", None, Some("1")))
        .add(
            bash("bash_cdpath", "cd sub > /dev/null; cat f")
                .before("mkdir -p sub $T/cdpath/sub; echo 1 > sub/f; echo 2 > $T/cdpath/sub/f")
                .vars("CDPATH", None, Some("$T/cdpath")),
        )
        .add(
            bash("bash_env", "hi 2> /dev/null || echo none")
                .before("echo 'hi() { echo hi; }' > $T/hi.sh")
                .vars("BASH_ENV", None, Some("$T/hi.sh")),
        )
        .add(bash("bash_function", "hello 2> /dev/null || echo none").vars("BASH_FUNC_hello%%", None, Some("() { echo hello; }")))
        .add(
            runs("sh_piped", r#""sh", "-c", "cat t.sh | sh""#)
                .file("t.sh", "echo $SH_PIPED")
                .vars("SH_PIPED", None, Some("1")),
        )
        .add(
            runs("sh_here", r#""sh", "s.sh""#)
                .file("s.sh", "perl <<'X'\nprint $ENV{SH_HERE};\nX")
                .vars("SH_HERE", None, Some("1")),
        )
        .changes();
}

/// The C library asks for it where options are read.
#[test]
fn of_the_library() {
    Table::new()
        .add(
            script("grep", r#"only_script(); set(prints(&["grep", "a", "f", "-c"]));"#)
                .file("f", "a\nb")
                .vars("POSIXLY_CORRECT", None, Some("1")),
        )
        .changes();
}

/// Whoever goes over all variables names none.
#[test]
fn all_of_them() {
    const SCANS: &str = "#include <stdio.h>\n#include <string.h>\nint main(int n, char **a, char **e) { \
        for (; *e; e++) if (strlen(*e) == 11 && (*e)[9] == '=') puts(*e); return 0; }";
    const COMPOSES: &str = "#include <stdio.h>\n#include <stdlib.h>\nint main(void) { char b[20]; \
        sprintf(b, \"%s%s\", \"STAT\", \"IC_V\"); puts(getenv(b)); return 0; }";
    Table::new()
        .add(
            script("lower_case", "only_script(); set(env::vars().filter(|(k, _)| k.to_lowercase().starts_with(\"scanned_\")).map(|(k, v)| format!(\"{k}={v} \")).collect::<String>());")
                .var("SCANNED_NAME", "1", "2"),
        )
        .add(
            script("own_environ", "only_script(); set(text(\"/proc/self/environ\").split('\\0').filter(|v| v.starts_with(\"GIZMO\")).collect::<String>());")
                .var("GIZMO_A", "1", "2")
                .not_stored(),
        )
        .add(
            script("in_perl", "only_script(); set(prints(&[\"perl\", \"-e\", \"print join q(,), map {$ENV{$_}} sort grep {/^FEATU/} keys %ENV\"]));")
                .vars("FEATURE_B", None, Some("1"))
                .not_stored(),
        )
        .add(
            script("in_bash", "only_script(); set(prints(&[\"bash\", \"-c\", \"echo ${!BASHED_*}\"]));")
                .vars("BASHED_B", None, Some("1"))
                .not_stored(),
        )
        .add(
            script("by_env", "only_script(); set(prints(&[\"sh\", \"-c\", \"env | grep ^SHOWN\"]));")
                .var("SHOWN_1", "1", "2")
                .not_stored(),
        )
        .add(
            script("in_c", "only_script(); set(prints(&[\"./scan\"]));")
                .file("t.c", SCANS)
                .before("cc -w t.c -o scan")
                .var("SCANNED_C", "1", "2"),
        )
        .add(
            script("static_c", "only_script(); set(prints(&[\"./composes\"]));")
                .file("t.c", COMPOSES)
                .before("cc -static -w t.c -o composes")
                .var("STATIC_V", "1", "2"),
        )
        .changes();
}

/// Cargo hands on what it was given.
#[test]
fn of_the_shell_that_started_cargo() {
    let world = crate::support::World::plain();
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", "[workspace]\nmembers = [\"m\"]\nresolver = \"2\"\n"),
            ("version.txt", "1.2.3\n"),
            ("m/Cargo.toml", "[package]\nname = \"m\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            ("m/src/main.rs", "fn main() { println!(\"{}\", env!(\"V\")) }\n"),
            (
                "m/build.rs",
                "use std::env;\nfn main() {\n    let name = |v: &str| env::var(v).ok().map(|p| p.rsplit('/').next().unwrap().to_owned());\n    \
                 println!(\"cargo:rustc-env=V={} {:?} {:?} {:?}\", std::fs::read_to_string(env::var(\"PWD\").unwrap() + \"/version.txt\").unwrap().trim(), \
                 env::var(\"OLDPWD\"), name(\"_\"), env::args().next().unwrap().rsplit('/').next());\n}\n",
            ),
        ],
    );
    let shows = |wrapper: &str| {
        c.sh(&format!("export OLDPWD=/nowhere; {wrapper} cargo run -q --offline; rm -rf target"))
    };
    let plain = shows("env -u RUSTC_WRAPPER");
    assert!(plain.contains("1.2.3") && plain.contains("nowhere"), "{plain}");
    for _ in 0..2 {
        assert_eq!(shows(""), plain);
    }
}

#[test]
fn declared_variables_in_place() {
    Table::new()
        .add(
            script(
                "declared",
                "println!(\"cargo:rerun-if-env-changed=DECLARED\"); set(env::var(\"DECLARED\").unwrap());",
            )
            .var("DECLARED", "1", "2"),
        )
        .add(
            script(
                "new_syntax",
                "println!(\"cargo::rerun-if-env-changed=DECLARED_2\"); set(env::var(\"DECLARED_2\").unwrap());",
            )
            .var("DECLARED_2", "1", "2"),
        )
        // The script only makes cargo compile again; the macro reads.
        .krate("mac", MACROS)
        .add(
            expands("for_macro", "named!(\"FOR_MACRO\")")
                .script("println!(\"cargo:rerun-if-env-changed=FOR_MACRO\");")
                .var("FOR_MACRO", "1", "2"),
        )
        .changes_in_place();
}

const MACROS: &str = r#"
use proc_macro::{TokenStream, TokenTree};

fn word(i: TokenStream) -> String {
    let literal = i.into_iter().find_map(|t| match t {
        TokenTree::Literal(l) => Some(l.to_string()),
        TokenTree::Group(g) => Some(word(g.stream())),
        _ => None,
    });
    literal.unwrap().trim_matches('"').to_owned()
}

fn quoted(text: impl AsRef<str>) -> TokenStream {
    format!("{:?}", text.as_ref()).parse().unwrap()
}

/// The caller says which.
#[proc_macro]
pub fn named(i: TokenStream) -> TokenStream {
    quoted(std::env::var(word(i)).unwrap_or_default())
}

#[proc_macro]
pub fn with_end(i: TokenStream) -> TokenStream {
    quoted(std::env::var(format!("{}_URL", word(i).to_uppercase())).unwrap_or_default())
}

#[proc_macro]
pub fn mode_and_stage(_: TokenStream) -> TokenStream {
    quoted(format!("{:?} {:?}", std::env::var("MODE"), std::env::var("STAGE")))
}

#[proc_macro]
pub fn own_lower(_: TokenStream) -> TokenStream {
    quoted(std::env::var("macro_mode").unwrap_or_default())
}

#[proc_macro]
pub fn with_prefix(i: TokenStream) -> TokenStream {
    let prefix = word(i);
    let mut all: Vec<_> = std::env::vars().filter(|(n, _)| n.starts_with(&prefix)).collect();
    all.sort();
    quoted(format!("{all:?}"))
}

#[proc_macro]
pub fn by_shell(i: TokenStream) -> TokenStream {
    let o = std::process::Command::new("sh").args(["-c", &format!("echo ${}", word(i))]).output().unwrap();
    quoted(String::from_utf8_lossy(&o.stdout).trim())
}

#[proc_macro_attribute]
pub fn tagged(a: TokenStream, i: TokenStream) -> TokenStream {
    let v = std::env::var(word(a)).unwrap_or_default();
    format!("{i} fn tag() -> &'static str {{ {v:?} }}").parse().unwrap()
}

#[proc_macro_derive(Revision, attributes(var))]
pub fn revision(i: TokenStream) -> TokenStream {
    let v = std::env::var(word(i)).unwrap_or_default();
    format!("const REVISION: &str = {v:?};").parse().unwrap()
}
"#;

/// Nothing else in it goes over all variables.
const MACRO_OS: &str = r#"extern crate proc_macro;
use proc_macro::TokenStream;

#[proc_macro]
pub fn with_prefix(i: TokenStream) -> TokenStream {
    let prefix = i.to_string().trim_matches('"').to_owned();
    let all = std::env::vars_os().filter(|(n, _)| n.to_str().is_some_and(|n| n.starts_with(&prefix)));
    all.count().to_string().parse().unwrap()
}
"#;

#[test]
fn macros() {
    Table::new()
        .krate("mac", MACROS)
        .krate("mac_os", MACRO_OS)
        .krate("between", "#[macro_export] macro_rules! baked { ($e:literal) => { mac::named!($e) }; }")
        .add(expands("by_caller", "named!(\"DATABASE_URL\")").var("DATABASE_URL", "old", "new"))
        .add(expands("appears", "named!(\"M_APPEARS\")").vars("M_APPEARS", None, Some("2")))
        .add(expands("goes", "named!(\"M_GOES\")").vars("M_GOES", Some("2"), None))
        .add(expands("lower", "named!(\"caller_mode\")").var("caller_mode", "1", "2"))
        .add(expands("own_lower", "own_lower!()").var("macro_mode", "1", "2"))
        .add(expands("ending", "with_end!(\"queue\")").var("QUEUE_URL", "1", "2"))
        .add(expands("prefix", "with_prefix!(\"MPREFIX_\")").vars("MPREFIX_NEW", None, Some("2")).not_stored())
        .add(
            Variant::new("prefix_os")
                .uses("mac_os")
                .main("fn main() { println!(\"{}\", mac_os::with_prefix!(\"MOSPREFIX_\")); }")
                .vars("MOSPREFIX_NEW", None, Some("2"))
                .not_stored(),
        )
        .add(expands("by_shell", "by_shell!(\"M_SHELL\")").var("M_SHELL", "1", "2"))
        .add(expands("stage", "mode_and_stage!()").var("STAGE", "1", "2"))
        .add(
            Variant::new("attribute")
                .uses("mac")
                .main("#[mac::tagged(\"RELEASE_NAME\")] fn x() {} fn main() { x(); println!(\"{}\", tag()); }")
                .var("RELEASE_NAME", "a", "b"),
        )
        .add(
            Variant::new("derive")
                .uses("mac")
                .main("#[derive(mac::Revision)] #[var(\"GIT_REVISION\")] struct S; fn main() { println!(\"{}\", REVISION); let _ = S; }")
                .var("GIT_REVISION", "a", "b"),
        )
        .add(
            Variant::new("through_another")
                .uses("mac")
                .uses("between")
                .main("fn main() { println!(\"{}\", between::baked!(\"BETWEEN\")); }")
                .var("BETWEEN", "1", "2"),
        )
        .add(
            Variant::new("through_own_rules")
                .uses("mac")
                .main(
                    "macro_rules! m { ($($t:tt)*) => { mac::named!($($t)*) } } fn main() { println!(\"{}\", m!(\"RULES\")); }",
                )
                .var("RULES", "1", "2"),
        )
        .changes();
}

/// A library expands the macro, a program only links it.
#[test]
fn a_macro_in_a_dependency() {
    Table::new()
        .krate("mac", MACROS)
        .add(
            Variant::new("library")
                .uses("mac")
                .file("src/lib.rs", "pub fn v() -> &'static str { mac::named!(\"LIBRARY_VAR\") }")
                .main("fn main() { println!(\"{}\", library::v()); }")
                .var("LIBRARY_VAR", "1", "2"),
        )
        .add(Variant::new("user").uses("library").main("fn main() { println!(\"{}\", library::v()); }"))
        .changes();
}

#[test]
fn variables_that_rustc_knows_of() {
    Table::new()
        .add(Variant::new("known").main("fn main() { println!(\"{:?}\", option_env!(\"KNOWN\")); }").vars(
            "KNOWN",
            None,
            Some("1"),
        ))
        .add(
            Variant::new("changed")
                .main("fn main() { println!(\"{}\", env!(\"CHANGED\")); }")
                .var("CHANGED", "1", "2"),
        )
        .changes_in_place();
}

#[test]
fn in_a_fork() {
    Table::new()
        .krate("mac", MACROS)
        .add(expands("by_macro", "named!(\"FORK_MACRO\")").var("FORK_MACRO", "old", "new").script(
            "println!(\"cargo:rerun-if-env-changed=FORK_MACRO\");",
        ))
        .add(
            script(
                "by_script",
                "println!(\"cargo:rerun-if-env-changed=FORK_SCRIPT\"); set(env::var(\"FORK_SCRIPT\").unwrap());",
            )
            .var("FORK_SCRIPT", "1", "2"),
        )
        .changes_in_a_fork("other");
}
