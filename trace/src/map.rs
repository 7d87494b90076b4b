//! The shared memory, as its owner and as a program in it sees it.

use crate::format::{self, Entry, FIRST, FIRST_WATCH, Header, MAGIC, MAP_SIZE, NOBODY, kind};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;

const NAME: &CStr = c"kache-trace";

/// A map that can be written to. Unmapped when dropped.
pub struct Map(NonNull<u8>);

// SAFETY: what is shared in it is atomic, or written once by the one who reserved it.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn of(file: &impl AsRawFd) -> io::Result<Map> {
        // SAFETY: a new mapping of a file that is MAP_SIZE long and cannot become shorter.
        unsafe {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            let at = libc::mmap(std::ptr::null_mut(), MAP_SIZE, prot, flags, file.as_raw_fd(), 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            // Whatever else this process starts does not look as if it belonged to the observed.
            libc::madvise(at, MAP_SIZE, libc::MADV_DONTFORK);
            NonNull::new(at.cast()).map(Map).ok_or_else(|| io::ErrorKind::Other.into())
        }
    }

    pub fn header(&self) -> &Header {
        // SAFETY: the map begins with a header; what others change in it is atomic.
        unsafe { self.0.cast().as_ref() }
    }

    pub fn append(&self, entry: &Entry) {
        // SAFETY: the map is one, as `of` made it.
        unsafe { format::append(self.0.as_ptr(), entry) };
    }

    /// The map of the observer around us.
    pub fn around() -> Option<Map> {
        Map::named(&std::env::var("KACHE_TRACE").ok()?)
    }

    /// The map that the variable names.
    fn named(value: &str) -> Option<Map> {
        let mut numbers = value.split(':').map(|number| u64::from_str_radix(number, 16).ok());
        let (pid, fd, nonce) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let file = File::options().read(true).write(true).open(format!("/proc/{pid}/fd/{fd}")).ok()?;
        // SAFETY: asks for the seals of a descriptor.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 || file.metadata().ok()?.len() != MAP_SIZE as u64 {
            return None;
        }
        let map = Map::of(&file).ok()?;
        (map.header().magic == MAGIC && map.header().nonce == nonce).then_some(map)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.0.as_ptr().cast(), MAP_SIZE) };
    }
}

/// The file behind a map.
pub struct Memory {
    file: File,
    pub nonce: u64,
}

impl Memory {
    pub fn new() -> io::Result<(Memory, Map)> {
        // SAFETY: makes a descriptor, which is ours.
        let file = unsafe {
            let fd = libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from(OwnedFd::from_raw_fd(fd))
        };
        file.set_len(MAP_SIZE as u64)?;
        let mut nonce = [0; 8];
        // SAFETY: fills eight bytes.
        if unsafe { libc::getrandom(nonce.as_mut_ptr().cast(), 8, 0) } != 8 {
            return Err(io::Error::last_os_error());
        }
        let nonce = u64::from_ne_bytes(nonce);
        for (offset, value) in [(0, MAGIC), (8, nonce), (16, FIRST), (24, (FIRST_WATCH as u64 + 1) << 32)] {
            file.write_all_at(&value.to_ne_bytes(), offset)?;
        }
        // SAFETY: adds seals to our descriptor.
        if unsafe {
            libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)
        } < 0
        {
            return Err(io::Error::last_os_error());
        }
        let map = Map::of(&file)?;
        Ok((Memory { file, nonce }, map))
    }

    /// What the variable says for an exec.
    pub fn variable(&self, sequence: u32) -> String {
        format!("{:x}:{:x}:{:x}:{sequence:x}", std::process::id(), self.file.as_raw_fd(), self.nonce)
    }

    /// Ends writing. False: some process still has the map, so it still runs.
    pub fn close(&self) -> bool {
        // SAFETY: as above. The kernel refuses as long as anybody could write.
        unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) == 0 }
    }

    /// Bytes that were written.
    pub fn length(&self) -> usize {
        let mut head = [0; 8];
        let read = self.file.read_exact_at(&mut head, 16);
        if read.is_ok() { u64::from_ne_bytes(head).min(MAP_SIZE as u64) as usize } else { 0 }
    }

    /// What was written.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length()];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// Appends a gap that belongs to no process.
pub fn gap(map: &Map, why: &str) {
    let text = why.as_bytes();
    map.append(&Entry { process: NOBODY, kind: kind::GAP, detail: 0, object: 0, value: 0, pid: 0, text });
}

/// The next number of a process.
pub fn number(map: &Map) -> u32 {
    map.header().processes.fetch_add(1, Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_observer_has_made_is_a_map() {
        let (memory, map) = Memory::new().unwrap();
        let of = |file: &File, nonce: u64| {
            Map::named(&format!("{:x}:{:x}:{nonce:x}:7", std::process::id(), file.as_raw_fd()))
        };
        let named = Map::named(&memory.variable(7)).unwrap();
        gap(&named, "why");
        assert_eq!(memory.length(), FIRST as usize + 32);
        assert_eq!(number(&map) + 1, number(&named));
        assert!(of(&memory.file, memory.nonce + 1).is_none());
        for value in ["", "1", "1:2", "x:y:z", "ffffffff:0:0:0"] {
            assert!(Map::named(value).is_none(), "{value}");
        }
        let file = |seals: libc::c_int, length: usize| {
            // SAFETY: makes a descriptor, which is ours.
            let file = unsafe {
                let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
                File::from(OwnedFd::from_raw_fd(libc::memfd_create(NAME.as_ptr(), flags)))
            };
            file.write_all_at(&memory.read().unwrap(), 0).unwrap();
            file.set_len(length as u64).unwrap();
            // SAFETY: adds seals to our descriptor.
            assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
            file
        };
        assert!(of(&file(libc::F_SEAL_SHRINK, MAP_SIZE), memory.nonce).is_some());
        // It could become shorter, and has to be as long.
        assert!(of(&file(libc::F_SEAL_GROW, MAP_SIZE), memory.nonce).is_none());
        assert!(of(&file(libc::F_SEAL_SHRINK, MAP_SIZE / 2), memory.nonce).is_none());
        let plain = tempfile::tempfile().unwrap();
        plain.write_all_at(&memory.read().unwrap(), 0).unwrap();
        plain.set_len(MAP_SIZE as u64).unwrap();
        assert!(of(&plain, memory.nonce).is_none());
        plain.set_len(1).unwrap();
        assert!(of(&plain, memory.nonce).is_none());
    }

    #[test]
    fn a_map_is_closed_when_nobody_has_it() {
        let (memory, map) = Memory::new().unwrap();
        assert!(!memory.close());
        drop(map);
        assert!(memory.close());
        assert!(Map::named(&memory.variable(1)).is_none());
    }
}
