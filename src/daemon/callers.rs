//! What builds have configured for sharing: each asks with its own environment and project, again and again.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use kache_wrapper::cache::{FileId, Invocation};

use crate::config::{self, Config};
use crate::remote::Sharing;

/// Different configurations that are remembered.
const MAX_KNOWN: usize = 16;
/// A file that changed so short a time ago may change again without looking different.
const SETTLED: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Callers(Mutex<VecDeque<Known>>);

/// A configuration, with all that it was made of.
struct Known {
    env: Vec<(String, Option<OsString>)>,
    project: Option<PathBuf>,
    files: Vec<(PathBuf, Option<FileId>)>,
    sharing: Option<Arc<Sharing>>,
}

impl Callers {
    /// `None` when this build shares nothing.
    pub fn sharing(&self, inv: &Invocation) -> Option<Arc<Sharing>> {
        let env: HashMap<&OsStr, &OsStr> =
            inv.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).collect();
        let project = config::project_file(&inv.cwd);
        let is_same = |known: &Known| {
            known.project == project
                && known
                    .env
                    .iter()
                    .all(|(name, value)| env.get(OsStr::new(name)).copied() == value.as_deref())
                && known.files.iter().all(|(path, id)| look(path) == *id)
        };
        if let Some(known) = self.known().iter().find(|known| is_same(known)) {
            return known.sharing.clone();
        }
        let known = Known::read(&env, inv, project);
        let sharing = known.sharing.clone();
        if known.is_settled() {
            let mut all = self.known();
            if all.len() >= MAX_KNOWN {
                all.pop_front();
            }
            all.push_back(known);
        }
        sharing
    }

    fn known(&self) -> std::sync::MutexGuard<'_, VecDeque<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn read(env: &HashMap<&OsStr, &OsStr>, inv: &Invocation, project: Option<PathBuf>) -> Known {
        let asked = RefCell::new(HashMap::new());
        let look_up = |name: &str| {
            let value = env.get(OsStr::new(name)).map(|v| (*v).to_owned());
            asked.borrow_mut().insert(name.to_owned(), value.clone());
            value
        };
        let user = config::user_file(&look_up);
        // Looked at before they are read: what changes meanwhile looks different the next time.
        let mut files: Vec<_> = project.iter().cloned().chain(user).map(|p| (look(&p), p)).collect();
        let config = crate::backend::config_of(&look_up, &inv.cwd);
        files.extend(signing_key_file(&config).map(|p| (look(&p), p)));
        let sharing = config.remote.map(|remote| Arc::new(Sharing { remote, planner: config.planner }));
        let files = files.into_iter().map(|(id, path)| (path, id)).collect();
        Known { env: asked.into_inner().into_iter().collect(), project, files, sharing }
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let youngest =
            self.files.iter().filter_map(|(_, id)| id.map(|id| id.mtime_ns.max(id.ctime_ns))).max();
        youngest.is_none_or(|at| at + (SETTLED.as_nanos() as i64) < now.as_nanos() as i64)
    }
}

fn look(path: &PathBuf) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| FileId::of(&meta))
}

/// Its content is a part of the configuration.
fn signing_key_file(config: &Config) -> Option<PathBuf> {
    config.text("remote.signing_key_file").filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_once_until_something_of_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cwd = dir.path().join("a/b");
        std::fs::create_dir_all(&cwd).unwrap();
        let project = dir.path().join("a/.kache.toml");
        let write = |bucket: &str| {
            std::fs::write(&project, format!("[cache.remote]\nbucket = '{bucket}'\n")).unwrap();
            let long_ago = SystemTime::now() - Duration::from_secs(100);
            std::fs::File::open(&project).unwrap().set_modified(long_ago).unwrap();
        };
        let asks = |vars: &[(&str, &str)]| {
            let vars = vars.iter().chain(&[("HOME", "/nowhere")]);
            let env = vars.map(|(name, value)| (name.into(), value.into())).collect();
            Invocation { argv: Vec::new(), cwd: cwd.clone(), env }
        };
        let callers = Callers::default();
        let bucket = |inv: &Invocation| callers.sharing(inv).map(|s| s.remote.bucket.clone());
        write("one");
        assert_eq!(bucket(&asks(&[])).unwrap(), "one");
        std::thread::sleep(SETTLED);
        let first = callers.sharing(&asks(&[])).unwrap();
        assert!(Arc::ptr_eq(&first, &callers.sharing(&asks(&[("OTHER", "x")])).unwrap()));
        assert_eq!(callers.known().len(), 1);
        assert_eq!(bucket(&asks(&[("KACHE_S3_BUCKET", "env")])).unwrap(), "env");
        assert_eq!(bucket(&asks(&[("KACHE_LOCAL_ONLY", "1")])), None);
        assert_eq!(bucket(&asks(&[("AWS_PROFILE", "p")])).unwrap(), "one");
        assert_eq!(callers.sharing(&asks(&[("AWS_PROFILE", "p")])).unwrap().remote.env["AWS_PROFILE"].0, "p");
        write("two");
        assert_eq!(bucket(&asks(&[])).unwrap(), "two");
        std::fs::remove_file(&project).unwrap();
        assert_eq!(bucket(&asks(&[])), None);
        // A nearer one.
        std::fs::write(cwd.join(".kache.toml"), "[cache.remote]\nbucket = 'near'\n").unwrap();
        assert_eq!(bucket(&asks(&[])).unwrap(), "near");
    }

    #[test]
    fn another_signing_key_is_another_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let env = [("KACHE_S3_BUCKET", "b"), ("KACHE_SIGNING_KEY_FILE", key.to_str().unwrap())];
        let env = env.map(|(name, value)| (name.into(), value.into())).to_vec();
        let inv = Invocation { argv: Vec::new(), cwd: dir.path().to_owned(), env };
        let callers = Callers::default();
        std::fs::write(&key, "one").unwrap();
        std::thread::sleep(SETTLED);
        let signs = || callers.sharing(&inv).unwrap().remote.signing_key.clone().unwrap().0;
        assert_eq!(signs(), "one");
        assert_eq!(callers.known().len(), 1);
        std::fs::write(&key, "another").unwrap();
        assert_eq!(signs(), "another");
    }
}
