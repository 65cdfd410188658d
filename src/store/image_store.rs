//! The store as an additional image store of containers/storage: Podman, CRI-O and Buildah read `layers/` as it is.
//!
//! ```text
//! layers/overlay/<layer id>/{diff,merged,work,empty}/   the layer, and what old versions want beside it
//! layers/overlay/<layer id>/{link,lower}                its short name, and those of the layers below
//! layers/overlay/l/<short name> -> ../<layer id>/diff
//! layers/overlay-layers/<layer id>.tar-split.gz         how its tar stream is made again
//! layers/overlay-layers/{layers.json,layers.lock}       the list of layers, and the token by which readers see a new one
//! layers/overlay-images/{images.json,images.lock}       empty: images are each node's own
//! layers/entries/<name>                                 one line of the list, of a layer that is complete
//! ```
//! A layer gets its short name, then its directory, then its entry; `layers.json` follows from the names in `entries`
//! and from nothing else, so it can be made again at any time, and by any mirror. Sources: facts/podman.md 1, 2 and 5;
//! containers/storage `layers.go` (`Layer`) and `drivers/overlay/overlay.go`; containers/image `storage_dest.go`, which
//! looks a layer up by the digest of its blob, and then by its id.

mod dress;
mod entry;
mod list;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use entry::{Entry, EntryName};
pub use list::EntryTexts;

use crate::fs::{self, FsError};
use crate::oci::{ChainLink, LayerId};
use crate::unpack::{self, Options, UnpackError};

use super::{ChainRecord, StagedLayer, Store};

/// Where a layer lies: its own place, and the layers below it.
#[derive(Clone, Debug)]
pub struct LayerPlace {
    pub layer_id: LayerId,
    /// The layers below, the topmost first.
    pub below: Vec<LayerId>,
}

/// The short names that this process has made or seen. They never change.
#[derive(Default)]
pub(super) struct ShortNames(Mutex<HashMap<LayerId, String>>);

impl LayerPlace {
    /// Returns the place of a stack's layer.
    pub fn of(links: &[ChainLink], index: usize) -> Self {
        Self {
            layer_id: links[index].layer_id.clone(),
            below: links[..index]
                .iter()
                .rev()
                .map(|link| link.layer_id.clone())
                .collect(),
        }
    }
}

impl Store {
    /// Makes what containers/storage wants of the store before there is a layer; what is there stays.
    ///
    /// # Errors
    /// Any errno.
    pub fn prepare_image_store(&self) -> Result<(), FsError> {
        let layout = self.layout();
        for dir in [
            layout.short_names(),
            layout.layer_lists(),
            layout.image_lists(),
            layout.entries(),
        ] {
            fs::make_dirs_durably(&dir)?;
        }
        self.make_token(&layout.image_lists().join("images.lock"))?;
        self.make_token(&layout.layer_list_lock())?;
        for list in [layout.image_lists().join("images.json"), layout.layer_list()] {
            let mut staged = self.stage()?;
            staged.write(&[b"[]\n"])?;
            staged.publish(&list)?;
        }
        Ok(())
    }

    /// Puts beside a staged layer what containers/storage wants there; its short name is then its own.
    ///
    /// # Errors
    /// Any errno.
    pub fn dress_layer(&self, staged: &StagedLayer, place: &LayerPlace) -> Result<(), FsError> {
        self.dress(staged.path(), place)
    }

    /// Completes a layer whose chain record is published, and writes its entry; what is there stays.
    ///
    /// A directory that is another stack's is made again under this layer's id, by hard links.
    ///
    /// # Errors
    /// Any errno.
    pub fn complete_layer(
        &self,
        place: &LayerPlace,
        entry: &Entry,
        record: &ChainRecord,
        options: &Options,
    ) -> Result<(), UnpackError> {
        let name = EntryName::Layer(place.layer_id.clone());
        if self.has_entry(&name)? {
            return Ok(());
        }
        if !self.has_layer(&place.layer_id)? {
            let staged = self.stage_layer()?;
            unpack::share(&self.layer_path(&record.layer_id), &staged.diff(), options)?;
            self.dress_layer(&staged, place)?;
            self.publish_layer(staged, &place.layer_id)?;
        }
        // A layer that an earlier version published, or whose publisher died half-way.
        self.dress(&self.layout().layer(&place.layer_id), place)?;
        self.share_tar_split(&record.layer_id, &place.layer_id)?;
        Ok(self.write_entry(&name, entry)?)
    }

    /// Tells whether an entry is there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn has_entry(&self, name: &EntryName) -> Result<bool, FsError> {
        Ok(fs::stat(&self.layout().entry(name))?.is_some())
    }

    /// Writes an entry; one that is there stays.
    ///
    /// # Errors
    /// Any errno.
    pub fn write_entry(&self, name: &EntryName, entry: &Entry) -> Result<(), FsError> {
        let path = self.layout().entry(name);
        let mut staged = self.stage()?;
        let text = entry
            .to_json()
            .map_err(|error| FsError::new("encode", &path, error.into()))?;
        staged.write(&[text])?;
        staged.publish(&path)
    }

    /// Returns the directory that nodes name in `additionalimagestores`.
    pub fn image_store_path(&self) -> PathBuf {
        self.layout().image_store()
    }

    /// Lets a layer have another's tar-split stream, if that has one: it depends on the content alone.
    fn share_tar_split(&self, from: &LayerId, to: &LayerId) -> Result<(), FsError> {
        let layout = self.layout();
        let (from, to) = (layout.tar_split(from), layout.tar_split(to));
        if from == to || fs::stat(&to)?.is_some() {
            return Ok(());
        }
        let Some(stream) = fs::read(&from)? else {
            return Ok(());
        };
        let mut staged = self.stage()?;
        staged.write(&[stream])?;
        staged.publish(&to)
    }

    fn short_name(&self, layer_id: &LayerId) -> Result<String, FsError> {
        let known = &self.inner.short_names.0;
        let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = lock().get(layer_id) {
            return Ok(name.clone());
        }
        let name = dress::claim_short_name(&self.layout().short_names(), layer_id)?;
        lock().insert(layer_id.clone(), name.clone());
        Ok(name)
    }

    fn dress(&self, dir: &Path, place: &LayerPlace) -> Result<(), FsError> {
        let name = self.short_name(&place.layer_id)?;
        let below = place.below.iter().map(|layer_id| self.short_name(layer_id));
        let below = below.collect::<Result<Vec<_>, _>>()?;
        dress::dress(dir, &name, &below, || self.stage())
    }
}
