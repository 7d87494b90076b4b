//! Is the store usable, sound, and how do results get from it to a target directory?

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kache_fs::{MountState, mount_state};

use super::{Check, Options, Tell};
use crate::cli::format;
use crate::config::Config;
use crate::store::{Store, sys};

pub fn examine(config: &Config, options: &Options, tell: &Tell<'_>) {
    let dir = &config.cache_dir;
    let store = match config.open_store() {
        Ok(store) => store,
        Err(error) => {
            let remedy = "builds go on without the cache until this is solved";
            return tell(Check::fail("cache", error.to_string(), remedy));
        }
    };
    tell(space(dir, &store));
    tell(index(&store));
    tell(way(dir, &options.target));
    if options.verify || options.repair {
        tell(blobs(&store, options));
    }
}

fn space(dir: &Path, store: &Store) -> Check {
    let free = nix::sys::statvfs::statvfs(dir).map_or(0, |fs| {
        #[allow(clippy::unnecessary_cast)] // The types differ between systems.
        let free = fs.blocks_available() as u64 * fs.fragment_size() as u64;
        free
    });
    let used = store.totals().map_or(0, |t| t.bytes);
    let (used, max) = (format::bytes(used), format::bytes(store.max_size()));
    let detail = format!("{}: {used} of {max} used, {} free on its disk", dir.display(), format::bytes(free));
    if free < 1 << 30 {
        return Check::warn(
            "cache",
            detail,
            "less than 1 GiB is free: `kache gc --max-size SIZE`, or another KACHE_CACHE_DIR",
        );
    }
    Check::ok("cache", detail)
}

fn index(store: &Store) -> Check {
    match store.check_index() {
        Ok(problems) if problems.is_empty() => match store.totals() {
            Ok(t) => Check::ok("index", format!("sound: {} entries, {} blobs", t.entries, t.blobs)),
            Err(e) => Check::fail("index", e.to_string(), "see the message"),
        },
        Ok(problems) => {
            let remedy = "it is set aside and begun anew at the next use; `kache doctor --repair` takes its blobs in again";
            Check::fail("index", problems.join("; "), remedy)
        }
        Err(e) => Check::fail("index", e.to_string(), "see the message"),
    }
}

/// Tries what a restore would do.
fn way(cache: &Path, target: &Path) -> Check {
    const NAME: &str = "restore";
    let Some(place) = target.ancestors().chain([Path::new(".")]).find(|d| d.is_dir()) else {
        return Check::warn(NAME, format!("{} is nowhere", target.display()), "run it inside a project");
    };
    match mount_state(place, Duration::from_secs(2)) {
        MountState::None => {}
        MountState::Live => return Check::ok(NAME, "as views: nothing is copied, whatever the file systems"),
        _ => return Check::warn(NAME, format!("{} is a dead mount", place.display()), "see below"),
    }
    let result = (|| -> std::io::Result<&str> {
        let mut from = tempfile::NamedTempFile::new_in(cache.join("store/tmp"))?;
        std::io::Write::write_all(&mut from, &[7; 8192])?;
        let to = tempfile::NamedTempFile::new_in(place)?;
        if sys::reflink(from.as_file(), to.as_file()).is_ok() {
            return Ok("by reflink: no bytes are copied, every file is independent");
        }
        let link: PathBuf = to.path().with_extension("link");
        let linked = fs::hard_link(from.path(), &link);
        let _ = fs::remove_file(&link);
        Ok(match linked {
            Ok(()) => "by hard link where that is safe, else by copy; `kache mount` does without copies",
            Err(_) => {
                "by copy: store and target are on different file systems; `kache mount` does without copies"
            }
        })
    })();
    let fs_type = |path: &Path| format!("device {}", fs::metadata(path).map_or(0, |m| m.dev()));
    match result {
        Ok(way) => {
            Check::ok(NAME, format!("{way} ({} -> {}: {})", fs_type(cache), place.display(), fs_type(place)))
        }
        Err(e) => Check::fail(NAME, format!("cannot write to {}: {e}", place.display()), "make it writable"),
    }
}

fn blobs(store: &Store, options: &Options) -> Check {
    const NAME: &str = "blobs";
    let remedy = "`kache doctor --repair` removes them; the next builds store them again";
    match store.verify(options.verify, options.repair) {
        Err(e) => Check::fail(NAME, e.to_string(), "see the message"),
        Ok(v) if v.damaged.is_empty() && v.missing == 0 => {
            let adopted = if v.strays > 0 {
                format!(", {} without a row in the index", v.strays)
            } else {
                String::new()
            };
            Check::ok(NAME, format!("{} sound, {}{adopted}", v.sound, format::bytes(v.bytes)))
        }
        Ok(v) => {
            let detail = format!(
                "{} damaged ({}), {} missing, {} sound",
                v.damaged.len(),
                v.damaged.join(", "),
                v.missing,
                v.sound
            );
            if options.repair {
                return Check::warn(NAME, format!("{detail}; repaired"), "nothing more to do");
            }
            Check::fail(NAME, detail, remedy)
        }
    }
}
