//! The files of a node's image store, on its own disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::OpenError;
use crate::fs::{FsError, list, make_dirs, random_name, read, remove, sync_dir};

/// What follows a layer's id in the name of the file that re-makes its archive.
const TAR_SPLIT: &str = ".tar-split.gz";

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
        for part in [files.layers(), files.images()] {
            make_dirs(&part)?;
            files.clear_staged(&part)?;
        }
        files.clear_staged(dir)?;
        files.link_overlay()?;
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

    /// Makes the list what is given, of those layers; false if it is that already.
    ///
    /// A reader sees the old list or the new one, and each layer's link before and as long as it is listed.
    pub(super) fn write(&self, content: &[u8], layers: &BTreeSet<String>) -> Result<bool, FsError> {
        let linked = self.linked()?;
        for layer in layers.difference(&linked) {
            self.link_tar_split(layer)?;
        }
        let is_changed = read(&self.list())?.as_deref() != Some(content);
        if is_changed {
            self.replace(&self.list(), content)?;
            renew(&self.layers_lock())?;
        }
        for layer in linked.difference(layers) {
            remove(&self.tar_split(layer))?;
        }
        Ok(is_changed)
    }

    fn layers(&self) -> PathBuf {
        self.dir.join("overlay-layers")
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

    fn tar_split(&self, layer: &str) -> PathBuf {
        self.layers().join(format!("{layer}{TAR_SPLIT}"))
    }

    /// Returns the layers that have a link.
    fn linked(&self) -> Result<BTreeSet<String>, FsError> {
        let names = list(&self.layers())?;
        let layer = |name: &String| name.strip_suffix(TAR_SPLIT).map(str::to_owned);
        Ok(names.iter().filter_map(layer).collect())
    }

    fn link_tar_split(&self, layer: &str) -> Result<(), FsError> {
        let name = format!("{layer}{TAR_SPLIT}");
        let target = self.source.join("overlay-layers").join(&name);
        let path = self.tar_split(layer);
        symlink(target, &path).map_err(|source| FsError::new("link", &path, source))
    }

    /// Leads `overlay` to this store, also if it led to another.
    fn link_overlay(&self) -> Result<(), FsError> {
        let path = self.dir.join("overlay");
        let target = self.source.join("overlay");
        if std::fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        // The links that are there lead to the other store, or nowhere.
        for layer in self.linked()? {
            remove(&self.tar_split(&layer))?;
        }
        let staged = self.staged(&self.dir);
        let linked = symlink(&target, &staged).and_then(|()| std::fs::rename(&staged, &path));
        linked.map_err(|source| FsError::new("link", &path, source))
    }

    /// Replaces a file by one rename, durably.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), FsError> {
        let dir = path.parent().unwrap_or(&self.dir);
        let staged = self.staged(dir);
        let written = write_new(&staged, content).and_then(|()| {
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
    let foreign = |path: PathBuf| Err(OpenError::Foreign { path });
    let overlay = dir.join("overlay");
    match overlay.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => return Ok(()),
        Ok(_) => return foreign(overlay),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => return foreign(dir.to_owned()),
        Err(source) => return Err(FsError::new("stat", &overlay, source).into()),
    }
    // A first start may have ended half-way: what it makes before the link.
    let is_ours = |name: &String| {
        name.starts_with(STAGED)
            || matches!(name.as_str(), "overlay-layers" | "overlay-images" | "lost+found")
    };
    match list(dir)?.into_iter().find(|name| !is_ours(name)) {
        Some(name) => foreign(dir.join(name)),
        None => Ok(()),
    }
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

fn write_new(path: &Path, content: &[u8]) -> Result<(), FsError> {
    let error = |operation| move |source| FsError::new(operation, path, source);
    let mut file = File::create_new(path).map_err(error("create"))?;
    file.write_all(content).map_err(error("write"))?;
    file.sync_all().map_err(error("sync"))
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
