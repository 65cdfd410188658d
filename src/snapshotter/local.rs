//! What this node's disk holds of snapshots.
//!
//! ```text
//! <root>/
//!   snapshots/                   root's alone, as are the three below
//!   snapshots/<id>/record.json   the snapshot's record: what the directory is, if all else is lost
//!   snapshots/<id>/fs/           its files; of an active one, the overlay's upper directory
//!   snapshots/<id>/work/         overlayfs's own
//!   l/<id>                       a short link to a layer: `<id>` is that of its snapshot, local or on the store
//!   new/                         what is being made
//!   removing/                    what is being removed
//! ```
//! A hundred lower directories must fit into the one page of options that mount(2) takes; so they are named
//! by links, as Docker's overlay2 does. A snapshot's directory is made under another name and renamed, so that
//! it is never there without its record. No other user may reach a snapshot's files but through a container: a
//! container's root makes setuid programs there, which would be this node's root to whoever runs them
//! (CVE-2021-41103). An overlay's users need no way to its layers.

use std::collections::HashSet;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::fs::{self, FsError, random_name, remove_tree, sync_dir};

use super::layers::RootAttributes;
use super::record::{Kind, Record, Usage};
use super::records::encode;

const RECORD: &str = "record.json";

/// A new snapshot's root when there is nothing below to take it from.
const NEW_ROOT: RootAttributes = RootAttributes {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

/// The directories of local snapshots. Everything here blocks.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    root: PathBuf,
}

impl Directories {
    /// Makes what is missing below `root`, and removes what was being made or removed, as far as it can be.
    pub(super) fn open(root: &Path) -> Result<Self, FsError> {
        let directories = Self {
            root: root.to_owned(),
        };
        for dir in [
            directories.snapshots(),
            directories.links(),
            directories.staging(),
            directories.removing(),
        ] {
            make_dir(&dir, 0o700)?;
        }
        for left in [directories.staging(), directories.removing()] {
            if let Err(error) = empty(&left) {
                tracing::warn!(error = error.full_text(), "what an earlier agent left stays");
            }
        }
        Ok(directories)
    }

    /// Makes a snapshot's directory, durably; its root looks like that of what lies below.
    pub(super) fn create(&self, record: &Record, below: Option<RootAttributes>) -> Result<(), FsError> {
        let staged = self.staging().join(random_name());
        make_dir(&staged, 0o700)?;
        let created = self.fill(&staged, record, below.unwrap_or(NEW_ROOT));
        if created.is_err()
            && let Err(error) = remove_tree(&staged)
        {
            tracing::warn!(
                error = error.full_text(),
                "a half-made snapshot stays until the next start"
            );
        }
        created
    }

    fn fill(&self, staged: &Path, record: &Record, root: RootAttributes) -> Result<(), FsError> {
        let files = staged.join("fs");
        make_dir(&files, 0o700)?;
        std::os::unix::fs::chown(&files, Some(root.uid), Some(root.gid))
            .map_err(|source| FsError::new("change owner of", &files, source))?;
        // After chown, which takes the set-id bits away.
        std::fs::set_permissions(&files, std::fs::Permissions::from_mode(root.mode))
            .map_err(|source| FsError::new("change mode of", &files, source))?;
        if record.kind == Kind::Active {
            make_dir(&staged.join("work"), 0o711)?;
        }
        fs::create_new(&staged.join(RECORD), &encode(record)?)?;
        sync_dir(staged)?;
        let target = self.snapshot(record.id);
        rename(staged, &target)?;
        sync_dir(&self.snapshots())
    }

    /// Writes a snapshot's record anew, durably.
    pub(super) fn rewrite(&self, record: &Record) -> Result<(), FsError> {
        let dir = self.snapshot(record.id);
        let staged = self.staging().join(random_name());
        fs::create_new(&staged, &encode(record)?)?;
        rename(&staged, &dir.join(RECORD))?;
        sync_dir(&dir)
    }

    /// Returns the records that lie beside their snapshots; what has none loses its name, and goes with the next
    /// [`Directories::clear`].
    pub(super) fn scan(&self) -> Result<Vec<Record>, FsError> {
        let mut records = Vec::new();
        for name in fs::list(&self.snapshots())? {
            let dir = self.snapshots().join(&name);
            match read_record(&dir) {
                Ok(Some(record)) if self.snapshot(record.id) == dir => records.push(record),
                Ok(_) => self.discard(&dir)?,
                Err(error) => {
                    tracing::error!(
                        error = error.full_text(),
                        "a snapshot's record cannot be read: the snapshot is left alone, and unknown"
                    );
                }
            }
        }
        Ok(records)
    }

    /// Takes a snapshot's name away; [`Directories::clear`] removes what it had.
    pub(super) fn remove(&self, id: u64) -> Result<(), FsError> {
        fs::remove(&self.links().join(link_name(id)))?;
        let dir = self.snapshot(id);
        if fs::stat(&dir)?.is_none() {
            return Ok(());
        }
        self.discard(&dir)
    }

