//! Layer directories: staged in this process's work, published under their id by one rename.
//!
//! What is renamed is the directory that holds `diff`, so that whatever else a layer needs can be put
//! beside it before, and all of it appears at once. Its tar-split lies elsewhere, as containers/storage wants it, and
//! is there before.

use std::path::{Path, PathBuf};

use crate::fs::{self, FsError, Published};
use crate::oci::LayerId;

use super::Store;

/// A layer's directory in staging; dropped unpublished, it is removed off the async threads.
#[derive(Debug)]
pub struct StagedLayer {
    path: PathBuf,
    /// Its name is no more this guard's to remove.
    is_done: bool,
}

impl StagedLayer {
    /// Makes the directory, whose name must be free, and an empty `diff` in it.
    pub(super) fn create(path: PathBuf) -> Result<Self, FsError> {
        fs::make_new_dir(&path)?;
        let staged = Self { path, is_done: false };
        fs::make_new_dir(&staged.diff())?;
        Ok(staged)
    }

    /// Returns the directory that becomes the layer; it is there, and empty at first.
    pub fn diff(&self) -> PathBuf {
        self.path.join(super::layout::DIFF)
    }

    /// Returns the name that the layer's tar-split is to be written under; nothing is there yet.
    pub fn tar_split(&self) -> PathBuf {
        self.path.join(super::layout::STAGED_TAR_SPLIT)
    }

    /// Returns the directory that is published under the layer's id.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it on this thread.
    pub fn discard(mut self) {
        self.is_done = true;
        discard(&self.path);
    }
}

impl Drop for StagedLayer {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let path = std::mem::take(&mut self.path);
        match tokio::runtime::Handle::try_current() {
            // A million files take their time.
            Ok(runtime) => drop(runtime.spawn_blocking(move || discard(&path))),
            Err(_) => discard(&path),
        }
    }
}

fn discard(path: &Path) {
    if let Err(error) = fs::remove_tree(path) {
        tracing::warn!(
            error = error.full_text(),
            "a staged layer stays behind until the next start"
        );
    }
}

impl Store {
    /// Makes a directory of this process to extract a layer into.
    ///
    /// # Errors
    /// Any errno.
    pub fn stage_layer(&self) -> Result<StagedLayer, FsError> {
        self.work()?.stage_layer()
    }

    /// Publishes a staged layer, whose content is verified and durable, under its id: its tar-split, if it has one,
    /// then the directory.
    ///
    /// A tar-split that is there already stays: it makes the same stream of any directory of this id. If somebody else has
    /// published the layer before, theirs stays and this one is discarded.
    ///
    /// # Errors
    /// Any errno; nothing is published then.
    pub fn publish_layer(&self, mut staged: StagedLayer, layer_id: &LayerId) -> Result<Published, FsError> {
        let tar_split = staged.tar_split();
        if fs::stat(&tar_split)?.is_some() {
            fs::publish_file(&tar_split, &self.layout().tar_split(layer_id))?;
        }
        let target = self.layout().layer(layer_id);
        let published = fs::publish_dir(&staged.path, &target)?;
        staged.is_done = published == Published::Ours;
        Ok(published)
    }

    /// Returns the directory of a layer, whether it is there or not.
    pub fn layer_path(&self, layer_id: &LayerId) -> PathBuf {
        self.layout().layer_diff(layer_id)
    }

    /// Tells whether a layer's directory is there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn has_layer(&self, layer_id: &LayerId) -> Result<bool, FsError> {
        Ok(fs::stat(&self.layer_path(layer_id))?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::chain::chain;
    use crate::oci::{Algorithm, DiffId, Digest};

    fn layer_id(seed: &str) -> LayerId {
        let diff_id = DiffId::new(Digest::of(Algorithm::Sha256, seed.as_bytes()));
        chain(&[diff_id]).remove(0).layer_id
    }

    #[test]
    fn a_layer_appears_whole_under_its_id_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = layer_id("a");
        assert!(!store.has_layer(&id).unwrap());
        for (content, expected) in [("first", Published::Ours), ("second", Published::Theirs)] {
            let staged = store.stage_layer().unwrap();
            std::fs::write(staged.diff().join("file"), content).unwrap();
            let staging = staged.path.clone();
            assert_eq!(store.publish_layer(staged, &id).unwrap(), expected);
            assert!(!staging.exists());
        }
        assert_eq!(
            std::fs::read(store.layer_path(&id).join("file")).unwrap(),
            b"first"
        );
    }

    #[test]
    fn a_tar_split_is_published_beside_the_layers_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = layer_id("a");
        for content in ["first", "second"] {
            let staged = store.stage_layer().unwrap();
            std::fs::write(staged.tar_split(), content).unwrap();
            let staging = staged.path.clone();
            store.publish_layer(staged, &id).unwrap();
            assert!(!staging.exists());
        }
        let beside = dir.path().join("layers/overlay-layers");
        let tar_split = beside.join(format!("{}.tar-split.gz", id.as_str()));
        assert_eq!(std::fs::read(tar_split).unwrap(), b"first");
        assert_eq!(crate::fs::list(&store.layout().layer(&id)).unwrap(), ["diff"]);
    }

    #[test]
    fn a_staged_layer_that_is_dropped_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let staged = store.stage_layer().unwrap();
        std::fs::create_dir_all(staged.diff().join("a/b/c")).unwrap();
        let path = staged.path.clone();
        drop(staged);
        assert!(!path.exists());
    }
}
