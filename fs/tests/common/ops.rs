//! File-system operations that can be done to two directories and compared: result or errno, bytes, metadata.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::rng::Rng;
use super::{Map, bytes};

/// A path below the root, as bytes.
pub type Name = Vec<u8>;

#[derive(Debug, Clone)]
pub enum Op {
    Open { slot: usize, path: Name, flags: OFlags, mode: u32 },
    Close { slot: usize },
    Read { slot: usize, offset: u64, length: usize },
    Write { slot: usize, offset: u64, seed: u64, length: usize },
    MapWrite { slot: usize, offset: u64, seed: u64, length: usize },
    CopyRange { from: usize, to: usize, offset: u64, into: u64, length: usize },
    SetLength { slot: usize, length: u64 },
    Fallocate { slot: usize, flags: FallocateFlags, offset: u64, length: u64 },
    Seek { slot: usize, hole: bool, offset: u64 },
    Fstat { slot: usize },
    Fchmod { slot: usize, mode: u32 },
    Fsync { slot: usize },
    WriteWhole { path: Name, seed: u64, length: usize },
    Stat { path: Name },
    List { path: Name },
    Mkdir { path: Name, mode: u32 },
    Mknod { path: Name, kind: FileType, mode: u32 },
    Symlink { target: Name, path: Name },
    Readlink { path: Name },
    Unlink { path: Name },
    Rmdir { path: Name },
    Link { from: Name, to: Name },
    Rename { from: Name, to: Name, flags: RenameFlags },
    Truncate { path: Name, length: u64 },
    Chmod { path: Name, mode: u32 },
    Chown { path: Name, uid: Option<u32>, gid: Option<u32> },
    Utimes { path: Name, seconds: i64 },
    SetXattr { path: Name, name: &'static str, value: u64, flags: XattrFlags },
    GetXattr { path: Name, name: &'static str },
    RemoveXattr { path: Name, name: &'static str },
}

/// What an operation tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Nothing,
    Number(u64),
    Bytes(Vec<u8>),
    Names(Vec<(Vec<u8>, FileType)>),
    Stat(Box<Seen>),
}

/// The part of a `stat` that must agree. Times only where somebody has set them: else they are those of the operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: FileType,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub size: Option<i64>,
    pub set_mtime: Option<(i64, u64)>,
}

impl Seen {
    pub fn of(stat: &fs::Stat) -> Seen {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let has_size = matches!(kind, FileType::RegularFile | FileType::Symlink);
        Seen {
            kind,
            mode: stat.st_mode & 0o7777,
            nlink: stat.st_nlink,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: has_size.then_some(stat.st_size),
            set_mtime: (stat.st_mtime < LONG_AGO).then_some((stat.st_mtime, stat.st_mtime_nsec)),
        }
    }
}

/// Times before this (2001) were set, times after it have just happened.
pub const LONG_AGO: i64 = 1_000_000_000;
const SLOTS: usize = 6;

/// A directory that operations are done to, and the files that are open in it.
pub struct World {
    pub root: PathBuf,
    open: [Option<File>; SLOTS],
}

impl World {
    pub fn new(root: PathBuf) -> World {
        World { root, open: Default::default() }
    }

    pub fn close_all(&mut self) {
        self.open = Default::default();
    }

    pub fn at(&self, name: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(name))
    }

    fn file(&self, slot: usize) -> Result<&File> {
        self.open[slot].as_ref().ok_or(Errno::BADF)
    }

