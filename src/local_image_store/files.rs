//! The files of a node's image store, on its own disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::OpenError;
use crate::fs::{FsError, create_new, list, make_dirs, random_name, read, remove, sync_dir};
use crate::oci::LayerId;

/// What follows a layer's id in the name of the file that re-makes its archive.
const TAR_SPLIT: &str = ".tar-split.gz";

/// The directories of the layers, and of what is known of them; in the store they have the same names.
const OVERLAY: &str = "overlay";
const LAYERS: &str = "overlay-layers";

/// What leads to the store's layers. The links of layers go through it and not straight there: Podman 4.3 maps ids by
/// mounting `overlay` elsewhere, and would find the layers with nobody as their owner; so it finds none, and says so.
const SOURCE: &str = "layers";

/// The directory of the layers' short names, in the one of the layers.
const SHORT_NAMES: &str = "l";

/// What staged files and links begin with.
const STAGED: &str = ".wharf-";

/// The files, while this process keeps them.
pub(super) struct Files {
    dir: PathBuf,
    /// The image store within the store.
    source: PathBuf,
    /// The lock ends with it.
    _lock: File,
}

/// What is in the place of layers.
#[derive(Default)]
struct Found {
    linked: BTreeSet<String>,
    /// What is no link, and so not wharf's.
    foreign: BTreeSet<String>,
}

/// What writing the list has come to.
pub(super) struct Written {
    /// False if the list was that already.
    pub(super) is_changed: bool,
    /// Layers in whose place Podman has put a directory of its own.
    pub(super) foreign: BTreeSet<String>,
}

impl Files {
    /// Makes what is missing, and returns the list that is there.
    pub(super) fn open(dir: &Path, source: PathBuf) -> Result<(Self, Vec<u8>), OpenError> {
        refuse_foreign(dir)?;
        make_dirs(dir)?;
        let files = Self {
            dir: dir.to_owned(),
            source,
            _lock: lock(dir)?,
        };
        for part in [files.layers(), files.images(), files.overlay()] {
            make_dirs(&part)?;
            files.clear_staged(&part)?;
        }
        files.clear_staged(dir)?;
        files.link_source()?;
        let list = match read(&files.list())? {
            Some(list) => list,
            None => {
                files.replace(&files.list(), b"[]\n")?;
                Vec::new()
            }
        };
        let images = files.images().join("images.json");
        if read(&images)?.is_none() {
            files.replace(&images, b"[]\n")?;
        }
        for lock in [files.images().join("images.lock"), files.layers_lock()] {
            // Whoever finds it empty never notices a change, or sees one each time.
            if crate::fs::stat(&lock)? != Some(64) {
                renew(&lock)?;
            }
        }
        Ok((files, list))
    }

    /// Makes the list what is given, of those layers.
    ///
    /// Directories that Podman has put in the place of links are left alone: they are Podman's, and hold what it made.
    /// A reader sees the old list or the new one. A layer has its links as soon as it is listed and not before: of one that
    /// is there and not listed, containers/storage believes that a killed process has left it, and a pull fails that
    /// cannot remove it.
    pub(super) fn write(&self, content: &[u8], layers: &BTreeSet<String>) -> Result<Written, FsError> {
        let Found { linked, foreign } = self.found()?;
        let is_changed = read(&self.list())?.as_deref() != Some(content);
        if is_changed {
            self.replace(&self.list(), content)?;
            renew(&self.layers_lock())?;
        }
        for layer in layers.difference(&linked) {
            self.link(layer)?;
        }
        for layer in linked.difference(layers) {
            self.unlink(layer)?;
        }
        Ok(Written { is_changed, foreign })
    }

    fn layers(&self) -> PathBuf {
        self.dir.join(LAYERS)
    }

    fn images(&self) -> PathBuf {
        self.dir.join("overlay-images")
    }

    fn list(&self) -> PathBuf {
        self.layers().join("layers.json")
    }

    fn layers_lock(&self) -> PathBuf {
        self.layers().join("layers.lock")
    }

    pub(super) fn overlay(&self) -> PathBuf {
        self.dir.join(OVERLAY)
    }

    /// Returns what is in the place of layers.
    fn found(&self) -> Result<Found, FsError> {
        let dir = self.overlay();
        let error = |source| FsError::new("list", &dir, source);
        let mut found = Found::default();
        for entry in std::fs::read_dir(&dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            let kind = entry.file_type().map_err(error)?;
            match entry.file_name().into_string() {
                Ok(name) if name == SHORT_NAMES => {}
                Ok(name) if kind.is_symlink() => drop(found.linked.insert(name)),
                Ok(name) => drop(found.foreign.insert(name)),
                // No layer's name; what it is was looked at when this was opened.
                Err(_) => {}
            }
        }
        Ok(found)
    }

