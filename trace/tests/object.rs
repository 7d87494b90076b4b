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

#[cfg(target_arch = "x86_64")]
#[test]
fn who_refers_to_a_name() {
    const FILTERS: &str =
        "env::vars_os().filter(|(k, _)| k.to_str().is_some_and(|k| k.starts_with(\"Q\"))).count()";
    let place = Place::new();
    let commands = "use std::process::Command; fn main() { Command::new(\"true\").env(\"A\", \"b\").status().unwrap(); }";
    let filters = format!("use std::env; fn main() {{ println!(\"{{}}\", {FILTERS}); }}");
    let points = "use std::env; static F: fn() -> env::VarsOs = env::vars_os; \
        #[inline(never)] fn go(f: &fn() -> env::VarsOs) -> usize { f().count() } \
        fn main() { println!(\"{}\", go(std::hint::black_box(&F))); }";
    let in_table = "use std::env; static F: [(u8, fn() -> env::VarsOs); 2] = [(1, env::vars_os), (2, env::vars_os)]; \
        fn main() { println!(\"{}\", std::hint::black_box(&F)[env::args().count()].1().count()); }";
    let reads = "unsafe extern \"C\" { static environ: *const u8; } fn main() { println!(\"{:?}\", unsafe { environ }); }";
    let is_all = |name: &str| name == "environ" || name.contains("vars_os");
    let compile = |name: &str, options: &[&str], text: &str| {
        let bytes = fs::read(place.rust(name, &[&["--edition=2024"], options].concat(), text)).unwrap();
        let callers = Object::callers(&bytes, is_all)?;
        Some(callers.iter().any(|caller| caller.contains("4main")))
    };
    let ways: &[&[&str]] = &[
        &[],
        &["-Copt-level=3"],
        &["-Csymbol-mangling-version=v0"],
        &["-Cprefer-dynamic", "-Copt-level=1"],
        &["-Clink-arg=-Wl,-z,pack-relative-relocs"],
    ];
    for options in ways {
        assert_eq!(compile("commands", options, commands), Some(false), "{options:?}");
        assert_eq!(compile("filters", options, &filters), Some(true), "{options:?}");
        assert_eq!(compile("points", options, points), Some(true), "{options:?}");
        // Nobody refers to the second pointer.
        assert_eq!(compile("in_table", options, in_table), None, "{options:?}");
    }
    assert_eq!(compile("reads", &[], reads), Some(true));
    // `vars_os` is part of it then.
    assert_eq!(compile("filters", &["-Copt-level=3", "-Clto=fat"], &filters), Some(true));
    for untold in ["-Crelocation-model=static", "-Cstrip=symbols"] {
        assert_eq!(compile("commands", &[untold], commands), None, "{untold}");
    }
    let none = place.c("none", &[], "int main() { return 0; }");
    assert_eq!(Object::callers(&fs::read(none).unwrap(), is_all), Some(vec![]));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn who_refers_to_a_name_through_stubs() {
    let place = Place::new();
    let library =
        place.c("libtaken.so", &["-shared", "-Wl,-soname,libtaken.so"], "int taken(void) { return 1; }");
    let code = "int taken(void); int made(void) { return taken() + 1; } int main() { return 1 + made(); }";
    for binding in ["-Wl,-z,lazy", "-Wl,-z,now"] {
        for protection in ["none", "full"] {
            let options =
                [library.to_str().unwrap(), binding, "-fno-inline", &format!("-fcf-protection={protection}")];
            let bytes = fs::read(place.c("program", &options, code)).unwrap();
            let callers = |meant| Object::callers(&bytes, |name| name == meant);
            assert_eq!(callers("taken"), Some(vec!["made"]), "{options:?}");
            assert_eq!(callers("made"), Some(vec!["main"]), "{options:?}");
            // From where there are no names.
            assert_eq!(callers("nowhere"), Some(vec![]), "{options:?}");
        }
    }
    assert_eq!(Object::callers(b"text", |_| true), None);
}
