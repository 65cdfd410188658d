//! The store: wharf's directory on the shared file system.
//!
//! ```text
//! <store>/
//!   wharf.json                                   format version and store id
//!   blobs/<algorithm>/<xx>/<hex>                 verified bytes as upstream served them
//!   tags/<host>/<repository>/_tags/<tag>/<record>        which digest a tag had when it was asked
//!   tags/<host>/<repository>/_referrers/<digest>/<record>  the same for a list of referrers
//!   tags/<host>/<repository>/_manifests/<digest>         an empty mark: this manifest was fetched from there
//!   tags/<host>/_sent/<digest>                   an empty mark: this host sent these bytes
//!   layers/overlay/<layer id>/diff/              an extracted layer; the name above it appears with all that is in it
//!   chains/<algorithm>/<ChainID hex>/dir         the record of a stack's topmost layer: its directory is there
//!   diffs/<algorithm>/<DiffID hex>/<ChainID>     an empty mark: this chain's layer has that DiffID, and can be shared
//!   staging/work/<owner>/<random>                work in progress of one process, touched by no other
//! ```
//! (`_` starts no component of a repository's name.) Nothing under a final name is partial or
//! unverified, and nothing that was published changes. Everything here blocks; callers go through
//! [`crate::fs::Disk`]. Leaves to others: whom to ask for what is not there (`crate::mirror`).

mod blob;
mod chain;
mod format;
mod layer;
mod layout;
mod owner;
mod record;
mod repository;

use std::path::Path;
use std::sync::Arc;

pub use blob::StoredBlob;
pub use chain::{ChainRecord, StackError};
pub use format::OpenStoreError;
pub use layer::StagedLayer;
pub use record::{Record, Subject};

use crate::fs::FsError;
use layout::Layout;
use owner::WorkDir;

/// An open store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<StoreInner>,
}

struct StoreInner {
    layout: Layout,
    /// `None` of a store that is only read.
    work: Option<WorkDir>,
}

impl Store {
    /// Opens the store at `root`, makes it if it is not there, and clears what dead processes of this host left.
    ///
    /// # Errors
    /// Fails if the directory cannot be made or written, or has another format.
    pub fn open(root: &Path) -> Result<Self, OpenStoreError> {
        let layout = Layout::new(root);
        format::open_or_make(&layout)?;
        owner::clear_dead(&layout);
        let work = Some(WorkDir::open(&layout)?);
        Ok(Self {
            inner: Arc::new(StoreInner { layout, work }),
        })
    }

    /// Opens the store at `root` to read it: nothing is made, nothing cleared, and what would write fails.
    ///
    /// # Errors
    /// Fails if it is not there, or has another format.
    pub fn open_read_only(root: &Path) -> Result<Self, OpenStoreError> {
        let layout = Layout::new(root);
        format::check(&layout)?;
        Ok(Self {
            inner: Arc::new(StoreInner { layout, work: None }),
        })
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    /// Tells whether the store's directory is there and answers.
    ///
    /// # Errors
    /// Any errno, ENOENT too.
    pub fn check(&self) -> Result<(), FsError> {
        let path = self.layout().format_file();
        match crate::fs::stat(&path)? {
            Some(_) => Ok(()),
            None => Err(FsError::new("stat", &path, std::io::ErrorKind::NotFound.into())),
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