    pub fn apply(&mut self, op: &Op) -> Result<Told> {
        let done = |()| Told::Nothing;
        match op {
            Op::Open { slot, path, flags, mode } => {
                self.open[*slot] = None;
                // Else a fifo would make it wait.
                let flags = *flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = fs::open(self.at(path), flags, Mode::from_raw_mode(*mode))?;
                self.open[*slot] = Some(file.into());
                Ok(Told::Nothing)
            }
            Op::Close { slot } => {
                self.open[*slot] = None;
                Ok(Told::Nothing)
            }
            Op::Read { slot, offset, length } => {
                super::read_at(self.file(*slot)?, *offset, *length).map_err(number).map(Told::Bytes)
            }
            Op::Write { slot, offset, seed, length } => {
                self.file(*slot)?.write_all_at(&bytes(*seed, *length), *offset).map_err(number).map(done)
            }
            Op::MapWrite { slot, offset, seed, length } => {
                let file = self.file(*slot)?;
                let size = fs::fstat(file)?.st_size as usize;
                if size == 0 || FileType::from_raw_mode(fs::fstat(file)?.st_mode) != FileType::RegularFile {
                    return Err(Errno::INVAL);
                }
                let mut map = Map::shared(file, size).map_err(number)?;
                let start = (*offset as usize).min(size);
                map.write(start, &bytes(*seed, (*length).min(size - start)));
                map.sync().map_err(number).map(done)
            }
            Op::CopyRange { from, to, offset, into, length } => {
                let (from, to) = (self.file(*from)?, self.file(*to)?);
                let (mut at, mut into, mut left) = (*offset, *into, *length);
                while left > 0 {
                    match fs::copy_file_range(from, Some(&mut at), to, Some(&mut into), left)? {
                        0 => break,
                        n => left -= n,
                    }
                }
                Ok(Told::Number((length - left) as u64))
            }
            Op::SetLength { slot, length } => fs::ftruncate(self.file(*slot)?, *length).map(done),
            Op::Fallocate { slot, flags, offset, length } => {
                fs::fallocate(self.file(*slot)?, *flags, *offset, *length).map(done)
            }
            Op::Seek { slot, hole, offset } => {
                let file = self.file(*slot)?;
                if FileType::from_raw_mode(fs::fstat(file)?.st_mode) != FileType::RegularFile {
                    return Err(Errno::INVAL);
                }
                let to = if *hole { SeekFrom::Hole(*offset) } else { SeekFrom::Data(*offset) };
                // Where the holes are is the file system's own affair: a blob may have fewer.
                match fs::seek(file, to) {
                    Err(Errno::NXIO) if !hole && (*offset as i64) < fs::fstat(file)?.st_size => {
                        Ok(Told::Nothing)
                    }
                    other => other.map(|_| Told::Nothing),
                }
            }
            Op::Fstat { slot } => {
                fs::fstat(self.file(*slot)?).map(|stat| Told::Stat(Box::new(Seen::of(&stat))))
            }
            Op::Fchmod { slot, mode } => fs::fchmod(self.file(*slot)?, Mode::from_raw_mode(*mode)).map(done),
            Op::Fsync { slot } => fs::fsync(self.file(*slot)?).map(done),
            _ => self.apply_to_path(op),
        }
    }

