//! What the journal says: operations on the part of the tree that is not in the upper, and their encoding.

use blake3::Hash;
use rustix::fs::Timespec;

use crate::path::RelPath;

/// A view's bytes and metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub hash: Hash,
    pub size: u64,
    /// Permission bits, set-id bits and sticky bit.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    /// May be a hard link to the blob after an unmount.
    pub link_ok: bool,
}

/// One change of the tree. A frame of them is applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Defines the file `id` to be this view, or changes it.
    File { id: u64, view: View },
    /// `path` is a name of the file `id`.
    Link { path: RelPath, id: u64 },
    /// `path` is no longer the name of a view.
    Unlink { path: RelPath },
    /// Everything under the directory `from` is now under `to`.
    MoveTree { from: RelPath, to: RelPath },
    /// Two directories, or a directory and nothing, change places.
    SwapTree { a: RelPath, b: RelPath },
    /// Something to be done to the upper right after the frame is written.
    Redo(Redo),
}

/// An action on the upper that belongs to a frame. It is carried out after the frame has been appended and before the
/// next one is, so that only the last frame of a journal can have one that was cut off by a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redo {
    /// A view has taken the place of the upper file with this inode number.
    Unlink { path: RelPath, real: u64 },
    /// An upper file or directory moves.
    Rename { from: RelPath, to: RelPath, real: u64, exchange: bool },
    /// The upper file becomes a blob; all its names become views of file `id`.
    Seal { id: u64, real: u64, mode: u32, names: Vec<RelPath> },
    /// A view with several names is being copied up: it is linked under each of them.
    CopyUp { names: Vec<RelPath> },
}

const FILE: u8 = 1;
const LINK: u8 = 2;
const UNLINK: u8 = 3;
const MOVE_TREE: u8 = 4;
const SWAP_TREE: u8 = 5;
const REDO_UNLINK: u8 = 16;
const REDO_RENAME: u8 = 17;
const REDO_SEAL: u8 = 18;
const REDO_COPY_UP: u8 = 19;

pub(crate) fn encode(op: &Op, out: &mut Vec<u8>) {
    match op {
        Op::File { id, view } => {
            out.push(FILE);
            put_u64(out, *id);
            out.extend_from_slice(view.hash.as_bytes());
            put_u64(out, view.size);
            put_u32(out, view.mode);
            put_u32(out, view.uid);
            put_u32(out, view.gid);
            for time in [view.atime, view.mtime, view.ctime] {
                put_u64(out, time.tv_sec as u64);
                put_u32(out, time.tv_nsec as u32);
            }
            out.push(view.link_ok.into());
        }
        Op::Link { path, id } => {
            out.push(LINK);
            put_path(out, path);
            put_u64(out, *id);
        }
        Op::Unlink { path } => {
            out.push(UNLINK);
            put_path(out, path);
        }
        Op::MoveTree { from, to } => {
            out.push(MOVE_TREE);
            put_path(out, from);
            put_path(out, to);
        }
        Op::SwapTree { a, b } => {
            out.push(SWAP_TREE);
            put_path(out, a);
            put_path(out, b);
        }
        Op::Redo(Redo::Unlink { path, real }) => {
            out.push(REDO_UNLINK);
            put_path(out, path);
            put_u64(out, *real);
        }
        Op::Redo(Redo::Rename { from, to, real, exchange }) => {
            out.push(REDO_RENAME);
            put_path(out, from);
            put_path(out, to);
            put_u64(out, *real);
            out.push((*exchange).into());
        }
        Op::Redo(Redo::Seal { id, real, mode, names }) => {
            out.push(REDO_SEAL);
            put_u64(out, *id);
            put_u64(out, *real);
            put_u32(out, *mode);
            put_names(out, names);
        }
        Op::Redo(Redo::CopyUp { names }) => {
            out.push(REDO_COPY_UP);
            put_names(out, names);
        }
    }
}

