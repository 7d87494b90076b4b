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
    assert_eq!(read(place.c("bound.so", &["-shared", "-fPIC", "-Wl,-z,now"], "int x;")), none);
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

#[test]
fn what_nothing_tells_of() {
    let place = Place::new();
    let mut bytes = fs::read(place.c("program", &[], "int main() { return 0; }")).unwrap();
    // Where the table of sections is, and how many there are.
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    let all = Object { is_static: false, imports_environ: true, system_calls: true, cpuid: true };
    assert_eq!(Object::read(&bytes), Some(all));
}

#[test]
fn names_in_programs() {
    let place = Place::new();
    let library =
        place.c("libtaken.so", &["-shared", "-Wl,-soname,libtaken.so"], "int taken(void) { return 1; }");
    let code = "int data = 1; int taken(void); int made(void) { return taken() + data; } int main() { return made(); }";
    let bytes = fs::read(place.c("program", &[library.to_str().unwrap()], code)).unwrap();
    let functions = Object::functions(&bytes);
    for (name, is_there) in [("main", true), ("made", true), ("taken", true), ("data", false)] {
        assert_eq!(functions.contains(&name), is_there, "{name} of {functions:?}");
    }
    let libraries = Object::libraries(&bytes);
    assert_eq!(libraries[0], "libtaken.so");
    assert!(libraries[1..].iter().all(|name| name.starts_with("libc.")), "{libraries:?}");
    for none in [Object::functions, Object::libraries] {
        assert_eq!(none(b"text"), [""; 0]);
    }
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
    // Both; before the first is a byte that is no code, and would have it in an instruction.
    let both = r#"
        int main() { return 0; }
        __asm__(".text\n.byte 0xb8\ncalls: .cfi_startproc\nsyscall\nret\n.cfi_endproc\n"
            "asks: .cfi_startproc\ncpuid\nret\n.cfi_endproc");"#;
    let both = read(place.c("both", &[], both));
    assert_eq!((both.system_calls, both.cpuid), (true, true));
    // The same bytes inside of another instruction.
    let number = "int main(int c, char **v) { return c == 0x11050f11 || c == 0x11a20f11; }";
    assert_eq!(read(place.c("number", &["-O0"], number)), Object::default());
}
