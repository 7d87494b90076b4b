//! Loaded objects: which there are, what they import, where their symbols are.
//!
//! `dlsym` would answer the last, but it takes locks and is in a library of its own in older C libraries.

use core::ffi::{c_char, c_int, c_void};

unsafe extern "C" {
    pub fn dl_iterate_phdr(
        each: unsafe extern "C" fn(*const Info, usize, *mut c_void) -> c_int,
        data: *mut c_void,
    ) -> c_int;
}

/// `dl_phdr_info`, as far as every C library has it.
#[repr(C)]
pub struct Info {
    pub base: usize,
    pub name: *const c_char,
    headers: *const ProgramHeader,
    count: u16,
}

#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_size: u64,
    size: u64,
    align: u64,
}

#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const STT_GNU_IFUNC: u8 = 10;

impl Info {
    fn headers(&self) -> &[ProgramHeader] {
        // SAFETY: the loader says that there are so many.
        unsafe { core::slice::from_raw_parts(self.headers, self.count as usize) }
    }

    /// First and last address (exclusive).
    pub fn range(&self) -> (usize, usize) {
        let mut range = (usize::MAX, 0);
        for header in self.headers() {
            if header.kind == PT_LOAD {
                let start = self.base.wrapping_add(header.address as usize);
                range = (range.0.min(start), range.1.max(start + header.size as usize));
            }
        }
        range
    }

    /// Its tables of symbols.
    pub fn symbols(&self) -> Option<Symbols> {
        let header = self.headers().iter().find(|header| header.kind == PT_DYNAMIC)?;
        let mut tag = self.base.wrapping_add(header.address as usize) as *const [usize; 2];
        let mut symbols = Symbols {
            base: self.base,
            table: core::ptr::null(),
            names: core::ptr::null(),
            gnu: core::ptr::null(),
            hash: core::ptr::null(),
            versions: core::ptr::null(),
        };
        // Some loaders write addresses into the table, some leave offsets.
        let address = |value: usize| if value < self.base { self.base + value } else { value };
        loop {
            // SAFETY: the dynamic section of a loaded object is mapped, and ends with a zero.
            let [kind, value] = unsafe { *tag };
            match kind {
                0 => break,
                4 => symbols.hash = address(value) as *const u32,
                5 => symbols.names = address(value) as *const u8,
                6 => symbols.table = address(value) as *const Symbol,
                0x6fff_fef5 => symbols.gnu = address(value) as *const u32,
                0x6fff_fff0 => symbols.versions = address(value) as *const u16,
                _ => {}
            }
            // SAFETY: not the last, so there is one more.
            tag = unsafe { tag.add(1) };
        }
        (!symbols.table.is_null() && !symbols.names.is_null()).then_some(symbols)
    }
}

#[derive(Clone, Copy)]
pub struct Symbols {
    base: usize,
    table: *const Symbol,
    names: *const u8,
    gnu: *const u32,
    hash: *const u32,
    versions: *const u16,
}

impl Symbols {
    /// Address of a function that it exports, in the version that a linker would take today.
    pub fn function(&self, name: &[u8]) -> Option<usize> {
        // SAFETY: indices come from the object's own hash table.
        let symbol = unsafe { &*self.table.add(self.index(name)?) };
        let indirect = symbol.info & 0xf == STT_GNU_IFUNC;
        (!indirect && symbol.value != 0).then(|| self.base.wrapping_add(symbol.value as usize))
    }

    /// Whether it uses a variable of this name: imports it, or has a copy of it as old-style executables do.
    pub fn uses(&self, name: &[u8]) -> bool {
        self.index(name).is_some() || (1..self.imports()).any(|index| self.is_named(index, name))
    }

    fn is_named(&self, index: usize, name: &[u8]) -> bool {
        // SAFETY: as in `function`; names end with a zero, so the comparison ends in time.
        unsafe {
            let at = self.names.add((*self.table.add(index)).name as usize);
            name.iter().enumerate().all(|(i, byte)| *at.add(i) == *byte) && *at.add(name.len()) == 0
        }
    }

    /// How many symbols come before those that the hash table knows: these are the undefined ones.
    fn imports(&self) -> usize {
        // SAFETY: the tables' headers.
        unsafe {
            if !self.gnu.is_null() {
                *self.gnu.add(1) as usize
            } else if !self.hash.is_null() {
                *self.hash.add(1) as usize
            } else {
                0
            }
        }
    }

    fn index(&self, name: &[u8]) -> Option<usize> {
        // SAFETY: reads what the formats of the two hash tables say is there.
        unsafe {
            if !self.gnu.is_null() {
                return self.gnu_index(name);
            }
            if self.hash.is_null() {
                return None;
            }
            let count = *self.hash.add(1) as usize;
            (1..count).find(|&index| self.is_wanted(index, name))
        }
    }

    /// <https://flapenguin.me/elf-dt-gnu-hash>
    unsafe fn gnu_index(&self, name: &[u8]) -> Option<usize> {
        let hash = name.iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(*byte as u32));
        // SAFETY: see the caller.
        unsafe {
            let (buckets, first, words, shift) =
                (*self.gnu, *self.gnu.add(1) as usize, *self.gnu.add(2) as usize, *self.gnu.add(3));
            let bloom = self.gnu.add(4).cast::<u64>();
            let word = *bloom.add((hash as usize / 64) & (words.wrapping_sub(1)));
            if buckets == 0 || word >> (hash % 64) & word >> ((hash >> (shift & 31)) % 64) & 1 == 0 {
                return None;
            }
            let table = bloom.add(words).cast::<u32>();
            let chain = table.add(buckets as usize);
            let mut index = *table.add((hash % buckets) as usize) as usize;
            if index < first {
                return None;
            }
            loop {
                let entry = *chain.add(index - first);
                if entry | 1 == hash | 1 && self.is_wanted(index, name) {
                    return Some(index);
                }
                if entry & 1 == 1 {
                    return None;
                }
                index += 1;
            }
        }
    }

    /// Named so, defined here, and not an old version.
    unsafe fn is_wanted(&self, index: usize, name: &[u8]) -> bool {
        // SAFETY: see the caller.
        unsafe {
            let old = !self.versions.is_null() && *self.versions.add(index) & 0x8000 != 0;
            !old && (*self.table.add(index)).section != 0 && self.is_named(index, name)
        }
    }
}
