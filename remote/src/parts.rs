//! A large object, read in parts: while one is taken, the next ones are on their way.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::s3::{S3, Take};
use crate::{Error, Result};

/// Bytes of a part.
pub const PART: u64 = 8 << 20;
/// Parts that are read ahead, of all objects together. They wait in memory.
const AHEAD: usize = 4;

/// Reads objects of one bucket.
pub struct Parts {
    s3: Arc<S3>,
    slots: Arc<Semaphore>,
}

impl Parts {
    /// `transfers` may take place at a time; one is that of the part that is taken.
    pub fn new(s3: Arc<S3>, transfers: usize) -> Parts {
        Parts { s3, slots: Arc::new(Semaphore::new(AHEAD.min(transfers.saturating_sub(1)))) }
    }

    /// Hands the bytes of an object of at most `limit` bytes over, in order. False: there is no such object.
    pub async fn get_into(&self, name: &str, limit: u64, take: Take<'_>) -> Result<bool> {
        let Some(answer) = self.s3.open(name, Some(&(0..PART)), None).await? else { return Ok(false) };
        let Some(range) = answer.content_range() else {
            // A server that knows no ranges sends all of it.
            return self.s3.read(answer.body, take).await.map(|()| true);
        };
        let object = Object::of(&self.s3, name, range, answer.e_tag())?;
        if object.total > limit {
            return Err(object.bad("it is longer than it should be"));
        }
        let first = object.part(0);
        let mut queue = Queue { object, next: first.end, parts: VecDeque::new() };
        queue.fill(&self.slots);
        queue.object.read(first, Some(answer.body), take).await?;
        loop {
            queue.fill(&self.slots);
            if let Some(mut part) = queue.parts.pop_front() {
                let (bytes, _slot) = part.bytes().await?;
                take(&bytes)?;
            } else if let Some(part) = queue.cut() {
                // All slots are taken, for other objects.
                queue.object.read(part, None, take).await?;
            } else {
                return Ok(true);
            }
        }
    }
}

/// The parts of an object that have been asked for and not been taken.
struct Queue {
    object: Object,
    /// Where the first part begins that has not been asked for.
    next: u64,
    parts: VecDeque<Part>,
}

impl Queue {
    fn fill(&mut self, slots: &Arc<Semaphore>) {
        while let Ok(slot) = Arc::clone(slots).try_acquire_owned()
            && let Some(part) = self.cut()
        {
            self.parts.push_back(Part(tokio::spawn(self.object.clone().read_ahead(part, slot))));
        }
    }

    fn cut(&mut self) -> Option<Range<u64>> {
        let part = self.object.part(self.next);
        self.next = part.end;
        (!part.is_empty()).then_some(part)
    }
}

type Ahead = (Vec<u8>, OwnedSemaphorePermit);

/// A part on its way, until it is dropped.
struct Part(JoinHandle<Result<Ahead>>);

impl Part {
    async fn bytes(&mut self) -> Result<Ahead> {
        (&mut self.0).await.map_err(|_| Error::Local("a download was interrupted".into()))?
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An object as its first part was answered.
#[derive(Clone)]
struct Object {
    s3: Arc<S3>,
    name: String,
    total: u64,
    etag: Option<String>,
}

impl Object {
    fn of(s3: &Arc<S3>, name: &str, range: &str, etag: Option<&str>) -> Result<Object> {
        let total = range.rsplit_once('/').and_then(|(_, total)| total.parse().ok());
        // A weak one never matches.
        let etag = etag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        let object = Object { s3: Arc::clone(s3), name: name.to_owned(), total: total.unwrap_or(0), etag };
        object.check(&object.part(0), Some(range))?;
        Ok(object)
    }

    /// The part that begins at `start`; empty at the end.
    fn part(&self, start: u64) -> Range<u64> {
        start..start.saturating_add(PART).min(self.total)
    }

    /// Is what was answered what was asked for?
    fn check(&self, part: &Range<u64>, answered: Option<&str>) -> Result<()> {
        let expected = || format!("bytes {}-{}/{}", part.start, part.end - 1, self.total);
        if part.is_empty() || answered != Some(expected().as_str()) {
            return Err(self.bad("other bytes came than those that were asked for"));
        }
        Ok(())
    }

    async fn open(&self, part: &Range<u64>) -> Result<ByteStream> {
        let answer = self.s3.open(&self.name, Some(part), self.etag.as_deref()).await?;
        let answer = answer.ok_or_else(|| Error::Gone { name: self.name.clone() })?;
        self.check(part, answer.content_range())?;
        Ok(answer.body)
    }

    /// Hands the bytes of a part over, those of `body` first. If the connection breaks off, the rest is asked for once
    /// more.
    async fn read(&self, part: Range<u64>, body: Option<ByteStream>, take: Take<'_>) -> Result<()> {
        let mut rest = part;
        let mut body = match body {
            Some(body) => body,
            None => self.open(&rest).await?,
        };
        let mut broke = false;
        loop {
            let mut take_some = |bytes: &[u8]| {
                if bytes.len() as u64 > rest.end - rest.start {
                    return Err(self.bad("a part of it is longer than it should be"));
                }
                rest.start += bytes.len() as u64;
                take(bytes)
            };
            match self.s3.read(body, &mut take_some).await {
                Err(Error::Unreachable { .. } | Error::TimedOut { .. }) if rest.is_empty() => return Ok(()),
                Err(Error::Unreachable { .. } | Error::TimedOut { .. }) if !broke => broke = true,
                Ok(()) if !rest.is_empty() => return Err(self.bad("a part of it is too short")),
                read => return read,
            }
            body = self.open(&rest).await?;
        }
    }

    async fn read_ahead(self, part: Range<u64>, slot: OwnedSemaphorePermit) -> Result<Ahead> {
        let mut bytes = Vec::with_capacity((part.end - part.start) as usize);
        let mut take = |some: &[u8]| {
            bytes.extend_from_slice(some);
            Ok(())
        };
        self.read(part, None, &mut take).await?;
        Ok((bytes, slot))
    }

    fn bad(&self, how: &str) -> Error {
        Error::bad(&self.name, how)
    }
}
