//! Making another checkout of a project, and forking a target directory for it.

use std::fs;
use std::path::Path;

use super::support::{Checkout, World, world::copy_tree};

/// A built project.
pub fn built(world: &World, words: &str) -> Checkout {
    let donor = world.checkout("donor", "workspace");
    donor.cargo(words).ok();
    donor
}

/// Where cargo puts what it makes, in one story or another. What is mounted there may be closed to this process.
const BUILT: &[&str] = &["target", "inner", "out"];

/// A checkout with the same sources as another has now, and an empty target.
pub fn copy(of: &Checkout, name: &str) -> Checkout {
    copy_to(of, &of.world().root().join(name))
}

pub fn copy_to(of: &Checkout, dir: &Path) -> Checkout {
    let copy = of.world().empty_checkout(dir);
    replace_sources(of, &copy);
    copy
}

/// Makes the sources of one checkout those of another.
pub fn replace_sources(of: &Checkout, to: &Checkout) {
    let entries = |c: &Checkout| {
        let all = fs::read_dir(c.dir()).expect("a checkout").map(|e| e.expect("a checkout"));
        all.filter(|e| !BUILT.iter().any(|name| e.file_name() == *name)).collect::<Vec<_>>()
    };
    for entry in entries(to) {
        let path = entry.path();
        let is_dir = entry.file_type().expect("a checkout").is_dir();
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("our own directory");
    }
    for entry in entries(of) {
        let to = to.dir().join(entry.file_name());
        if entry.file_type().expect("a checkout").is_dir() {
            fs::create_dir_all(&to).expect("our own directory");
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("our own directory");
        }
    }
    to.world().own(to.dir());
}

/// Forks the donor for a checkout. What kache says about it.
pub fn fork(donor: &Checkout, to: &Checkout) -> String {
    if !donor.world().mounted() {
        donor.kache_prints("snapshot");
    }
    to.kache_prints("fork --verbose")
}

/// A second checkout of a built project, forked.
pub fn forked(donor: &Checkout, name: &str) -> Checkout {
    let copy = copy(donor, name);
    fork(donor, &copy);
    copy
}

/// `(fresh, all)` of what kache says.
pub fn counts(said: &str) -> (u64, u64) {
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words.iter().position(|w| *w == "of").unwrap_or_else(|| panic!("{said}"));
    (words[at - 1].parse().expect(said), words[at + 1].parse().expect(said))
}

/// The program prints here what it prints after a plain build of these sources from nothing.
#[track_caller]
pub fn same_as_plain(checkout: &Checkout) {
    same_as_plain_by(checkout, "build");
}

#[track_caller]
pub fn same_as_plain_by(checkout: &Checkout, words: &str) {
    let plain = checkout.plain(words);
    assert_eq!(checkout.prints("target/debug/app"), checkout.prints(plain.join("debug/app")));
    fs::remove_dir_all(plain).expect("our own directory");
}
