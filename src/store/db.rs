//! The index: one SQLite file. How it is opened, made, set aside when broken, and shared by many processes.
//!
//! # Durability
//! WAL with `synchronous=NORMAL`: a commit does not wait for the disk, a checkpoint does. After kill -9 nothing
//! committed is lost. After a power failure the last commits may be lost, and the file is consistent: what is left
//! is a state that once was. (`OFF` would save the fsync of a checkpoint, and let B-tree pages and the log reach
//! the disk in any order: an index that names the wrong entry for a key, which is the one thing that must not be.)
//! Blobs are not synced; see [`super::blobs`] for how one that a power failure may have torn is recognised.
//!
//! # Processes that live for a millisecond
//! The last connection that closes a WAL database normally checkpoints and deletes the log, and the next one makes
//! it anew. With a process per compiler call that would be every call. So closing does neither, and checkpoints
//! happen when the log has grown to [`CHECKPOINT_PAGES`].

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{At, Error, Result, is_corruption};
use super::lock;

/// `PRAGMA user_version` of the schema below. A change of the schema appends a migration.
pub const VERSION: i64 = 4;

pub const CHECKPOINT_PAGES: u32 = 256;

/// Step `i` takes a database from version `i` to `i + 1`.
const MIGRATIONS: [&str; VERSION as usize] = [
    include_str!("schema.sql"),
    include_str!("snapshots.sql"),
    include_str!("remote.sql"),
    include_str!("blob_ctime.sql"),
];

/// Opens the index in `dir`, making directories and file when needed.
///
/// A corrupt file is renamed to `index.db.corrupt-<time>` and a new one begun.
pub fn open(dir: &Path) -> Result<Connection> {
    let path = dir.join("index.db");
    match open_existing(&path) {
        Ok(Some(conn)) => return Ok(conn),
        Ok(None) => {}
        Err(e) if e.is_corruption() => {}
        Err(e) => return Err(e),
    }
    create_dirs(dir)?;
    // One at a time: whoever was second finds the work done.
    let _one = lock::exclusive(&dir.join("locks/index.lock"))?;
    match open_existing(&path) {
        Ok(Some(conn)) => return Ok(conn),
        Ok(None) => {}
        Err(e) if e.is_corruption() => set_aside(&path)?,
        Err(e) => return Err(e),
    }
    create(&path)
}

/// `None`: there is no file yet, or one of an older schema, or an unfinished one.
fn open_existing(path: &Path) -> Result<Option<Connection>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = match Connection::open_with_flags(path, flags) {
        Ok(conn) => conn,
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::CannotOpen) && !path.exists() => return Ok(None),
        Err(e) => return Err(err(path)(e)),
    };
    configure(&conn).map_err(err(path))?;
    match version(&conn).map_err(err(path))? {
        VERSION => Ok(Some(conn)),
        found if found > VERSION => Err(Error::Newer { path: path.to_owned(), found, known: VERSION }),
        _ => Ok(None),
    }
}

fn create(path: &Path) -> Result<Connection> {
    // SQLite gives its side files the mode of the main one.
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).at("create", path)?;
    let mut conn = Connection::open(path).map_err(err(path))?;
    let mut migrate = || -> rusqlite::Result<()> {
        configure(&conn)?;
        conn.pragma_update(None, "journal_mode", "wal")?;
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let from = version(&tx)?.clamp(0, VERSION);
        for step in &MIGRATIONS[from as usize..] {
            tx.execute_batch(step)?;
        }
        tx.pragma_update(None, "user_version", VERSION)?;
        tx.commit()
    };
    migrate().map_err(err(path))?;
    Ok(conn)
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_handler(Some(wait_for_lock))?;
    conn.set_prepared_statement_cache_capacity(48);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.pragma_update(None, "synchronous", "normal")?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
}

fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Writers hold the lock for well under a millisecond, and there may be hundreds of them: short, uneven naps, so
/// that they do not wake in step. Gives up after about five seconds; then a build goes on without the cache.
fn wait_for_lock(attempt: i32) -> bool {
    let longest = match attempt {
        0..=9 => 500,
        10..=49 => 2_000,
        50..=549 => 20_000,
        _ => return false,
    };
    let noise = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos() / 16);
    let noise = noise ^ std::process::id().wrapping_mul(2_654_435_761);
    std::thread::sleep(Duration::from_micros(u64::from(longest / 4 + noise % (longest * 3 / 4))));
    true
}

/// Moves a broken index out of the way. The caller holds the index lock.
fn set_aside(path: &Path) -> Result<()> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let name = path.with_file_name(format!("index.db.corrupt-{seconds}"));
    tracing::warn!("{} is corrupt; moved to {}, beginning a new one", path.display(), name.display());
    for suffix in ["-wal", "-shm"] {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        match fs::remove_file(&side) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).at("remove", Path::new(&side)),
            _ => {}
        }
    }
    fs::rename(path, &name).at("rename", path)
}

/// For an index that turned out to be corrupt while in use. Checks again under the lock, since another process may
/// have replaced it already.
pub fn replace_corrupt(dir: &Path) -> Result<()> {
    let path = dir.join("index.db");
    let _one = lock::exclusive(&dir.join("locks/index.lock"))?;
    let sound = open_existing(&path).and_then(|conn| match conn {
        Some(conn) => quick_check(&conn).map_err(err(&path)),
        None => Ok(Vec::new()),
    });
    match sound {
        Ok(problems) if problems.is_empty() => Ok(()),
        Ok(_) => set_aside(&path),
        Err(e) if e.is_corruption() => set_aside(&path),
        Err(e) => Err(e),
    }
}

/// What SQLite finds wrong with the file's structure; nothing when it is sound.
pub fn quick_check(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let rows = conn
        .prepare("PRAGMA quick_check(10)")?
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>();
    match rows {
        Ok(rows) => Ok(rows.into_iter().filter(|line| line != "ok").collect()),
        Err(e) if is_corruption(&e) => Ok(vec![e.to_string()]),
        Err(e) => Err(e),
    }
}

/// Attaches the file's name to an error of SQLite.
pub fn err(path: &Path) -> impl Fn(rusqlite::Error) -> Error + '_ {
    |source| Error::Db { path: path.to_owned(), source }
}

/// The cache directory and those in it, each closed to other users.
pub fn create_dirs(dir: &Path) -> Result<()> {
    private(dir)?;
    let owner = fs::metadata(dir).at("read", dir)?.uid();
    ["locks", "store", "store/blobs", "store/tmp", "store/quarantine"].iter().try_for_each(|sub| {
        let path = dir.join(sub);
        private(&path)?;
        // Somebody else may have put it there while the cache directory was open to all.
        match fs::symlink_metadata(&path).at("read", &path)? {
            meta if meta.uid() == owner || meta.uid() == me() => Ok(()),
            meta => Err(Error::NotOurs { path, owner: meta.uid(), me: me() }),
        }
    })
}

fn private(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("create directory", path)?;
    let meta = fs::metadata(path).at("read", path)?;
    // root may work in another user's cache (containers with a mounted volume); nobody else may be lured into one.
    if meta.uid() != me() && me() != 0 {
        return Err(Error::NotOurs { path: path.to_owned(), owner: meta.uid(), me: me() });
    }
    if meta.mode() & 0o022 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o755))
            .at("close to others", path)?;
    }
    Ok(())
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}
