//! The store: wharf's directory on the shared file system.
//!
//! ```text
//! <store>/
//!   wharf.json                                   format version, store id, what the file system can keep
//!   reference/                                   a file of each kind, for nodes to see whether they see it
//!   blobs/<algorithm>/<xx>/<hex>                 verified bytes as upstream served them
//!   tags/<host>/<repository>/_tags/<tag>/<record>        which digest a tag had when it was asked
//!   tags/<host>/<repository>/_referrers/<digest>/<record>  the same for a list of referrers
//!   tags/<host>/<repository>/_manifests/<digest>         an empty mark: this manifest was fetched from there
//!   tags/<host>/<repository>/_used/<digest>/<seconds>    an empty mark: this manifest was served then; the latest counts
//!   tags/<host>/_sent/<digest>                   an empty mark: this host sent these bytes
//!   layers/overlay/<layer id>/diff/              an extracted layer; the name above it appears with all that is in it
//!   layers/overlay-layers/<layer id>.tar-split.gz    what its directory lacks to make its tar stream again
//!   layers/…                                     the rest of an additional image store of containers/storage (`image_store`)
//!   chains/<algorithm>/<ChainID hex>/dir         the record of a stack's topmost layer: its directory is there
//!   chains/<algorithm>/<ChainID hex>/images/<digest>    the name of an image that has the stack
//!   diffs/<algorithm>/<DiffID hex>/<ChainID>     an empty mark: this chain's layer has that DiffID, and can be shared
//!   nodes/<node id>/<sequence>                   what a node has in use; the highest sequence counts
//!   staging/work/<owner>/<random>                work in progress of one process, touched by no other
//!   staging/claims/<what>/<generation>/          which mirror does what ([`crate::flight::Claims`])
//!   mirrors/<owner>/                             a mirror that runs, and its beats
//! ```
//! (`_` starts no component of a repository's name.) Nothing under a final name is partial or
//! unverified, and nothing that was published changes. Everything here blocks; callers go through
//! [`crate::fs::Disk`]. Leaves to others: whom to ask for what is not there (`crate::mirror`).

mod blob;
mod chain;
mod format;
mod image_store;
mod layer;
mod layout;
mod mirror;
mod node;
mod owner;
mod record;
mod reference;
mod repository;
mod stack_images;
mod used;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use blob::StoredBlob;
pub use chain::{ChainRecord, StackError};
pub use format::OpenStoreError;
pub use image_store::{Entry, EntryName, EntryTexts, LayerPlace, ListFirst, layer_list};
pub use layer::StagedLayer;
pub use mirror::SeenMirror;
pub use node::StatedNode;
pub use record::{Record, Subject};
pub use reference::Reference;

use crate::flight::Places;
use crate::fs::{Abilities, FsError, missing_privileges, probe};
use format::FormatFile;
use image_store::ShortNames;
use layout::Layout;
use owner::WorkDir;

/// An open store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<StoreInner>,
}

struct StoreInner {
    layout: Layout,
    id: String,
    /// `None` of a store that is only read.
    work: Option<WorkDir>,
    abilities: Option<Arc<Abilities>>,
    /// Of layers, for containers/storage.
    short_names: ShortNames,
    /// Removes what dead processes have left.
    clearing: Mutex<Option<JoinHandle<()>>>,
}

/// What a node's mount, which may be read-only, shows of a store.
#[derive(Clone, Debug)]
pub struct SeenStore {
    /// The store's id.
    pub id: String,
    /// What the store's file system can keep; `None` as long as nobody could find out.
    pub abilities: Option<Abilities>,
    /// Facts that this version does not know.
    pub unknown_facts: Vec<String>,
    /// What arrives of the marks of layers, if that is known.
    pub reference: Option<Reference>,
}

impl Store {
    /// Opens the store at `root`, makes it if it is not there, and clears what dead processes of this host left.
    ///
    /// Probes the file system if the store does not say what it can do, and this process has the privileges.
    ///
    /// # Errors
    /// Fails if the directory cannot be made or written, has another format, or facts that make no sense.
    pub fn open(root: &Path) -> Result<Self, OpenStoreError> {
        let layout = Layout::new(root);
        format::make_root(&layout)?;
        // What another version made is left alone.
        FormatFile::read(&layout)?;
        let clearing = Mutex::new(owner::clear_dead(&layout));
        let work = WorkDir::open(&layout)?;
        owner::clear_dead_claims(&layout, &work);
        let abilities = format::open_or_make(&layout, || probed(&layout, &work))?.map(Arc::new);
        let work = Some(work);
        let file = FormatFile::read(&layout)?.ok_or_else(|| missing(root))?;
        Ok(Self {
            inner: Arc::new(StoreInner {
                id: file.store_id().to_owned(),
                layout,
                work,
                clearing,
                abilities,
                short_names: ShortNames::default(),
            }),
        })
    }

    /// Removes what this process has staged, when nothing of it is wanted any more. Blocks.
    ///
    /// # Errors
    /// Any errno; the next process of this host removes the rest.
    pub fn discard_staging(&self) -> Result<(), FsError> {
        crate::fs::remove_tree(self.work()?.path())
    }

    /// Waits until what dead processes have left is removed. Blocks.
    pub fn wait_for_clearing(&self) {
        let clearing = self
            .inner
            .clearing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A panic in it is in the log.
        let _ = clearing.map(JoinHandle::join);
    }