    fn discard(&self, dir: &Path) -> Result<(), FsError> {
        rename(dir, &self.removing().join(random_name()))
    }

    /// Removes what has lost its name.
    ///
    /// # Errors
    /// Names one of those that cannot be removed; the others are.
    pub(super) fn clear(&self) -> Result<(), FsError> {
        empty(&self.removing())
    }

    /// Returns the directory of a snapshot's files.
    pub(super) fn files(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("fs")
    }

    /// Returns overlayfs's own directory of a snapshot.
    pub(super) fn work(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("work")
    }

    /// Returns the short link of a snapshot, and sees to it that it leads to `target`.
    pub(super) fn link(&self, id: u64, target: &Path) -> Result<PathBuf, FsError> {
        let link = self.links().join(link_name(id));
        match std::fs::read_link(&link) {
            Ok(present) if present == target => return Ok(link),
            Ok(_) => {}
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(FsError::new("read link", &link, source)),
        }
        let staged = self.staging().join(random_name());
        symlink(target, &staged).map_err(|source| FsError::new("make link", &staged, source))?;
        rename(&staged, &link)?;
        Ok(link)
    }

    /// Counts what a snapshot's files take on the disk; a file with several names counts once.
    pub(super) fn usage(&self, id: u64) -> Result<Usage, FsError> {
        let mut usage = Usage::default();
        let mut linked = HashSet::new();
        let mut dirs = vec![self.files(id)];
        while let Some(dir) = dirs.pop() {
            let entries = match std::fs::read_dir(&dir) {
                Ok(entries) => entries,
                // A container that runs removes files meanwhile.
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(FsError::new("list", &dir, source)),
            };
            usage.inodes += 1;
            for entry in entries {
                let entry = entry.map_err(|source| FsError::new("list", &dir, source))?;
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    dirs.push(entry.path());
                } else if metadata.nlink() > 1 && !linked.insert(metadata.ino()) {
                    continue;
                } else {
                    usage.inodes += 1;
                }
                // stat(2) counts in units of 512 bytes.
                usage.size_bytes += metadata.blocks() * 512;
            }
        }
        Ok(usage)
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn snapshot(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    fn links(&self) -> PathBuf {
        self.root.join("l")
    }

    fn staging(&self) -> PathBuf {
        self.root.join("new")
    }

    fn removing(&self) -> PathBuf {
        self.root.join("removing")
    }
}

/// Removes all that is in a directory; what cannot be removed (a container may have made it immutable) keeps
/// nothing else.
fn empty(dir: &Path) -> Result<(), FsError> {
    let mut emptied = Ok(());
    for name in fs::list(dir)? {
        let path = dir.join(name);
        let removed = if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            remove_tree(&path)
        } else {
            fs::remove(&path)
        };
        emptied = emptied.and(removed);
    }
    emptied
}

fn link_name(id: u64) -> String {
    format!("{id:x}")
}

fn read_record(dir: &Path) -> Result<Option<Record>, FsError> {
    let path = dir.join(RECORD);
    let Some(text) = fs::read(&path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| FsError::new("decode", &path, error.into()))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), FsError> {
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(FsError::new("make directory", path, source))
        }
        // The umask may have taken bits away.
        Ok(()) | Err(_) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(|source| FsError::new("change mode of", path, source)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), FsError> {
    std::fs::rename(from, to).map_err(|source| FsError::new("rename", from, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_its_owner_reaches_the_files_of_a_snapshot() {
        let root = tempfile::tempdir().unwrap();
        // As an earlier version left it.
        make_dir(&root.path().join("snapshots"), 0o711).unwrap();
        let directories = Directories::open(root.path()).unwrap();
        let dirs = [
            directories.snapshots(),
            directories.links(),
            directories.staging(),
            directories.removing(),
        ];
        for dir in dirs {
            let mode = dir.metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o700, "{}", dir.display());
        }
    }

    #[test]
    fn what_cannot_be_removed_keeps_neither_the_rest_nor_the_agent() {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::open(root.path()).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::create_dir(directories.removing().join(name)).unwrap();
        }
        let file = std::fs::File::create(directories.removing().join("b/immutable")).unwrap();
        let Ok(flags) = ioctl_getflags(&file) else { return };
        // Neither every file system nor every user can do this.
        if ioctl_setflags(&file, flags | IFlags::IMMUTABLE).is_err() {
            return;
        }
        let cleared = directories.clear();
        let opened = Directories::open(root.path());
        let left = fs::list(&directories.removing());
        ioctl_setflags(&file, flags).unwrap();
        assert!(cleared.is_err());
        assert!(opened.is_ok());
        assert_eq!(left.unwrap(), ["b"]);
        directories.clear().unwrap();
        assert!(fs::list(&directories.removing()).unwrap().is_empty());
    }
}
