//! Many small edits, one after the other: the program is always what a plain build in a clean directory makes.

use crate::support::dice::Dice;
use crate::support::{Checkout, World};

/// Numbers that the sources are made of.
struct Project {
    /// Constants of the modules of each library.
    numbers: Vec<[u64; 3]>,
    generated: u64,
    file: u64,
    native: u64,
    variable: Option<u64>,
    shape: u64,
}

impl Project {
    fn new() -> Project {
        Project { numbers: vec![[1, 2, 3]; 3], generated: 1, file: 1, native: 1, variable: None, shape: 0 }
    }

    fn edit(&mut self, dice: &mut Dice) -> String {
        // Few values, so that earlier states come back.
        let value = dice.below(4);
        match dice.below(9) {
            0..=3 => {
                let (library, module) = (dice.below(3) as usize, dice.below(3) as usize);
                self.numbers[library][module] = value;
                format!("number {module} of l{library} = {value}")
            }
            4 => {
                self.generated = value;
                format!("generated = {value}")
            }
            5 => {
                self.file = value;
                format!("file = {value}")
            }
            6 => {
                self.native = value;
                format!("native = {value}")
            }
            7 => {
                self.variable = (value > 0).then_some(value);
                format!("variable = {:?}", self.variable)
            }
            _ => {
                self.shape = value;
                format!("shape = {value}")
            }
        }
    }

    fn write(&self, c: &Checkout) {
        for (n, numbers) in self.numbers.iter().enumerate() {
            for (m, number) in numbers.iter().enumerate() {
                // The shape decides which functions there are, so that symbols come and go.
                let more: String = (0..self.shape)
                    .map(|i| {
                        format!("#[inline(never)]\npub fn extra_{m}_{i}() -> u64 {{ {number} + {i} }}\n")
                    })
                    .collect();
                let calls: String = (0..self.shape).map(|i| format!(" + extra_{m}_{i}()")).collect();
                c.write_changed(
                    &format!("l{n}/src/m{m}.rs"),
                    &format!("{more}#[inline(never)]\npub fn number() -> u64 {{ {number}{calls} }}\n"),
                );
            }
        }
        c.write_changed("l1/input.txt", &self.generated.to_string());
        c.write_changed("app/file.txt", &self.file.to_string());
        c.write_changed("l2/native.c", &format!("int native_number(void) {{ return {}; }}\n", self.native));
    }
}

fn begin(world: &World) -> Checkout {
    let manifest = |name: &str, dependencies: &str| {
        format!(
            "[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}"
        )
    };
    let lib = |extra: &str| {
        format!(
            "pub mod m0;\npub mod m1;\npub mod m2;\n\npub fn sum() -> u64 {{\n    m0::number() + m1::number() * 10 + m2::number() * 100{extra}\n}}\n"
        )
    };
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"l0\", \"l1\", \"l2\"]\nresolver = \"3\"\n\n[profile.dev]\ndebug = \"line-tables-only\"\n"),
            ("l0/Cargo.toml", &manifest("l0", "")),
            ("l0/src/lib.rs", &lib("")),
            ("l1/Cargo.toml", &manifest("l1", "l0 = { path = \"../l0\" }\n")),
            ("l1/src/lib.rs", &format!("{}\ninclude!(concat!(env!(\"OUT_DIR\"), \"/generated.rs\"));\n", lib(" + l0::sum() * 1000 + GENERATED"))),
            ("l1/build.rs", "fn main() {\n    println!(\"cargo::rerun-if-changed=input.txt\");\n    let n = std::fs::read_to_string(\"input.txt\").unwrap();\n    std::fs::write(std::env::var(\"OUT_DIR\").unwrap() + \"/generated.rs\", format!(\"pub const GENERATED: u64 = {n} * 7;\")).unwrap();\n}\n"),
            ("l2/Cargo.toml", &manifest("l2", "l0 = { path = \"../l0\" }\n")),
            ("l2/src/lib.rs", &format!("{}\nunsafe extern \"C\" {{\n    fn native_number() -> i32;\n}}\n\npub fn native() -> i32 {{\n    unsafe {{ native_number() }}\n}}\n", lib(" + l0::sum() * 1000"))),
            ("l2/build.rs", include_str!("../../fixtures/workspace/native/build.rs")),
            ("app/Cargo.toml", &manifest("app", "l1 = { path = \"../l1\" }\nl2 = { path = \"../l2\" }\n")),
            ("app/src/main.rs", "fn main() {\n    println!(\"{} {} {} {} {:?}\", l1::sum(), l2::sum(), l2::native(), include_str!(\"../file.txt\"), option_env!(\"STORY_RANDOM\"));\n}\n"),
        ],
    );
    c.edit("l2/build.rs", "story", "native");
    c
}

#[test]
fn random_edits_make_what_a_plain_build_makes() {
    let edits: u64 = std::env::var("KACHE_TEST_EDITS").map_or(15, |n| n.parse().expect("a number"));
    let seed = std::env::var("KACHE_TEST_SEED").map_or(0x6b61_6368_6532, |n| n.parse().expect("a number"));
    let mut dice = Dice::new(seed);
    let world = World::new();
    let base = begin(&world);
    let mut project = Project::new();
    for n in 0..edits {
        let edit = if n == 0 { "nothing".into() } else { project.edit(&mut dice) };
        project.write(&base);
        let mut c = base.clone();
        if let Some(value) = project.variable {
            c = c.env("STORY_RANDOM", value.to_string());
        }
        // For the cache or incrementally, into a used target or a clean one.
        if dice.one_in(2) {
            c = c.env("CI", "1");
        }
        let release = dice.one_in(4);
        let (command, program) =
            if release { ("build --release", "release/app") } else { ("build", "debug/app") };
        if dice.one_in(3) {
            c.clean();
        }
        c.cargo(command).ok();
        let plain = c.without_env("CI").env("CARGO_INCREMENTAL", "0").plain(command);
        let (ours, theirs) = (c.dir().join("target").join(program), plain.join(program));
        assert_eq!(c.prints(&ours), c.prints(&theirs), "edit {n}: {edit}");
        assert_eq!(symbols(&c, &ours), symbols(&c, &theirs), "edit {n}: {edit}");
        std::fs::remove_dir_all(plain).unwrap();
    }
}

/// Names of the project's own symbols in a program.
fn symbols(c: &Checkout, program: &std::path::Path) -> Vec<String> {
    let listed = c.sh(&format!("nm --defined-only '{}'", program.display()));
    let ours = ["_2l0", "_2l1", "_2l2", "_3app", "native_number"];
    let mut names: Vec<String> = listed
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .filter(|name| ours.iter().any(|o| name.contains(o)))
        .map(str::to_owned)
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}
