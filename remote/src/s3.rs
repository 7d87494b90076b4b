//! Requests to an S3 server: time limits, retries, and errors in words.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_types::os_shim_internal::Env;

use crate::{Error, Listed, Result, Settings, tls};

const CONNECT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(50);
/// What SigV4 is told where a server has no regions.
const NO_REGION: &str = "us-east-1";

pub struct S3 {
    client: Client,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    endpoint: String,
    timeout: Duration,
    /// The server understands `If-None-Match: *`.
    conditional: AtomicBool,
}

/// Whoever takes the bytes of an object, piece by piece.
pub type Take<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<()> + Send);

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Done,
    /// There is an object of this name already; it was left alone.
    AlreadyThere,
}

impl S3 {
    pub async fn connect(settings: &Settings) -> Result<S3> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::PROVIDER)
            .tls_context(tls::context(settings.certificates.as_deref())?)
            .build_https();
        let mut env: HashMap<String, String> =
            settings.env.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
        if settings.credentials.is_some() || env.contains_key("AWS_ACCESS_KEY_ID") {
            // There is nothing left that an instance could be asked for.
            env.insert("AWS_EC2_METADATA_DISABLED".into(), "true".into());
        }
        let no_region = settings.endpoint.is_some()
            && settings.profile.is_none()
            && !["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"]
                .iter()
                .any(|name| env.contains_key(*name));
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT.min(settings.timeout))
            .read_timeout(settings.timeout)
            .build();
        let stalled = StalledStreamProtectionConfig::enabled().grace_period(settings.timeout).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .env(Env::from(env))
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(BACKOFF))
            .timeout_config(timeouts)
            .stalled_stream_protection(stalled);
        if let Some(profile) = &settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        } else if no_region {
            loader = loader.region(Region::new(NO_REGION));
        }
        if let Some(keys) = &settings.credentials {
            let (access, secret) = (keys.access_key.0.clone(), keys.secret_key.0.clone());
            loader = loader.credentials_provider(aws_credential_types::Credentials::new(
                access, secret, None, None, "kache",
            ));
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.path_style)
            // Servers other than AWS do not all know the newer checksums; kache has its own.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if shared.region().is_none() {
            config = config.region(Region::new(NO_REGION));
        }
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let prefix = match settings.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Ok(S3 {
            client: Client::from_conf(config.build()),
            bucket: settings.bucket.clone(),
            prefix,
            endpoint: settings.shown_endpoint(),
            timeout: settings.timeout,
            conditional: true.into(),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A whole object of at most `limit` bytes. `None`: there is none.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let found = self
            .get_into(name, &mut |chunk| {
                if bytes.len() + chunk.len() > limit {
                    return Err(Error::bad(name, format!("it is longer than {limit} bytes")));
                }
                bytes.extend_from_slice(chunk);
                Ok(())
            })
            .await?;
        Ok(found.then_some(bytes))
    }

    /// Hands the bytes of an object over as they come. False: there is no such object.
    pub async fn get_into(&self, name: &str, take: Take<'_>) -> Result<bool> {
        match self.open(name, None, None).await? {
            Some(answer) => self.read(answer.body, take).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Asks for an object, or some of its bytes, if it still is the one with this tag. `None`: there is none.
    pub async fn open(
        &self,
        name: &str,
        bytes: Option<&Range<u64>>,
        etag: Option<&str>,
    ) -> Result<Option<GetObjectOutput>> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.key(name));
        let request = request.set_range(bytes.map(|b| format!("bytes={}-{}", b.start, b.end - 1)));
        let error = match request.set_if_match(etag.map(str::to_owned)).send().await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        match error.raw_response().map(|r| r.status().as_u16()) {
            Some(412) if etag.is_some() => Err(Error::bad(name, "it was replaced while it was read")),
            Some(416) if bytes.is_some() => Err(Error::bad(name, "it is too short")),
            _ => self.or_absent("read an object", error).map(|()| None),
        }
    }

    /// Hands the bytes of an answer over as they come.
    pub async fn read(&self, mut body: ByteStream, take: Take<'_>) -> Result<()> {
        loop {
            match tokio::time::timeout(self.timeout, body.next()).await {
                Err(_) => return Err(self.timed_out()),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(chunk))) => take(&chunk)?,
                Ok(Some(Err(_))) => {
                    return Err(Error::Unreachable {
                        endpoint: self.endpoint.clone(),
                        why: "the connection broke off".into(),
                    });
                }
            }
        }
    }

    pub async fn exists(&self, name: &str) -> Result<bool> {
        match self.client.head_object().bucket(&self.bucket).key(self.key(name)).send().await {
            Ok(_) => Ok(true),
            Err(error) => self.or_absent("look for an object", error).map(|()| false),
        }
    }

    /// Stores an object unless one of this name exists. `body` makes the bytes, once for each try.
    pub async fn put_new(&self, name: &str, body: &(dyn Fn() -> BodyFuture + Sync)) -> Result<Put> {
        let conditional = self.conditional.load(Ordering::Relaxed);
        let request = self.client.put_object().bucket(&self.bucket).key(self.key(name)).body(body().await?);
        let request = if conditional { request.if_none_match("*") } else { request };
        let Err(error) = request.send().await else { return Ok(Put::Done) };
        let status = error.raw_response().map_or(0, |r| r.status().as_u16());
        match status {
            412 | 409 if conditional => Ok(Put::AlreadyThere),
            // An older server. Names are made of content, so that writing twice writes the same.
            400 | 501
                if conditional && error.code().is_none_or(|c| c != "InvalidRequest" || status == 501) =>
            {
                self.conditional.store(false, Ordering::Relaxed);
                let request =
                    self.client.put_object().bucket(&self.bucket).key(self.key(name)).body(body().await?);
                request.send().await.map(|_| Put::Done).map_err(|e| self.explain("store an object", e))
            }
            _ => Err(self.explain("store an object", error)),
        }
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        let sent = self.client.delete_object().bucket(&self.bucket).key(self.key(name)).send().await;
        sent.map(drop).map_err(|e| self.explain("delete an object", e))
    }

    /// The first objects below `directory`, in the order of their names; at most a thousand.
    pub async fn list(&self, directory: &str, max: i32) -> Result<Vec<Listed>> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(directory));
        let answer = request.max_keys(max).send().await.map_err(|e| self.explain("list objects", e))?;
        let objects = answer.contents().iter().take(max.max(0) as usize);
        Ok(objects
            .filter_map(|o| {
                let name = o.key()?.strip_prefix(self.prefix.as_str())?;
                Some(Listed { name: name.to_owned(), size: o.size().unwrap_or(0).max(0) as u64 })
            })
            .collect())
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { endpoint: self.endpoint.clone(), waited: self.timeout }
    }

    /// `Ok` when the error only says that there is no such object.
    fn or_absent<E>(&self, what: &'static str, error: SdkError<E>) -> Result<()>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match error.raw_response().map(|r| r.status().as_u16()) {
            Some(404) if error.code().is_none_or(|c| c != "NoSuchBucket") => Ok(()),
            _ => Err(self.explain(what, error)),
        }
    }

    fn explain<E>(&self, what: &'static str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let endpoint = self.endpoint.clone();
        let status = error.raw_response().map(|r| r.status().as_u16());
        let code: String =
            error.code().unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        match (&error, status) {
            (SdkError::ServiceError(_) | SdkError::ResponseError(_), Some(status)) => {
                match (status, code.as_str()) {
                    (_, "RequestTimeTooSkewed" | "RequestExpired") => Error::Skewed { endpoint },
                    (_, "NoSuchBucket") => Error::NoBucket { endpoint, bucket: self.bucket.clone() },
                    (401 | 403, _) => Error::Denied { endpoint, what, code },
                    // An error that is a redirect means another region.
                    (301 | 307, _) => {
                        Error::Server { endpoint, what, status, code: format!("{code} (is `region` right?)") }
                    }
                    _ => Error::Server { endpoint, what, status, code },
                }
            }
            (SdkError::TimeoutError(_), _) => self.timed_out(),
            (SdkError::DispatchFailure(failure), _) if failure.is_timeout() => self.timed_out(),
            _ => self.explain_connection(&error),
        }
    }

    /// Nothing came back. What the SDK says about it holds no secret as far as it is about the network; only that
    /// part is repeated.
    fn explain_connection<E: std::error::Error + Send + Sync + 'static>(&self, error: &SdkError<E>) -> Error {
        let all = DisplayErrorContext(error).to_string();
        let says = |text: &str| all.to_ascii_lowercase().contains(text);
        if says("credential") || says("sso") || says("identity") {
            let why = if says("expired") {
                "they have expired"
            } else {
                "none were found, or they could not be had"
            };
            return Error::NoCredentials { why: why.into() };
        }
        let why = [
            ("dns", "its name cannot be resolved"),
            ("refused", "the connection was refused"),
            ("reset", "the connection was reset"),
            ("certificate", "its certificate is not trusted"),
            ("timed out", "the connection timed out"),
            ("closed", "the connection was closed"),
        ];
        let why = why.iter().find(|(sign, _)| says(sign)).map_or("the connection failed", |(_, why)| why);
        Error::Unreachable { endpoint: self.endpoint.clone(), why: why.into() }
    }
}

pub type BodyFuture = std::pin::Pin<Box<dyn Future<Output = Result<ByteStream>> + Send>>;
