//! `object FILE…`: prints what ELF files say of themselves, and who in them refers to all variables.

use kache_trace::Object;

fn main() {
    let is_all = |name: &str| name == "environ" || name.contains("vars_os");
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path).expect("a file");
        let begun = std::time::Instant::now();
        println!("{path}: {:?} in {:?}", Object::read(&bytes), begun.elapsed());
        let begun = std::time::Instant::now();
        let callers = Object::callers(&bytes, is_all);
        println!("{path}: the environment for {callers:#?} in {:?}", begun.elapsed());
    }
}
