//! What an ELF file says of itself.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object as _, ObjectSection, SectionFlags, elf};

/// What an ELF file says of itself. Cheap enough for once per content; callers keep the answer by the content's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Object {
    /// An executable without an interpreter.
    pub is_static: bool,
    /// Has the whole environment: it imports `environ`, or a copy of it.
    pub imports_environ: bool,
    /// Makes system calls without the C library: the instruction occurs in its code.
    pub system_calls: bool,
    /// Asks the processor what it is (`cpuid`, or the identification registers).
    pub cpuid: bool,
}

#[cfg(target_arch = "x86_64")]
pub(crate) const MACHINE: u16 = elf::EM_X86_64;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const MACHINE: u16 = elf::EM_AARCH64;

impl Object {
    /// Reads a file. None: it is not an ELF file of this machine.
    pub fn read(bytes: &[u8]) -> Option<Object> {
        let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
        let header = file.elf_header();
        let endian = file.endian();
        if header.e_machine(endian) != MACHINE {
            return None;
        }
        let programs = file.elf_program_headers();
        let has_loader = programs.iter().any(|program| program.p_type(endian) == elf::PT_INTERP);
        // A library for loading has neither; what makes it one is its name, or that it needs others.
        let is_library = header.e_type(endian) == elf::ET_DYN && !is_position_independent_executable(&file);
        let mut object = Object {
            is_static: !has_loader && !is_library && header.e_type(endian) != elf::ET_REL,
            imports_environ: file.dynamic_symbols().any(|symbol| {
                use object::ObjectSymbol;
                // Its own definition counts if it is a copy of the C library's: that one is in an executable.
                matches!(symbol.name(), Ok("environ" | "__environ" | "_environ"))
                    && (symbol.is_undefined() || has_loader)
            }),
            ..Object::default()
        };
        if file.sections().next().is_none() {
            // Nothing tells where its names and its code are.
            return Some(Object { imports_environ: true, system_calls: true, cpuid: true, ..object });
        }
        let functions = Functions::of(&file);
        for section in file.sections() {
            let is_code = matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(elf::SHF_EXECINSTR) != 0);
            if is_code && let Ok(code) = section.data() {
                object.look_through(code, section.address(), &functions);
            }
        }
        Some(object)
    }

    /// Names of its functions and of those that it takes from libraries, as the compiler wrote them; empty if they were
    /// stripped.
    pub fn functions(bytes: &[u8]) -> Vec<&str> {
        use object::{ObjectSymbol, SymbolKind};
        let Ok(file) = ElfFile64::<Endianness>::parse(bytes) else { return Vec::new() };
        file.symbols()
            .filter(|s| s.is_undefined() || s.kind() == SymbolKind::Text)
            .filter_map(|s| s.name_bytes().ok())
            .filter_map(|n| std::str::from_utf8(n).ok())
            .collect()
    }

    /// Libraries that are loaded with it, by the names that it has for them.
    pub fn libraries(bytes: &[u8]) -> Vec<&str> {
        Self::needed(bytes).unwrap_or_default()
    }

    fn needed(bytes: &[u8]) -> Option<Vec<&str>> {
        let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
        let (endian, sections) = (file.endian(), file.elf_section_table());
        let (entries, strings) = sections.dynamic(endian, bytes).ok()??;
        let strings = sections.strings(endian, bytes, strings).ok()?;
        let needed = entries.iter().filter(|entry| entry.d_tag(endian) == u64::from(elf::DT_NEEDED));
        let names = needed.filter_map(|entry| strings.get(u32::try_from(entry.d_val(endian)).ok()?).ok());
        Some(names.filter_map(|name| std::str::from_utf8(name).ok()).collect())
    }

    fn look_through(&mut self, code: &[u8], address: u64, functions: &Functions) {
        if MACHINE == elf::EM_AARCH64 {
            self.look_through_words(code);
        } else {
            self.look_through_bytes(code, address, functions);
        }
    }

    /// Every instruction of aarch64 is a word: `svc #0`, and reads of the registers from MIDR_EL1 to the ID_AA64 ones.
    fn look_through_words(&mut self, code: &[u8]) {
        for word in code.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        {
            self.system_calls |= word & 0xffe0_001f == 0xd400_0001;
            self.cpuid |= word & 0xffff_f000 == 0xd538_0000;
        }
    }

    /// Instructions of x86_64 have no fixed places: where the bytes of one occur, the function around is decoded to see whether
    /// they are one.
    fn look_through_bytes(&mut self, code: &[u8], address: u64, functions: &Functions) {
        let mut decoded_to = 0;
        let is_candidate = |at: &usize| matches!(code.get(at + 1), Some(0x05 | 0x34 | 0xa2));
        for at in memchr::memchr_iter(0x0f, code).filter(is_candidate) {
            if self.system_calls && self.cpuid {
                return;
            }
            if at < decoded_to {
                continue;
            }
            // Without a known beginning, decoding finds its way into step after a few instructions.
            let begin = functions.begin(address + at as u64).and_then(|begin| begin.checked_sub(address));
            let start = begin.map_or(at.saturating_sub(LEAD), |begin| begin as usize).max(decoded_to);
            let mut decoder = Decoder::new(64, &code[start..], DecoderOptions::NONE);
            while start + decoder.position() <= at {
                match decoder.decode().mnemonic() {
                    Mnemonic::Syscall | Mnemonic::Sysenter => self.system_calls = true,
                    Mnemonic::Cpuid => self.cpuid = true,
                    _ => {}
                }
            }
            decoded_to = start + decoder.position();
        }
    }
}

