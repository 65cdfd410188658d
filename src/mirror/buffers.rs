//! One budget of memory for everything that moves bytes, and buffers that are used again.
//!
//! Few streams get large buffers, many get small ones. A buffer that a client has
//! taken comes back to the pool: memory that is warm in the processor's cache is
//! read into twice as fast as memory that the allocator gives anew.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::fs::Disk;

/// How many buffers one stream may hold.
pub(super) const BURST: usize = 4;

/// The largest buffer: a few of them fit into a core's second-level cache.
const MAX_BUFFER_BYTES: usize = 256 << 10;

/// The smallest buffer: below it each read costs more than it brings.
const MIN_BUFFER_BYTES: usize = 16 << 10;

/// The largest window of a fill ([`super::window`]): what arrives during one slow write.
const MAX_WINDOW_BYTES: usize = 1 << 20;

/// The smallest window of a fill.
const MIN_WINDOW_BYTES: usize = 128 << 10;

/// Buffers kept for the next who needs one.
const MAX_POOLED: usize = 64;

/// The bytes that all streams and fills together may hold. Cheap to clone.
#[derive(Clone)]
pub(super) struct Buffers(Arc<Shared>);

struct Shared {
    bytes: usize,
    disk: Disk,
    streams: AtomicUsize,
    fills: AtomicUsize,
    pool: Mutex<Vec<Vec<u8>>>,
}

/// Counts a stream.
pub(super) struct StreamBuffers(Buffers);

/// Counts a fill that holds a window.
pub(super) struct WindowBuffers(Buffers);

/// A buffer that goes back to the pool; all its bytes are initialised.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    buffers: Buffers,
}

impl Buffers {
    /// Makes a budget of `bytes` for all streams and fills together, which read by `disk`.
    pub(super) fn new(bytes: usize, disk: Disk) -> Self {
        Self(Arc::new(Shared {
            bytes,
            disk,
            streams: AtomicUsize::new(0),
            fills: AtomicUsize::new(0),
            pool: Mutex::default(),
        }))
    }

    /// Counts a stream until the guard is dropped.
    pub(super) fn stream(&self) -> StreamBuffers {
        self.0.streams.fetch_add(1, Ordering::Relaxed);
        StreamBuffers(self.clone())
    }

    /// Counts a fill, which holds a window until the guard is dropped.
    pub(super) fn window(&self) -> WindowBuffers {
        self.0.fills.fetch_add(1, Ordering::Relaxed);
        WindowBuffers(self.clone())
    }

    /// Returns how large a stream's buffers are at this moment, in bytes.
    fn buffer_bytes(&self) -> usize {
        let streams = self.0.streams.load(Ordering::Relaxed).max(1);
        let windows = self.0.fills.load(Ordering::Relaxed) * self.window_bytes();
        let bytes = self.0.bytes.saturating_sub(windows);
        (bytes / (streams * BURST)).clamp(MIN_BUFFER_BYTES, MAX_BUFFER_BYTES)
    }

    /// Half of the bytes are the windows', should there be many.
    fn window_bytes(&self) -> usize {
        let fills = self.0.fills.load(Ordering::Relaxed).max(1);
        (self.0.bytes / 2 / fills).clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES)
    }

    fn pool(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamBuffers {
    /// Returns how large a buffer is at this moment, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.buffer_bytes()
    }

    /// Returns the way to the file system.
    pub(super) fn disk(&self) -> &Disk {
        &self.0.0.disk
    }

    /// Returns an empty buffer of `length` bytes.
    pub(super) fn take(&self, length: usize) -> Buffer {
        let pooled = self.0.pool().pop();
        // One of another time, when there were more or fewer streams, is let go.
        let is_fit = |buffer: &Vec<u8>| buffer.len() >= length && buffer.len() <= self.bytes();
        Buffer {
            bytes: pooled.filter(is_fit).unwrap_or_else(|| vec![0; length]),
            filled: 0,
            buffers: self.0.clone(),
        }
    }
}

impl Drop for StreamBuffers {
    fn drop(&mut self) {
        self.0.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WindowBuffers {
    /// Returns how large the window may be at this moment, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.window_bytes() as u64
    }
}

impl Drop for WindowBuffers {
    fn drop(&mut self) {
        self.0.0.fills.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Buffer {
    /// Returns the room up to `length` that has not been filled.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.filled..length]
    }

    /// Counts `count` more bytes as filled.
    pub(super) fn advance(&mut self, count: usize) {
        self.filled += count;
    }

    /// Returns how many bytes are filled.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Returns what is filled; the buffer goes back when the last clone is dropped.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = self.buffers.pool();
        if pool.len() < MAX_POOLED {
            pool.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_streams_share_the_budget() {
        let buffers = Buffers::new(48 << 20, Disk::new(Duration::from_secs(1)));
        assert_eq!(buffers.buffer_bytes(), MAX_BUFFER_BYTES);
        let streams: Vec<_> = (0..200).map(|_| buffers.stream()).collect();
        assert!(buffers.buffer_bytes() * BURST * streams.len() <= 48 << 20);
        let fills: Vec<_> = (0..16).map(|_| buffers.window()).collect();
        assert_eq!(fills[0].bytes(), MAX_WINDOW_BYTES as u64);
        assert!(buffers.buffer_bytes() * BURST * streams.len() <= 32 << 20);
        drop((streams, fills));
        assert_eq!(buffers.buffer_bytes(), MAX_BUFFER_BYTES);
    }

    #[test]
    fn a_buffer_is_used_again() {
        let buffers = Buffers::new(48 << 20, Disk::new(Duration::from_secs(1)));
        let stream = buffers.stream();
        let mut buffer = stream.take(1000);
        buffer.room(1000)[..3].copy_from_slice(b"abc");
        buffer.advance(3);
        let bytes = buffer.into_bytes();
        assert_eq!(bytes, "abc");
        let address = bytes.as_ptr();
        drop(bytes);
        assert_eq!(stream.take(1000).room(1000).as_ptr(), address);
    }
}
