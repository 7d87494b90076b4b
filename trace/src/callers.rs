//! Who in a program refers to something that has a name.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};
use object::read::elf::{ElfFile64, FileHeader};
use object::{
    Endianness, Object as _, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationTarget, SectionFlags,
    SymbolKind, elf,
};

use crate::object::{MACHINE, Object};

impl Object {
    /// Names of the functions whose code refers to something with a name that is meant: a function or a variable, its own or
    /// one of a library. Sorted; a function that refers to itself does not count. None: it cannot be told, because there are
    /// no names, or something in its data leads there, or there is code that cannot be read.
    pub fn callers(bytes: &[u8], is_meant: impl Fn(&str) -> bool) -> Option<Vec<&str>> {
        let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
        let header = file.elf_header();
        // Where it lies in memory must not be known to its code: addresses would be numbers there.
        if header.e_machine(file.endian()) != MACHINE || header.e_type(file.endian()) != elf::ET_DYN {
            return None;
        }
        let functions = Functions::of(&file)?;
        let mut targets = Targets::of(&file, is_meant);
        if targets.is_empty() {
            return Some(Vec::new());
        }
        let (stubs, code): (Vec<_>, Vec<_>) =
            file.sections().filter(is_code).partition(|section| is_stubs(section));
        for section in stubs {
            targets.add_stubs(&section)?;
        }
        let mut callers = BTreeSet::new();
        let mut explained = BTreeSet::new();
        for section in code {
            let mut is_known = true;
            let is_readable = references(section.data().ok()?, section.address(), &functions, |from, to| {
                if !targets.has(to) {
                    return;
                }
                explained.insert(to);
                match functions.around(from) {
                    Some(function) if function.has(to) => {}
                    Some(function) => _ = callers.insert(function.name),
                    None => is_known = false,
                }
            });
            if !is_readable || !is_known {
                return None;
            }
        }
        let has_user = |slot| explained.contains(slot) || targets.stubbed.contains(slot);
        targets.slots.iter().all(has_user).then(|| callers.into_iter().collect())
    }
}

type Section<'a, 'f> = object::read::elf::ElfSection64<'a, 'f, Endianness>;

fn has_flag(section: &Section, flag: u32) -> bool {
    matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(flag) != 0)
}

fn is_code(section: &Section) -> bool {
    has_flag(section, elf::SHF_EXECINSTR)
}

/// Code of the linker's by which functions of libraries are called.
fn is_stubs(section: &Section) -> bool {
    section.name().is_ok_and(|name| name.starts_with(".plt"))
}

/// Addresses by which something is reached. All sorted.
struct Targets {
    /// Where it is.
    places: Vec<u64>,
    /// Pointers to it, in the table for the linker (`.got`) or anywhere in the data.
    slots: Vec<u64>,
    /// Stubs that jump there.
    stubs: Vec<u64>,
    /// Slots that stubs use.
    stubbed: BTreeSet<u64>,
}

