//! Whom connections trust.

use std::path::Path;

use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{Error, Result};

/// rustls with ring.
pub(crate) const PROVIDER: Provider = Provider::Rustls(CryptoMode::Ring);

/// Trusts the certificates in a PEM file, or those of the system.
pub(crate) fn context(certificates: Option<&Path>) -> Result<TlsContext> {
    let Some(path) = certificates else { return Ok(TlsContext::default()) };
    let bad =
        |why: &str| Error::Settings(format!("no certificates can be read from {}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|e| bad(&e.to_string()))?;
    check(&pem).map_err(bad)?;
    let trusted = TrustStore::empty().with_pem_certificate(pem);
    TlsContext::builder().with_trust_store(trusted).build().map_err(|_| bad("they are refused"))
}

/// The client ends the process over certificates that it cannot read.
fn check(pem: &[u8]) -> std::result::Result<(), &'static str> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "it is not valid PEM")?;
        roots.add(certificate).map_err(|_| "one is not valid")?;
    }
    if roots.is_empty() { Err("there are none") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_an_error_and_not_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        assert!(context(None).is_ok());
        assert!(context(Some(&file)).is_err());
        for text in ["", "words", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, text).unwrap();
            assert!(context(Some(&file)).is_err(), "{text}");
        }
    }
}
