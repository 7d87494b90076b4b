//! `kache daemon start|stop|restart|status|log|run`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::config::Config;
use crate::daemon::client::{Client, is_hung_up};
use crate::daemon::protocol::{Body, Response};
use crate::daemon::server::{self, AtEnd};
use crate::daemon::start;

/// Making large targets real by copies takes its time.
const UNMOUNTED: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub struct Daemon {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start it in the background (wrappers and `kache mount` do so by themselves)
    Start,
    /// Unmount everything in order, and end
    Stop,
    /// Stop and start; mounts come back
    Restart,
    /// Is it running, since when, what does it hold
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Serve in the foreground
    Run,
    /// Print its log
    Log,
}

pub fn run(args: &Daemon, config: &Config) -> Result<ExitCode> {
    match args.command {
        Command::Start => {
            say_hello(start::ensure_current(config)?)?;
            println!("the daemon is running");
        }
        Command::Stop => match stop(config)? {
            true => println!("the daemon has ended"),
            false => println!("no daemon is running"),
        },
        Command::Restart => {
            say_hello(start::restart(config)?)?;
            println!("the daemon is running");
        }
        Command::Status { json } => return status(config, json),
        Command::Run => server::run(config, AtEnd::Journal, |_| Ok(true))?,
        Command::Log => {
            let path = config.cache_dir.join("daemon.log");
            print!(
                "{}",
                std::fs::read_to_string(&path).with_context(|| format!("no log at {}", path.display()))?
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until it has brought its mounts back; they may show what is in our remote.
fn say_hello(mut client: Client) -> Result<()> {
    let hello = Body::Hello(Box::new(super::fork::here()?));
    client.ask(hello, Duration::from_secs(60)).context("the daemon does not answer")?;
    Ok(())
}

fn stop(config: &Config) -> Result<bool> {
    let Some(mut client) = Client::connect(&config.cache_dir) else { return Ok(false) };
    match client.ask(Body::Stop, UNMOUNTED) {
        // It was ending already.
        Err(error) if is_hung_up(&error) => {}
        other => match other.context("the daemon does not answer")? {
            Response::Done => {}
            Response::Failed(why) => bail!("the daemon goes on: {why}"),
            other => bail!("unexpected answer from the daemon: {other:?}"),
        },
    }
    start::wait_until_gone(config, Instant::now() + Duration::from_secs(60))?;
    Ok(true)
}

fn status(config: &Config, json: bool) -> Result<ExitCode> {
    let Some(mut client) = Client::connect(&config.cache_dir) else {
        if json {
            println!("null");
        } else {
            println!("no daemon is running for {}", config.cache_dir.display());
        }
        return Ok(ExitCode::FAILURE);
    };
    match client.ask(Body::Status, Duration::from_secs(5)).context("the daemon does not answer")? {
        Response::Status(status) if json => println!("{}", serde_json::to_string_pretty(&status)?),
        Response::Status(s) => {
            println!("running, process {}, for {} s", s.pid, s.uptime_s);
            println!("program   {} ({})", s.exe.display(), s.version);
            println!("mounts    {}", s.mounts);
            println!("requests  {}", s.requests);
            println!("memory    {}", super::format::bytes(s.resident));
        }
        other => bail!("unexpected answer from the daemon: {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}