impl Targets {
    fn of(file: &ElfFile64<Endianness>, is_meant: impl Fn(&str) -> bool) -> Targets {
        let is_meant = |name: object::Result<&[u8]>| {
            name.ok().and_then(|name| std::str::from_utf8(name).ok()).is_some_and(&is_meant)
        };
        let mut places: Vec<u64> = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter(|symbol| {
                !symbol.is_undefined()
                    && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data | SymbolKind::Unknown)
            })
            .filter(|symbol| is_meant(symbol.name_bytes()))
            .map(|symbol| symbol.address())
            .collect();
        sort(&mut places);
        let mut slots = Vec::new();
        let symbols = file.dynamic_symbol_table();
        for (slot, relocation) in file.dynamic_relocations().into_iter().flatten() {
            let leads_there = match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = symbols.as_ref().and_then(|symbols| symbols.symbol_by_index(index).ok());
                    symbol.is_some_and(|symbol| {
                        is_meant(symbol.name_bytes())
                            || places
                                .binary_search(&symbol.address().wrapping_add_signed(relocation.addend()))
                                .is_ok()
                    })
                }
                _ => places.binary_search(&relocation.addend().cast_unsigned()).is_ok(),
            };
            // The place itself may be a copy of a library's variable.
            if leads_there && places.binary_search(&slot).is_err() {
                slots.push(slot);
            }
        }
        // Relocations may be packed; the pointers are in their places then.
        for section in file.sections().filter(|section| has_flag(section, elf::SHF_WRITE)) {
            for (at, word) in section.data().unwrap_or_default().as_chunks::<8>().0.iter().enumerate() {
                if places.binary_search(&u64::from_le_bytes(*word)).is_ok() {
                    slots.push(section.address() + 8 * at as u64);
                }
            }
        }
        sort(&mut slots);
        Targets { places, slots, stubs: Vec::new(), stubbed: BTreeSet::new() }
    }

    fn is_empty(&self) -> bool {
        self.places.is_empty() && self.slots.is_empty()
    }

    fn has(&self, address: u64) -> bool {
        [&self.places, &self.slots, &self.stubs].iter().any(|all| all.binary_search(&address).is_ok())
    }

    fn add_stubs(&mut self, section: &Section) -> Option<()> {
        let size = match section.elf_section_header().sh_entsize.get(Endianness::default()) {
            0 => 16,
            size => size,
        };
        let begin = section.address();
        let mut stubs = Vec::new();
        references(section.data().ok()?, begin, &Functions(Vec::new()), |from, to| {
            if self.has(to) {
                stubs.push(from - (from - begin) % size);
                self.stubbed.insert(to);
            }
        });
        self.stubs.extend(stubs);
        sort(&mut self.stubs);
        Some(())
    }
}

fn sort(addresses: &mut Vec<u64>) {
    addresses.sort_unstable();
    addresses.dedup();
}

struct Function<'a> {
    begin: u64,
    end: u64,
    name: &'a str,
}

impl Function<'_> {
    fn has(&self, address: u64) -> bool {
        (self.begin..self.end).contains(&address)
    }
}

/// By where they begin; of those that are the same, one.
struct Functions<'a>(Vec<Function<'a>>);

impl<'a> Functions<'a> {
    /// None: it does not tell.
    fn of(file: &ElfFile64<'a, Endianness>) -> Option<Functions<'a>> {
        let mut functions: Vec<_> = file
            .symbols()
            .filter(|symbol| !symbol.is_undefined() && symbol.kind() == SymbolKind::Text)
            .filter_map(|symbol| {
                let name = std::str::from_utf8(symbol.name_bytes().ok()?).ok()?;
                Some(Function { begin: symbol.address(), end: symbol.address() + symbol.size(), name })
            })
            .collect();
        functions.sort_unstable_by_key(|function| (function.begin, function.name));
        functions.dedup_by_key(|function| function.begin);
        (!functions.is_empty()).then_some(Functions(functions))
    }

    fn around(&self, address: u64) -> Option<&Function<'a>> {
        let after = self.0.partition_point(|function| function.begin <= address);
        self.0.get(after.checked_sub(1)?).filter(|function| function.has(address))
    }

    /// Where to begin to read code so that all functions are read from their beginnings.
    fn beginnings(&self, section: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        let first = self.0.partition_point(|function| function.begin <= section.start);
        let inside = self.0[first..].iter().map(|function| function.begin);
        std::iter::once(section.start).chain(inside.take_while(move |begin| *begin < section.end))
    }
}

/// Tells of each address in code and of each that it refers to. `false`: part of a function cannot be read.
fn references(code: &[u8], address: u64, functions: &Functions, tell: impl FnMut(u64, u64)) -> bool {
    if MACHINE == elf::EM_AARCH64 {
        references_of_words(code, address, tell);
        true
    } else {
        references_of_bytes(code, address, functions, tell)
    }
}

