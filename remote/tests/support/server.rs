//! A real S3 server over HTTP, in this process: counts what it is asked, and misbehaves when told to.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
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
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Of the answer's body.
    pub bytes: u64,
}

#[derive(Default)]
struct Shared {
    fault: Mutex<Fault>,
    /// Only for objects with this in their names.
    at: Mutex<&'static str>,
    log: Mutex<Vec<Seen>>,
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
        let shared = Arc::new(Shared::default());
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

    /// Only where this is in the name of an object.
    pub fn misbehave_at(&self, part: &'static str, fault: Fault) {
        *self.shared.at.lock().expect("no panic") = part;
        *self.shared.fault.lock().expect("no panic") = fault;
    }

    /// Requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.log.lock().expect("no panic"))
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
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let concerned = path.contains(*shared.at.lock().expect("no panic"));
    let fault = if concerned { *shared.fault.lock().expect("no panic") } else { Fault::None };
    match fault {
        Fault::Latency(time) => tokio::time::sleep(time).await,
        Fault::Reset => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Fault::Stall => std::future::pending().await,
        Fault::Status(status, code) => return Ok(refusal(status, code)),
        Fault::Unconditional if request.headers().contains_key("if-none-match") => {
            return Ok(refusal(501, "NotImplemented"));
        }
        _ => {}
    }
    let answered = hyper::service::Service::call(service, request).await;
    let (parts, body) = answered.map_err(|_| std::io::Error::other("the service failed"))?.into_parts();
    let bytes = body.collect().await.map_err(|_| std::io::Error::other("the body failed"))?.to_bytes();
    let head = method == "HEAD";
    shared.log.lock().expect("no panic").push(Seen { method, path, bytes: bytes.len() as u64 });
    let whole = parts.status.is_success() && !head && !bytes.is_empty();
    let half = bytes.slice(..bytes.len() / 2);
    let body: Body = match fault {
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

/// Another body of its own length.
fn resized(parts: hyper::http::response::Parts, bytes: Bytes) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::from_parts(parts, full(bytes));
    response.headers_mut().insert("content-length", length.into());
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
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
