//! A real S3 server over HTTP, in this process: counts what it is asked, and misbehaves when told to.

use std::convert::Infallible;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::http::response::Parts;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};

pub const ACCESS_KEY: &str = "AKIAKACHETEST";
pub const SECRET_KEY: &str = "a-secret-that-must-not-be-shown";
pub const BUCKET: &str = "shared";

/// How the server misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    Latency(Duration),
    /// Latency, and so many bytes a second for each connection.
    Line(Duration, u64),
    /// Answers with this status and S3 error code.
    Status(u16, &'static str),
    /// Takes the request and closes the connection.
    Reset,
    /// Takes the request and never answers.
    Stall,
    /// Sends half of each body, then nothing more.
    StallInBody,
    /// Sends half of each body and closes the connection.
    Truncate,
    /// Sends half of each body as if it were all of it.
    Shorten,
    /// Sends more than each body.
    Lengthen,
    /// Changes a byte of each body.
    Corrupt,
    /// Refuses `If-None-Match`, as older servers do.
    Unconditional,
    /// Knows no ranges: sends all of an object.
    NoRanges,
    /// Answers requests for later parts of an object when so many of them wait.
    Together(usize),
    /// Another object takes the place of one whose beginning was read.
    Replace,
    /// Sends this header instead of its own.
    Header(&'static str, &'static str),
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// The `Range` that was asked for.
    pub range: String,
    /// Of the answer's body.
    pub bytes: u64,
}

#[derive(Default)]
struct Shared {
    fault: Mutex<Fault>,
    /// Only for objects with this in their names, or in the range that is asked for.
    at: Mutex<&'static str>,
    log: Mutex<Vec<Seen>>,
    /// For `Fault::Together`.
    waiting: AtomicUsize,
    busy: AtomicUsize,
    busiest: AtomicUsize,
    root: PathBuf,
}

impl Shared {
    async fn wait_for(&self, many: usize) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.waiting.load(Ordering::SeqCst) < many {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A request that is being answered.
struct Busy<'a>(&'a Shared);

impl<'a> Busy<'a> {
    fn begin(shared: &'a Shared) -> Busy<'a> {
        let now = shared.busy.fetch_add(1, Ordering::SeqCst) + 1;
        shared.busiest.fetch_max(now, Ordering::SeqCst);
        Busy(shared)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct Server {
    shared: Arc<Shared>,
    root: tempfile::TempDir,
    port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Server {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join(BUCKET)).expect("our own directory");
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).expect("a directory"));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let shared = Arc::new(Shared { root: root.path().to_owned(), ..Shared::default() });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("a socket").port();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("threads");
            runtime.spawn(serve(listener, service, for_thread));
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        });
        Server { shared, root, port, stop: Some(stop), thread: Some(thread) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn misbehave(&self, fault: Fault) {
        self.misbehave_at("", fault);
    }

    /// Only where this is in the name of an object, or in the range that is asked for.
    pub fn misbehave_at(&self, part: &'static str, fault: Fault) {
        self.shared.waiting.store(0, Ordering::SeqCst);
        *self.shared.at.lock().expect("no panic") = part;
        *self.shared.fault.lock().expect("no panic") = fault;
    }

    /// Requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.log.lock().expect("no panic"))
    }

    /// The most requests that were answered at the same time since the last call.
    pub fn busiest(&self) -> usize {
        self.shared.busiest.swap(0, Ordering::SeqCst)
    }

    /// Files of objects whose name contains `part`, as they lie in the server's directory.
    pub fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.root.path().join(BUCKET)];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).expect("our own directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    todo.push(path);
                } else if path.to_string_lossy().contains(part) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The environment that makes kache use it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("KACHE_S3_BUCKET", BUCKET.to_owned()),
            ("KACHE_S3_ENDPOINT", self.endpoint()),
            ("KACHE_S3_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("KACHE_S3_SECRET_KEY", SECRET_KEY.to_owned()),
        ]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

async fn serve(listener: std::net::TcpListener, service: S3Service, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (service, shared) = (service.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let (service, shared) = (service.clone(), Arc::clone(&shared));
                async move { answer(request, &service, &shared).await }
            });
            // A connection that breaks off is what some tests are about.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    service: &S3Service,
    shared: &Shared,
) -> Result<Response<Body>, std::io::Error> {
    let _busy = Busy::begin(shared);
    let asked = Asked::new(&request, shared);
    match asked.fault {
        Fault::Latency(time) | Fault::Line(time, _) => tokio::time::sleep(time).await,
        Fault::Reset => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Fault::Stall => std::future::pending().await,
        Fault::Status(status, code) => return Ok(refusal(status, code)),
        Fault::Unconditional if request.headers().contains_key("if-none-match") => {
            return Ok(refusal(501, "NotImplemented"));
        }
        Fault::Together(many) if asked.later() => shared.wait_for(many).await,
        _ => {}
    }
    let answered = hyper::service::Service::call(service, request).await;
    let (mut parts, body) = answered.map_err(|_| std::io::Error::other("the service failed"))?.into_parts();
    let mut bytes = match asked.object(&parts)? {
        Some(bytes) => bytes,
        None => body.collect().await.map_err(|_| std::io::Error::other("the body failed"))?.to_bytes(),
    };
    asked.alter(&mut parts, &mut bytes)?;
    let whole = parts.status.is_success() && asked.method != "HEAD" && !bytes.is_empty();
    let (fault, refused) = (asked.fault, asked.refuses(&parts));
    shared.log.lock().expect("no panic").push(asked.seen(&bytes));
    if refused {
        return Ok(refusal(412, "PreconditionFailed"));
    }
    let half = bytes.slice(..bytes.len() / 2);
    let body: Body = match fault {
        Fault::Line(_, rate) if whole => paced(bytes, rate),
        Fault::StallInBody if whole => cut(half, false),
        Fault::Truncate if whole => cut(half, true),
        Fault::Shorten if whole => return Ok(resized(parts, half)),
        Fault::Lengthen if whole => return Ok(resized(parts, [bytes, half].concat().into())),
        Fault::Corrupt if whole => {
            let mut changed = bytes.to_vec();
            let at = changed.len() * 3 / 4;
            changed[at] ^= 1;
            full(changed.into())
        }
        _ => full(bytes),
    };
    Ok(Response::from_parts(parts, body))
}

