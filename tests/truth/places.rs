//! Where checkouts and toolchains lie: no directory's name makes what is in it less of an input.

use std::path::{Path, PathBuf};

use crate::support::{World, namespace};
use crate::table::{Table, Variant, expands, script};

fn table(world: World) -> Table {
    Table::in_world(world)
        .krate(
            "mac",
            "use proc_macro::TokenStream;\n#[proc_macro] pub fn text(_: TokenStream) -> TokenStream { \
             let dir = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap(); \
             format!(\"{:?}\", std::fs::read_to_string(dir + \"/text\").unwrap()).parse().unwrap() }\n\
             #[proc_macro] pub fn length(_: TokenStream) -> TokenStream { \
             std::env::var(\"CARGO_MANIFEST_DIR\").unwrap().len().to_string().parse().unwrap() }\n",
        )
        .add(script("undeclared", "only_script(); set(text(\"text\"));").before("echo 1 >text").change("echo 2 >text"))
        .add(script("by_a_tool", "only_script(); set(prints(&[\"./tool\"]));").before("printf '#!/bin/sh\\necho 1\\n' >tool; chmod +x tool").change("printf '#!/bin/sh\\necho 2\\n' >tool; chmod +x tool"))
        .add(script("listed", "only_script(); set(format!(\"{}\", fs::read_dir(\"src\").unwrap().count()));").change("touch src/more"))
        .add(script("beside_the_program", "set(\"\"); fs::write(out().ancestors().nth(3).unwrap().join(\"side\"), text(\"text\")).unwrap();").before("echo 1 >text").change("echo 2 >text").look("cat $D/side"))
        .add(script("of_variables", "only_script(); set(env::var(\"OWN_WORD\").unwrap_or_default());").var("OWN_WORD", "1", "2"))
        .add(script("in_c", "only_script(); set(c(\"x.c\", &[]));").file("x.c", "#include <stdio.h>\n#include \"x.h\"\nint main(void) { printf(\"%d\", X); return 0; }").before("echo '#define X 1' >x.h").change("echo '#define X 2' >x.h"))
        .add(expands("by_macro", "text!()").before("echo 1 >text").change("echo 2 >text"))
        .add(Variant::new("included").main("fn main() { print!(\"{}\", include_str!(\"../text\")); }").before("echo 1 >text").change("echo 2 >text"))
}

/// Values of the place itself.
fn of_the_place(world: World) -> Table {
    table(world)
        .add(script("out_dir", "only_script(); set(out().display().to_string().len().to_string());"))
        .add(expands("by_a_macro", "length!()"))
}

/// A directory of this test alone.
fn empty(dir: &str) -> World {
    namespace::enter();
    namespace::empty(Path::new(dir));
    World::plain_in(Path::new(dir))
}

#[test]
fn a_checkout_in_shared_memory() {
    table(World::plain_in(Path::new("/dev/shm"))).changes();
    of_the_place(World::plain_in(Path::new("/dev/shm"))).changes_elsewhere("at/another/depth");
}

#[test]
fn a_checkout_where_containers_have_theirs() {
    table(empty("/usr/src")).changes();
    of_the_place(empty("/opt")).changes_elsewhere("at/another/depth");
}

#[test]
fn a_checkout_where_services_have_theirs() {
    of_the_place(empty("/var/lib")).changes_elsewhere("at/another/depth");
    table(empty("/var/lib")).changes();
}

/// A directory that is shown in another place, until this goes.
struct Shown(PathBuf);

impl Shown {
    fn new(from: &Path, to: PathBuf) -> Shown {
        namespace::show_read_only(from, &to);
        Shown(to)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        namespace::detach(&self.0);
    }
}

/// As distributions and package managers of languages install it: with everything else.
#[test]
fn a_toolchain_that_shares_its_directories() {
    let world = World::plain();
    let prefix = world.root().join("prefix");
    for dir in ["bin", "lib", "include"] {
        std::fs::create_dir_all(prefix.join(dir)).unwrap();
    }
    let toolchain = crate::support::world::sysroot();
    let _shown = Shown::new(&toolchain.join("lib"), prefix.join("lib"));
    for program in ["rustc", "rustdoc"] {
        std::fs::copy(toolchain.join("bin").join(program), prefix.join("bin").join(program)).unwrap();
    }
    let here = "$T/prefix";
    Table::in_world(world.clone())
        .env("RUSTC", &format!("{here}/bin/rustc"))
        .in_path(&format!("{here}/bin"))
        .env("PREFIX", here)
        .krate(
            "mac",
            "use proc_macro::TokenStream;\n#[proc_macro] pub fn text(_: TokenStream) -> TokenStream { \
             let file = std::env::var(\"PREFIX\").unwrap() + \"/share/text\"; \
             format!(\"{:?}\", std::fs::read_to_string(file).unwrap()).parse().unwrap() }\n",
        )
        .add(script("reads", "only_script(); set(text(&(env::var(\"PREFIX\").unwrap() + \"/include/a\")));").before("echo 1 >$T/prefix/include/a").change("echo 2 >$T/prefix/include/a"))
        .add(script("runs", "only_script(); set(prints(&[\"a-tool\"]));").before("printf '#!/bin/sh\\necho 1\\n' >$T/prefix/bin/a-tool; chmod +x $T/prefix/bin/a-tool").change("printf '#!/bin/sh\\necho 2\\n' >$T/prefix/bin/a-tool; chmod +x $T/prefix/bin/a-tool"))
        .add(script("in_c", "only_script(); set(c(\"x.c\", &[&format!(\"-I{}/include\", env::var(\"PREFIX\").unwrap())]));").file("x.c", "#include <stdio.h>\n#include \"x.h\"\nint main(void) { printf(\"%d\", X); return 0; }").before("echo '#define X 1' >$T/prefix/include/x.h").change("echo '#define X 2' >$T/prefix/include/x.h"))
        .add(expands("by_macro", "text!()").before("mkdir -p $T/prefix/share; echo 1 >$T/prefix/share/text").change("echo 2 >$T/prefix/share/text"))
        .changes();
}

