//! Whether a stack's topmost layer is on the store, for who would bring it otherwise.
//!
//! A record whose directory somebody has removed is taken away: it would keep the layer from being extracted again.

use std::time::Duration;

use tokio::time::sleep;

use super::Inner;
use crate::fs::FsError;
use crate::oci::ChainId;

/// After what time a directory that is not there is looked for again: another node's rename is seen sooner.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What the store has of a stack's topmost layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnStore {
    Ready,
    /// Its record, and not its directory.
    DirectoryGone,
    NotThere,
}

impl Inner {
    /// Tells whether a stack's topmost layer is there; takes away a record whose directory is gone.
    ///
    /// # Errors
    /// Any errno but ENOENT, that a record is damaged, and that the store hangs.
    pub(super) async fn is_published(&self, chain_id: &ChainId) -> Result<bool, FsError> {
        let mut found = self.look_for(chain_id).await?;
        if found == OnStore::DirectoryGone {
            sleep(LOOK_AGAIN).await;
            found = self.look_for(chain_id).await?;
        }
        if found == OnStore::DirectoryGone {
            tracing::warn!(
                %chain_id,
                "the directory of a published layer was removed; its record goes too, and it is extracted again"
            );
            let chain_id = chain_id.clone();
            self.on_store(move |store| store.forget_chain(&chain_id)).await?;
            self.image_store.want();
        }
        Ok(found == OnStore::Ready)
    }

    async fn look_for(&self, chain_id: &ChainId) -> Result<OnStore, FsError> {
        let chain_id = chain_id.clone();
        self.on_store(move |store| match store.chain(&chain_id)? {
            None => Ok(OnStore::NotThere),
            Some(record) if store.has_layer(&record.layer_id)? => Ok(OnStore::Ready),
            Some(_) => Ok(OnStore::DirectoryGone),
        })
        .await
    }
}