    fn link(&self, layer: &str) -> Result<(), FsError> {
        let tar_split = format!("{layer}{TAR_SPLIT}");
        let of_layer = Path::new("..").join(SOURCE).join(layer);
        // The layer last: one that has it has both.
        for (part, name, target) in [
            (LAYERS, &*tar_split, self.source.join(LAYERS).join(&tar_split)),
            (OVERLAY, layer, of_layer),
        ] {
            let path = self.dir.join(part).join(name);
            match symlink(target, &path) {
                Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                    return Err(FsError::new("link", &path, source));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn unlink(&self, layer: &str) -> Result<(), FsError> {
        remove(&self.layers().join(format!("{layer}{TAR_SPLIT}")))?;
        remove(&self.overlay().join(layer))
    }

    /// Leads to this store's layers, and drops all links if they led to another store's.
    fn link_source(&self) -> Result<(), FsError> {
        let is_new = self.lead(&self.dir.join(SOURCE), &self.source.join(OVERLAY))?;
        if is_new {
            for layer in self.found()?.linked {
                self.unlink(&layer)?;
            }
        }
        let short_names = Path::new("..").join(SOURCE).join(SHORT_NAMES);
        self.lead(&self.overlay().join(SHORT_NAMES), &short_names)?;
        Ok(())
    }

    /// Makes a link lead there; false if it does so already.
    fn lead(&self, path: &Path, target: &Path) -> Result<bool, FsError> {
        if std::fs::read_link(path).is_ok_and(|found| found == target) {
            return Ok(false);
        }
        let staged = self.staged(&self.dir);
        let linked = symlink(target, &staged).and_then(|()| std::fs::rename(&staged, path));
        linked.map_err(|source| FsError::new("link", path, source))?;
        Ok(true)
    }

    /// Replaces a file by one rename, durably.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), FsError> {
        let dir = path.parent().unwrap_or(&self.dir);
        let staged = self.staged(dir);
        let written = create_new(&staged, content).and_then(|()| {
            std::fs::rename(&staged, path).map_err(|source| FsError::new("rename", path, source))
        });
        if written.is_err() {
            // The failure before it is what matters; the next process removes it.
            let _ = remove(&staged);
        }
        written?;
        sync_dir(dir)
    }

    fn staged(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{STAGED}{}", random_name()))
    }

    /// Removes what a process that ended half-way has left; with the lock held there is no other.
    fn clear_staged(&self, dir: &Path) -> Result<(), FsError> {
        let names = list(dir)?;
        let mut staged = names.iter().filter(|name| name.starts_with(STAGED));
        staged.try_for_each(|name| remove(&dir.join(name)))
    }
}

/// Refuses a directory that holds layers or images of its own, such as Podman's.
fn refuse_foreign(dir: &Path) -> Result<(), OpenError> {
    let entries = |dir: &Path| match std::fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Err(OpenError::Foreign { path: dir.to_owned() })
        }
        Err(source) => Err(FsError::new("list", dir, source).into()),
    };
    let is_ours = |name: &str| {
        name.starts_with(STAGED)
            || matches!(name, LAYERS | "overlay-images" | OVERLAY | SOURCE | "lost+found")
    };
    for entry in entries(dir)?.into_iter().flatten() {
        let entry = entry.map_err(|source| FsError::new("list", dir, source))?;
        if !is_ours(&entry.file_name().to_string_lossy()) {
            return Err(OpenError::Foreign { path: entry.path() });
        }
    }
    let source = dir.join(SOURCE);
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    if source.symlink_metadata().is_ok() && !is_link(&source) {
        return Err(OpenError::Foreign { path: source });
    }
    // What this program puts there is links. A Podman that makes a layer itself replaces the layer's link by a directory;
    // beside the link to the store's layers, which Podman never makes, it is such a one.
    let is_of_podman = |entry: &std::fs::DirEntry| {
        entry.file_type().is_ok_and(|kind| kind.is_dir())
            && entry.file_name().to_str().and_then(LayerId::parse).is_some()
            && is_link(&source)
    };
    for entry in entries(&dir.join(OVERLAY))?.into_iter().flatten() {
        let entry = entry.map_err(|source| FsError::new("list", dir, source))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) && !is_of_podman(&entry) {
            return Err(OpenError::Foreign { path: entry.path() });
        }
    }
    Ok(())
}

/// Locks the directory for this process, by a lock that Podman does not use.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let file = File::open(dir).map_err(|source| FsError::new("open", dir, source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Kept { dir: dir.to_owned() }),
        Err(errno) => Err(FsError::new("lock", dir, errno.into()).into()),
    }
}

/// Writes other 64 bytes into a lock file, in place: readers hold locks on it.
fn renew(path: &Path) -> Result<(), FsError> {
    let error = |operation| move |source| FsError::new(operation, path, source);
    let mut options = File::options();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(error("open"))?;
    let token: String = (0..4).map(|_| random_name()).collect();
    file.write_all_at(token.as_bytes(), 0).map_err(error("write"))?;
    file.set_len(token.len() as u64).map_err(error("cut"))
}
