//! Whose extraction a layer is: this mirror's, or that of another one of the same store, whose end is waited for.
//!
//! The claim is held until the layer is published, for nobody sees an extracted layer before. It then may wait for what
//! is below it, which is another mirror's; and if two stacks have the same layers in another order, each for the
//! other. So who sees that a layer is extracted, and does not come, extracts it too.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::LayerError;
use super::extract::LayerKey;
use super::layer::LayerTask;
use crate::flight::{Claim, ClaimKey, Entered, Following, News};
use crate::fs::{Disk, FsError};
use crate::oci::Digest;

/// How long an extracted layer of another mirror is waited for until it is published.
const PUBLISHING: Duration = Duration::from_secs(10);

type IsDone = Pin<Box<dyn Future<Output = Result<bool, FsError>> + Send>>;

/// What an owner tells those who wait for it: that the layer itself is at fault.
#[derive(Debug, Serialize, Deserialize)]
struct Reason {
    /// With another blob the layer may be right.
    blob: Digest,
    text: String,
}

/// What came of asking whose it is.
pub(super) enum Turn {
    /// Another mirror has published it, on this stack or so that it can be shared.
    Published,
    /// This mirror's; without a claim if others are not to know of it.
    Ours(Option<Claim<Disk>>),
}

impl LayerTask {
    /// Waits until the layer is published by another mirror, or is this one's to extract.
    pub(super) async fn take_turn(&self, key: &LayerKey) -> Result<Turn, LayerError> {
        let mirror = Arc::clone(&self.mirror);
        let Some(claims) = mirror.peers.claims().filter(|_| key.is_for_all()) else {
            return Ok(Turn::Ours(None));
        };
        let key = ClaimKey::layer(&self.link().diff_id);
        let mut entered = claims.enter(&key, self.is_done()).await?;
        loop {
            let following = match entered {
                Entered::Done => return Ok(Turn::Published),
                Entered::Ours(claim) => return Ok(Turn::Ours(Some(claim))),
                Entered::Theirs(following) => following,
            };
            entered = match self.follow(following).await? {
                Some(entered) => entered,
                None => return Ok(Turn::Ours(None)),
            };
        }
    }

    /// Waits for another mirror; `None` if what it has extracted does not come.
    async fn follow(&self, mut following: Following<Disk>) -> Result<Option<Entered<Disk>>, LayerError> {
        let mut is_extracted = false;
        loop {
            let next = following.next(self.is_done());
            let news = if is_extracted {
                match timeout(PUBLISHING, next).await {
                    Ok(news) => news?,
                    Err(_) => return Ok(None),
                }
            } else {
                next.await?
            };
            match news {
                News::Owner(work) => is_extracted = work.size_bytes.is_some(),
                News::Done => return Ok(Some(Entered::Done)),
                News::Ours(claim) => return Ok(Some(Entered::Ours(claim))),
                News::Failed(failed) => {
                    let reason = serde_json::from_slice::<Reason>(&failed.reason);
                    if let Ok(reason) = reason
                        && reason.blob == *self.digest()
                    {
                        return Err(LayerError::Told(reason.text));
                    }
                    return Ok(Some(failed.try_anew(self.is_done()).await?));
                }
            }
        }
    }

    /// Tells whether another mirror has published the layer on this stack, or so that it can be shared.
    fn is_done(&self) -> impl Fn() -> IsDone + Send + Sync + 'static {
        let (mirror, link) = (Arc::clone(&self.mirror), self.link().clone());
        move || {
            let (mirror, link) = (Arc::clone(&mirror), link.clone());
            Box::pin(async move {
                mirror
                    .on_store(move |store| {
                        Ok(store.chain(&link.chain_id)?.is_some()
                            || store.shareable(&link.diff_id)?.is_some())
                    })
                    .await
            })
        }
    }

    /// Lets those who wait for this extraction know why it failed, if they would fare no better.
    pub(super) async fn tell_failure(&self, claim: Option<Claim<Disk>>, error: &LayerError) {
        let Some(claim) = claim else { return };
        if !error.is_lasting() {
            return claim.give_up().await;
        }
        let reason = Reason {
            blob: self.digest().clone(),
            text: error.full_text(),
        };
        // It is made of texts.
        claim.fail(serde_json::to_vec(&reason).unwrap_or_default()).await;
    }
}
