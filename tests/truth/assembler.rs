//! Files that the assembler reads, of which the compiler does not tell.

use crate::table::{Table, Variant};

const SHOW: &str =
    "fn main() { println!(\"{}\", unsafe { *std::hint::black_box(&raw const blob) } as char); }";

/// A program that prints the first byte of what `line` makes the assembler read.
fn global(name: &str, line: &str) -> Variant {
    let source = format!(
        "core::arch::global_asm!(\".section .rodata\", \".globl blob\", \"blob:\", {line}, \".byte 0\", \".text\"); \
         unsafe extern \"C\" {{ static blob: u8; }} {SHOW}"
    );
    Variant::new(name).main(&source)
}

/// Paths are relative to the workspace, where the compiler runs.
fn included(name: &str, words: &str, file: &str) -> Variant {
    let dir = file.rsplit_once('/').map_or("", |(dir, _)| dir);
    global(name, &format!("r#\"{words}\"#"))
        .before(&format!("mkdir -p \"$W/{name}/{dir}\"; echo '.byte 65' > {file}"))
        .change(&format!("echo '.byte 66' > {file}"))
}

fn bytes(variant: Variant, file: &str) -> Variant {
    variant.before(&format!("printf A > {file}")).change(&format!("printf B > {file}"))
}

#[test]
fn programs() {
    Table::new()
        .krate(
            "rules",
            "#[macro_export] macro_rules! blob { ($f:literal) => { core::arch::global_asm!(\".section .rodata\", \
             \".globl blob\", \"blob:\", concat!(\".inc\", \"bin \\\"\", $f, \"\\\"\"), \".byte 0\", \".text\"); } }",
        )
        .add(bytes(global("incbin", r##"r#".incbin "incbin/data.bin""#"##), "data.bin"))
        .add(bytes(
            global("by_manifest", r#"concat!(".incbin \"", env!("CARGO_MANIFEST_DIR"), "/src/data.bin\"")"#),
            "src/data.bin",
        ))
        .add(bytes(global("offset", r##"r#".incbin "offset/data.bin", 0, 1"#"##), "data.bin"))
        .add(included("include", ".include \"include/x.inc\"", "x.inc"))
        .add(included("nested", ".include \"nested/deep/er/x.inc\"", "deep/er/x.inc"))
        .add(
            included("chain", ".include \"chain/x.inc\"", "y.inc").file("x.inc", ".include \"chain/y.inc\""),
        )
        .add(bytes(
            global("link", r##"r#".incbin "link/current""#"##).file("a", "").file("b", ""),
            "a",
        ).before("printf A > a; printf B > b; ln -s a current").change("ln -sfn b current"))
        .add(bytes(
            Variant::new("text")
                .main(&format!(
                    "core::arch::global_asm!(include_str!(\"x.s\")); unsafe extern \"C\" {{ static blob: u8; }} {SHOW}"
                ))
                .file(
                    "src/x.s",
                    ".section .rodata\n.globl blob\nblob:\n.incbin \"text/data.bin\"\n.byte 0\n.text",
                ),
            "data.bin",
        ))
        .add(bytes(
            Variant::new("inline").main(&format!(
                "#![allow(named_asm_labels)] fn put() {{ unsafe {{ core::arch::asm!(\".pushsection .rodata\", \".globl blob\", \
                 \"blob:\", \".incbin \\\"inline/data.bin\\\"\", \".byte 0\", \".popsection\"); }} }} \
                 unsafe extern \"C\" {{ static blob: u8; }} {}",
                SHOW.replace("{ println", "{ put(); println")
            )),
            "data.bin",
        ))
        .add(bytes(
            Variant::new("by_rules").uses("rules").main(&format!(
                "rules::blob!(\"by_rules/data.bin\"); unsafe extern \"C\" {{ static blob: u8; }} {SHOW}"
            )),
            "data.bin",
        ))
        .add(
            bytes(
                Variant::new("library")
                    .file(
                        "src/lib.rs",
                        "core::arch::global_asm!(\".section .rodata\", \".globl blob\", \"blob:\", \
                         \".incbin \\\"library/data.bin\\\"\", \".byte 0\", \".text\"); \
                         unsafe extern \"C\" { static blob: u8; } \
                         pub fn f() -> char { unsafe { *std::hint::black_box(&raw const blob) as char } }",
                    )
                    .main("fn main() { println!(\"{}\", library::f()); }"),
                "data.bin",
            ),
        )
        .add(global("removed", r##"r#".incbin "removed/data.bin""#"##).before("printf A > data.bin").change("rm data.bin").not_stored())
        .changes();
}

#[test]
fn what_a_build_script_left() {
    Table::new()
        .add(bytes(
            global("by_out_dir", r#"concat!(".incbin \"", env!("OUT_DIR"), "/data.bin\"")"#).script(
                "println!(\"cargo:rerun-if-changed=x.bin\"); fs::copy(\"x.bin\", out().join(\"data.bin\")).unwrap();",
            ),
            "x.bin",
        ))
        .changes_in_place();
}

#[test]
fn in_another_checkout() {
    Table::new()
        .add(bytes(global("relative", r##"r#".incbin "relative/data.bin""#"##), "data.bin"))
        .add(bytes(
            global("absolute", r#"concat!(".incbin \"", env!("CARGO_MANIFEST_DIR"), "/data.bin\"")"#),
            "data.bin",
        ))
        .changes_elsewhere("deep/er/other");
}
