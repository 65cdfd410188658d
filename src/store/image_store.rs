//! The store as an additional image store of containers/storage: Podman, CRI-O and Buildah read `layers/` as it is.
//!
//! ```text
//! layers/overlay/<layer id>/{diff,merged,work,empty}/   the layer, and what old versions want beside it
//! layers/overlay/<layer id>/{link,lower}                its short name, and those of the layers below
//! layers/overlay/l/<short name> -> ../<layer id>/diff
//! layers/overlay-layers/<layer id>.tar-split.gz         how its tar stream is made again
//! layers/overlay-layers/{layers.json,layers.lock}       the list of layers, and the token by which readers see a new one
//! layers/overlay-images/{images.json,images.lock}       empty: images are each node's own
//! layers/entries/<name>                                 one line of the list, or of what will be on it
//! ```
//! A layer gets its short name, then its entry, then its directory; `layers.json` follows from the names in `entries` whose
//! directories are there, and from nothing else, so it can be made again at any time, and by any mirror. Sources:
//! facts/podman.md 1, 2 and 5; containers/storage `layers.go` (`Layer`) and `drivers/overlay/overlay.go`; containers/image
//! `storage_dest.go`, which looks a layer up by the digest of its blob, and then by its id.

mod dress;
mod entry;
mod list;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use entry::{Entry, EntryName};
pub use list::{EntryTexts, layer_list};

use crate::fs::{self, FsError, Published};
use crate::oci::{ChainLink, LayerId};
use crate::unpack::{self, Options, UnpackError};

use super::layout::Layout;
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

