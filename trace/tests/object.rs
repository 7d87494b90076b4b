//! What ELF files say of themselves.

mod common;

use common::Place;
use kache_trace::Object;
use std::fs;

fn read(path: impl AsRef<std::path::Path>) -> Object {
    Object::read(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_programs_are() {
    let place = Place::new();
    let plain = "int main() { return 0; }";
    let none = Object::default();
    assert_eq!(read(place.c("plain", &[], plain)), none);
    assert_eq!(read(place.c("fixed", &["-no-pie"], plain)), none);
    assert_eq!(read(place.c("library.so", &["-shared", "-fPIC"], "int x;")), none);
    assert_eq!(read(place.c("object.o", &["-c"], plain)), none);
    assert!(Object::read(b"text").is_none());
    assert!(read(place.c("static", &["-static"], plain)).is_static);
    assert!(read(place.c("moved", &["-static-pie", "-fPIE"], plain)).is_static);
}

#[test]
fn what_programs_import() {
    let place = Place::new();
    let code = "extern char **environ; int main() { return environ == 0; }";
    assert!(read(place.c("program", &[], code)).imports_environ);
    assert!(read(place.c("copies", &["-no-pie", "-fno-pie"], code)).imports_environ);
    let library = "extern char **environ; char **get(void) { return environ; }";
    assert!(read(place.c("library.so", &["-shared", "-fPIC"], library)).imports_environ);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_code_does() {
    let place = Place::new();
    let calls = read(place.c("calls", &[], "int main() { __asm__ volatile(\"syscall\"); return 0; }"));
    assert_eq!((calls.system_calls, calls.cpuid), (true, false));
    let asks = read(place.c(
        "asks",
        &[],
        "int main() { __asm__ volatile(\"cpuid\" ::: \"rax\", \"rbx\", \"rcx\", \"rdx\"); return 0; }",
    ));
    assert_eq!((asks.system_calls, asks.cpuid), (false, true));
    // The same bytes inside of another instruction.
    let number = "int main(int c, char **v) { return c == 0x11050f11 || c == 0x11a20f11; }";
    assert_eq!(read(place.c("number", &["-O0"], number)), Object::default());
}
