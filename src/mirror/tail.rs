//! Reads a blob while its fill is under way.
//!
//! What a reader may see is less than what has been received: the blob's last
//! byte is held back until the digest has proved right. A client that was
//! promised a length can so never take wrong bytes for the whole blob: its
//! connection is cut one byte short at the latest. A range that ends earlier is
//! served as it arrives, for a client that asks for parts checks them together.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::body::FileStream;
use super::buffers::Buffers;
use super::fill::{Fill, FillError, Progress, Stage};
use super::window::{Place, ReaderId};
use crate::telemetry::metrics::Running;

/// A reader of a fill.
pub(super) struct Tail {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
    reader: ReaderId,
    position: u64,
    /// Where to stop; the blob's end if not set.
    end: Option<u64>,
    from_file: Option<FileStream>,
    buffers: Buffers,
    _counted: Option<Running>,
}

impl Tail {
    /// Starts at the blob's begin; the fill does not give up while somebody reads.
    pub(super) fn new(fill: Arc<Fill>, buffers: Buffers, counted: Option<Running>) -> Self {
        let reader = fill.window().add_reader(0);
        Self {
            progress: fill.progress(),
            fill,
            reader,
            position: 0,
            end: None,
            from_file: None,
            buffers,
            _counted: counted,
        }
    }

    /// Returns the fill.
    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// Waits until upstream has answered, and returns the blob's size if upstream tells it.
    ///
    /// # Errors
    /// What ended the fill.
    pub(super) async fn answered(&mut self) -> Result<Option<u64>, FillError> {
        self.stage_with(|stage| !matches!(stage, Stage::Asking)).await
    }

    /// Waits until the blob has proved right, and returns its size.
    ///
    /// # Errors
    /// What ended the fill.
    pub(super) async fn verified(&mut self) -> Result<Option<u64>, FillError> {
        self.stage_with(|stage| matches!(stage, Stage::Verified | Stage::Failed(_)))
            .await
    }

    async fn stage_with(&mut self, is_meant: impl Fn(&Stage) -> bool) -> Result<Option<u64>, FillError> {
        let waited = self.progress.wait_for(|progress| is_meant(&progress.stage)).await;
        match waited.as_deref() {
            Ok(Progress {
                stage: Stage::Failed(error),
                ..
            }) => Err(error.clone()),
            Ok(progress) => Ok(progress.size_bytes),
            Err(_) => Err(FillError::Abandoned),
        }
    }

    /// Reads from `start` on, up to `end` if that is set.
    pub(super) fn set_range(&mut self, start: u64, end: Option<u64>) {
        (self.position, self.end) = (start, end);
        self.fill.window().move_reader(self.reader, start);
        self.fill.note_reader_moved();
    }

    /// Returns the next bytes; `None` at the end of the range.
    ///
    /// # Errors
    /// What ended the fill, what the file's read failed with, or that the reader was too slow
    /// for a blob that is only in memory.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(stream) = &mut self.from_file {
                if let Some(bytes) = stream.next().await? {
                    return Ok(Some(self.take(bytes)));
                }
                self.from_file = None;
            }
            let progress = self.progress.borrow_and_update().clone();
            let limit = self
                .end
                .map_or(progress.visible(), |end| end.min(progress.visible()));
            if self.position < limit {
                let place = self.fill.window().read(self.position, limit);
                match place {
                    Place::Memory(bytes) => return Ok(Some(self.take(bytes))),
                    Place::File(file, range) => {
                        self.from_file = Some(FileStream::new(file, range, &self.buffers));
                    }
                    Place::Lost => {
                        return Err(io::Error::other("the client was too slow for an uncached blob"));
                    }
                }
                continue;
            }
            if self.end == Some(self.position) {
                return Ok(None);
            }
            match progress.stage {
                Stage::Verified => return Ok(None),
                Stage::Failed(error) => return Err(io::Error::other(error)),
                Stage::Asking | Stage::Receiving => {}
            }
            if self.progress.changed().await.is_err() {
                return Err(io::Error::other(FillError::Abandoned));
            }
        }
    }

    fn take(&mut self, bytes: Bytes) -> Bytes {
        self.position += bytes.len() as u64;
        self.fill.window().move_reader(self.reader, self.position);
        self.fill.note_reader_moved();
        bytes
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.fill.window().remove_reader(self.reader);
        self.fill.note_reader_left();
    }
}
