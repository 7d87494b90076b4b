//! Variables, and who has a path as a value.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::places::tokens;
use super::processes::{Whose, is_build_tool};
use super::{Reader, Unproven};
use crate::names::{OF_MAKE, OF_SHELLS, Words};
use crate::record::Input;
use crate::variables::{self, Language};

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
        let mut words = Words::default();
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
                    if self.is_interpreter(n) {
                        let mentioned = variables::mentioned(&self.text_of(n), self.language(n));
                        names.extend(mentioned.into_iter().filter(|name| self.counts_in_text(name)));
                    }
                }
                Whose::System if self.shows_environment(n) => {
                    return Err("it read the whole environment".into());
                }
                Whose::System => self.read_text(n, &mut names, &mut words)?,
            }
        }
        if !words.is_empty() {
            words.add(&self.without_places(&self.piped_text()));
            self.inputs.insert(Input::EnvAmong(words.filter()));
        }
        if !self.scene.is_script {
            let is_argument = |word: &&str| variables::is_argument_of_scripts(OsStr::new(word));
            names.extend(words.iter().filter(is_argument).map(str::to_owned));
        }
        self.inputs.extend(names.into_iter().map(Input::Env));
        if self.programs.iter().any(|whose| matches!(whose, Whose::User | Whose::System)) {
            self.inputs.insert(Input::LibraryPath);
        }
        if self.programs.contains(&Whose::System) {
            // The C library asks for it itself, where options are read.
            self.inputs.insert(Input::Env("POSIXLY_CORRECT".into()));
        }
        Ok(())
    }

    /// What a program of the system that has the whole environment may read of it, by the text it was given: `names` of
    /// variables that do not count unless they are asked for, and `words` for all others.
    fn read_text(
        &mut self,
        process: u32,
        names: &mut BTreeSet<String>,
        words: &mut Words,
    ) -> Result<(), Unproven> {
        let text = self.text_of(process);
        let names_it = |word: &[u8]| memchr::memmem::find(&text, word).is_some();
        let language = match self.language(process) {
            Language::Table if self.is_awk(process) && !names_it(b"ENVIRON") => Language::Other,
            language => language,
        };
        if variables::uses_all(&text, language) {
            return Err("it read the whole environment".into());
        }
        let p = &self.account.processes[process as usize];
        // What comes behind the name of a script is for that to say.
        let may_be_script =
            language == Language::Make || p.argv.get(1).is_some_and(|arg| arg.as_bytes().starts_with(b"-"));
        if p.argv_cut && language != Language::Other && may_be_script {
            return Err(format!("more words were given than can be seen{}", self.by(process)));
        }
        let mut mentioned = variables::mentioned(&text, language);
        let name = self.name_of(process).unwrap_or_default();
        if name == "printenv" {
            mentioned.extend(p.argv.iter().skip(1).filter_map(|arg| arg.to_str().map(str::to_owned)));
        }
        if language == Language::Other && is_build_tool(&name) {
            // Its words and what it read are no text that it would do something by.
            mentioned.iter().for_each(|name| words.insert(name.as_bytes()));
        } else {
            words.add(&self.without_places(&text));
            words.add(&self.scripts_of_the_system(process));
        }
        match language {
            Language::Make => OF_MAKE.split(' ').for_each(|name| words.insert(name.as_bytes())),
            Language::Shell => OF_SHELLS.split(' ').for_each(|name| words.insert(name.as_bytes())),
            Language::Table => words.insert(b"TZ"),
            Language::Other => {}
        }
        // A shell knows where it is by itself; what a script makes of that cannot be seen.
        if self.scene.is_script && (names_it(b"PWD") || names_it(b"pwd")) {
            self.ask(&self.scene.inv.cwd.clone());
        }
        names.extend(mentioned.into_iter().filter(|name| self.counts_in_text(name)));
        Ok(())
    }

    fn language(&self, process: u32) -> Language {
        match () {
            () if self.is_shell(process) => Language::Shell,
            () if self.is_make(process) => Language::Make,
            () if self.is_interpreter(process) || self.is_awk(process) => Language::Table,
            () => Language::Other,
        }
    }

    /// Does a variable that a text mentions count by itself? Those of the user are among its words.
    fn counts_in_text(&self, name: &str) -> bool {
        let is_own = name == "PWD" || name == "OLDPWD";
        !is_own && !variables::is_of_user(OsStr::new(name)) && self.counts(name, true, false)
    }

    /// A text without what differs from place to place and from run to run: paths of this checkout and of temporary files.
    fn without_places(&self, text: &[u8]) -> Vec<u8> {
        let text = self.scene.prefixes.template(text);
        let temporary = self.scene.inv.var("TMPDIR").map_or(&b""[..], OsStr::as_bytes);
        let temporary = if temporary.is_empty() { b"/tmp" } else { temporary };
        let is_of_path = |b: &u8| b.is_ascii_alphanumeric() || b"_./-+".contains(b);
        let (mut kept, mut end) = (Vec::with_capacity(text.len()), 0);
        for at in memchr::memmem::find_iter(&text, temporary) {
            if at >= end && text.get(at + temporary.len()) == Some(&b'/') {
                kept.extend_from_slice(&text[end..at]);
                end = at + text[at..].iter().take_while(|b| is_of_path(b)).count();
            }
        }
        kept.extend_from_slice(&text[end..]);
        kept
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
