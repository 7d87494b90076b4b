//! The reference planner: remembers in SQLite what builds used, and ranks it by how recent it is and what it saves.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, params};

use super::{Answer, Ask, Learn, http};

/// A client that is silent for so long is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keys in one answer.
const MAX_KEYS: i64 = 20_000;
/// Builds of one name that are remembered.
const MAX_ROUNDS: i64 = 20;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS used (
    build TEXT, key TEXT, round INTEGER NOT NULL, took_ms INTEGER NOT NULL, PRIMARY KEY (build, key)) WITHOUT ROWID";

/// Answers one client after the other, for ever.
pub fn serve(listener: &TcpListener, db: &Path, token: Option<&str>) -> Result<()> {
    let mut conn = Connection::open(db).with_context(|| format!("cannot open {}", db.display()))?;
    conn.execute(SCHEMA, [])?;
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if let Err(error) = converse(&stream, &mut conn, token) {
            tracing::warn!("{error:#}");
        }
    }
    Ok(())
}

fn converse(stream: &TcpStream, conn: &mut Connection, token: Option<&str>) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = http::read(stream)?;
    if token.is_some_and(|t| !same(t, request.token.as_deref().unwrap_or_default())) {
        return http::write(stream, "HTTP/1.1 401 Unauthorized", "", b"{}");
    }
    let answer = match request.first.as_str() {
        "POST /v1/plan HTTP/1.1" => plan(conn, &request.body).and_then(|a| Ok(serde_json::to_vec(&a)?)),
        "POST /v1/learn HTTP/1.1" => learn(conn, &request.body).map(|()| b"{}".to_vec()),
        _ => return http::write(stream, "HTTP/1.1 404 Not Found", "", b"{}"),
    };
    match answer {
        Ok(body) => http::write(stream, "HTTP/1.1 200 OK", "", &body),
        Err(error) => {
            http::write(stream, "HTTP/1.1 400 Bad Request", "", b"{}")?;
            Err(error)
        }
    }
}

/// Takes the same time wherever the difference is.
fn same(a: &str, b: &str) -> bool {
    blake3::hash(a.as_bytes()) == blake3::hash(b.as_bytes())
}

fn plan(conn: &Connection, body: &[u8]) -> Result<Answer> {
    let ask: Ask = serde_json::from_slice(body)?;
    ensure!(ask.builds.len() <= 8, "too many builds");
    for build in &ask.builds {
        check(build)?;
        let keys: Vec<String> = conn
            .prepare_cached("SELECT key FROM used WHERE build = ? ORDER BY round DESC, took_ms DESC LIMIT ?")?
            .query_map((build, MAX_KEYS), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if !keys.is_empty() {
            return Ok(Answer { keys });
        }
    }
    Ok(Answer::default())
}

fn learn(conn: &mut Connection, body: &[u8]) -> Result<()> {
    let told: Learn = serde_json::from_slice(body)?;
    check(&told.build)?;
    let tx = conn.transaction()?;
    let last: i64 =
        tx.query_row("SELECT coalesce(max(round), 0) FROM used WHERE build = ?", [&told.build], |r| {
            r.get(0)
        })?;
    for used in &told.entries {
        check(&used.key)?;
        tx.prepare_cached("INSERT OR REPLACE INTO used (build, key, round, took_ms) VALUES (?, ?, ?, ?)")?
            .execute(params![told.build, used.key, last + 1, used.took_ms.min(1 << 40) as i64])?;
    }
    tx.execute(
        "DELETE FROM used WHERE build = ? AND round <= ?",
        params![told.build, last + 1 - MAX_ROUNDS],
    )?;
    Ok(tx.commit()?)
}

/// 64 hex digits.
fn check(name: &str) -> Result<()> {
    if name.len() != 64 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        bail!("not a key");
    }
    Ok(())
}
