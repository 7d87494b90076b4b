//! The settings of the remote, from text to what they mean.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kache_remote::{Credentials, Mode, Secret, Settings};

use super::{Env, boolean, duration, list, size};

/// What the AWS SDK looks at to find credentials, region and endpoint, and itself.
const SDK_ENV: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_EC2_METADATA_V1_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "HOME",
];

/// Of them, those that are credentials.
const SDK_CREDENTIALS: &[&str] =
    &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"];

pub fn is_public(name: &str) -> bool {
    (SDK_ENV.contains(&name) || CERTIFICATES.contains(&name)) && !is_credential(name)
}

pub fn is_credential(name: &str) -> bool {
    SDK_CREDENTIALS.contains(&name)
}

/// Name a PEM file with the certificates to trust, the first one first.
const CERTIFICATES: [&str; 2] = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"];

/// PEM file with the certificates to trust, as other programs are told.
pub fn certificates(env: Env) -> Option<PathBuf> {
    CERTIFICATES.into_iter().find_map(|name| env(name).filter(|path| !path.is_empty())).map(PathBuf::from)
}

/// `None` when nothing is to be shared.
pub fn settings<'a>(get: &dyn Fn(&str) -> &'a str, env: Env) -> Result<Option<Settings>> {
    let named = |key: &str| Some(get(&format!("remote.{key}"))).filter(|v| !v.is_empty());
    let bad = |key: &str| format!("bad value for `remote.{key}`");
    let yes = |key: &str| boolean(named(key).unwrap_or_default()).with_context(|| bad(key));
    let number = |key: &str| -> Result<u32> {
        named(key).unwrap_or("0").parse().with_context(|| format!("{}: expected a number", bad(key)))
    };
    let mode = match named("mode") {
        None | Some("readwrite") => Mode::ReadWrite,
        Some("readonly") => Mode::ReadOnly,
        Some("off") => Mode::Off,
        Some(_) => bail!("{}: expected `readwrite`, `readonly` or `off`", bad("mode")),
    };
    let local_only = boolean(get("local_only")).context("bad value for `local_only`")?;
    let path_style = match named("path_style") {
        None | Some("auto") => named("endpoint").is_some(),
        Some(_) => yes("path_style")?,
    };
    let credentials = match (named("access_key"), named("secret_key")) {
        (Some(access), Some(secret)) => {
            Some(Credentials { access_key: Secret(access.into()), secret_key: Secret(secret.into()) })
        }
        (None, None) => None,
        _ => bail!("`remote.access_key` and `remote.secret_key` go together"),
    };
    let (concurrency, level) = (number("concurrency")?, number("compression_level")?);
    if !(1..=256).contains(&concurrency) {
        bail!("{}: expected 1 to 256", bad("concurrency"));
    }
    if level > 19 {
        bail!("{}: expected 0 to 19", bad("compression_level"));
    }
    let timeout = duration(named("timeout").unwrap_or("10s")).with_context(|| bad("timeout"))?;
    let max_blob = size(named("max_blob_size").unwrap_or("2GiB")).with_context(|| bad("max_blob_size"))?;
    let require_signed = yes("require_signed")?;
    let Some(bucket) = named("bucket").filter(|_| !local_only && mode != Mode::Off) else { return Ok(None) };
    let signing_key = match (named("signing_key"), named("signing_key_file")) {
        (Some(key), _) => Some(Secret(key.into())),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path);
            Some(Secret(
                text.with_context(|| format!("cannot read the signing key in {path}"))?.trim().into(),
            ))
        }
        (None, None) => None,
    };
    let owned = |key: &str| named(key).map(str::to_owned);
    let sdk: BTreeMap<String, Secret> = SDK_ENV
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), Secret(env(name)?.into_string().ok()?))))
        .collect();
    Ok(Some(Settings {
        endpoint: owned("endpoint"),
        region: owned("region"),
        prefix: named("prefix").unwrap_or_default().trim_matches('/').to_owned(),
        profile: owned("profile"),
        path_style,
        credentials,
        env: sdk,
        certificates: certificates(env),
        mode,
        concurrency: concurrency as usize,
        timeout: timeout.max(Duration::from_secs(1)),
        compression: level as i32,
        max_blob,
        signing_key,
        trusted_keys: list(named("trusted_keys").unwrap_or_default()),
        require_signed,
        ..Settings::new(bucket)
    }))
}
