//! Reads a blob's file for a client: ahead of it, but never holding a thread for it.
//!
//! A burst of a few buffers is read by one blocking call, which ends whether or
//! not the client takes them; the next burst starts when half of them are
//! taken. So a client that reads a byte a second costs memory and no thread.
//! All streams share one budget of bytes: few streams read 256 KiB at a time,
//! many read less.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many buffers one stream reads ahead.
const BURST: usize = 4;

/// The largest buffer: beyond it reads get no faster.
const MAX_BUFFER_BYTES: usize = 256 << 10;

/// The smallest buffer: below it each read costs more than it brings.
const MIN_BUFFER_BYTES: usize = 16 << 10;

/// The bytes that all streams together may read ahead. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadBudget {
    bytes: usize,
    streams: Arc<AtomicUsize>,
}

/// A stream over a part of a file.
pub struct FileStream {
    file: Arc<File>,
    rest: Range<u64>,
    budget: ReadBudget,
    sender: mpsc::Sender<io::Result<Bytes>>,
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    /// Buffers that a burst was told to read and that were not taken yet.
    outstanding: usize,
    burst: Option<JoinHandle<()>>,
}

impl ReadBudget {
    /// Makes a budget of `bytes` for all streams together.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
            streams: Arc::default(),
        }
    }

    /// Returns how large a stream's buffers are at this moment, in bytes.
    fn buffer_bytes(&self) -> usize {
        let streams = self.streams.load(Ordering::Relaxed).max(1);
        (self.bytes / (streams * BURST)).clamp(MIN_BUFFER_BYTES, MAX_BUFFER_BYTES)
    }
}

impl FileStream {
    /// Starts to read the bytes of `range`.
    pub fn new(file: Arc<File>, range: Range<u64>, budget: ReadBudget) -> Self {
        budget.streams.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(BURST);
        Self {
            file,
            rest: range,
            budget,
            sender,
            receiver,
            outstanding: 0,
            burst: None,
        }
    }

    /// Returns the next bytes; `None` at the end of the range.
    ///
    /// # Errors
    /// Any errno, and [`io::ErrorKind::UnexpectedEof`] if the file is shorter than the range.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let is_idle = self.burst.as_ref().is_none_or(JoinHandle::is_finished);
        let is_low = self.outstanding == 0 || (is_idle && self.outstanding <= BURST / 2);
        if is_low && !self.rest.is_empty() {
            self.start_burst();
        }
        if self.outstanding == 0 {
            return Ok(None);
        }
        self.outstanding -= 1;
        let stopped = || io::Error::other("the reading thread stopped");
        self.receiver.recv().await.ok_or_else(stopped)?.map(Some)
    }

    fn start_burst(&mut self) {
        let size = self.budget.buffer_bytes() as u64;
        let mut parts = Vec::with_capacity(BURST);
        while self.outstanding < BURST && !self.rest.is_empty() {
            let end = self.rest.end.min(self.rest.start + size);
            parts.push(self.rest.start..end);
            self.rest.start = end;
            self.outstanding += 1;
        }
        let (file, sender) = (Arc::clone(&self.file), self.sender.clone());
        self.burst = Some(tokio::task::spawn_blocking(move || {
            for part in parts {
                // The channel has room for all; it refuses only when the client has left.
                if sender.try_send(read(&file, &part)).is_err() {
                    return;
                }
            }
        }));
    }
}

impl Drop for FileStream {
    fn drop(&mut self) {
        self.budget.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads a part of a file whole.
fn read(file: &File, part: &Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let at = part.start + buffer.len() as u64;
        if rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // A vector may have got more room than was asked for.
    buffer.truncate(length);
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn collect(stream: &mut FileStream) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    fn file_of(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn every_range_is_read_exactly() {
        let content: Vec<u8> = (0..700_001_u32).map(|n| (n % 251) as u8).collect();
        let (file, budget) = (file_of(&content), ReadBudget::new(0));
        for range in [
            0..0,
            0..1,
            0..700_001,
            16_383..16_385,
            65_536..131_072,
            700_000..700_001,
        ] {
            let mut stream = FileStream::new(Arc::clone(&file), range.clone(), budget.clone());
            let (start, end) = (range.start as usize, range.end as usize);
            assert!(
                collect(&mut stream).await.unwrap() == content[start..end],
                "{range:?}"
            );
        }
        assert_eq!(budget.streams.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_an_error_and_not_an_end() {
        let mut stream = FileStream::new(file_of(b"short"), 0..6, ReadBudget::new(1 << 20));
        assert_eq!(
            collect(&mut stream).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn many_streams_share_the_budget() {
        let (file, budget) = (file_of(b"x"), ReadBudget::new(48 << 20));
        assert_eq!(budget.buffer_bytes(), MAX_BUFFER_BYTES);
        let streams: Vec<_> = (0..200)
            .map(|_| FileStream::new(Arc::clone(&file), 0..1, budget.clone()))
            .collect();
        assert!(budget.buffer_bytes() * BURST * streams.len() <= 48 << 20);
        drop(streams);
        assert_eq!(budget.buffer_bytes(), MAX_BUFFER_BYTES);
    }
}