    /// Opens the store at `root` to read it: nothing is made, nothing cleared, and what would write fails.
    ///
    /// # Errors
    /// Fails if it is not there, or has another format.
    pub fn open_read_only(root: &Path) -> Result<Self, OpenStoreError> {
        let layout = Layout::new(root);
        let file = FormatFile::read(&layout)?.ok_or_else(|| missing(root))?;
        let abilities = file.abilities(&layout.format_file())?.map(Arc::new);
        Ok(Self {
            inner: Arc::new(StoreInner {
                id: file.store_id().to_owned(),
                layout,
                work: None,
                clearing: Mutex::default(),
                abilities,
                short_names: ShortNames::default(),
            }),
        })
    }

    /// Tells whether there is a store at `root`, without making one.
    ///
    /// # Errors
    /// Fails if there is something else, or a store of another format.
    pub fn is_at(root: &Path) -> Result<bool, OpenStoreError> {
        Ok(FormatFile::read(&Layout::new(root))?.is_some())
    }

    /// Looks at a store without writing to it, as a node does; `None` if there is none.
    ///
    /// # Errors
    /// Fails if the store cannot be read, has another format, or facts that make no sense.
    pub fn look(root: &Path) -> Result<Option<SeenStore>, OpenStoreError> {
        let layout = Layout::new(root);
        let Some(file) = FormatFile::read(&layout)? else {
            return Ok(None);
        };
        let abilities = file.abilities(&layout.format_file())?;
        let examine = |abilities| reference::examine(&layout.reference(), abilities);
        let reference = match abilities.as_ref().map(examine).transpose() {
            Err(error) if error.is_missing() => None,
            seen => seen.map_err(|source| OpenStoreError::Unreadable {
                path: root.to_owned(),
                source,
            })?,
        };
        Ok(Some(SeenStore {
            id: file.store_id().to_owned(),
            unknown_facts: file.unknown_facts(),
            abilities,
            reference,
        }))
    }

    /// Returns what the store's file system can keep and do; `None` if nobody with the privileges has probed it.
    pub fn abilities(&self) -> Option<Arc<Abilities>> {
        self.inner.abilities.clone()
    }

    /// Returns the directory that is this process's alone, for what is tried out in the store.
    ///
    /// # Errors
    /// Fails if the store is open to be read only.
    pub(crate) fn work_dir(&self) -> Result<&Path, FsError> {
        Ok(self.work()?.path())
    }

    /// Returns the directories in which the mirrors of this store agree, and this process's name in them.
    ///
    /// # Errors
    /// Fails if the store is open to be read only.
    pub fn places(&self) -> Result<Places, FsError> {
        let (layout, work) = (self.layout(), self.work()?);
        let owner = work.path().file_name().unwrap_or_default();
        Ok(Places {
            claims: layout.claims(),
            mirrors: layout.mirrors(),
            work: layout.work(),
            // It was made as a text.
            owner: owner.to_string_lossy().into_owned(),
        })
    }

    /// Returns the id that the store got when it was made.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    /// Tells whether the store is there and answers: this one, and no other in its place.
    ///
    /// # Errors
    /// Any errno, ENOENT too, and as ENOENT that another store is there.
    pub fn check(&self) -> Result<(), FsError> {
        let path = self.layout().format_file();
        let missing = |source| FsError::new("find", &path, source);
        match format::id_of(&path)? {
            Some(id) if id == self.id() => Ok(()),
            Some(id) => {
                let text = format!("the store {id} is there, and not {}", self.id());
                Err(missing(std::io::Error::new(std::io::ErrorKind::NotFound, text)))
            }
            None => Err(missing(std::io::ErrorKind::NotFound.into())),
        }
    }

    fn work(&self) -> Result<&WorkDir, FsError> {
        let read_only = || {
            FsError::new(
                "write",
                self.root(),
                std::io::ErrorKind::ReadOnlyFilesystem.into(),
            )
        };
        self.inner.work.as_ref().ok_or_else(read_only)
    }

    fn layout(&self) -> &Layout {
        &self.inner.layout
    }
}

fn missing(root: &Path) -> OpenStoreError {
    OpenStoreError::Missing {
        path: root.to_owned(),
    }
}

/// Probes a store's file system and leaves the reference; `None`, and why in the log, if that is not possible.
fn probed(layout: &Layout, work: &WorkDir) -> Option<Abilities> {
    let missing = missing_privileges();
    if !missing.is_empty() {
        tracing::info!(
            missing = missing.join(", "),
            "what the store's file system can do is not known: probing it needs privileges"
        );
        return None;
    }
    let staged = work.path().join(crate::fs::random_name());
    let found = probe(work.path())
        .and_then(|found| reference::make(&layout.reference(), &staged, &found).map(|()| found));
    match found {
        Ok(found) => Some(found),
        Err(error) => {
            tracing::warn!(error = error.full_text(), "cannot probe the store's file system");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_that_make_a_store_together_go_by_the_same_facts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let barrier = std::sync::Barrier::new(4);
        let open = || {
            barrier.wait();
            Store::open(&root).unwrap()
        };
        let stores: Vec<Store> = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        let seen = Store::look(&root).unwrap().unwrap();
        for store in &stores {
            assert_eq!(store.abilities().as_deref(), seen.abilities.as_ref());
        }
        assert_eq!(seen.abilities.is_some(), missing_privileges().is_empty());
        assert_eq!(seen.reference.is_some(), seen.abilities.is_some());
        drop(stores);
        let left = std::fs::read_dir(root.join("staging/work")).unwrap().count();
        assert_eq!(left, 0, "what the losers made");
    }
}
