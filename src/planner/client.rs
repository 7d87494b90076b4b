//! Asking the planner.

use std::net::{TcpStream, ToSocketAddrs};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Answer, Ask, Learn, Planner, http};

impl Planner {
    pub fn ask(&self, ask: &Ask) -> Result<Answer> {
        Ok(serde_json::from_slice(&self.post("/v1/plan", ask)?)?)
    }

    pub fn learn(&self, learn: &Learn) -> Result<()> {
        self.post("/v1/learn", learn).map(drop)
    }

    fn post(&self, path: &str, body: &impl Serialize) -> Result<Vec<u8>> {
        let host =
            self.endpoint.strip_prefix("http://").context("a planner's endpoint begins with http://")?;
        let host = host.trim_end_matches('/');
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let address = address.to_socket_addrs()?.next().context("the planner's name cannot be resolved")?;
        let stream = TcpStream::connect_timeout(&address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let token =
            self.token.as_ref().map(|t| format!("Authorization: Bearer {}\r\n", t.0)).unwrap_or_default();
        let headers = format!("Host: {host}\r\n{token}");
        http::write(&stream, &format!("POST {path} HTTP/1.1"), &headers, &serde_json::to_vec(body)?)?;
        let answer = http::read(&stream)?;
        ensure!(answer.first.contains(" 200 "), "the planner refused: {}", answer.first);
        Ok(answer.body)
    }
}