/// A request, and how it is to be answered.
struct Asked {
    fault: Fault,
    method: String,
    path: String,
    range: String,
    if_match: String,
    /// Where the object lies.
    file: PathBuf,
}

impl Asked {
    fn new(request: &Request<Incoming>, shared: &Shared) -> Asked {
        let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (path, range) = (request.uri().to_string(), header("range").to_owned());
        let at = *shared.at.lock().expect("no panic");
        let concerned = path.contains(at) || range.contains(at);
        Asked {
            fault: if concerned { *shared.fault.lock().expect("no panic") } else { Fault::None },
            method: request.method().to_string(),
            path,
            range,
            if_match: header("if-match").to_owned(),
            file: shared.root.join(request.uri().path().trim_start_matches('/')),
        }
    }

    /// Is it about a later part of an object?
    fn later(&self) -> bool {
        !self.range.is_empty() && !self.range.starts_with("bytes=0-")
    }

    /// The bytes of an object that is read. s3s-fs takes 4 KiB at a time, and with each range all that is behind it.
    fn object(&self, parts: &Parts) -> std::io::Result<Option<Bytes>> {
        if self.method != "GET" || !parts.status.is_success() || !self.file.is_file() {
            return Ok(None);
        }
        let start = self.range.trim_start_matches("bytes=").split('-').next().and_then(|n| n.parse().ok());
        let length = parts.headers.get("content-length").and_then(|l| l.to_str().ok()?.parse().ok());
        let mut bytes = vec![0; length.unwrap_or(0)];
        std::fs::File::open(&self.file)?.read_exact_at(&mut bytes, start.unwrap_or(0))?;
        Ok(Some(bytes.into()))
    }

    fn alter(&self, parts: &mut Parts, bytes: &mut Bytes) -> std::io::Result<()> {
        let mut set = |name, value| parts.headers.insert(name, HeaderValue::from_static(value));
        match self.fault {
            Fault::Header(name, value) => drop(set(name, value)),
            Fault::Replace if self.later() => drop(set("etag", "\"another\"")),
            Fault::Replace if parts.status == 206 => {
                let size = std::fs::metadata(&self.file)?.len();
                std::fs::write(&self.file, vec![7; size as usize])?;
            }
            Fault::NoRanges if parts.status == 206 => {
                *bytes = std::fs::read(&self.file)?.into();
                parts.status = hyper::StatusCode::OK;
                parts.headers.remove("content-range");
                parts.headers.insert("content-length", bytes.len().into());
            }
            _ => {}
        }
        Ok(())
    }

    /// `If-Match`: s3s-fs does not look at it.
    fn refuses(&self, parts: &Parts) -> bool {
        let same = parts.headers.get("etag").is_some_and(|tag| tag == self.if_match.as_str());
        !self.if_match.is_empty() && (!same || self.if_match.starts_with("W/"))
    }

    fn seen(self, bytes: &Bytes) -> Seen {
        Seen { method: self.method, path: self.path, range: self.range, bytes: bytes.len() as u64 }
    }
}

/// Another body of its own length.
fn resized(parts: Parts, bytes: Bytes) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::from_parts(parts, full(bytes));
    response.headers_mut().insert("content-length", length.into());
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// All bytes, so many a second.
fn paced(bytes: Bytes, rate: u64) -> Body {
    const PIECE: usize = 64 << 10;
    let began = tokio::time::Instant::now();
    let stream = futures_util::stream::unfold(0, move |sent| {
        let piece = bytes.slice(sent..bytes.len().min(sent + PIECE));
        async move {
            let sent = sent + piece.len();
            tokio::time::sleep_until(began + Duration::from_secs_f64(sent as f64 / rate as f64)).await;
            (!piece.is_empty()).then_some((Ok(Frame::data(piece)), sent))
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

/// Some bytes, and then an error, or nothing at all.
fn cut(bytes: Bytes, broken: bool) -> Body {
    let first = std::iter::once(Ok(Frame::data(bytes)));
    let mut rest = first.collect::<Vec<_>>().into_iter();
    let stream = futures_util::stream::poll_fn(move |_| match rest.next() {
        Some(frame) => std::task::Poll::Ready(Some(frame)),
        None if broken => std::task::Poll::Ready(Some(Err(std::io::ErrorKind::BrokenPipe.into()))),
        None => std::task::Poll::Pending,
    });
    StreamBody::new(stream).boxed_unsync()
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).expect("a status");
    response
}