fn references_of_bytes(
    code: &[u8],
    address: u64,
    functions: &Functions,
    mut tell: impl FnMut(u64, u64),
) -> bool {
    let end = address + code.len() as u64;
    let mut beginnings = functions.beginnings(address..end).peekable();
    let mut instruction = Instruction::default();
    while let Some(begin) = beginnings.next() {
        let end = *beginnings.peek().unwrap_or(&end);
        let range = (begin - address) as usize..(end - address) as usize;
        let mut decoder = Decoder::with_ip(64, &code[range], begin, DecoderOptions::NONE);
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                if functions.around(instruction.ip()).is_some() {
                    return false;
                }
            } else if instruction.is_ip_rel_memory_operand() {
                tell(instruction.ip(), instruction.ip_rel_memory_address());
            } else if instruction.op0_kind() == OpKind::NearBranch64 {
                tell(instruction.ip(), instruction.near_branch64());
            }
        }
    }
    true
}

/// `b` and `bl`; and `adrp` with each `add` or `ldr` after it that could add to its page.
/// <https://developer.arm.com/documentation/ddi0602/latest/Base-Instructions>
fn references_of_words(code: &[u8], address: u64, mut tell: impl FnMut(u64, u64)) {
    let mut pages = [None::<u64>; 32];
    for (at, word) in code.as_chunks::<4>().0.iter().enumerate() {
        let (from, word) = (address + 4 * at as u64, u32::from_le_bytes(*word));
        let of = |bits: u32| ((word >> bits) & 31) as usize;
        let immediate = u64::from((word >> 10) & 0xfff);
        if word & 0x7c00_0000 == 0x1400_0000 {
            tell(from, from.wrapping_add_signed(i64::from((word << 6).cast_signed() >> 6) * 4));
        } else if word & 0x9f00_0000 == 0x9000_0000 {
            let high = (word << 8).cast_signed() >> 13;
            let pages_on = i64::from(high) * 4 + i64::from((word >> 29) & 3);
            pages[of(0)] = Some((from & !0xfff).wrapping_add_signed(pages_on << 12));
        } else if word & 0xffc0_0000 == 0x9100_0000
            && let Some(page) = pages[of(5)]
        {
            tell(from, page + immediate);
        } else if word & 0xffc0_0000 == 0xf940_0000
            && let Some(page) = pages[of(5)]
        {
            tell(from, page + 8 * immediate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_in_words_of_aarch64() {
        let words = [
            0x9400_0002u32, // bl +8
            0x17ff_ffff,    // b -4
            0xb000_0009,    // adrp x9, +1 page
            0x9100_4120,    // add x0, x9, #16
            0xf940_0d21,    // ldr x1, [x9, #24]
            0xf940_0d41,    // ldr x1, [x10, #24]
            0xf0ff_ffe9,    // adrp x9, -1 page
            0xf940_0120,    // ldr x0, [x9]
            0x5400_0040,    // b.eq +8
        ];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut all = Vec::new();
        references_of_words(&code, 0x5ff0, |from, to| all.push((from - 0x5ff0, to)));
        // The third is at 0x5ff8, what is from 0x6000 on is of the next page.
        assert_eq!(all, [(0, 0x5ff8), (4, 0x5ff0), (12, 0x6010), (16, 0x6018), (28, 0x5000)]);
    }

    #[test]
    fn references_in_bytes() {
        let look = |code: &[u8], functions: Vec<Function>| {
            let mut all = Vec::new();
            let is_readable =
                references_of_bytes(code, 0x1000, &Functions(functions), |from, to| all.push((from, to)));
            (is_readable, all)
        };
        let function = |begin, end| Function { begin, end, name: "" };
        // call +0; jmp *0(%rip); je +0; lea 0(%rip), %rax
        let code = [0xe8, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0x74, 0, 0x48, 0x8d, 0x05, 0, 0, 0, 0];
        let all = vec![(0x1000, 0x1005), (0x1005, 0x100b), (0x100b, 0x100d), (0x100d, 0x1014)];
        assert_eq!(look(&code, Vec::new()), (true, all));
        // No instruction, in a function and after it; the call that it would swallow is where another begins.
        let code = [0x06, 0xb8, 0xe8, 0, 0, 0, 0];
        assert_eq!(look(&code, vec![function(0x1000, 0x1002)]), (false, vec![]));
        assert_eq!(look(&code, vec![function(0x1002, 0x1007)]), (true, vec![(0x1002, 0x1007)]));
    }
}
