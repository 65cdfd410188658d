//! Durable file primitives, and a bound on how long a file system may take.
//!
//! Knows nothing of OCI. Every error names the operation and the path; only
//! ENOENT means "not there" ([`FsError::is_missing`]).

mod abilities;
mod bare_dir;
mod calls;
mod disk;
mod error;
mod kind;
mod open;
mod privilege;
mod probe;
mod reach;
mod staged;
mod tree;

pub use abilities::{Abilities, Durability};
pub use bare_dir::BareDir;
pub use calls::Calls;
pub use disk::{Disk, Started};
pub use error::{FsError, FsErrorKind};
pub use kind::{Kind, Mount, Place};
pub use open::OpenFile;
pub use privilege::missing_privileges;
pub use probe::probe;
pub use reach::Reach;
pub use staged::{StagedFile, publish_file};
pub use tree::{Published, publish_dir, remove_tree};

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A value of `security.capability` (linux/capability.h, `vfs_cap_data` version 2): CAP_NET_RAW, effective.
///
/// It is what `ping` has.
pub(crate) const FILE_CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A value of `system.posix_acl_access` (linux/posix_acl_xattr.h, version 2): tag, permissions and id of each entry.
///
/// Its second entry names a user, or a file system could turn it into the mode.
#[rustfmt::skip]
pub(crate) const ACCESS_ACL: [u8; 44] = [
    2, 0, 0, 0,
    0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
    0x02, 0, 4, 0, 0xe8, 0x03, 0x00, 0x00,
    0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
    0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
    0x20, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
];

/// How often a file is opened whose name led to one that is no more (ESTALE).
const MAX_STALE: usize = 4;

/// Opens a file for reading; `None` if it does not exist.
///
/// # Errors
/// Any errno but ENOENT.
pub fn open(path: &Path) -> Result<Option<OpenFile>, FsError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file.into())),
        Err(source) => missing_as_none(FsError::new("open", path, source)),
    }
}

/// Tells whether POSIX locks can be had on a file, as its readers want them; it must be there.
///
/// # Errors
/// Any errno of opening it.
pub fn takes_locks(path: &Path) -> Result<bool, FsError> {
    let file = File::open(path).map_err(|source| FsError::new("open", path, source))?;
    let shared = rustix::fs::FlockOperation::NonBlockingLockShared;
    Ok(match rustix::fs::fcntl_lock(&file, shared) {
        // Somebody else has one.
        Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => true,
        Err(_) => false,
    })
}

/// Returns a file's length in bytes; `None` if it does not exist.
///
/// # Errors
/// Any errno but ENOENT.
pub fn stat(path: &Path) -> Result<Option<u64>, FsError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(source) => missing_as_none(FsError::new("stat", path, source)),
    }
}

/// Reads a small file whole; `None` if it does not exist.
///
/// # Errors
/// Any errno but ENOENT.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FsError> {
    let mut read = std::fs::read(path);
    for _ in 1..MAX_STALE {
        // A name that another node has just made or replaced may lead to a file that is no more (GlusterFS).
        if !read
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::StaleNetworkFileHandle)
        {
            break;
        }
        read = std::fs::read(path);
    }
    match read {
        Ok(content) => Ok(Some(content)),
        Err(source) => missing_as_none(FsError::new("read", path, source)),
    }
}

/// Reads a small file whole, and when it was written; `None` if it does not exist.
///
/// # Errors
/// Any errno but ENOENT.
pub fn read_dated(path: &Path) -> Result<Option<(Vec<u8>, SystemTime)>, FsError> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    let error = |operation| move |source| FsError::new(operation, path, source);
    let mut content = Vec::new();
    (&*file).read_to_end(&mut content).map_err(error("read"))?;
    let written_at = file.metadata().and_then(|metadata| metadata.modified());
    Ok(Some((content, written_at.map_err(error("stat"))?)))
}

/// Returns when a file was last written; `None` if it does not exist.
///
/// # Errors
/// Any errno but ENOENT.
pub fn modified_at(path: &Path) -> Result<Option<SystemTime>, FsError> {
    match std::fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(time) => Ok(Some(time)),
        Err(source) => missing_as_none(FsError::new("stat", path, source)),
    }
}

/// Returns the names in a directory that are UTF-8; none if it does not exist.
///
/// # Errors
/// Any errno but ENOENT.
pub fn list(path: &Path) -> Result<Vec<String>, FsError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(source) => {
            return missing_as_none(FsError::new("list", path, source)).map(Option::unwrap_or_default);
        }
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| FsError::new("list", path, source))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// Removes a file; that it is gone already is fine.
///
/// # Errors
/// Any errno but ENOENT.
pub fn remove(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(source) => missing_as_none::<()>(FsError::new("remove", path, source)).map(|_| ()),
    }
}

