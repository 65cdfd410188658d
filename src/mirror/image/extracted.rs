//! A layer that is unpacked, verified and durable, and not on any stack yet.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::LayerError;
use crate::flight::Claim;
use crate::fs::Disk;
use crate::oci::manifest::Descriptor;
use crate::oci::{ChainLink, LayerId};
use crate::store::{ChainRecord, Entry, LayerPlace, ListFirst, StagedLayer, Store};
use crate::unpack::{self, Options, Unpacked, Unsettled};

/// A layer that waits for what is below; dropped before it is published, its directory is removed.
///
/// The first stack to be ready settles and publishes the directory; others share it if they can.
#[derive(Debug)]
pub(super) struct Extracted {
    /// With the size that it has.
    blob: Descriptor,
    unpacked: Unpacked,
    place: Mutex<Place>,
    /// Keeps other mirrors of the store from extracting it too.
    claim: Mutex<Option<Claim<Disk>>>,
}

/// What a layer is published with.
#[derive(Clone, Copy)]
struct Publishing<'a> {
    link: &'a ChainLink,
    place: &'a LayerPlace,
    store: &'a Store,
    options: &'a Options,
    list: &'a ListFirst<'a>,
}

#[derive(Debug)]
enum Place {
    Staged(StagedLayer),
    Published(Directory),
    /// It could not be published.
    Gone,
}

#[derive(Clone, Debug)]
struct Directory {
    layer_id: LayerId,
    /// It depends on what is below it.
    is_bound: bool,
}

impl Extracted {
    pub(super) fn new(blob: Descriptor, unpacked: Unpacked, staged: StagedLayer) -> Self {
        Self {
            blob,
            unpacked,
            place: Mutex::new(Place::Staged(staged)),
            claim: Mutex::default(),
        }
    }

    /// Keeps the claim until the layer is published, or given up; lets others know that it is extracted.
    pub(super) fn keep(&self, claim: Claim<Disk>) {
        tokio::spawn(claim.tell_size(self.unpacked.size_bytes));
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = Some(claim);
    }

    /// Lets those who wait for the layer know that it is there.
    pub(super) fn tell_published(&self) {
        let claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(claim) = claim {
            claim.done();
        }
    }

    /// Publishes it as the top of a stack whose other layers are published: directory, then record. Blocks.
    ///
    /// `false` if the directory does not suit this stack.
    pub(super) fn publish_as(
        &self,
        link: &ChainLink,
        place: &LayerPlace,
        store: &Store,
        options: &Options,
        list: &ListFirst<'_>,
    ) -> Result<bool, LayerError> {
        let below = self.below(link, store)?;
        let publishing = Publishing {
            link,
            place,
            store,
            options,
            list,
        };
        let Some(directory) = self.directory(&publishing, &below)? else {
            return Ok(false);
        };
        store.publish_chain(&link.chain_id, &self.record(link, directory))?;
        Ok(true)
    }

    fn record(&self, link: &ChainLink, directory: Directory) -> ChainRecord {
        ChainRecord {
            layer_id: directory.layer_id,
            diff_id: link.diff_id.clone(),
            parent: link.parent.clone(),
            blob: self.blob.digest.clone(),
            blob_size_bytes: self.blob.size_bytes,
            size_bytes: self.unpacked.size_bytes,
            entries: self.unpacked.entries,
            tree_digest: self.unpacked.tree_digest.clone(),
            compromises: self.unpacked.compromises.clone(),
            expanded: directory.is_bound,
            root_is_implied: self.unpacked.unsettled.root_is_implied,
        }
    }

    /// Returns those directories of the stack below that this layer depends on.
    ///
    /// Most layers depend on the root's metadata at most; to ask for each of a hundred directories a hundred
    /// times would take seconds on a distributed file system.
    fn below(&self, link: &ChainLink, store: &Store) -> Result<Vec<PathBuf>, LayerError> {
        let unsettled = &self.unpacked.unsettled;
        match &link.parent {
            Some(parent) if !unsettled.implied.is_empty() || !unsettled.opaque.is_empty() => {
                Ok(store.lowerdirs(parent)?)
            }
            Some(_) | None => top_below(link, store),
        }
    }

    fn directory(
        &self,
        publishing: &Publishing<'_>,
        below: &[PathBuf],
    ) -> Result<Option<Directory>, LayerError> {
        let Publishing {
            link,
            place,
            store,
            options,
            list,
        } = *publishing;
        let unsettled = &self.unpacked.unsettled;
        // Locked to the end: a stack that comes second waits, and finds it published.
        let mut current = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = match std::mem::replace(&mut *current, Place::Gone) {
            Place::Staged(staged) => staged,
            Place::Published(directory) => {
                *current = Place::Published(directory.clone());
                let suits = directory.layer_id == link.layer_id
                    || (!directory.is_bound && (!unsettled.root_is_implied || unpack::suits(below)?));
                return Ok(suits.then_some(directory));
            }
            Place::Gone => return Ok(None),
        };
        let is_bound =
            *unsettled != Unsettled::default() && unpack::settle(&staged.diff(), unsettled, below, options)?;
        let directory = Directory {
            layer_id: link.layer_id.clone(),
            is_bound,
        };
        store.dress_layer(&staged, place)?;
        let record = self.record(link, directory.clone());
        let entry = Entry::of_layer(place, &record, store.compression_of(&record.blob)?);
        store.publish_dressed(staged, place, &entry, list)?;
        *current = Place::Published(directory.clone());
        Ok(Some(directory))
    }
}

/// Publishes a record that names another stack's directory; `false` if that does not suit this one. Blocks.
pub(super) fn share(link: &ChainLink, shared: ChainRecord, store: &Store) -> Result<bool, LayerError> {
    if shared.root_is_implied && !unpack::suits(&top_below(link, store)?)? {
        return Ok(false);
    }
    let record = ChainRecord {
        parent: link.parent.clone(),
        ..shared
    };
    store.publish_chain(&link.chain_id, &record)?;
    Ok(true)
}

/// Returns the directory whose root the stack below shows.
fn top_below(link: &ChainLink, store: &Store) -> Result<Vec<PathBuf>, LayerError> {
    let top = link
        .parent
        .as_ref()
        .map(|parent| store.top_dir(parent))
        .transpose()?;
    Ok(top.into_iter().collect())
}
