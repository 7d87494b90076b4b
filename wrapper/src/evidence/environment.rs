//! Variables, and who has a path as a value.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::places::tokens;
use super::processes::Whose;
use super::{Reader, Unproven};
use crate::record::Input;
use crate::variables;

impl Reader<'_> {
    pub(super) fn variables(&mut self) -> Result<(), Unproven> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for variable in &self.account.variables {
            let (object, program) = (self.object(variable.object), self.program(variable.process));
            if object == Whose::Kache || program == Whose::Kache {
                continue;
            }
            // What the loader does with that one is seen by where it looks.
            let Some(name) = variable.name.to_str().filter(|name| *name != "LD_LIBRARY_PATH") else {
                continue;
            };
            let is_own = object == Whose::User || self.is_interpreter(variable.process);
            if self.counts(name, is_own, variable.process == 0 && object == Whose::User) {
                names.insert(name.to_owned());
            }
            // What `PATH` is for is seen by where programs were looked for.
            if object == Whose::User
                && name != "PATH"
                && let Some(value) = self.scene.inv.var(name)
            {
                self.ask_for_value(value.as_bytes());
            }
        }
        for (n, process) in self.account.processes.iter().enumerate() {
            let (n, whose) = (n as u32, self.programs[n]);
            // What the first program itself may read is known from its words.
            if self.is_first_program(n) || !process.whole_environment && whose != Whose::User {
                continue;
            }
            match whose {
                Whose::Toolchain | Whose::Kache => {}
                Whose::User => {
                    let template = self.scene.prefixes.template_path(&process.program);
                    if !self.made.contains(&process.program) && process.program.exists() {
                        self.inputs.insert(Input::EnvNamedBy(template));
                    }
                }
                Whose::System if self.shows_environment(n) => {
                    return Err("it read the whole environment".into());
                }
                Whose::System => {
                    let text = self.text_of(n);
                    let names_it = |word: &[u8]| memchr::memmem::find(&text, word).is_some();
                    let has_table =
                        self.is_interpreter(n) && !self.is_shell(n) || self.is_awk(n) && names_it(b"ENVIRON");
                    let mut mentioned =
                        variables::mentioned(&text, has_table).ok_or("it read the whole environment")?;
                    if self.name_of(n).as_deref() == Some("printenv") {
                        mentioned.extend(
                            process.argv.iter().skip(1).filter_map(|arg| arg.to_str().map(str::to_owned)),
                        );
                    }
                    // A shell knows where it is by itself; what a script makes of that cannot be seen.
                    let is_own = |name: &str| name == "PWD" || name == "OLDPWD";
                    if self.scene.is_script && (names_it(b"PWD") || names_it(b"pwd")) {
                        self.ask(&self.scene.inv.cwd.clone());
                    }
                    let wanted: Vec<String> = mentioned
                        .into_iter()
                        .filter(|name| !is_own(name) && self.counts(name, true, false))
                        .collect();
                    names.extend(wanted);
                }
            }
        }
        self.inputs.extend(names.into_iter().map(Input::Env));
        if self.programs.iter().any(|whose| matches!(whose, Whose::User | Whose::System)) {
            self.inputs.insert(Input::LibraryPath);
        }
        Ok(())
    }

    /// `env` and `printenv` without a command or names.
    fn shows_environment(&self, process: u32) -> bool {
        let Some(p) = self.account.processes.get(process as usize) else { return true };
        let is = |name: &str| p.program.file_name() == Some(OsStr::new(name));
        let is_word = |arg: &&std::ffi::OsString| {
            !(arg.as_bytes().starts_with(b"-") || is("env") && arg.as_bytes().contains(&b'='))
        };
        (is("env") || is("printenv")) && !p.argv.iter().skip(1).any(|arg| is_word(&arg))
    }

    /// Is a variable that was asked for an input? What `PATH` is for is seen by what was found there.
    pub(super) fn counts(&self, name: &str, by_own_code: bool, for_itself: bool) -> bool {
        let os = OsStr::new(name);
        if variables::is_of_the_run(os) || self.scene.is_script && variables::is_argument_of_scripts(os) {
            return false;
        }
        if name == "RUSTC" && self.scene.is_script {
            // Which compiler that is, is in the key.
            return false;
        }
        if name == "PATH" {
            return for_itself && !self.scene.is_script;
        }
        by_own_code || !variables::is_of_session(os)
    }

    /// Somebody has a path as a value.
    pub(super) fn ask(&mut self, path: &Path) {
        self.ask_for_value(path.as_os_str().as_bytes());
    }

    pub(super) fn ask_for_value(&mut self, value: &[u8]) {
        if !self.scene.values_bind {
            return;
        }
        let tokens = tokens(&self.scene.prefixes.template(value));
        if !Path::new(OsStr::from_bytes(value)).starts_with(self.scene.own) {
            self.out.beyond.extend(&tokens);
        }
        self.out.asked.extend(tokens);
    }
}
