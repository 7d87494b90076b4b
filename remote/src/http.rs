//! A small request to another service than S3, by the HTTP client that comes with the SDK.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_http_client::Connector;
use aws_smithy_runtime_api::client::http::HttpConnector;

use crate::settings::host;
use crate::{Error, Result, Secret, tls};

/// Where to and how.
pub struct Post<'a> {
    /// `http://…` or `https://…`
    pub url: &'a str,
    pub token: Option<&'a Secret>,
    /// PEM file of whom to trust instead of whom the system trusts.
    pub certificates: Option<&'a Path>,
    /// For all of it.
    pub timeout: Duration,
    /// Bytes of the answer.
    pub limit: usize,
}

impl Post<'_> {
    /// Sends JSON and returns the answer's body.
    pub async fn send(&self, json: Vec<u8>) -> Result<Vec<u8>> {
        let late = |_| Err(Error::TimedOut { endpoint: host(self.url).to_owned(), waited: self.timeout });
        tokio::time::timeout(self.timeout, exchange(self, json)).await.unwrap_or_else(late)
    }
}

async fn exchange(post: &Post<'_>, json: Vec<u8>) -> Result<Vec<u8>> {
    let Post { url, token, certificates, limit, .. } = *post;
    let failed = |why: &str| Error::Unreachable { endpoint: host(url).to_owned(), why: why.to_owned() };
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::Settings(format!("{} is no http:// or https:// URL", host(url))));
    }
    let mut request = HttpRequest::new(SdkBody::from(json));
    let refused = |_| Error::Settings(format!("a request to {} cannot be made", host(url)));
    request.set_uri(url).map_err(refused)?;
    request.set_method("POST").map_err(refused)?;
    request.headers_mut().insert("content-type", "application/json");
    if let Some(token) = token {
        // An error would show it.
        request.headers_mut().try_insert("authorization", format!("Bearer {}", token.0)).map_err(refused)?;
    }
    let connector = Connector::builder().tls_provider(tls::PROVIDER);
    let connector = connector.tls_context(tls::context(certificates)?).build();
    let answer = connector.call(request).await.map_err(|_| failed("the request failed"))?;
    let status = answer.status().as_u16();
    if status != 200 {
        return Err(Error::Server {
            endpoint: host(url).to_owned(),
            what: "answer",
            status,
            code: String::new(),
        });
    }
    let (mut bytes, mut body) = (Vec::new(), ByteStream::new(answer.into_body()));
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(|_| failed("the connection broke off"))?);
        if bytes.len() > limit {
            return Err(Error::bad("the answer", format!("it is longer than {limit} bytes")));
        }
    }
    Ok(bytes)
}