/// Bytes that are decoded before a candidate.
const LEAD: usize = 512;

/// Where functions begin: the table by which exceptions find their handlers.
/// <https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/ehframechpt.html>
struct Functions<'a> {
    address: u64,
    /// Pairs of 32-bit offsets from `address`, sorted by the first: the function, and what is said of it.
    table: &'a [[u8; 8]],
}

impl<'a> Functions<'a> {
    fn of(file: &ElfFile64<'a, Endianness>) -> Functions<'a> {
        let none = Functions { address: 0, table: &[] };
        let endian = file.endian();
        let header = file.elf_program_headers().iter().find(|h| h.p_type(endian) == elf::PT_GNU_EH_FRAME);
        let Some(header) = header else { return none };
        // Version 1; the count is 4 bytes (udata4), the table is relative to here (datarel | sdata4).
        match header.data(endian, file.data()) {
            Ok([1, _, 0x03, 0x3b, _, _, _, _, a, b, c, d, table @ ..]) => {
                let count = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
                let table = table.as_chunks::<8>().0;
                Functions { address: header.p_vaddr(endian), table: &table[..count.min(table.len())] }
            }
            _ => none,
        }
    }

    /// The last function that begins at or before an address.
    fn begin(&self, address: u64) -> Option<u64> {
        let begin = |entry: &[u8; 8]| {
            let offset = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            self.address.wrapping_add_signed(offset.into())
        };
        let after = self.table.partition_point(|entry| begin(entry) <= address);
        self.table.get(after.checked_sub(1)?).map(begin)
    }
}

/// Whether an object that could be a library was linked as an executable.
fn is_position_independent_executable(file: &ElfFile64<Endianness>) -> bool {
    let endian = file.endian();
    let dynamic = file
        .elf_program_headers()
        .iter()
        .find_map(|header| header.dynamic(endian, file.data()).ok().flatten());
    dynamic.is_some_and(|entries| {
        entries.iter().any(|entry| {
            // DF_1_PIE
            entry.d_tag(endian) == u64::from(elf::DT_FLAGS_1) && entry.d_val(endian) & 0x0800_0000 != 0
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_aarch64() {
        for (word, system_calls, cpuid) in [
            // svc #0, svc #0x80; mrs x0, midr_el1; mrs x7, id_aa64isar0_el1
            (0xd400_0001u32, true, false),
            (0xd400_1001, true, false),
            (0xd538_0000, false, true),
            (0xd538_0607, false, true),
            // hvc #0; brk #0; mrs x0, tpidr_el0; mrs x0, sctlr_el1; nop
            (0xd400_0002, false, false),
            (0xd420_0000, false, false),
            (0xd53b_d040, false, false),
            (0xd538_1000, false, false),
            (0xd503_201f, false, false),
        ] {
            let nop = 0xd503_201f_u32;
            let code: Vec<u8> = [nop, word, nop].iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut object = Object::default();
            object.look_through_words(&code);
            assert_eq!((object.system_calls, object.cpuid), (system_calls, cpuid), "{word:x}");
        }
    }

    #[test]
    fn code_is_decoded_from_where_its_function_begins() {
        let look = |code: &[u8], table: &[[u8; 8]]| {
            let mut object = Object::default();
            object.look_through_bytes(code, 0x1000, &Functions { address: 0x2000, table });
            (object.system_calls, object.cpuid)
        };
        let entry = |address: i32| [(address - 0x2000).to_le_bytes(), [0; 4]].concat().try_into().unwrap();
        // Right behind each other.
        assert_eq!(look(&[0x90, 0x0f, 0x05, 0x0f, 0xa2], &[]), (true, true));
        // The first byte is of an instruction that would have the next four in it.
        let code = [0xb8, 0x0f, 0x05, 0xc3, 0x90];
        assert_eq!(look(&code, &[]), (false, false));
        assert_eq!(look(&code, &[entry(0x1000)]), (false, false));
        assert_eq!(look(&code, &[entry(0xf00), entry(0x1001), entry(0x1002)]), (true, false));
    }
}
