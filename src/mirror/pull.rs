//! Brings an image into the store for whoever asks for that and nothing more: `wharf pull`.

use std::sync::Arc;

use super::image::Image;
use super::manifest::{Freshness, KnownManifest};
use super::{Inner, Mirror, MirrorError};
use crate::oci::image_name::ImageName;
use crate::oci::{Accept, Manifest, Platform, Reference};

/// Why an image is not brought into the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error("it has no image for {wanted}; there are: {offered}; choose one with --platform")]
    NoPlatform { wanted: Platform, offered: String },
    #[error("an index of it names an index, which names an index")]
    TooDeep,
    #[error("wharf does not know which blobs a manifest of the type {0} names")]
    UnknownType(String),
}

/// An image on its way, and whether upstream has just said that its tag means it.
pub struct Pulled {
    pub image: Arc<Image>,
    pub freshness: Freshness,
}

impl Mirror {
    /// Starts to bring an image into the store, of an index the one for `platform`.
    ///
    /// # Errors
    /// Fails if the manifest cannot be had; what comes after is told by the image.
    pub async fn pull(&self, name: &ImageName, platform: &Platform) -> Result<Pulled, PullError> {
        let (mut known, freshness) = self.inner.known(name, &name.reference).await?;
        // An index within an index is allowed, and nobody nests deeper.
        for _ in 0..2 {
            if !matches!(known.manifest, Manifest::Index { .. }) {
                break;
            }
            let Some(digest) = known.manifest.image_for(platform).cloned() else {
                return Err(PullError::NoPlatform {
                    wanted: platform.clone(),
                    offered: offered(&known.manifest),
                });
            };
            (known, _) = self.inner.known(name, &Reference::Digest(digest)).await?;
        }
        match &known.manifest {
            Manifest::Image { .. } => {}
            Manifest::Index { .. } => return Err(PullError::TooDeep),
            Manifest::Other { media_type } => return Err(PullError::UnknownType(media_type.clone())),
        }
        let image = self
            .inner
            .bring_now(&name.repository, &known.digest, &known.manifest);
        Ok(Pulled { image, freshness })
    }

    /// Tells whether layers are extracted; if not, the log says why.
    pub fn extracts(&self) -> bool {
        self.inner.extraction.is_some()
    }
}

impl Inner {
    async fn known(
        self: &Arc<Self>,
        name: &ImageName,
        reference: &Reference,
    ) -> Result<(Arc<KnownManifest>, Freshness), MirrorError> {
        let (known, freshness, _) = self
            .resolve(&name.repository, reference, &Accept::default())
            .await?;
        Ok((known, freshness))
    }
}

fn offered(index: &Manifest) -> String {
    let platforms = index
        .children()
        .iter()
        .filter_map(|child| child.platform.as_ref());
    let platforms: Vec<String> = platforms
        .filter(|platform| platform.os != "unknown")
        .map(Platform::to_string)
        .collect();
    platforms.join(", ")
}
