//! Where the bytes of a layer that is to be extracted come from.

use std::io::Read;
use std::sync::Arc;

use super::LayerError;
use super::bytes::{Failure, FillBytes, StoredBytes};
use super::layer::LayerTask;
use crate::flight::Seat;
use crate::store::StoredBlob;

/// Where a layer's bytes come from; boxed, since each is read by a thread.
pub(super) struct Origin {
    pub(super) bytes: Box<dyn Read + Send>,
    pub(super) failure: Failure,
    pub(super) is_fetched: bool,
}

impl LayerTask {
    /// Opens the layer's bytes: in the store, or in the fill that brings them.
    pub(super) async fn origin(&self) -> Result<Origin, LayerError> {
        let failure = Failure::default();
        if let Some(blob) = self.stored_blob().await? {
            return Ok(Origin {
                bytes: Box::new(StoredBytes::new(blob, self.digest(), failure.clone())),
                failure,
                is_fetched: false,
            });
        }
        let (mirror, repository) = (&self.mirror, &self.image.repository);
        let blob = &self.layer().blob;
        let wanted = mirror.wanted(repository, blob).await?;
        let key = mirror.fill_key(&repository.host, &blob.digest);
        let fill = match mirror.fills.join(key, || wanted.fill()) {
            Seat::Follower(fill) => fill,
            Seat::Leader(leader) => {
                let fill = Arc::clone(leader.flight());
                tokio::spawn(mirror.fill_task(&wanted, Arc::clone(&fill), Some(leader)).run());
                fill
            }
        };
        self.layer().set_fetching(fill.progress());
        Ok(Origin {
            bytes: Box::new(FillBytes::new(
                fill,
                self.extraction.stop.clone(),
                failure.clone(),
            )),
            failure,
            is_fetched: true,
        })
    }

    /// Opens the blob if it is in the store.
    ///
    /// Whichever host sent it: directories are read by nodes, which see all of them, and one of another image
    /// with this DiffID would be shared too. What the API serves goes by [`crate::mirror::membership`].
    async fn stored_blob(&self) -> Result<Option<StoredBlob>, LayerError> {
        let mirror = &self.mirror;
        if mirror.unreadable.contains(self.digest()) {
            return Ok(None);
        }
        let (store, digest) = (mirror.store.clone(), self.digest().clone());
        let path = store.blob_path(&digest);
        let open = mirror.disk.run("open", &path, move || store.open_blob(&digest));
        Ok(open.await?)
    }
}
