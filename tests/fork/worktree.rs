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

/// A checkout with the same sources as another has now, and an empty target.
pub fn copy(of: &Checkout, name: &str) -> Checkout {
    copy_to(of, &of.world().root().join(name))
}

pub fn copy_to(of: &Checkout, dir: &Path) -> Checkout {
    let copy = of.world().empty_checkout(dir);
    for entry in fs::read_dir(of.dir()).expect("a checkout") {
        let entry = entry.expect("a checkout");
        let to = dir.join(entry.file_name());
        if entry.file_name() == "target" {
            continue;
        }
        if entry.file_type().expect("a checkout").is_dir() {
            fs::create_dir_all(&to).expect("our own directory");
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("our own directory");
        }
    }
    of.world().own(dir);
    copy
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
    let plain = checkout.plain("build");
    assert_eq!(checkout.prints("target/debug/app"), checkout.prints(plain.join("debug/app")));
    fs::remove_dir_all(plain).expect("our own directory");
}
