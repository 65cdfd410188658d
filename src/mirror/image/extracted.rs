//! A layer that is unpacked, verified and durable, and not on any stack yet.

use std::sync::{Mutex, PoisonError};

use super::LayerError;
use crate::oci::manifest::Descriptor;
use crate::oci::{ChainLink, LayerId};
use crate::store::{ChainRecord, StagedLayer, Store};
use crate::unpack::{self, Options, Unpacked};

/// A layer that waits for what is below; dropped before it is published, its directory is removed.
///
/// If nothing of it depends on what is below, the first stack to be ready publishes the directory, and the
/// others share it. Else it serves the first one alone.
#[derive(Debug)]
pub(super) struct Extracted {
    blob: Descriptor,
    unpacked: Unpacked,
    place: Mutex<Place>,
}

#[derive(Debug)]
enum Place {
    Staged(StagedLayer),
    Published(LayerId),
    /// It could not be published.
    Gone,
}

impl Extracted {
    pub(super) fn new(blob: Descriptor, unpacked: Unpacked, staged: StagedLayer) -> Self {
        Self {
            blob,
            unpacked,
            place: Mutex::new(Place::Staged(staged)),
        }
    }

    /// Returns what was unpacked.
    pub(super) fn unpacked(&self) -> &Unpacked {
        &self.unpacked
    }

    fn is_bound(&self) -> bool {
        let unsettled = &self.unpacked.unsettled;
        !unsettled.implied.is_empty() || !unsettled.opaque.is_empty()
    }

    /// Publishes it as the top of a stack whose other layers are published: directory, then record. Blocks.
    ///
    /// `None` if it serves another stack alone.
    pub(super) fn publish_as(
        &self,
        link: &ChainLink,
        store: &Store,
        options: &Options,
    ) -> Result<Option<ChainRecord>, LayerError> {
        let Some(layer_id) = self.directory(link, store, options)? else {
            return Ok(None);
        };
        let record = ChainRecord {
            layer_id,
            diff_id: link.diff_id.clone(),
            parent: link.parent.clone(),
            blob: self.blob.digest.clone(),
            blob_size_bytes: self.blob.size_bytes,
            size_bytes: self.unpacked.size_bytes,
            entries: self.unpacked.entries,
            tree_digest: self.unpacked.tree_digest.clone(),
            compromises: self.unpacked.compromises.clone(),
            expanded: self.is_bound(),
        };
        store.publish_chain(&link.chain_id, &record)?;
        Ok(Some(record))
    }

    fn directory(
        &self,
        link: &ChainLink,
        store: &Store,
        options: &Options,
    ) -> Result<Option<LayerId>, LayerError> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = match std::mem::replace(&mut *place, Place::Gone) {
            Place::Staged(staged) => staged,
            Place::Published(layer_id) => {
                *place = Place::Published(layer_id.clone());
                let serves = !self.is_bound() || layer_id == link.layer_id;
                return Ok(serves.then_some(layer_id));
            }
            Place::Gone => return Ok(None),
        };
        if self.is_bound() {
            let below = match &link.parent {
                Some(parent) => store.lowerdirs(parent)?,
                None => Vec::new(),
            };
            unpack::settle(&staged.diff(), &self.unpacked.unsettled, &below, options)?;
        }
        store.publish_layer(staged, &link.layer_id)?;
        *place = Place::Published(link.layer_id.clone());
        Ok(Some(link.layer_id.clone()))
    }
}
