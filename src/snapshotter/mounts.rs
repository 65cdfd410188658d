//! The mounts of a snapshot, and that every layer below it is there.
//!
//! An overlay with a layer too few is a container without its files, so that each layer's directory is looked at
//! before its mount is told; one that somebody has removed is asked from a mirror. Sources: containerd's
//! overlay snapshotter for which mounts it expects, and the kernel's `overlayfs.rst`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::error::SnapshotError;
use super::layers::{Found, LayerRoot, RootAttributes};
use super::local::Directories;
use super::proto::types::Mount;
use super::record::{Kind, Record, SharedLayer};
use super::shared::{NOT_SEEN, Wish};
use super::snapshots::Snapshots;
use crate::fs::FsError;
use crate::oci::ChainId;

/// What lies below a snapshot, the topmost first.
pub(super) struct Stack(Vec<LowerLayer>);

/// One layer, which is there.
struct LowerLayer {
    /// Its snapshot's, which names the short link.
    id: u64,
    path: PathBuf,
    root: RootAttributes,
}

impl Stack {
    /// Returns how the root directory of what lies on it is to look.
    pub(super) fn top(&self) -> Option<RootAttributes> {
        self.0.first().map(|layer| layer.root)
    }
}

impl Snapshots {
    /// Looks at every layer of a stack, the topmost first.
    ///
    /// # Errors
    /// Names the store if it is not there or does not answer, and the layer that no mirror can bring back.
    pub(super) async fn stack(&self, below: &[Record]) -> Result<Stack, SnapshotError> {
        let shared = below
            .iter()
            .filter_map(|record| record.shared().cloned())
            .collect();
        let on_store = self.on_store(shared).await?;
        let mut stack = Vec::with_capacity(below.len());
        let mut paths = HashSet::new();
        for record in below {
            let (path, root) = match record.shared() {
                // A layer that is not found is never left out.
                Some(layer) => {
                    on_store
                        .get(&layer.chain_id)
                        .cloned()
                        .ok_or_else(|| SnapshotError::LayerGone {
                            chain_id: layer.chain_id.clone(),
                            path: self.inner.layers.root().to_owned(),
                            why: "it was not looked for".to_owned(),
                        })?
                }
                None => self.local_layer(record)?,
            };
            // overlayfs refuses a directory that is in the stack twice; the topmost one hides the same below.
            if paths.insert(path.clone()) {
                let id = record.id;
                stack.push(LowerLayer { id, path, root });
            }
        }
        Ok(Stack(stack))
    }

    fn local_layer(&self, record: &Record) -> Result<(PathBuf, RootAttributes), SnapshotError> {
        let path = self.inner.directories.files(record.id);
        match RootAttributes::of(&path)? {
            Some(root) => Ok((path, root)),
            None => Err(FsError::new("stat", &path, std::io::ErrorKind::NotFound.into()).into()),
        }
    }

    /// Finds the directories of layers; those that were removed are asked from a mirror.
    async fn on_store(
        &self,
        layers: Vec<SharedLayer>,
    ) -> Result<HashMap<ChainId, (PathBuf, RootAttributes)>, SnapshotError> {
        if layers.is_empty() {
            return Ok(HashMap::new());
        }
        let ids = layers.iter().map(|layer| layer.layer_id.clone()).collect();
        let roots = self.inner.layers.look(ids).await?;
        let mut found = HashMap::with_capacity(layers.len());
        for (layer, LayerRoot { path, attributes }) in layers.into_iter().zip(roots) {
            let root = match attributes {
                Some(attributes) => (path, attributes),
                None => self.bring_back(&layer.chain_id, path).await?,
            };
            found.insert(layer.chain_id, root);
        }
        Ok(found)
    }

    /// Lets a mirror extract a layer again whose directory somebody has removed.
    async fn bring_back(
        &self,
        chain_id: &ChainId,
        path: PathBuf,
    ) -> Result<(PathBuf, RootAttributes), SnapshotError> {
        tracing::warn!(%chain_id, path = %path.display(), "a layer in use is not on the store any more");
        let wish = Wish::of_chain(chain_id);
        let asked = self
            .inner
            .materialise(&wish, self.inner.bounds.prepare_wait)
            .await;
        let gone = |why: String| SnapshotError::LayerGone {
            chain_id: chain_id.clone(),
            path: path.clone(),
            why,
        };
        let record = match self.inner.layers.find(chain_id).await? {
            Found::Ready(record) => record,
            Found::Gone(_) | Found::NotThere => {
                return Err(gone(asked.err().unwrap_or_else(|| NOT_SEEN.to_owned())));
            }
        };
        // Extracted anew, it may have another place.
        let layer_id = record.layer_id.clone();
        let (moved_chain, moved_layer) = (chain_id.clone(), layer_id.clone());
        self.on_disk(move |inner| inner.move_layer(&moved_chain, &moved_layer))
            .await?;
        let root = self.inner.layers.look(vec![layer_id]).await?.pop();
        match root {
            Some(LayerRoot {
                path,
                attributes: Some(attributes),
            }) => Ok((path, attributes)),
            _ => Err(gone(NOT_SEEN.to_owned())),
        }
    }
}

/// Returns a snapshot's mounts; its links are made if they are not there.
pub(super) fn of(
    directories: &Directories,
    record: &Record,
    stack: &Stack,
) -> Result<Vec<Mount>, SnapshotError> {
    let is_active = record.kind == Kind::Active;
    let files = directories.files(record.id);
    match stack.0.as_slice() {
        // There is nothing to lay over another.
        [] => Ok(vec![bind(&files.display().to_string(), is_active)]),
        [only] if !is_active => Ok(vec![bind(&lower(directories, only)?, false)]),
        layers => {
            let mut options = Vec::new();
            if is_active {
                options.push(format!("workdir={}", directories.work(record.id).display()));
                options.push(format!("upperdir={}", files.display()));
            }
            let layers = layers.iter().map(|layer| lower(directories, layer));
            let layers: Vec<String> = layers.collect::<Result<_, FsError>>()?;
            options.push(format!("lowerdir={}", layers.join(":")));
            // The kernel's default may be on: it wants file handles of the lower layers, which the store's
            // file system need not have, and their number is part of what it records of an upper directory.
            options.push("index=off".to_owned());
            Ok(vec![Mount {
                r#type: "overlay".to_owned(),
                source: "overlay".to_owned(),
                target: String::new(),
                options,
            }])
        }
    }
}

/// Names a layer by its short link, and makes that if it is not there.
///
/// BuildKit walks through the directories that mounts name, and a walk ends at a link: the slash makes it the
/// directory. It also compares them, so that a layer has the same name in all mounts.
fn lower(directories: &Directories, layer: &LowerLayer) -> Result<String, FsError> {
    let link = directories.link(layer.id, &layer.path)?;
    Ok(format!("{}/", link.display()))
}

fn bind(source: &str, is_writable: bool) -> Mount {
    let access = if is_writable { "rw" } else { "ro" };
    Mount {
        r#type: "bind".to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}
