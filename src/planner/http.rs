//! As much HTTP/1.1 as two small requests need: a head, a body of known length, one exchange for each connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};

/// Bytes of one line of a head, and lines of one head.
const MAX_LINE: u64 = 8 << 10;
const MAX_LINES: usize = 100;
/// Bytes of a body.
pub const MAX_BODY: u64 = 16 << 20;

pub struct Message {
    /// The request or status line.
    pub first: String,
    pub token: Option<String>,
    pub body: Vec<u8>,
}

pub fn read(stream: &TcpStream) -> Result<Message> {
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader)?;
    let (mut length, mut token) = (None, None);
    for _ in 0..MAX_LINES {
        let line = line(&mut reader)?;
        if line.is_empty() {
            let length: u64 = length.context("no length")?;
            ensure!(length <= MAX_BODY, "too long");
            let mut body = vec![0; length as usize];
            reader.read_exact(&mut body)?;
            return Ok(Message { first, token, body });
        }
        let (name, value) = line.split_once(':').context("not a header")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse()?),
            "authorization" => token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            "transfer-encoding" => bail!("a body without a length"),
            _ => {}
        }
    }
    bail!("too many headers")
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    reader.take(MAX_LINE).read_line(&mut text)?;
    ensure!(text.ends_with('\n'), "not a line");
    Ok(text.trim_end().to_owned())
}

/// `first` without its end of line; `headers` with theirs.
pub fn write(mut stream: &TcpStream, first: &str, headers: &str, body: &[u8]) -> Result<()> {
    let length = body.len();
    let head = format!(
        "{first}\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(())
}