/// Decodes a frame. `None` if it makes no sense (it passed its checksum, so it is of another version).
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    let b = &mut bytes;
    while !b.is_empty() {
        ops.push(match u8_(b)? {
            FILE => Op::File { id: u64_(b)?, view: view(b)? },
            LINK => Op::Link { path: path(b)?, id: u64_(b)? },
            UNLINK => Op::Unlink { path: path(b)? },
            MOVE_TREE => Op::MoveTree { from: path(b)?, to: path(b)? },
            SWAP_TREE => Op::SwapTree { a: path(b)?, b: path(b)? },
            REDO_UNLINK => Op::Redo(Redo::Unlink { path: path(b)?, real: u64_(b)? }),
            REDO_RENAME => Op::Redo(Redo::Rename {
                from: path(b)?,
                to: path(b)?,
                real: u64_(b)?,
                exchange: u8_(b)? != 0,
            }),
            REDO_SEAL => {
                Op::Redo(Redo::Seal { id: u64_(b)?, real: u64_(b)?, mode: u32_(b)?, names: names(b)? })
            }
            REDO_COPY_UP => Op::Redo(Redo::CopyUp { names: names(b)? }),
            _ => return None,
        });
    }
    Some(ops)
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_path(out: &mut Vec<u8>, path: &RelPath) {
    put_u32(out, path.as_bytes().len() as u32);
    out.extend_from_slice(path.as_bytes());
}

fn put_names(out: &mut Vec<u8>, names: &[RelPath]) {
    put_u32(out, names.len() as u32);
    for name in names {
        put_path(out, name);
    }
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

fn u8_(bytes: &mut &[u8]) -> Option<u8> {
    take(bytes, 1).map(|b| b[0])
}

fn u32_(bytes: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?))
}

fn u64_(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

fn path(bytes: &mut &[u8]) -> Option<RelPath> {
    let n = u32_(bytes)? as usize;
    Some(RelPath::from_bytes(take(bytes, n)?.to_vec()))
}

fn names(bytes: &mut &[u8]) -> Option<Vec<RelPath>> {
    let n = u32_(bytes)?;
    (0..n).map(|_| path(bytes)).collect()
}

fn time(bytes: &mut &[u8]) -> Option<Timespec> {
    Some(Timespec { tv_sec: u64_(bytes)? as i64, tv_nsec: u32_(bytes)?.into() })
}

fn view(bytes: &mut &[u8]) -> Option<View> {
    Some(View {
        hash: Hash::from_bytes(take(bytes, 32)?.try_into().ok()?),
        size: u64_(bytes)?,
        mode: u32_(bytes)?,
        uid: u32_(bytes)?,
        gid: u32_(bytes)?,
        atime: time(bytes)?,
        mtime: time(bytes)?,
        ctime: time(bytes)?,
        link_ok: u8_(bytes)? != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let path = |s: &str| RelPath::new(s).unwrap();
        let time = Timespec { tv_sec: -5, tv_nsec: 7 };
        let view = View {
            hash: blake3::hash(b"x"),
            size: 1,
            mode: 0o644,
            uid: 1,
            gid: 2,
            atime: time,
            mtime: time,
            ctime: time,
            link_ok: true,
        };
        let ops = vec![
            Op::File { id: 9, view },
            Op::Link { path: path("a/b"), id: 9 },
            Op::Unlink { path: path("a") },
            Op::MoveTree { from: path("d"), to: path("e") },
            Op::SwapTree { a: path("d"), b: path("e") },
            Op::Redo(Redo::Unlink { path: path("q"), real: 4 }),
            Op::Redo(Redo::Rename { from: path("q"), to: path("r"), real: 4, exchange: true }),
            Op::Redo(Redo::Seal { id: 3, real: 4, mode: 0o755, names: vec![path("q"), path("z")] }),
            Op::Redo(Redo::CopyUp { names: vec![path("q")] }),
        ];
        let mut bytes = Vec::new();
        ops.iter().for_each(|op| encode(op, &mut bytes));
        assert_eq!(decode(&bytes).unwrap(), ops);
        assert!(decode(&bytes[..bytes.len() - 1]).is_none());
    }
}
