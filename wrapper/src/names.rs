//! Which variables a text may name, in whatever way: all its words, in little space.
//!
//! An interpreter has the whole environment, and languages have many ways to name a variable (`$ENV{X}`, `ifdef X`,
//! `[[ -v X ]]`). That a name occurs in the text at all is what all of them have in common.

use std::collections::HashSet;

use crate::prefixes::MARK;

/// Words of texts. A word is a longest row of ASCII letters, digits and `_`, without digits in front.
#[derive(Debug, Default)]
pub struct Words(HashSet<Vec<u8>>);

impl Words {
    /// Of a text with tokens in place of paths.
    pub fn add(&mut self, text: &[u8]) {
        let mut start = 0;
        for run in text.split(|b| !is_of_name(b)) {
            let before = text[..start].last();
            let is_token = before == Some(&MARK) && run.len() == 1 && text.get(start + 1) == Some(&MARK);
            start += run.len() + 1;
            if is_token {
                continue;
            }
            let word = without_digits(run);
            // `$Vx` is the variable `V` and an `x` to make.
            if word.len() > 1 && word.len() == run.len() && before == Some(&b'$') {
                self.insert(&word[..1]);
            }
            self.insert(word);
        }
    }

    /// A whole name, which may have other bytes in it than words have.
    pub fn insert(&mut self, name: &[u8]) {
        if !name.is_empty() && !self.0.contains(name) {
            self.0.insert(name.to_owned());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|word| std::str::from_utf8(word).ok())
    }

