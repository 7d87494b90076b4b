//! `kache mount --link`: the mount lies in the cache directory and `target` is a symbolic link to it.
//!
//! `cargo clean` then removes only the link. Whoever notices first that it is gone (the daemon's tick, or the first
//! question that cargo asks a wrapper) empties the mount and links it again, before cargo makes a directory there.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::Config;

/// Where a linked target directory really lies.
fn home(cache_dir: &Path, link: &Path) -> PathBuf {
    let id = blake3::hash(link.as_os_str().as_bytes()).to_hex();
    cache_dir.join("targets").join(&id[..16])
}

/// Makes `dir` a link into the cache directory and returns the directory to mount.
pub fn prepare(config: &Config, dir: &Path) -> Result<PathBuf> {
    let here = std::env::current_dir().context("the current directory is gone")?;
    let link = here.join(dir);
    let mut home = home(&config.cache_dir, &link);
    // Of a checkout that was moved: it leads there still.
    let there = std::fs::read_link(&link).ok().and_then(|to| to.parent().map(Path::to_owned));
    if let Some(there) = there.filter(|there| there.parent() == home.parent()) {
        home = there;
    }
    let target = home.join("target");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&target)?;
    kache_wrapper::atomic::write(&home.join("link"), link.as_os_str().as_bytes())?;
    match std::fs::symlink_metadata(&link) {
        Ok(meta) if meta.is_symlink() => {
            if std::fs::read_link(&link)? != target {
                bail!("{} is a symbolic link to somewhere else", link.display());
            }
        }
        Ok(meta) if meta.is_dir() => {
            // What is there stays visible: it moves to the new place when that is possible and free.
            std::fs::remove_dir(&target).or_else(|_| std::fs::read_dir(&link).map(drop))?;
            if std::fs::rename(&link, &target).is_err() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&target)?;
                std::fs::remove_dir(&link).with_context(|| {
                    format!(
                        "{} is not empty and cannot be moved to {}; remove it first",
                        link.display(),
                        target.display()
                    )
                })?;
            }
            std::os::unix::fs::symlink(&target, &link)?;
        }
        Ok(_) => bail!("{} is a file", link.display()),
        Err(_) => std::os::unix::fs::symlink(&target, &link)
            .with_context(|| format!("cannot make {}", link.display()))?,
    }
    Ok(target)
}

/// The link that leads to a mounted directory, if it was mounted by `--link`.
pub fn of(mounted: &Path) -> Option<PathBuf> {
    let bytes = std::fs::read(mounted.parent()?.join("link")).ok()?;
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// After an unmount for good the directory comes to where its link was. On another disk it stays, and the link with it.
/// Returns where it stays.
pub fn bring_home(mounted: &Path) -> std::io::Result<Option<PathBuf>> {
    let Some(link) = of(mounted).filter(|link| std::fs::read_link(link).is_ok_and(|to| to == mounted)) else {
        return Ok(None);
    };
    std::fs::remove_file(&link)?;
    if let Err(error) = std::fs::rename(mounted, &link) {
        std::os::unix::fs::symlink(mounted, &link)?;
        return match error.kind() {
            std::io::ErrorKind::CrossesDevices => Ok(Some(mounted.to_owned())),
            _ => Err(error),
        };
    }
    mounted.parent().map_or(Ok(None), |home| std::fs::remove_dir_all(home).map(|()| None))
}

/// Is the link gone, with its place free and its project still there?
pub fn is_gone(link: &Path) -> bool {
    std::fs::symlink_metadata(link).is_err() && link.parent().is_some_and(|p| p.join("Cargo.toml").exists())
}
