//! Which image store a node reads: the one on the store, or lists of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::StatVfsMountFlags;

use super::{Order, SetupError};
use crate::fs::{self, BareDir, Mount, Place};
use crate::setup::{EmptyFile, ImageStore};
use crate::store::Store;
use crate::telemetry::full_text;

/// Without these Podman fails on every command while the store is not mounted.
const LOCKS: [&str; 2] = ["overlay-images/images.lock", "overlay-layers/layers.lock"];

/// What was chosen, and why, in words.
pub(super) struct Form {
    pub(super) kind: ImageStore,
    pub(super) reason: String,
}

impl Form {
    /// Chooses what is asked for, else what is set up already, else what the store's file system is fit for.
    pub(super) fn choose(order: &Order, before: Option<ImageStore>) -> Self {
        if let Some(kind) = order.image_store {
            return Self::new(kind, "as asked for");
        }
        if let Some(kind) = before {
            return Self::new(
                kind,
                "as storage.conf has it already; --image-store chooses another",
            );
        }
        let store = &order.store;
        match Mount::of(store) {
            Ok(mount) if is_store(store) => {
                let name = mount.kind.as_str();
                // What the mirrors have made first is what is locked.
                let has_locks = fs::takes_locks(&store.join("wharf.json")).unwrap_or(false);
                match (mount.kind.is_coherent(), has_locks) {
                    (true, true) => Self::new(
                        ImageStore::Shared,
                        &format!("{name} keeps files and locks in step"),
                    ),
                    (true, false) => Self::new(ImageStore::Local, &format!("{name} refuses locks here")),
                    (false, _) => Self::new(
                        ImageStore::Local,
                        &format!("{name} may show an old list for seconds, or refuse locks"),
                    ),
                }
            }
            _ => Self::new(
                ImageStore::Local,
                "no store is mounted here now that can be read, and this form works on every file system",
            ),
        }
    }

    fn new(kind: ImageStore, why: &str) -> Self {
        let what = match kind {
            ImageStore::Shared => "layers are looked up in the store's own lists (--image-store shared)",
            ImageStore::Local => {
                "layers are looked up in lists of this node, kept by `wharf agent --podman` (--image-store local)"
            }
        };
        Self {
            kind,
            reason: format!("{what}: {why}"),
        }
    }
}

/// Says what is wrong with the store of a node that reads the store's own lists, as it is seen here.
pub(super) fn shared_store_warning(store: &Path) -> Option<String> {
    let path = store.display();
    match Store::is_at(store) {
        Ok(true) => {
            let mount = Mount::of(store).ok()?;
            let is_read_only = mount.flags.contains(StatVfsMountFlags::RDONLY);
            (!is_read_only).then(|| {
                format!(
                    "{path} is writable here: `podman rmi` and failed pulls would remove and replace layers of all nodes. \
                     Mount it with ro,nosuid,nodev; where a mirror runs on this machine, make a read-only bind mount at \
                     another path (mount --bind -o ro,nosuid,nodev {path} OTHER) and name that one (--store OTHER)"
                )
            })
        }
        Ok(false) => Some(format!(
            "{path} is no store: it has no wharf.json, and Podman will find no layer there. Mount the store's file system \
             if it is not mounted, or name the store's own directory in it (--store DIR)"
        )),
        Err(error) => Some(format!(
            "{path} cannot be read as a store, and Podman may find no layer there: {}",
            full_text(&error)
        )),
    }
}

/// Refuses a directory for this node's own image store that lies in the store or in Podman's own storage, or they in it.
pub(super) fn refuse_overlap(order: &Order, graphroot: &Path) -> Result<(), SetupError> {
    let dir = &order.podman;
    for (other, what) in [
        (&*order.store, "the store"),
        (graphroot, "where Podman keeps its own images (graphroot)"),
    ] {
        let overlaps = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
        if overlaps(dir, other) || overlaps(&real(dir), &real(other)) {
            return Err(SetupError::ImageStore {
                dir: dir.clone(),
                other: other.to_owned(),
                what,
            });
        }
    }
    Ok(())
}

/// Follows the links in the part of a path that is there.
fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|there| {
        let below = path.strip_prefix(there).ok()?;
        Some(there.canonicalize().ok()?.join(below))
    });
    found.unwrap_or_else(|| path.to_owned())
}

fn is_store(root: &Path) -> bool {
    Store::is_at(root).unwrap_or(false)
}

/// Looks for the lock files in this node's own image store, which Podman wants to be there before the agent
/// has run.
pub(super) fn local_lock_files(order: &Order) -> Result<Vec<EmptyFile>, SetupError> {
    let look = |lock: &str| EmptyFile::look(order.podman.join(lock), None);
    LOCKS.into_iter().map(look).collect()
}

/// Looks for the lock files in the directory that the store is mounted on.
///
/// # Errors
/// Says what to do by hand, if it cannot be reached.
pub(super) fn lock_files(order: &Order) -> Result<Vec<EmptyFile>, String> {
    let image_store = Store::image_store_path(&order.store);
    let by_hand = |why: String| {
        let [images, layers] = LOCKS.map(|lock| image_store.join(lock).display().to_string());
        format!(
            "the directory under the mount cannot be reached ({why}): as root, while the store is not mounted, make \
             the empty files {images} and {layers}, or no podman command works whenever it is not"
        )
    };
    let under = if is_store(&order.store) {
        let path = order
            .store
            .canonicalize()
            .map_err(|error| by_hand(error.to_string()))?;
        match BareDir::under(&path) {
            Ok(Some(bare)) => Some((Arc::new(bare), Store::image_store_path(&path))),
            // On the root file system it is always there.
            Ok(None) => return Ok(Vec::new()),
            Err(error) => return Err(by_hand(full_text(&error))),
        }
    } else if is_local(&order.store) {
        None
    } else {
        return Err(by_hand(
            "something else is mounted there, or nothing can be read".to_owned(),
        ));
    };
    let look = |lock: &str| {
        let found = match &under {
            Some((bare, image_store)) => EmptyFile::look(image_store.join(lock), Some(Arc::clone(bare))),
            None => EmptyFile::look(image_store.join(lock), None),
        };
        found.map_err(|error| by_hand(full_text(&error)))
    };
    LOCKS.into_iter().map(look).collect()
}

/// Tells whether a path that may not be there yet would be on this machine's disk.
fn is_local(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    there.is_some_and(|path| Mount::of(path).is_ok_and(|mount| mount.kind.place() == Place::Local))
}