    fn apply_to_path(&self, op: &Op) -> Result<Told> {
        let done = |()| Told::Nothing;
        match op {
            Op::WriteWhole { path, seed, length } => {
                let flags =
                    OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = File::from(fs::open(self.at(path), flags, Mode::from_raw_mode(0o644))?);
                file.write_all_at(&bytes(*seed, *length), 0).map_err(number).map(done)
            }
            Op::Stat { path } => fs::lstat(self.at(path)).map(|stat| Told::Stat(Box::new(Seen::of(&stat)))),
            Op::List { path } => list(&self.at(path)).map(Told::Names),
            Op::Mkdir { path, mode } => fs::mkdir(self.at(path), Mode::from_raw_mode(*mode)).map(done),
            Op::Mknod { path, kind, mode } => {
                fs::mknodat(CWD, self.at(path), *kind, Mode::from_raw_mode(*mode), 0).map(done)
            }
            Op::Symlink { target, path } => fs::symlink(OsStr::from_bytes(target), self.at(path)).map(done),
            Op::Readlink { path } => {
                fs::readlink(self.at(path), Vec::new()).map(|target| Told::Bytes(target.into_bytes()))
            }
            Op::Unlink { path } => fs::unlink(self.at(path)).map(done),
            Op::Rmdir { path } => fs::rmdir(self.at(path)).map(done),
            Op::Link { from, to } => fs::link(self.at(from), self.at(to)).map(done),
            Op::Rename { from, to, flags } => {
                fs::renameat_with(CWD, self.at(from), CWD, self.at(to), *flags).map(done)
            }
            Op::Truncate { path, length } => {
                // As truncate(2) does, but a fifo must not make the open wait.
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                fs::ftruncate(fs::open(self.at(path), flags, Mode::empty())?, *length).map(done)
            }
            Op::Chmod { path, mode } => fs::chmod(self.at(path), Mode::from_raw_mode(*mode)).map(done),
            Op::Chown { path, uid, gid } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                fs::chownat(CWD, self.at(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW).map(done)
            }
            Op::Utimes { path, seconds } => {
                let time = Timespec { tv_sec: *seconds, tv_nsec: 123_456_789 };
                let times = Timestamps { last_access: time, last_modification: time };
                fs::utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW).map(done)
            }
            Op::SetXattr { path, name, value, flags } => {
                fs::lsetxattr(self.at(path), *name, &value.to_le_bytes(), *flags).map(done)
            }
            Op::GetXattr { path, name } => {
                let mut value = [0u8; 64];
                let n = fs::lgetxattr(self.at(path), *name, &mut value[..])?;
                Ok(Told::Bytes(value[..n].to_vec()))
            }
            Op::RemoveXattr { path, name } => fs::lremovexattr(self.at(path), *name).map(done),
            _ => unreachable!("an operation on a descriptor"),
        }
    }
}

fn number(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or_else(|| panic!("no errno: {error}"))
}

