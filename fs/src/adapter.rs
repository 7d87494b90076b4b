//! Between FUSE and the overlay: decodes a request, calls, replies. Decides nothing.
//!
//! The protocol is stateless: OPEN, OPENDIR, CREATE and FLUSH are answered ENOSYS, after which the kernel sends neither
//! them nor RELEASE, and keeps entries, attributes, listings and pages until it is told otherwise.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::FileType as RawType;

use crate::error::{FsError, Result};
use crate::overlay::{
    Attr, Caller, Kernel, Overlay, Reading, RenameMode, SetAttr, SetTime, system_time, timespec,
};
use crate::pool::Pool;

/// How long the kernel may believe what it was told.
const TTL: Duration = Duration::from_secs(3600);
const GENERATION: Generation = Generation(0);
/// Bytes of one write. Each reading thread keeps that much memory touched.
const MAX_WRITE: u32 = 256 * 1024;

pub(crate) struct Adapter {
    overlay: Arc<Overlay>,
    pool: Arc<Pool>,
    negotiated: Arc<std::sync::OnceLock<Negotiated>>,
}

/// What this kernel and the overlay agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// FUSE protocol version of the kernel.
    pub protocol: (u32, u32),
    /// Names of the capabilities in use.
    pub capabilities: Vec<String>,
    /// Bytes of the largest write request.
    pub max_write: u32,
}

impl Adapter {
    pub fn new(
        overlay: Arc<Overlay>,
        pool: Arc<Pool>,
        negotiated: Arc<std::sync::OnceLock<Negotiated>>,
    ) -> Self {
        Adapter { overlay, pool, negotiated }
    }

    fn slowly(&self, job: impl FnOnce(&Overlay) + Send + 'static) {
        let overlay = self.overlay.clone();
        self.pool.run(move || job(&overlay));
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

fn file_type(kind: RawType) -> FileType {
    match kind {
        RawType::Directory => FileType::Directory,
        RawType::Symlink => FileType::Symlink,
        RawType::Fifo => FileType::NamedPipe,
        RawType::Socket => FileType::Socket,
        RawType::CharacterDevice => FileType::CharDevice,
        RawType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

fn entry(result: Result<Attr>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&TTL, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn attributes(result: Result<Attr>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn empty(result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn written(result: Result<u64>, reply: ReplyWrite) {
    match result {
        Ok(n) => reply.written(n as u32),
        Err(error) => reply.error(errno(&error)),
    }
}

fn xattr(result: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

fn data(overlay: &Overlay, reading: Result<Reading>, offset: u64, size: u32, reply: ReplyData) {
    BUFFER.with_borrow_mut(|buffer| {
        match reading.and_then(|reading| overlay.read(&reading, offset, size as usize, buffer)) {
            Ok(n) => reply.data(&buffer[..n]),
            Err(error) => reply.error(errno(&error)),
        }
    });
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(timespec(at)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        let mut capabilities = Vec::new();
        for flag in wanted {
            if config.add_capabilities(flag).is_ok() {
                capabilities.extend(flag.iter_names().map(|(name, _)| name.to_owned()));
            }
        }
        if !config
            .capabilities()
            .contains(InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT)
        {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::PROTONOSUPPORT.raw_os_error()));
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(64);
        let version = config.kernel_abi();
        let protocol = (version.0, version.1);
        let _ = self.negotiated.set(Negotiated { protocol, capabilities, max_write: MAX_WRITE });
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.overlay.lookup(parent.0, name) {
            Err(error) if error.is_not_found() => {
                // Inode 0: the kernel may remember that there is nothing.
                let nothing = Attr::nothing();
                reply.entry(&TTL, &file_attr(&nothing), GENERATION);
            }
            result => entry(result, reply),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.overlay.forget(std::iter::once((ino.0, nlookup)));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        attributes(self.overlay.getattr(ino.0), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            kill_suid: size.is_some() && request.uid() != 0,
        };
        if self.overlay.setattr_is_slow(ino.0, &set) {
            self.slowly(move |overlay| attributes(overlay.setattr(ino.0, &set), reply));
        } else {
            attributes(self.overlay.setattr(ino.0, &set), reply);
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.overlay.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        entry(self.overlay.mknod(parent.0, name, mode, rdev.into(), caller(request)), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        entry(self.overlay.mkdir(parent.0, name, mode, caller(request)), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.overlay.unlink(parent.0, name), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.overlay.rmdir(parent.0, name), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        entry(self.overlay.symlink(parent.0, name, target.as_os_str(), caller(request)), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            f if f.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        empty(self.overlay.rename((parent.0, name), (newparent.0, newname), mode), reply);
    }

    fn link(&self, _request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        entry(self.overlay.link(ino.0, newparent.0, newname), reply);
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: fuser::ReplyCreate,
    ) {
        // The kernel then makes a node and opens it, which needs no handle.
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.overlay.reading(ino.0) {
            Ok(Some(reading)) => data(&self.overlay, Ok(reading), offset, size, reply),
            Ok(None) => {
                self.slowly(move |overlay| data(overlay, overlay.open_reading(ino.0), offset, size, reply));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let length = data.len() as u64;
        if self.overlay.can_write_at_once(ino.0) {
            return written(self.overlay.write(ino.0, offset, data, kill).map(|()| length), reply);
        }
        let data = data.to_vec();
        self.slowly(move |overlay| {
            written(overlay.write(ino.0, offset, &data, kill).map(|()| length), reply)
        });
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.slowly(move |overlay| empty(overlay.fsync(ino.0, datasync), reply));
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.slowly(move |overlay| empty(overlay.fsync(ino.0, datasync), reply));
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let done = self.overlay.readdir(ino.0, offset, |e| {
            reply.add(INodeNo(e.ino), e.next, file_type(e.kind), OsStr::from_bytes(e.name))
        });
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.overlay.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax.min(255) as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_vec());
        self.slowly(move |overlay| {
            empty(overlay.setxattr(ino.0, name.as_bytes(), &value, flags as u32), reply);
        });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(self.overlay.getxattr(ino.0, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(self.overlay.listxattr(ino.0), size, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.slowly(move |overlay| empty(overlay.removexattr(ino.0, name.as_bytes()), reply));
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.slowly(move |overlay| empty(overlay.fallocate(ino.0, mode as u32, offset, length), reply));
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.slowly(move |overlay| match overlay.seek(ino.0, offset, whence) {
            Ok(at) => reply.offset(at as i64),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.slowly(move |overlay| {
            written(overlay.copy_range((ino_in.0, offset_in), (ino_out.0, offset_out), length), reply);
        });
    }
}

/// Tells the kernel through the session.
pub(crate) struct Notify(pub Notifier);

impl Notify {
    fn done(what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            // The kernel does not know the inode: then there is nothing to forget.
            tracing::debug!(%error, what, "notification not taken");
        }
    }
}

impl Kernel for Notify {
    fn entry(&self, dir: u64, name: &[u8]) {
        Self::done("entry", self.0.inval_entry(INodeNo(dir), OsStr::from_bytes(name)));
    }

    fn inode(&self, ino: u64) {
        Self::done("inode", self.0.inval_inode(INodeNo(ino), 0, 0));
    }

    fn attributes(&self, ino: u64) {
        // A negative offset: attributes only.
        Self::done("attributes", self.0.inval_inode(INodeNo(ino), -1, 0));
    }
}
