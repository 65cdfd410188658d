//! The store as a node sees it: read-only, at times slow, and at times not there.
//!
//! A file system that is not mounted shows an empty directory: then a layer's absence says nothing. So wherever
//! something is missing, the store's own file is looked for before that is believed. The store is opened anew after
//! it was gone, and it must be the one that this node's snapshots are of.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::StoreTrouble;
use crate::api::{NodeId, NodeStatement};
use crate::fs::{Disk, FsError};
use crate::oci::{ChainId, Digest, LayerId};
use crate::store::{ChainRecord, OpenStoreError, Store};

/// Where the store's id is kept.
const STORE_ID: &str = "store-id";

/// The store, for this node's snapshots. Cheap to clone.
#[derive(Clone)]
pub struct StoreLayers {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    disk: Disk,
    /// Of which store this node's snapshots are.
    facts: sled::Tree,
    opened: Mutex<Option<Store>>,
    /// The last call failed, and the log has said so.
    fails: AtomicBool,
}

/// What the store has of a stack's topmost layer.
#[derive(Debug)]
pub(super) enum Found {
    Ready(ChainRecord),
    /// The record is there, and the directory was removed by somebody.
    Gone(PathBuf),
    NotThere,
}

/// A layer's directory.
#[derive(Clone, Debug)]
pub(super) struct LayerRoot {
    pub(super) path: PathBuf,
    /// `None` if it is not there.
    pub(super) attributes: Option<RootAttributes>,
}

/// What an overlay's root directory takes from its topmost layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RootAttributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl RootAttributes {
    /// Reads those of a directory; `None` if it is not there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, FsError> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self {
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
            })),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FsError::new("stat", path, source)),
        }
    }
}