/// Entries of a directory, sorted.
pub fn list(dir: &Path) -> Result<Vec<(Vec<u8>, FileType)>> {
    let dir = fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in fs::Dir::new(dir)? {
        let entry = entry?;
        names.push((entry.file_name().to_bytes().to_vec(), entry.file_type()));
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// Makes up operations, mostly on what exists.
pub struct Maker {
    pub rng: Rng,
    /// Without operations on descriptors.
    pub paths_only: bool,
}

const LONG: [u8; 255] = [b'l'; 255];
const TOO_LONG: [u8; 256] = [b'l'; 256];
const XATTRS: [&str; 2] = ["user.one", "user.two"];
const RENAMES: [RenameFlags; 4] =
    [RenameFlags::empty(), RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];

impl Maker {
    /// A path that exists (in `plain`), or one that perhaps does not.
    pub fn path(&mut self, plain: &Path) -> Name {
        let known = super::same::paths(plain);
        if !known.is_empty() && self.rng.below(100) < 65 {
            return self.rng.pick(&known);
        }
        self.new_path(&known)
    }

    fn new_path(&mut self, known: &[Name]) -> Name {
        let name: &[u8] = match self.rng.below(60) {
            0 => &TOO_LONG,
            1..3 => &LONG,
            3..6 => b"\xff\xfe\n",
            _ => self.rng.pick(&[b"a", b"b", b"c", b"d", b"e", b"f", b"g"] as &[&[u8; 1]]).as_slice(),
        };
        let mut path = match self.rng.below(3) {
            0 if !known.is_empty() => self.rng.pick(known),
            _ => Vec::new(),
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn slot(&mut self) -> usize {
        self.rng.below(SLOTS as u64) as usize
    }

    /// A length or an offset, around the sizes of pages and of requests.
    fn number(&mut self) -> u64 {
        let limit = self.rng.pick(&[1, 50, 4096, 9000, 70_000, 300_000]);
        self.rng.below(limit)
    }

    pub fn mode(&mut self) -> u32 {
        self.rng.pick(&[0o644, 0o755, 0o600, 0o444, 0o000, 0o4755, 0o2755, 0o1777, 0o640])
    }

    pub fn seconds(&mut self) -> i64 {
        self.rng.below(LONG_AGO as u64) as i64
    }

    pub fn op(&mut self, plain: &Path) -> Op {
        if !self.paths_only && self.rng.one_in(2) { self.on_descriptor(plain) } else { self.on_path(plain) }
    }

    fn on_descriptor(&mut self, plain: &Path) -> Op {
        let slot = self.slot();
        let seed = self.rng.next();
        let (offset, length) = (self.number(), self.number());
        match self.rng.below(20) {
            0..5 => {
                let access = self.rng.pick(&[OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR]);
                let extra = [OFlags::CREATE, OFlags::EXCL, OFlags::TRUNC, OFlags::APPEND, OFlags::NOFOLLOW];
                let odds = [2, 5, 4, 5, 6];
                let flags = extra.iter().zip(odds).fold(access, |flags, (extra, odds)| {
                    if self.rng.one_in(odds) { flags | *extra } else { flags }
                });
                Op::Open { slot, path: self.path(plain), flags, mode: self.mode() }
            }
            5 => Op::Close { slot },
            6..9 => Op::Read { slot, offset, length: length as usize },
            9..12 => Op::Write { slot, offset, seed, length: length as usize },
            12 => Op::MapWrite { slot, offset, seed, length: length as usize },
            13 => {
                let into = self.number();
                Op::CopyRange { from: slot, to: self.slot(), offset, into, length: length as usize }
            }
            14 => Op::SetLength { slot, length },
            15 => {
                let keep = FallocateFlags::KEEP_SIZE;
                let flags = self.rng.pick(&[
                    FallocateFlags::empty(),
                    keep,
                    keep | FallocateFlags::PUNCH_HOLE,
                    FallocateFlags::ZERO_RANGE,
                ]);
                Op::Fallocate { slot, flags, offset, length }
            }
            16 => Op::Seek { slot, hole: self.rng.one_in(2), offset },
            17 => Op::Fstat { slot },
            18 => Op::Fchmod { slot, mode: self.mode() },
            _ => Op::Fsync { slot },
        }
    }

    fn on_path(&mut self, plain: &Path) -> Op {
        let path = self.path(plain);
        let seed = self.rng.next();
        match self.rng.below(27) {
            0..4 => Op::WriteWhole { path, seed, length: self.number() as usize },
            4 => Op::Stat { path },
            5 => Op::List { path },
            6..9 => Op::Mkdir { path, mode: self.mode() | 0o700 },
            9 => {
                let kind = self.rng.pick(&[FileType::Fifo, FileType::Socket, FileType::RegularFile]);
                Op::Mknod { path, kind, mode: self.mode() }
            }
            10 => Op::Symlink { target: self.path(plain), path },
            11 => Op::Readlink { path },
            12 => Op::Unlink { path },
            13 => Op::Rmdir { path },
            14..17 => Op::Link { from: path, to: self.path(plain) },
            17..20 => Op::Rename { from: path, to: self.path(plain), flags: self.rng.pick(&RENAMES) },
            20 => Op::Truncate { path, length: self.number() },
            21 => Op::Chmod { path, mode: self.mode() | 0o700 },
            22 => {
                let id = |n: u64| (n > 0).then_some(n as u32 + 999);
                Op::Chown { path, uid: id(self.rng.below(3)), gid: id(self.rng.below(3)) }
            }
            23 => Op::Utimes { path, seconds: self.seconds() },
            24 => {
                let flags = self.rng.pick(&[XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE]);
                Op::SetXattr { path, name: self.rng.pick(&XATTRS), value: seed, flags }
            }
            25 => Op::GetXattr { path, name: self.rng.pick(&XATTRS) },
            _ => Op::RemoveXattr { path, name: self.rng.pick(&XATTRS) },
        }
    }
}
