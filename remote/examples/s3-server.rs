//! An S3 server for measurements and demonstrations: prints the environment that makes kache use it, and ends with its
//! standard input. Arguments: milliseconds of latency, MB/s of each connection. A line on standard input prints what was
//! asked since the last.

#[path = "../tests/support/server.rs"]
#[allow(dead_code)]
mod server;

use std::io::BufRead;
use std::time::Duration;

use server::Fault;

fn main() {
    let server = server::Server::start();
    let number = |n| std::env::args().nth(n).and_then(|n| n.parse().ok());
    let latency = Duration::from_millis(number(1).unwrap_or(0));
    server.misbehave(match number(2) {
        Some(rate) => Fault::Line(latency, rate * 1_000_000),
        None => Fault::Latency(latency),
    });
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
