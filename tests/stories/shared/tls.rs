//! Servers behind TLS, with a certificate that the system's administrator has made.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto, pki_types::PrivateKeyDer};

use super::restore::{Planner, machine, start_daemon};
use crate::s3::Server;
use crate::support::{Checkout, World};

/// Takes TLS off before a plain server; ends with the test.
struct Front {
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Front {
    /// Writes its certificate to `trusted`.
    fn before(server: &str, trusted: &Path) -> Front {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(trusted, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server: SocketAddr = server.trim_start_matches("http://").parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who does not trust us goes away.
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let Ok(mut inside) = TcpStream::connect(server).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Front { port, _runtime: runtime }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}

#[test]
fn bucket_and_planner_speak_tls() {
    let server = Server::start();
    let (one, two, three) = (World::plain(), World::plain(), World::plain());
    let first = machine(&one, "first", &server);
    let planner = Planner::start(&first);
    let trusted = |name: &str| -> PathBuf { one.root().join(name) };
    let (bucket, planner) = (
        Front::before(&server.endpoint(), &trusted("bucket.pem")),
        Front::before(planner.endpoint(), &trusted("planner.pem")),
    );
    let both = ["bucket.pem", "planner.pem"].map(|name| std::fs::read_to_string(trusted(name)).unwrap());
    std::fs::write(trusted("both.pem"), both.concat()).unwrap();
    let behind_tls = |checkout: Checkout, trusted: &Path| {
        checkout
            .env("KACHE_S3_ENDPOINT", bucket.url())
            .env("KACHE_PLANNER_ENDPOINT", planner.url())
            .env("SSL_CERT_FILE", trusted)
    };
    let first = behind_tls(first, &trusted("both.pem"));
    first.cargo("build").ok();
    first.kache_prints("sync");
    // Without manifests, only the planner knows what to fetch ahead.
    for manifest in server.objects("/manifests/") {
        std::fs::remove_file(manifest).unwrap();
    }
    let log = |world: &World| std::fs::read_to_string(world.cache().join("daemon.log")).unwrap_or_default();
    let second = behind_tls(machine(&two, "second", &server), &trusted("both.pem"));
    start_daemon(&second);
    second.cargo("build").ok().all_hit();
    assert!(!log(&two).contains("planner"), "{}", log(&two));

    let third = behind_tls(machine(&three, "third", &server), &trusted("bucket.pem"));
    start_daemon(&third);
    third.cargo("build").ok().all_hit();
    assert!(log(&three).contains("the planner did not help"), "{}", log(&three));
}
