//! A layer's compressed bytes, for the thread that unpacks them: of a fill under way, or of the store.
//!
//! A fill's bytes are read as they arrive, the last one too, for nothing is published before the digest has
//! proved right. This reader is not one of the fill's ([`crate::mirror::tail`]): it neither keeps a fill
//! alive nor slows it, and ends when the store no longer takes what arrives.

use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::LayerError;
use crate::fs::{FsError, OpenFile};
use crate::mirror::fill::{Fill, FillError, Progress, Stage};
use crate::mirror::window::Place;
use crate::oci::{Digest, Verifier};
use crate::store::StoredBlob;

/// Why reading ended early; whoever reads gets it as text alone. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<OnceLock<LayerError>>);

impl Failure {
    /// Returns what reading failed with.
    pub(super) fn get(&self) -> Option<LayerError> {
        self.0.get().cloned()
    }

    fn note(&self, error: impl Into<LayerError>) -> io::Error {
        let error = error.into();
        // The first one is the cause.
        let _ = self.0.set(error.clone());
        error.into()
    }
}

/// Counts what is read: a manifest may say another size.
pub(super) struct Counted<R> {
    source: R,
    bytes: u64,
}

impl<R: Read> Counted<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, bytes: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// The bytes of a blob that is in the store, which must have their digest at the end.
pub(super) struct StoredBytes {
    file: Arc<OpenFile>,
    position: u64,
    verifier: Option<Verifier>,
    failure: Failure,
}

impl StoredBytes {
    pub(super) fn new(blob: StoredBlob, digest: &Digest, failure: Failure) -> Self {
        Self {
            file: blob.file,
            position: 0,
            verifier: Some(Verifier::new(digest.clone())),
            failure,
        }
    }
}

impl Read for StoredBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_at(&self.file, buffer, self.position)
            .map_err(|source| self.failure.note(FsError::new("read", "a blob".as_ref(), source)))?;
        self.position += count as u64;
        if count > 0 || buffer.is_empty() {
            if let Some(verifier) = &mut self.verifier {
                verifier.update(&buffer[..count]);
            }
            return Ok(count);
        }
        match self.verifier.take().map(Verifier::finish) {
            Some(Err(mismatch)) => Err(self.failure.note(LayerError::Damaged(mismatch))),
            Some(Ok(_)) | None => Ok(0),
        }
    }
}

/// The bytes of a fill, while they arrive; blocks until there are more.
pub(super) struct FillBytes {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
    position: u64,
    from_memory: Bytes,
    from_file: Option<(Arc<OpenFile>, Range<u64>)>,
    runtime: Handle,
    stop: CancellationToken,
    failure: Failure,
}

impl FillBytes {
    /// Reads on any thread but those of the runtime, in which it is made; until `stop`.
    pub(super) fn new(fill: Arc<Fill>, stop: CancellationToken, failure: Failure) -> Self {
        Self {
            progress: fill.progress(),
            fill,
            position: 0,
            from_memory: Bytes::new(),
            from_file: None,
            runtime: Handle::current(),
            stop,
            failure,
        }
    }

    /// Waits until there is something to read; `false` at the end.
    fn find(&mut self) -> Result<bool, LayerError> {
        loop {
            let progress = self.progress.borrow_and_update().clone();
            match &progress.stage {
                Stage::Failed(error) => return Err(error.clone().into()),
                Stage::Receiving if !self.fill.window().store_takes() => return Err(LayerError::NotStored),
                Stage::Verified if self.position == progress.received => return Ok(false),
                Stage::Asking | Stage::Receiving | Stage::Verified => {}
            }
            if self.position < progress.received {
                let place = self.fill.window().read(self.position, progress.received);
                match place {
                    Place::Memory(bytes) => self.from_memory = bytes,
                    Place::File(file, range) => self.from_file = Some((file, range)),
                    Place::Lost => return Err(LayerError::NotStored),
                }
                return Ok(true);
            }
            self.wait()?;
        }
    }

    fn wait(&mut self) -> Result<(), LayerError> {
        let (progress, stop) = (&mut self.progress, &self.stop);
        self.runtime.block_on(async {
            tokio::select! {
                changed = progress.changed() => changed.map_err(|_| FillError::Abandoned.into()),
                () = stop.cancelled() => Err(LayerError::Stopped),
            }
        })
    }

    fn read_file(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some((file, range)) = &mut self.from_file else {
            return Ok(None);
        };
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let length = wanted.min(buffer.len());
        let read = match read_at(file, &mut buffer[..length], range.start) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        };
        let count = read.map_err(|source| {
            self.failure
                .note(FsError::new("read", "staging".as_ref(), source))
        })?;
        range.start += count as u64;
        if range.is_empty() {
            self.from_file = None;
        }
        Ok(Some(count))
    }
}

impl Read for FillBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let has_some = !self.from_memory.is_empty() || self.from_file.is_some();
        if !has_some && !self.find().map_err(|error| self.failure.note(error))? {
            return Ok(0);
        }
        let count = match self.read_file(buffer)? {
            Some(count) => count,
            None => {
                let count = buffer.len().min(self.from_memory.len());
                self.from_memory.copy_to_slice(&mut buffer[..count]);
                count
            }
        };
        self.position += count as u64;
        Ok(count)
    }
}

fn read_at(file: &OpenFile, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, position) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
