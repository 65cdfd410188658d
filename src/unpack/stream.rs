//! The tar stream as the archive reads it: hashed, counted and bounded.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use bytes::{Buf as _, Bytes};

use super::{Limits, Progress, UnpackError};
use crate::oci::{Algorithm, DiffId, Hasher};

/// The uncompressed stream, block by block.
pub(super) struct Stream<'a> {
    blocks: Receiver<Result<Bytes, UnpackError>>,
    block: Bytes,
    hasher: Hasher,
    seen: u64,
    max_bytes: u64,
    progress: &'a Progress,
}

impl<'a> Stream<'a> {
    /// Reads from the channel that [`super::decode::decode`] sends to.
    pub(super) fn new(
        blocks: Receiver<Result<Bytes, UnpackError>>,
        limits: &Limits,
        progress: &'a Progress,
    ) -> Self {
        Self {
            blocks,
            block: Bytes::new(),
            hasher: Hasher::new(Algorithm::Sha256),
            seen: 0,
            max_bytes: limits.max_layer_bytes,
            progress,
        }
    }

    /// Returns the next bytes, at most `max`; none at the stream's end.
    pub(super) fn take(&mut self, max: u64) -> Result<Bytes, UnpackError> {
        if self.block.is_empty() && !self.next_block()? {
            return Ok(Bytes::new());
        }
        let length = usize::try_from(max).map_or(self.block.len(), |max| max.min(self.block.len()));
        Ok(self.block.split_to(length))
    }

    /// Fills `buffer`, and returns how many bytes there were: fewer at the stream's end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut piece = self.take((buffer.len() - filled) as u64)?;
            if piece.is_empty() {
                break;
            }
            let length = piece.len();
            piece.copy_to_slice(&mut buffer[filled..filled + length]);
            filled += length;
        }
        Ok(filled)
    }

    /// Passes over `count` bytes, and returns how many of them there were not.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<u64, UnpackError> {
        while count > 0 {
            let piece = self.take(count)?;
            if piece.is_empty() {
                break;
            }
            count -= piece.len() as u64;
        }
        Ok(count)
    }

    /// Reads to the end, and returns what the whole stream was.
    pub(super) fn finish(mut self) -> Result<(DiffId, u64), UnpackError> {
        while self.next_block()? {}
        Ok((DiffId::new(self.hasher.finish()), self.seen))
    }

    fn next_block(&mut self) -> Result<bool, UnpackError> {
        if self.progress.cancelled.load(Ordering::Relaxed) {
            return Err(UnpackError::Cancelled);
        }
        // A closed channel is the end: an error is sent before it.
        let Ok(block) = self.blocks.recv() else {
            return Ok(false);
        };
        self.block = block?;
        self.hasher.update(&self.block);
        self.seen += self.block.len() as u64;
        if self.seen > self.max_bytes {
            return Err(UnpackError::limit("max_layer_size", self.max_bytes));
        }
        self.progress
            .bytes
            .fetch_add(self.block.len() as u64, Ordering::Relaxed);
        Ok(!self.block.is_empty())
    }
}
