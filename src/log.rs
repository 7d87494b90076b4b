//! kache's own log: where warnings of the wrapper go, since its standard streams belong to the compiler.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The log is moved aside when it has grown to so many bytes; one older one is kept.
const MAX_BYTES: u64 = 4 << 20;

/// Shows warnings of kache itself on standard error. Not those of the S3 client and what is beneath it: they repeat
/// requests and answers, where secrets may be, and kache says in its own words what went wrong.
pub fn to_stderr() {
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::prelude::*;
    let ours = Targets::new().with_target("kache", LevelFilter::WARN);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(ours)).init();
}

/// A warning on behalf of a compiler's caller, to `kache.log` in the cache directory.
pub fn warn(cache_dir: &Path, message: &str) {
    append(&cache_dir.join("kache.log"), message);
}

/// Appends one line. A log that cannot be written is not worth a word.
pub fn append(path: &Path, message: &str) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let line = format!("{seconds} [{}] {}\n", std::process::id(), message.replace('\n', " "));
    let open = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
    };
    let Ok(mut file) = open() else { return };
    if file.metadata().is_ok_and(|m| m.len() > MAX_BYTES) {
        // Whoever renames first wins; a second one renames a log that is nearly empty, and nothing is torn.
        let _ = std::fs::rename(path, path.with_extension("log.1"));
        match open() {
            Ok(fresh) => file = fresh,
            Err(_) => return,
        }
    }
    // One write per line: lines of concurrent processes do not mix.
    let _ = file.write_all(line.as_bytes());
}
