//! `kache signing-key`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kache_remote::sign::{Signer, generate};

use crate::config::Config;

#[derive(Debug, Args)]
pub struct SigningKey {
    /// Print the public key of the key that is configured, for `remote.trusted_keys` of others
    #[arg(long)]
    public: bool,
}

pub fn run(args: &SigningKey, config: &Config) -> Result<ExitCode> {
    if !args.public {
        let key = generate()?;
        super::print(&key);
        eprintln!("public key: {}", Signer::new(&key)?.public());
        return Ok(ExitCode::SUCCESS);
    }
    let key = config.remote.as_ref().and_then(|r| r.signing_key.as_ref());
    let Some(key) = key else { anyhow::bail!("there is no signing key (or no remote) in the configuration") };
    super::print(&Signer::new(&key.0)?.public());
    Ok(ExitCode::SUCCESS)
}