    /// A Bloom filter of them: the same for the same words. What it has too much (a name of 300, until it is full) makes
    /// more variables count.
    pub fn filter(&self) -> Vec<u8> {
        let size = (self.0.len() * BITS_OF_WORD).div_ceil(8).clamp(LEAST, MOST);
        let mut filter = vec![0; size];
        for word in &self.0 {
            for bit in bits(word, size) {
                filter[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }
}

const BITS_OF_WORD: usize = 12;
const HASHES: u64 = 8;
/// Bytes of a filter.
const LEAST: usize = 8;
const MOST: usize = 1 << 16;

fn bits(word: &[u8], size: usize) -> impl Iterator<Item = usize> {
    let hash = blake3::hash(word);
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| hash.as_bytes()[at + n]));
    let (first, step) = (number(0), number(8) | 1);
    (0..HASHES).map(move |n| (first.wrapping_add(n.wrapping_mul(step)) % (size as u64 * 8)) as usize)
}

/// May a variable have been named by a text of which this is the filter? Also when only the beginning or end of its name
/// up to some `_` is there: the rest is put to it. The words of a name that is no word may be anywhere.
pub fn may_name(filter: &[u8], name: &[u8]) -> bool {
    let has = |word: &[u8]| {
        !filter.is_empty() && bits(word, filter.len()).all(|bit| filter[bit / 8] & (1 << (bit % 8)) != 0)
    };
    let has_part = |part: &[u8]| part.len() > 1 && has(part);
    let is_word = name.iter().all(is_of_name) && !name.first().is_some_and(u8::is_ascii_digit);
    has(name)
        || memchr::memchr_iter(b'_', name).any(|at| has_part(&name[..=at]) || has_part(&name[at..]))
        || !is_word
            && name.split(|b| !is_of_name(b)).map(without_digits).all(|part| part.is_empty() || has(part))
}

fn is_of_name(b: &u8) -> bool {
    b.is_ascii_alphanumeric() || *b == b'_'
}

fn without_digits(run: &[u8]) -> &[u8] {
    &run[run.iter().take_while(|b| b.is_ascii_digit()).count()..]
}

/// What GNU make's own rules and variables use, and make itself (`make -p -f /dev/null`; its manual, "Implicit Variables"
/// and "Special Variables").
pub const OF_MAKE: &str = "AR ARFLAGS AS ASFLAGS CC CFLAGS CO COFLAGS COMPILE.C COMPILE.F COMPILE.S COMPILE.c COMPILE.cc \
    COMPILE.cpp COMPILE.def COMPILE.f COMPILE.m COMPILE.mod COMPILE.p COMPILE.r COMPILE.s CPP CPPFLAGS CTANGLE CWEAVE CXX \
    CXXFLAGS DEFFLAGS F77 F77FLAGS FC FFLAGS GET GFLAGS GNUMAKEFLAGS GPATH LD LDFLAGS LDLIBS LEX LEX.l LEX.m LFLAGS LINK.C \
    LINK.F LINK.S LINK.c LINK.cc LINK.cpp LINK.f LINK.m LINK.o LINK.p LINK.r LINK.s LINT LINT.c LINTFLAGS LOADLIBES M2C \
    M2FLAGS MAKEFILES MAKEINFO MAKEINFO_FLAGS MODFLAGS OBJC OBJCFLAGS OUTPUT_OPTION PC PFLAGS PREPROCESS.F PREPROCESS.S \
    PREPROCESS.r RFLAGS RM SCCS_OUTPUT_OPTION SUFFIXES TANGLE TARGET_ARCH TARGET_MACH TEX TEXI2DVI TEXI2DVI_FLAGS VPATH \
    WEAVE YACC YACC.m YACC.y YFLAGS .LIBPATTERNS .RECIPEPREFIX .SHELLFLAGS .SUFFIXES";

/// What shells read for themselves (manuals of bash, "Bash Variables", and dash). Functions of bash have names that begin
/// with `BASH_FUNC_`.
pub const OF_SHELLS: &str = "BASHOPTS BASH_COMPAT BASH_ENV BASH_FUNC_ BASH_LOADABLES_PATH BASH_XTRACEFD CDPATH CHILD_MAX \
    ENV EXECIGNORE FIGNORE FPATH FUNCNEST GLOBIGNORE GLOBSORT IFS NULLCMD OPTERR OPTIND POSIXLY_CORRECT POSIX_PEDANTIC PS4 \
    SHELLOPTS TIMEFORMAT TMOUT TZ ZDOTDIR";

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Vec<u8> {
        let mut words = Words::default();
        words.add(text.as_bytes());
        words.filter()
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        for (text, name) in [
            ("exists $ENV{NAME}", "NAME"),
            ("ifdef NAME\n", "NAME"),
            ("$(origin NAME)", "NAME"),
            ("N = NAME\n$($(N))", "NAME"),
            ("$((NAME+1))", "NAME"),
            ("[[ -v NAME ]]", "NAME"),
            ("echo $V", "V"),
            ("echo $Vx", "V"),
            ("'0NAME'", "NAME"),
            ("$(my-name)", "my-name"),
            ("$ENV{'a.b'}", "a.b"),
            ("\"APP_$x\"", "APP_MODE"),
            ("\"${x}_DIR\"", "ZLIB_DIR"),
            ("\"${x}_LIB_DIR\"", "Z_LIB_DIR"),
            ("BASH_FUNC_", "BASH_FUNC_ls%%"),
        ] {
            assert!(may_name(&filter(text), name.as_bytes()), "{name} in {text}");
        }
        assert!(!may_name(&filter("\x1fW\x1f/x"), b"W"), "a token is no word");
        let text = filter("ANAME NAMEA NAME_A a_NAME $xV my APP_ x_ _");
        for name in ["NAME", "V", "my-name", "OTHER_MODE", "_OTHER", "x.y"] {
            assert!(!may_name(&text, name.as_bytes()), "{name}");
        }
        assert!(!may_name(&filter(""), b"NAME") && !may_name(&[], b"NAME"));
    }

    #[test]
    fn a_filter_is_small_and_the_same_in_any_order() {
        let word = |n: usize| format!("word{n} ");
        let text: String = (0..1000).map(word).collect();
        let other: String = (0..1000).rev().map(word).collect();
        assert_eq!(filter(&text), filter(&other));
        assert_eq!(filter(&text).len(), 1500);
        let wrong = (0..10_000).filter(|n| may_name(&filter(&text), format!("other{n}").as_bytes())).count();
        assert!(wrong < 100, "{wrong}");
        let many: String = (0..60_000).map(word).collect();
        assert_eq!(filter(&many).len(), MOST);
    }
}
