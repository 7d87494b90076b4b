//! A small program around a mount: `overlay DIR STATE BLOBS` mounts an overlay over DIR and says `ready`. Then it
//! obeys lines on its standard input, and answers each with `ok …` or `error …`:
//!
//! ```text
//! view PATH MODE SIZE HASH   put a view of a blob at a path
//! seal PATH                  make a file a blob and a view of it; answers with its hash
//! quiet                      seal everything
//! files                      unmount, leaving a complete directory, and end
//! ```
//! At the end of its input it unmounts and leaves the journal.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blake3::Hash;
use kache_fs::{Content, DirBlobs, Leave, LinkPolicy, Mount, Options, Placement, RelPath};

type Answer = Result<String, Box<dyn std::error::Error>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [dir, state, blobs] = arguments.as_slice() else {
        return Err("usage: overlay DIR STATE BLOBS".into());
    };
    kache_fs::raise_file_limit();
    let blobs = Arc::new(DirBlobs::new(blobs)?);
    let mut options = Options::new(state);
    // Root's mounts let others in: a test suite changes its user.
    options.allow_other = rustix::process::geteuid().is_root();
    let mut mount = Mount::start(dir, &options, blobs)?;
    say("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "files" {
            mount.unmount(Leave::Files(LinkPolicy::Never), true)?;
            say("ok");
            return Ok(());
        }
        match obey(&mount, &line) {
            Ok(answer) => say(&format!("ok {answer}")),
            Err(error) => say(&format!("error {error}")),
        }
    }
    mount.unmount(Leave::Journal, true)?;
    Ok(())
}

fn obey(mount: &Mount, line: &str) -> Answer {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["view", path, mode, size, hash] => {
            let content = Content::View { hash: Hash::from_hex(hash)?, size: size.parse()?, link_ok: true };
            let mode = u32::from_str_radix(mode, 8)?;
            mount.place(&[Placement { path: RelPath::new(path)?, content, mode, mtime: None }])?;
            Ok(String::new())
        }
        ["seal", path] => Ok(mount.seal(&RelPath::new(path)?, true)?.0.to_hex().to_string()),
        ["quiet"] => {
            let sealed = mount.seal_quiet(Duration::ZERO, Duration::from_secs(60), &|_| true)?;
            Ok(sealed.files.to_string())
        }
        _ => Err("not understood".into()),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever asked is gone: nobody to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
