//! Can results be shared: tries everything that sharing does.

use std::sync::Arc;

use kache_remote::{Error, Mode};

use super::Check;
use crate::config::Config;
use crate::remote::Remotes;

const NAME: &str = "remote";

pub fn examine(config: &Config) -> Vec<Check> {
    let Some(settings) = &config.remote else {
        return vec![Check::ok(NAME, "none: results stay on this machine")];
    };
    let place = settings.place();
    let opened = config.open_store().map_err(anyhow::Error::from).and_then(|store| {
        let remotes = Remotes::new(Arc::new(store));
        let session = remotes.session(settings)?;
        Ok((remotes, session))
    });
    let (_remotes, session) = match opened {
        Ok(opened) => opened,
        Err(error) => return vec![Check::fail(NAME, format!("{place}: {error:#}"), "correct the settings")],
    };
    let mut checks = Vec::new();
    let probes = session.block_on(session.bucket().probe());
    let mut slowest = std::time::Duration::ZERO;
    for probe in &probes {
        slowest = slowest.max(probe.took);
        if let Err(error) = &probe.result {
            checks.push(Check::fail(
                NAME,
                format!("{place}: {}: {error}", probe.what),
                remedy(probe.what, error),
            ));
        }
    }
    if checks.is_empty() {
        let done: Vec<&str> = probes.iter().map(|p| p.what).collect();
        let mode = if settings.mode == Mode::ReadOnly { ", read-only" } else { "" };
        let detail = format!("{place}{mode}: {} work, {} ms", done.join(", "), slowest.as_millis());
        checks.push(match slowest.as_millis() {
            0..500 => Check::ok(NAME, detail),
            _ => Check::warn(NAME, detail, "a slow remote is left alone by builds; is one nearer?"),
        });
    }
    if let Ok(waiting @ 1..) = session.store().uploads_waiting(&place) {
        checks.push(Check::warn(NAME, format!("{waiting} entries wait for upload"), "run `kache sync`"));
    }
    checks
}

fn remedy(step: &str, error: &Error) -> String {
    match error {
        Error::Denied { .. } => {
            let permission = match step {
                "list" => "s3:ListBucket on the bucket",
                "put" => "s3:PutObject on its objects (or set `remote.mode = \"readonly\"`)",
                "get" => "s3:GetObject on its objects",
                _ => "s3:DeleteObject on its objects (only this check deletes)",
            };
            format!("use other credentials, or allow {permission}")
        }
        Error::Skewed { .. } => "let the machine get its time from the network".into(),
        Error::NoBucket { .. } => "make the bucket, or correct `remote.bucket` and `remote.region`".into(),
        Error::NoCredentials { .. } => "see docs/remote.md for where credentials are looked for".into(),
        Error::Unreachable { .. } | Error::TimedOut { .. } => {
            "check `remote.endpoint` and the network".into()
        }
        _ => "ask whoever runs the server".into(),
    }
}
