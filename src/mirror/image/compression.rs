//! Whether a blob is another compression of a layer that is there.

use std::sync::Arc;

use super::bytes::Counted;
use super::layer::LayerTask;
use super::{Image, LayerError};
use crate::mirror::Inner;
use crate::oci::{ChainLink, DiffId};
use crate::unpack::{self, Progress};

impl Inner {
    /// Decompresses the blob of an image's layer, which is fetched if need be, and returns its size in bytes.
    ///
    /// # Errors
    /// [`LayerError::WrongDiffId`] if it is something else, and that it cannot be had or read.
    pub(in crate::mirror) async fn check_compression(
        self: &Arc<Self>,
        image: &Arc<Image>,
        links: &Arc<[ChainLink]>,
        index: usize,
        expected: &DiffId,
    ) -> Result<u64, LayerError> {
        let extraction = self.extraction.clone().ok_or(LayerError::Stopped)?;
        let _turn = extraction.turn().await?;
        let task = LayerTask {
            mirror: Arc::clone(self),
            extraction: Arc::clone(&extraction),
            image: Arc::clone(image),
            index,
            links: Arc::clone(links),
            turns: self.turns(&image.repository.host),
        };
        let origin = task.origin().await?;
        let limits = extraction.options.limits.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut bytes = Counted::new(origin.bytes);
            let read = unpack::diff_id(&mut bytes, &limits, &Progress::default());
            match read {
                Ok(actual) => Ok((actual, bytes.bytes())),
                Err(error) => Err(origin.failure.get().unwrap_or_else(|| error.into())),
            }
        });
        let (actual, size_bytes) = reading.await??;
        if actual != *expected {
            let expected = expected.clone();
            return Err(LayerError::WrongDiffId { expected, actual });
        }
        Ok(size_bytes)
    }
}
