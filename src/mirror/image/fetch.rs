//! Brings blobs into the store, and nothing more.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::{Image, LayerError, LayerStage};
use crate::flight::Seat;
use crate::index::Member;
use crate::mirror::Inner;
use crate::mirror::blob::Wanted;
use crate::mirror::fill::{Fill, FillError, Stage, Standing};
use crate::mirror::negative::Asked;
use crate::oci::Repository;
use crate::oci::manifest::Descriptor;

impl Inner {
    /// Brings the blob of a layer into the store that is not to be extracted.
    pub(super) async fn fill_layer(
        self: &Arc<Self>,
        image: &Image,
        index: usize,
        turn: OwnedSemaphorePermit,
    ) {
        let layer = &image.layers()[index];
        let show = |fill: &Fill| layer.set_fetching(fill.progress());
        let filled = self.fill_blob(&image.repository, &layer.blob, turn, show).await;
        layer.set_stage(filled.map_or_else(LayerStage::Failed, |()| LayerStage::Stored));
    }

    /// Brings a blob into the store if it is not there, or waits for whoever brings it.
    pub(in crate::mirror) async fn fill_blob(
        self: &Arc<Self>,
        repository: &Repository,
        blob: &Descriptor,
        turn: OwnedSemaphorePermit,
        show: impl FnOnce(&Fill),
    ) -> Result<(), LayerError> {
        let (store, digest) = (self.store.clone(), blob.digest.clone());
        let path = store.blob_path(&digest);
        let stat = self.disk.run("stat", &path, move || store.stat_blob(&digest));
        // Without a reader nothing is streamed past the store.
        let found = stat.await.inspect_err(|error| self.note_store_error(error))?;
        if found.is_some() {
            return Ok(());
        }
        let wanted = self.wanted(repository, blob).await?;
        let key = self.fill_key(&repository.host, &blob.digest);
        match self.fills.join(key, || wanted.fill()) {
            Seat::Follower(fill) => {
                show(&fill);
                drop(turn);
                ended(&fill).await
            }
            Seat::Leader(leader) => {
                let fill = Arc::clone(leader.flight());
                show(&fill);
                self.fill_task(&wanted, Arc::clone(&fill), Some(leader))
                    .run()
                    .await;
                ended(&fill).await
            }
        }
    }

    /// Returns what is to be brought, on the word of a manifest, unless upstream has just refused it.
    pub(super) async fn wanted<'a>(
        &self,
        repository: &'a Repository,
        blob: &'a Descriptor,
    ) -> Result<Wanted<'a>, LayerError> {
        let asked = Asked::Blob(repository.clone(), blob.digest.clone());
        if let Some(error) = self.negatives.get(&asked) {
            return Err(error.into());
        }
        let member = Member {
            size_bytes: Some(blob.size_bytes),
        };
        let may_share = self.may_share(&repository.host, &blob.digest).await;
        Ok(Wanted {
            upstream: self.upstream(&repository.host)?,
            repository,
            digest: &blob.digest,
            expected_size: member.size_bytes,
            standing: Standing::of(Some(member), may_share),
        })
    }
}

/// Waits until a fill has ended.
async fn ended(fill: &Fill) -> Result<(), LayerError> {
    let mut progress = fill.progress();
    let is_end = |stage: &Stage| matches!(stage, Stage::Verified | Stage::Failed(_));
    match progress
        .wait_for(|progress| is_end(&progress.stage))
        .await
        .as_deref()
    {
        Ok(progress) => match &progress.stage {
            Stage::Failed(error) => Err(error.clone().into()),
            Stage::Asking | Stage::Receiving | Stage::Verified => Ok(()),
        },
        Err(_) => Err(FillError::Abandoned.into()),
    }
}