/// Makes a directory and its parents.
///
/// # Errors
/// Any errno.
pub fn make_dirs(path: &Path) -> Result<(), FsError> {
    std::fs::create_dir_all(path).map_err(|source| FsError::new("make directory", path, source))
}

/// Makes a directory and its parents, so that a crash does not take the names away from what is in them.
///
/// # Errors
/// Any errno.
pub fn make_dirs_durably(path: &Path) -> Result<(), FsError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    match make_new_dir(path) {
        Ok(()) => sync_dir(parent),
        Err(error) if error.is_missing() && parent != Path::new(".") => {
            make_dirs_durably(parent)?;
            make_dirs_durably(path)
        }
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a directory whose name must be free, and whose parent must be there.
///
/// # Errors
/// Any errno; EEXIST ([`FsErrorKind::Exists`]) if the name is taken.
pub fn make_new_dir(path: &Path) -> Result<(), FsError> {
    std::fs::create_dir(path).map_err(|source| FsError::new("make directory", path, source))
}

/// Makes a directory that is its owner's alone, and its parents; one that exists stays as it is.
///
/// # Errors
/// Any errno.
pub fn make_private_dir(path: &Path) -> Result<(), FsError> {
    if let Some(parent) = path.parent() {
        make_dirs(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(source) if !path.is_dir() => Err(FsError::new("make directory", path, source)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Creates a small file that must not exist yet, durably: written, synced and closed.
///
/// # Errors
/// Any errno; EEXIST ([`FsErrorKind::Exists`]) if the name is taken.
pub fn create_new(path: &Path, content: &[u8]) -> Result<(), FsError> {
    let error = |operation| move |source| FsError::new(operation, path, source);
    let mut file = File::create_new(path).map_err(error("create"))?;
    if !content.is_empty() {
        file.write_all(content).map_err(error("write"))?;
        file.sync_all().map_err(error("sync"))?;
    }
    Ok(())
}

/// Makes a symbolic link, whose name must be free.
///
/// # Errors
/// Any errno; EEXIST ([`FsErrorKind::Exists`]) if the name is taken.
pub fn make_link(target: &Path, path: &Path) -> Result<(), FsError> {
    std::os::unix::fs::symlink(target, path).map_err(|source| FsError::new("make link", path, source))
}

/// Returns where a symbolic link leads.
///
/// # Errors
/// Any errno, ENOENT too.
pub fn read_link(path: &Path) -> Result<PathBuf, FsError> {
    std::fs::read_link(path).map_err(|source| FsError::new("read link", path, source))
}

/// Writes over the beginning of a file that is there, for who compares its content with what it was.
///
/// # Errors
/// Any errno.
pub fn overwrite(path: &Path, content: &[u8]) -> Result<(), FsError> {
    let error = |operation| move |source| FsError::new(operation, path, source);
    let file = File::options().write(true).open(path).map_err(error("open"))?;
    file.write_all_at(content, 0).map_err(error("write"))?;
    file.sync_all().map_err(error("sync"))
}

/// Tells a file from the one that has its name later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Returns which file has a name; `None` if none has.
///
/// # Errors
/// Any errno but ENOENT.
pub fn identity(path: &Path) -> Result<Option<FileIdentity>, FsError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(FileIdentity::of(&metadata))),
        Err(source) => missing_as_none(FsError::new("stat", path, source)),
    }
}

/// Makes a name that no other process makes: 64 random bits in hex.
pub(crate) fn random_name() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library's only source of randomness: each state is seeded from the system's.
    format!(
        "{:016x}",
        RandomState::new().hash_one(std::time::SystemTime::now())
    )
}

/// Makes a directory's entries durable, after a rename into it.
///
/// # Errors
/// Any errno but EINVAL, which some file systems answer to a sync of a directory.
pub fn sync_dir(path: &Path) -> Result<(), FsError> {
    let dir = File::open(path).map_err(|source| FsError::new("open", path, source))?;
    match dir.sync_all() {
        Err(source) if source.kind() != std::io::ErrorKind::InvalidInput => {
            Err(FsError::new("sync", path, source))
        }
        _ => Ok(()),
    }
}

fn missing_as_none<T>(error: FsError) -> Result<Option<T>, FsError> {
    if error.is_missing() { Ok(None) } else { Err(error) }
}
