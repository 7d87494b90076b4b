//! `object FILE…`: prints what ELF files say of themselves.

fn main() {
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path).expect("a file");
        let begun = std::time::Instant::now();
        println!("{path}: {:?} in {:?}", kache_trace::Object::read(&bytes), begun.elapsed());
    }
}
