//! Reads a blob's file for a client, but never holds a thread for it.
//!
//! What the kernel has in its page cache is read at once, on the spot
//! (`RWF_NOWAIT`, preadv2(2)): no thread is woken, and the bytes go to the socket
//! while they are warm. Where the kernel would have to wait, or cannot tell, a burst of a
//! few buffers is read by one blocking call, which ends whether or not the
//! client takes them; the next burst starts when half of them are taken. So a
//! client that reads a byte a second costs memory and no thread.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::mpsc;

use super::buffers::{BURST, Buffer, Buffers, StreamBuffers};
use crate::fs::{OpenFile, Started};

/// The most that is read from the page cache at once: what stays in a core's own cache on its way to the socket.
const MAX_CACHED_READ: usize = 128 << 10;

/// A stream over a part of a file.
pub(super) struct FileStream {
    file: Arc<OpenFile>,
    rest: Range<u64>,
    buffers: StreamBuffers,
    /// Whether the last bytes came from the page cache.
    is_cached: bool,
    sender: mpsc::Sender<io::Result<Bytes>>,
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    /// Buffers that a burst was told to read and that were not taken yet.
    outstanding: usize,
    burst: Option<Started>,
}

impl FileStream {
    /// Starts to read the bytes of `range`.
    pub(super) fn new(file: Arc<OpenFile>, range: Range<u64>, buffers: &Buffers) -> Self {
        let (sender, receiver) = mpsc::channel(BURST);
        Self {
            file,
            rest: range,
            buffers: buffers.stream(),
            is_cached: true,
            sender,
            receiver,
            outstanding: 0,
            burst: None,
        }
    }

    /// Returns the next bytes; `None` at the end of the range.
    ///
    /// # Errors
    /// Any errno, [`io::ErrorKind::UnexpectedEof`] if the file is shorter than the range, and
    /// [`io::ErrorKind::TimedOut`] if the file system hangs.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_cached && self.outstanding == 0 && !self.rest.is_empty() {
            if let Some(bytes) = self.read_cached()? {
                return Ok(Some(bytes));
            }
            self.is_cached = false;
        }
        let is_idle = self.burst.as_ref().is_none_or(Started::has_ended);
        let is_low = self.outstanding == 0 || (is_idle && self.outstanding <= BURST / 2);
        if is_low && !self.rest.is_empty() {
            self.start_burst()?;
        }
        if self.outstanding == 0 {
            return Ok(None);
        }
        self.outstanding -= 1;
        let stopped = || io::Error::other("the reading thread stopped");
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let received = tokio::time::timeout(self.buffers.disk().deadline(), self.receiver.recv());
        received.await.map_err(late)?.ok_or_else(stopped)?.map(Some)
    }

    /// Reads what is in the page cache; `None` if the kernel would wait, or cannot tell.
    fn read_cached(&mut self) -> io::Result<Option<Bytes>> {
        let (mut buffer, length) = self.next_buffer(MAX_CACHED_READ);
        let mut room = [IoSliceMut::new(buffer.room(length))];
        match rustix::io::preadv2(&**self.file, &mut room, self.rest.start, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer.advance(count);
                self.rest.start += count as u64;
                Ok(Some(buffer.into_bytes()))
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns a buffer for the next bytes, and how many of them there will be.
    fn next_buffer(&self, most: usize) -> (Buffer, usize) {
        let rest = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX);
        let length = rest.min(self.buffers.bytes()).min(most);
        (self.buffers.take(length), length)
    }

    fn start_burst(&mut self) -> io::Result<()> {
        let mut parts = Vec::with_capacity(BURST);
        while self.outstanding < BURST && !self.rest.is_empty() {
            let (buffer, length) = self.next_buffer(usize::MAX);
            parts.push((buffer, self.rest.start, length));
            self.rest.start += length as u64;
            self.outstanding += 1;
        }
        let (file, sender) = (Arc::clone(&self.file), self.sender.clone());
        let burst = self.buffers.disk().start(move || {
            for (buffer, position, length) in parts {
                // The channel has room for all; it refuses only when the client has left.
                if sender.try_send(read(&file, buffer, position, length)).is_err() {
                    return;
                }
            }
        });
        self.burst = Some(burst?);
        Ok(())
    }
}

/// Fills a buffer with the `length` bytes at `position`.
fn read(file: &std::fs::File, mut buffer: Buffer, position: u64, length: usize) -> io::Result<Bytes> {
    while buffer.filled() < length {
        let at = position + buffer.filled() as u64;
        match rustix::io::pread(file, buffer.room(length), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer.advance(count),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(buffer.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::fs::Disk;

    async fn collect(stream: &mut FileStream) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    fn file_of(content: &[u8]) -> Arc<OpenFile> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file.into())
    }

    /// Both ways of reading, for which file system can tell what it has cached is not the test's choice.
    fn streams(file: &Arc<OpenFile>, range: &Range<u64>, memory: usize) -> [FileStream; 2] {
        [true, false].map(|is_cached| {
            let buffers = Buffers::new(memory, Disk::new(Duration::from_secs(5)));
            let mut stream = FileStream::new(Arc::clone(file), range.clone(), &buffers);
            stream.is_cached = is_cached;
            stream
        })
    }

    #[tokio::test]
    async fn every_range_is_read_exactly() {
        let content: Vec<u8> = (0..700_001_u32).map(|n| (n % 251) as u8).collect();
        let file = file_of(&content);
        for range in [
            0..0,
            0..1,
            0..700_001,
            16_383..16_385,
            65_536..131_072,
            700_000..700_001,
        ] {
            let expected = &content[range.start as usize..range.end as usize];
            for mut stream in streams(&file, &range, 0) {
                assert!(collect(&mut stream).await.unwrap() == expected, "{range:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_an_error_and_not_an_end() {
        for mut stream in streams(&file_of(b"short"), &(0..6), 1 << 20) {
            let error = collect(&mut stream).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