/// What comes out of a pipe is gone, and what went into one is somebody else's.
#[test]
fn pipes() {
    const PIPE: &str = "rm -f pipe; mkfifo pipe";
    Table::new()
        .add(
            script("from", "only_script(); set(text(\"pipe\"));")
                .each(&format!("{PIPE}; (timeout 60 sh -c 'date +%N >pipe' >/dev/null 2>&1 &)")),
        )
        .never_the_same();
    Table::new()
        .add(
            script("is_there", "only_script(); set(std::path::Path::new(\"pipe\").exists().to_string());")
                .before(PIPE)
                .change("rm pipe"),
        )
        .add(
            script(
                "is_a_socket",
                "only_script(); set(std::path::Path::new(\"socket\").exists().to_string());",
            )
            .change("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'"),
        )
        .changes();
}

/// What lies beyond a link that then leads elsewhere: `l/..` is another directory, and so is what was found from within `l`.
#[test]
fn links_that_lead_elsewhere() {
    beyond_links().changes();
}

#[test]
fn links_that_lead_elsewhere_in_a_fork() {
    beyond_links().changes_in_a_fork("other");
}

fn beyond_links() -> Table {
    fn beyond(variant: Variant) -> Variant {
        let texts = "for d in a b; do mkdir -p $d/x; echo $d > $d/f; echo $d > $d/x/g; echo \"pub const V: &str = \\\"$d\\\";\" > $d/m.rs; \
            echo \"#define V \\\"$d\\\"\" > $d/v.h; done";
        variant.before(&format!("{texts}; ln -s a/x l")).change("ln -sfn b/x l")
    }
    let reads = |name: &str, body: &str| beyond(script(name, &format!("only_script(); {body}")));
    let shell = |name: &str, line: &str| reads(name, &format!("set(prints(&[\"sh\", \"-c\", {line:?}]));"));
    let includes = |name: &str, items: &str, value: &str| {
        beyond(Variant::new(name).main(&format!("{items} fn main() {{ println!(\"{{}}\", {value}); }}")))
    };
    Table::new()
        .krate("mac", "use proc_macro::TokenStream;\n#[proc_macro] pub fn text(i: TokenStream) -> TokenStream { let i = i.to_string(); \
            format!(\"{:?}\", std::fs::read_to_string(std::path::Path::new(&std::env::var(\"CARGO_MANIFEST_DIR\").unwrap()).join(i.trim_matches('\"'))).unwrap()).parse().unwrap() }\n")
        .add(includes("by_text", "", "include_str!(\"../l/../f\")"))
        .add(includes("by_module", "#[path = \"../l/../m.rs\"] mod m;", "m::V"))
        .add(includes("by_text_behind", "", "include_str!(\"../l/g\")"))
        .add(beyond(expands("by_macro", "text!(\"l/../f\")")))
        .add(reads("by_script", "set(text(\"l/../f\"));"))
        .add(reads("by_canonical", "set(text(fs::canonicalize(\"l\").unwrap().parent().unwrap().join(\"f\")));"))
        .add(reads("declared", "println!(\"cargo:rerun-if-changed=l/../f\"); set(text(\"l/../f\"));"))
        .add(reads("in_directory", "set(String::from_utf8(Command::new(\"cat\").arg(\"../f\").current_dir(\"l\").output().unwrap().stdout).unwrap().trim());"))
        .add(reads("in_directory_behind", "set(String::from_utf8(Command::new(\"cat\").arg(\"g\").current_dir(\"l\").output().unwrap().stdout).unwrap().trim());"))
        .add(reads("works_there", "env::set_current_dir(\"l\").unwrap(); set(text(\"g\"));"))
        .add(reads("lists", "set(fs::read_dir(\"l/..\").unwrap().map(|e| fs::read_to_string(e.unwrap().path()).unwrap_or_default().lines().next().unwrap_or(\"\").to_owned()).find(|t| t.len() == 1).unwrap());"))
        .add(shell("by_cat", "cat l/../f"))
        .add(shell("by_cd", "cd l; cat g"))
        .add(shell("by_cd_up", "cd -P l/..; cat f"))
        .add(shell("by_find", "find -L l -type f | xargs cat"))
        .add(shell("by_tar", "tar -chf - l | tar -xOf - l/g"))
        .add(reads("by_compiler", "fs::write(out().join(\"x.c\"), \"#include \\\"l/../v.h\\\"\\nV\\n\").unwrap(); \
            set(prints(&[\"cc\", \"-E\", \"-P\", \"-I.\", out().join(\"x.c\").to_str().unwrap()]).trim_matches('\"'));"))
}