impl StoreLayers {
    /// Takes the store at `root`, which need not be there yet; each call to it may take `deadline`.
    ///
    /// # Errors
    /// Fails if `records` cannot be read.
    pub fn new(root: &Path, deadline: Duration, records: &sled::Db) -> Result<Self, sled::Error> {
        Ok(Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                disk: Disk::new(deadline),
                facts: records.open_tree("store")?,
                opened: Mutex::default(),
                fails: AtomicBool::new(false),
            }),
        })
    }

    /// Looks whether the store is there; the log says if it is not.
    pub async fn check(&self) {
        // Why is in the log.
        let _ = self.ask("look at", Store::check).await;
    }

    /// Returns the store's directory.
    pub(super) fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Looks for a stack's topmost layer.
    ///
    /// # Errors
    /// That the store is not there or does not answer, and that a record is damaged.
    pub(super) async fn find(&self, chain_id: &ChainId) -> Result<Found, StoreTrouble> {
        let chain_id = chain_id.clone();
        self.ask("look for a layer in", move |store| {
            let Some(record) = store.chain(&chain_id)? else {
                return confirm(store, Found::NotThere);
            };
            let path = store.layer_path(&record.layer_id);
            match RootAttributes::of(&path)? {
                Some(_) => Ok(Found::Ready(record)),
                None => confirm(store, Found::Gone(path)),
            }
        })
        .await
    }

    /// Looks at the directories of layers.
    ///
    /// # Errors
    /// As [`StoreLayers::find`].
    pub(super) async fn look(&self, layers: Vec<LayerId>) -> Result<Vec<LayerRoot>, StoreTrouble> {
        self.ask("look at layers in", move |store| {
            let look = |layer_id: &LayerId| {
                let path = store.layer_path(layer_id);
                let attributes = RootAttributes::of(&path)?;
                Ok(LayerRoot { path, attributes })
            };
            let roots: Vec<LayerRoot> = layers.iter().map(look).collect::<Result<_, FsError>>()?;
            let is_whole = roots.iter().all(|root| root.attributes.is_some());
            if is_whole {
                Ok(roots)
            } else {
                confirm(store, roots)
            }
        })
        .await
    }

    /// Returns where a blob is, and its size in bytes; `None` if the store does not have it.
    ///
    /// # Errors
    /// As [`StoreLayers::find`].
    pub(super) async fn blob(&self, digest: &Digest) -> Result<Option<(PathBuf, u64)>, StoreTrouble> {
        let digest = digest.clone();
        self.ask("look for a blob in", move |store| {
            let size_bytes = store.stat_blob(&digest)?;
            Ok(size_bytes.map(|size_bytes| (store.blob_path(&digest), size_bytes)))
        })
        .await
    }

    /// Returns what a mirror has written down that this node uses.
    ///
    /// # Errors
    /// As [`StoreLayers::find`].
    pub(super) async fn stated(&self, id: &NodeId) -> Result<Option<NodeStatement>, StoreTrouble> {
        let id = id.clone();
        self.ask("look for a node's uses in", move |store| {
            let stated = store.node(&id)?;
            confirm(store, stated.map(|stated| stated.statement))
        })
        .await
    }

    /// Remembers which store this node's snapshots are of, from the first one on.
    pub(super) fn bind(&self) {
        let opened = self.opened().clone();
        let Some(store) = opened else { return };
        let facts = &self.inner.facts;
        let kept = match facts.contains_key(STORE_ID) {
            Ok(false) => facts
                .insert(STORE_ID, store.id().as_bytes())
                .and_then(|_| facts.flush()),
            known => known.map(|_| 0),
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "which store this node's snapshots are of is not kept");
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl Fn(&Store) -> Result<T, FsError> + Send + Sync + 'static,
    ) -> Result<T, StoreTrouble> {
        let answer = self.try_ask(what, call).await;
        self.tell(answer.as_ref().err());
        answer
    }

    async fn try_ask<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl Fn(&Store) -> Result<T, FsError> + Send + Sync + 'static,
    ) -> Result<T, StoreTrouble> {
        let call = Arc::new(call);
        let was_open = self.opened().is_some();
        let answer = self.try_once(what, Arc::clone(&call)).await;
        // What is gone is opened anew: another store may have come to be there, or this one again.
        if was_open && matches!(answer, Err(StoreTrouble::Missing { .. })) {
            return self.try_once(what, call).await;
        }
        answer
    }

    async fn try_once<T: Send + 'static>(
        &self,
        what: &'static str,
        call: Arc<impl Fn(&Store) -> Result<T, FsError> + Send + Sync + 'static>,
    ) -> Result<T, StoreTrouble> {
        let (root, opened) = (self.inner.root.clone(), self.opened().clone());
        let asked = self
            .inner
            .disk
            .run(what, &self.inner.root, move || {
                let store = match opened {
                    Some(store) => store,
                    None => match Store::open_read_only(&root) {
                        Ok(store) => store,
                        Err(error) => return Ok(Err(error)),
                    },
                };
                let answer = call(&store);
                Ok(Ok((store, answer)))
            })
            .await;
        let root = || self.inner.root.clone();
        let (store, answer) = asked
            .map_err(|error| StoreTrouble::of(root(), &error))?
            .map_err(|error: OpenStoreError| StoreTrouble::of_opening(root(), &error))?;
        self.check_id(&store)?;
        let is_gone = answer.as_ref().is_err_and(FsError::is_missing);
        *self.opened() = (!is_gone).then_some(store);
        answer.map_err(|error| {
            if is_gone {
                StoreTrouble::Missing { root: root() }
            } else {
                StoreTrouble::of(root(), &error)
            }
        })
    }

    fn check_id(&self, store: &Store) -> Result<(), StoreTrouble> {
        let unreadable = |error: sled::Error| StoreTrouble::Unusable {
            root: self.inner.root.clone(),
            reason: format!("this node's records cannot be read: {error}"),
        };
        match self.inner.facts.get(STORE_ID).map_err(unreadable)? {
            Some(expected) if &*expected != store.id().as_bytes() => Err(StoreTrouble::Other {
                root: self.inner.root.clone(),
                expected: String::from_utf8_lossy(&expected).into_owned(),
                found: store.id().to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Option<Store>> {
        self.inner.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once that the store fails, and once that it does no more.
    fn tell(&self, trouble: Option<&StoreTrouble>) {
        let failed = self.inner.fails.swap(trouble.is_some(), Ordering::AcqRel);
        match trouble {
            Some(trouble) if !failed => tracing::warn!(
                error = %trouble,
                "layers cannot be had from the store: until it is back, images are unpacked on this node if none of their \
                 layers is of the store, and what has layers of the store does not start"
            ),
            None if failed => tracing::info!(store = %self.inner.root.display(), "the store is back"),
            Some(_) | None => {}
        }
    }
}

/// Returns what was found in a store that is there.
///
/// # Errors
/// ENOENT if it is not.
fn confirm<T>(store: &Store, found: T) -> Result<T, FsError> {
    store.check().map(|()| found)
}
