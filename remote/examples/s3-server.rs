//! An S3 server for measurements and demonstrations: prints the environment that makes kache use it, and ends with its
//! standard input. Arguments: milliseconds of latency. A line on standard input prints what was asked since the last.

#[path = "../tests/support/server.rs"]
#[allow(dead_code)]
mod server;

use std::io::BufRead;
use std::time::Duration;

fn main() {
    let server = server::Server::start();
    if let Some(latency) = std::env::args().nth(1).and_then(|n| n.parse().ok()) {
        server.misbehave(server::Fault::Latency(Duration::from_millis(latency)));
    }
    for (name, value) in server.env() {
        println!("export {name}={value}");
    }
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            break;
        }
        let seen = server.seen();
        let bytes: u64 = seen.iter().map(|s| s.bytes).sum();
        println!("{} requests, {bytes} bytes", seen.len());
    }
}
