//! Build scripts that ask git, in all the ways there are; nothing but the state of the repository changes.

use crate::table::{Table, Variant, script};

const RERUN: &str = "only_script();";

/// A package that is a repository of its own, with a tag and two commits.
fn asks(name: &str, body: &str, change: &str) -> Variant {
    script(name, body)
        .file(".gitignore", "target")
        .file("NOTES", "hello")
        .before("git init -q -b main .; git add .; git commit -qm one; git tag v1; git commit -q --allow-empty -m two")
        .change(change)
        .not_stored()
}

fn git(name: &str, words: &str, change: &str) -> Variant {
    let words: Vec<&str> = std::iter::once("git").chain(words.split(' ')).collect();
    asks(name, &format!("{RERUN} set(prints(&{words:?}));"), change)
}

const COMMIT: &str = "git commit -q --allow-empty -m x";
const TAG: &str = "git tag -d v1 >/dev/null; git tag v2";
const DIRTY: &str = "echo more >> NOTES";
const BRANCH: &str = "git checkout -q -b other";

fn table() -> Table {
    let table = Table::new();
    ["AUTHOR", "COMMITTER"]
        .iter()
        .fold(table, |t, who| t.env(&format!("GIT_{who}_NAME"), "t").env(&format!("GIT_{who}_EMAIL"), "t@t"))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
}

#[test]
fn questions() {
    table()
        .add(git("describe_tag", "describe --tags --always --dirty", TAG))
        .add(git("describe_commit", "describe --always", COMMIT))
        .add(git("describe_dirty", "describe --tags --always --dirty", DIRTY))
        .add(git("log", "log -1 --format=%H", COMMIT))
        .add(git("rev_parse", "rev-parse --short HEAD", COMMIT))
        .add(git("status", "status --porcelain", DIRTY))
        .add(git("branch", "branch --show-current", BRANCH))
        .add(git("symbolic", "symbolic-ref HEAD", BRANCH))
        .add(git("show", "show -s --format=%s", COMMIT))
        .add(git("count", "rev-list --count HEAD", COMMIT))
        .add(git("diff", "diff --quiet", DIRTY))
        .add(git("config", "config user.name", "git config user.name somebody"))
        .add(git("tags", "tag --list", "git tag v3"))
        .add(git("listed", "ls-files", "echo > new; git add new"))
        .changes();
}

#[test]
fn in_other_ways() {
    table()
        .add(asks("nothing_declared", "set(prints(&[\"git\", \"describe\", \"--tags\"]));", TAG))
        .add(asks("head", "only_script(); set(text(\".git/HEAD\"));", BRANCH))
        .add(asks("head_and_ref", "only_script(); let h = text(\".git/HEAD\"); set(text(Path::new(\".git\").join(h.trim().trim_start_matches(\"ref: \"))));", COMMIT))
        .add(asks("by_script", "only_script(); set(prints(&[\"sh\", \"version.sh\"]));", TAG).file("version.sh", "git describe --tags --always"))
        .add(asks("by_name_together", "only_script(); set(prints(&[&[\"g\", \"it\"].concat(), \"log\", \"-1\", \"--format=%s\"]));", COMMIT))
        .add(asks("by_path", "only_script(); set(prints(&[\"/usr/bin/git\", \"log\", \"-1\", \"--format=%s\"]));", COMMIT))
        .add(asks("packed", "only_script(); set(prints(&[\"git\", \"rev-parse\", \"HEAD\"]));", "git commit -q --allow-empty -m x; git pack-refs --all"))
        .add(asks("elsewhere", "only_script(); set(prints(&[\"git\", \"-C\", \"inner\", \"log\", \"-1\", \"--format=%s\"]));", "git -C inner commit -q --allow-empty -m x")
            .before("mkdir inner; git -C inner init -q; git -C inner commit -q --allow-empty -m one"))
        .add(asks("appears", "only_script(); set(Path::new(\".git\").exists().to_string());", "git init -q .").before("true"))
        .changes();
}

/// The repository lies around the workspace; and a proc macro asks, too.
#[test]
fn around_the_workspace() {
    table()
        .krate(
            "mac",
            "use proc_macro::TokenStream;\n#[proc_macro] pub fn revision(_: TokenStream) -> TokenStream { let o = std::process::Command::new(\"git\")\
             .args([\"log\", \"-1\", \"--format=%s\"]).output().unwrap(); format!(\"{:?}\", String::from_utf8(o.stdout).unwrap()).parse().unwrap() }\n",
        )
        .add(
            script("member", "only_script(); set(prints(&[\"git\", \"log\", \"-1\", \"--format=%s\"]));")
                .before("cd ..; git init -q -b main .; git commit -q --allow-empty -m one")
                .change("git commit -q --allow-empty -m two")
                .not_stored(),
        )
        .add(crate::table::expands("by_macro", "revision!()").not_stored())
        .changes();
}

#[test]
fn of_another_commit() {
    let both = || {
        table()
            .add(git("describe", "describe --tags --always", "git checkout -q HEAD~1"))
            .add(git("subject", "log -1 --format=%s", "git checkout -q HEAD~1"))
            .add(asks("head", "only_script(); set(text(\".git/HEAD\"));", BRANCH))
    };
    both().changes_elsewhere("other");
    // Nothing is declared, so that plain cargo would run them again, too.
    table()
        .add(asks("describe", "println!(\"cargo:rerun-if-changed=.git/HEAD\"); set(prints(&[\"git\", \"log\", \"-1\", \"--format=%s\"]));", "git checkout -q HEAD~1"))
        .changes_in_a_fork("other");
}