/// Has an entry listed whose directory is about to get its name, if that is to be first; returns when it is, or will not be.
pub type ListFirst<'a> = dyn Fn(&EntryName) + 'a;

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

    /// Writes the entry of a dressed layer, has it listed by `list` if that is to be first, and then gives the directory
    /// its name: so whoever lists entries later finds it, also if this process dies in between.
    ///
    /// # Errors
    /// Any errno; the entry is removed then, unless somebody else has published the layer.
    pub fn publish_dressed(
        &self,
        staged: StagedLayer,
        place: &LayerPlace,
        entry: &Entry,
        list: &ListFirst<'_>,
    ) -> Result<Published, FsError> {
        let name = EntryName::Layer(place.layer_id.clone());
        self.write_entry(&name, entry)?;
        list(&name);
        self.publish_layer(staged, &place.layer_id).inspect_err(|_| {
            let forget = || match self.has_layer(&place.layer_id)? {
                true => Ok(()),
                false => self.forget_layer(&place.layer_id),
            };
            if let Err(error) = forget() {
                let error = error.full_text();
                tracing::warn!(
                    error,
                    "the entry of a layer that is not published stays for a while"
                );
            }
        })
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
        list: &ListFirst<'_>,
    ) -> Result<(), UnpackError> {
        let name = EntryName::Layer(place.layer_id.clone());
        let is_there = self.has_layer(&place.layer_id)?;
        if is_there && self.read_or_remove_entry(&name)?.is_some() {
            return Ok(());
        }
        if !is_there {
            let staged = self.stage_layer()?;
            unpack::share(&self.layer_path(&record.layer_id), &staged.diff(), options)?;
            self.dress_layer(&staged, place)?;
            self.share_tar_split(&record.layer_id, &place.layer_id)?;
            self.publish_dressed(staged, place, entry, list)?;
            return Ok(());
        }
        // A layer that an earlier version published, or whose publisher died half-way.
        self.dress(&self.layout().layer(&place.layer_id), place)?;
        self.share_tar_split(&record.layer_id, &place.layer_id)?;
        Ok(self.write_entry(&name, entry)?)
    }

    /// Returns the directory that containers/storage takes for an additional image store, of the store at `root`.
    pub fn image_store_path(root: &Path) -> PathBuf {
        Layout::new(root).image_store()
    }

    /// Removes the entry of a layer whose directory is gone.
    pub(super) fn forget_layer(&self, layer_id: &LayerId) -> Result<(), FsError> {
        fs::remove(&self.layout().entry(&EntryName::Layer(layer_id.clone())))
    }

    /// Tells whether the directory of an entry is there; an alias needs none.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn is_complete(&self, name: &EntryName) -> Result<bool, FsError> {
        match name {
            EntryName::Layer(layer_id) => self.has_layer(layer_id),
            EntryName::Alias(_) => Ok(true),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::chain::chain;
    use crate::oci::{Algorithm, DiffId, Digest};
    use crate::store::blob::Compression;
    use crate::unpack::{Compromises, Limits};

    fn links(seeds: &[&str]) -> Vec<ChainLink> {
        let digest = |seed: &&str| DiffId::new(Digest::of(Algorithm::Sha256, seed.as_bytes()));
        chain(&seeds.iter().map(digest).collect::<Vec<_>>())
    }

    fn options() -> Options {
        Options {
            abilities: std::sync::Arc::default(),
            writers: 2,
            user_opaque: false,
            limits: Limits {
                max_layer_bytes: 1 << 20,
                max_entries: 100,
                max_zstd_window_bytes: 1 << 20,
            },
        }
    }

    fn record(link: &ChainLink, layer_id: &LayerId) -> ChainRecord {
        ChainRecord {
            layer_id: layer_id.clone(),
            diff_id: link.diff_id.clone(),
            parent: link.parent.clone(),
            blob: Digest::of(Algorithm::Sha256, b"blob"),
            blob_size_bytes: 4,
            size_bytes: 5,
            entries: 6,
            tree_digest: "x".to_owned(),
            compromises: Compromises::default(),
            expanded: false,
            root_is_implied: false,
        }
    }

    fn complete(store: &Store, links: &[ChainLink], index: usize, directory: &LayerId) -> EntryName {
        let place = LayerPlace::of(links, index);
        let record = record(&links[index], directory);
        let entry = Entry::of_layer(&place, &record, Compression::Gzip);
        store
            .complete_layer(&place, &entry, &record, &options(), &|_| ())
            .unwrap();
        EntryName::Layer(place.layer_id)
    }

    fn publish(store: &Store, links: &[ChainLink], index: usize) -> EntryName {
        let staged = store.stage_layer().unwrap();
        std::fs::create_dir(staged.diff().join("dir")).unwrap();
        std::fs::write(
            staged.diff().join("dir/file"),
            &links[index].layer_id.as_str()[..4],
        )
        .unwrap();
        store.dress_layer(&staged, &LayerPlace::of(links, index)).unwrap();
        store.publish_layer(staged, &links[index].layer_id).unwrap();
        complete(store, links, index, &links[index].layer_id)
    }

    fn entries(store: &Store) -> EntryTexts {
        let names = store.entry_names().unwrap().into_iter();
        names
            .filter_map(|name| {
                store
                    .read_or_remove_entry(&name)
                    .unwrap()
                    .map(|text| (name, text))
            })
            .collect()
    }

    #[test]
    fn a_layer_has_beside_it_what_leads_to_the_layers_below() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let links = links(&["a", "b", "c"]);
        (0..3).for_each(|index| drop(publish(&store, &links, index)));
        let overlay = dir.path().join("layers/overlay");
        let read = |index: usize, name: &str| {
            std::fs::read_to_string(overlay.join(links[index].layer_id.as_str()).join(name)).unwrap()
        };
        let names: Vec<String> = (0..3).map(|index| read(index, "link")).collect();
        assert_eq!(read(2, "lower"), format!("l/{}:l/{}", names[1], names[0]));
        assert_eq!(read(1, "lower"), format!("l/{}", names[0]));
        for (index, name) in names.iter().enumerate() {
            let layer = overlay.join(links[index].layer_id.as_str());
            let diff = layer.join("diff").canonicalize().unwrap();
            assert_eq!(overlay.join("l").join(name).canonicalize().unwrap(), diff);
            assert!(layer.join("merged").is_dir() && layer.join("work").is_dir());
            assert_eq!(layer.join("lower").exists(), index > 0);
            assert_eq!(layer.join("empty").exists(), index == 0);
        }
    }

    #[test]
    fn a_layer_of_another_stack_gets_a_directory_that_shares_the_files() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) = (links(&["a", "b"]), links(&["c", "b"]));
        publish(&store, &one, 1);
        let name = complete(&store, &two, 1, &one[1].layer_id);
        let file = |link: &ChainLink| store.layer_path(&link.layer_id).join("dir/file");
        let inode = |link: &ChainLink| std::fs::metadata(file(link)).unwrap().ino();
        assert_eq!(inode(&one[1]), inode(&two[1]));
        let text = store.read_entry(&name).unwrap().unwrap();
        assert!(text.contains(two[0].layer_id.as_str()), "{text}");
    }

    #[test]
    fn the_list_follows_from_the_entries_and_a_damaged_one_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.prepare_image_store().unwrap();
        let token = || std::fs::read(dir.path().join("layers/overlay-layers/layers.lock")).unwrap();
        assert!(store.lists(&EntryTexts::new()).unwrap());
        let links = links(&["a", "b"]);
        let names = [publish(&store, &links, 0), publish(&store, &links, 1)];
        let (all, before) = (entries(&store), token());
        assert!(!store.lists(&all).unwrap());
        let identity = store.write_layer_list(&all).unwrap();
        assert_eq!(store.layer_list_identity().unwrap(), Some(identity));
        assert!(store.lists(&all).unwrap());
        assert!(before.len() == 64 && token().len() == 64 && token() != before);
        let list = std::fs::read(store.layout().layer_list()).unwrap();
        let list: Vec<serde_json::Value> = serde_json::from_slice(&list).unwrap();
        assert_eq!(list.len(), 2);

        let path = dir.path().join("layers/entries").join(names[0].to_string());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(store.read_entry(&names[0]).unwrap_err().operation(), "decode");
        // Also who completes the layer finds it damaged.
        complete(&store, &links, 0, &links[0].layer_id);
        assert_eq!(entries(&store).len(), 2);
        std::fs::write(store.layout().layer_list(), "[{").unwrap();
        assert!(!store.lists(&entries(&store)).unwrap());
        store.forget_layer(&links[0].layer_id).unwrap();
        assert_eq!(entries(&store).len(), 1);
    }
}
