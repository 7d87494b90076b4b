//! Which `.kache.toml` may be obeyed: not one that another user has put above the checkout, as anybody can below `/tmp`.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The nearest one at or above `cwd` that may be obeyed, and why nearer ones may not.
pub fn nearest(cwd: &Path) -> (Option<PathBuf>, Vec<String>) {
    let mut ignored = Vec::new();
    for path in cwd.ancestors().map(|d| d.join(".kache.toml")).filter(|p| p.is_file()) {
        match suspicion(&path) {
            None => return (Some(path), ignored),
            Some(why) => ignored.push(format!("{}: {why}", path.display())),
        }
    }
    (None, ignored)
}

/// Why somebody else may have written a file.
fn suspicion(path: &Path) -> Option<String> {
    // The link and what it leads to: a link of somebody else could make any file of ours a configuration.
    let looks = [std::fs::symlink_metadata(path), std::fs::metadata(path)];
    looks.into_iter().find_map(|look| match look {
        Ok(meta) => suspicious(&meta, nix::unistd::geteuid().as_raw()),
        Err(error) => Some(error.to_string()),
    })
}

fn suspicious(meta: &Metadata, us: u32) -> Option<String> {
    if ![us, 0].contains(&meta.uid()) {
        return Some(format!("belongs to user {}, neither to user {us} nor to root", meta.uid()));
    }
    // A group may be a team that shares the checkout. The mode of a symbolic link says nothing.
    (!meta.is_symlink() && meta.permissions().mode() & 0o002 != 0)
        .then(|| "anybody can write to it (`chmod o-w`)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_others_may_have_written_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let cwd = dir.path().join("a/b");
        std::fs::create_dir_all(&cwd).unwrap();
        let file = |dir: &Path, mode| {
            let path = dir.join(".kache.toml");
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let above = file(dir.path(), 0o644);
        let open = file(&cwd, 0o666);
        let (found, ignored) = nearest(&cwd);
        assert_eq!(found.as_ref(), Some(&above));
        assert!(ignored.len() == 1 && ignored[0].contains(open.to_str().unwrap()), "{ignored:?}");
        file(&cwd, 0o664);
        assert_eq!(nearest(&cwd), (Some(open.clone()), Vec::new()));

        let meta = std::fs::metadata(&above).unwrap();
        assert_eq!(suspicious(&meta, meta.uid()), None);
        assert_eq!(suspicious(&meta, meta.uid() + 1).is_some(), meta.uid() != 0);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&open, Some(65534), None).unwrap();
            assert_eq!(nearest(&cwd).0, Some(above.clone()));
            // Also by a link to what is ours.
            std::fs::remove_file(&open).unwrap();
            std::os::unix::fs::symlink(&above, &open).unwrap();
            std::os::unix::fs::lchown(&open, Some(65534), None).unwrap();
            assert_eq!(nearest(&cwd).0, Some(above));
        }
    }
}
