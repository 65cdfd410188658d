//! The tar stream as the archive reads it: hashed, counted, bounded, and recorded.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use bytes::{Buf as _, Bytes};

use super::tar_split::Recorder;
use super::{Limits, Progress, UnpackError};
use crate::oci::{Algorithm, DiffId, Hasher};

/// The uncompressed stream, block by block.
pub(super) struct Stream<'a> {
    blocks: Receiver<Result<Bytes, UnpackError>>,
    block: Bytes,
    hasher: Hasher,
    /// Takes down what has been read, if anybody wants to know.
    recorder: Option<Recorder>,
    seen: u64,
    max_bytes: u64,
    progress: &'a Progress,
}

impl<'a> Stream<'a> {
    /// Reads from the channel that [`super::decode::decode`] sends to.
    pub(super) fn new(
        blocks: Receiver<Result<Bytes, UnpackError>>,
        recorder: Option<Recorder>,
        limits: &Limits,
        progress: &'a Progress,
    ) -> Self {
        Self {
            blocks,
            block: Bytes::new(),
            hasher: Hasher::new(Algorithm::Sha256),
            recorder,
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
        let piece = self.block.split_to(length);
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&piece)?;
        }
        Ok(piece)
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

    /// Says that what comes next is the content of a file which lies in the directory under its entry's name: see
    /// [`Recorder::begin_file`].
    pub(super) fn begin_file(&mut self, name: &[u8], size: u64) -> Result<Option<u64>, UnpackError> {
        let recorder = self.recorder.as_mut();
        recorder.map_or(Ok(None), |recorder| recorder.begin_file(name, size))
    }

    /// Reads to the end, and returns what the whole stream was.
    pub(super) fn finish(mut self) -> Result<(DiffId, u64), UnpackError> {
        while !self.take(u64::MAX)?.is_empty() {}
        if let Some(recorder) = self.recorder.take() {
            recorder.finish()?;
        }
        Ok((DiffId::new(self.hasher.finish()), self.seen))
    }

    fn next_block(&mut self) -> Result<bool, UnpackError> {
        self.progress.check()?;
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
