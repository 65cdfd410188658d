//! Finds out what a file system can keep and do, by trying it.
//!
//! Everything happens in a scratch directory that is the prober's alone and goes away again. What is set is
//! read back: some file systems take what they do not keep. A refusal is a fact; an errno that only a sick
//! file system gives is an error, so that a bad moment is not recorded as a lack.

mod links;
mod metadata;
mod names;
mod xattrs;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Abilities, FsError, Mount, random_name};

/// Tries what the file system of `dir` can keep and do; takes a second or two on a slow one.
///
/// The process must have all of [`super::missing_privileges`], else its own lack would be taken for the file system's.
///
/// # Errors
/// Any errno that no healthy file system gives.
pub fn probe(dir: &Path) -> Result<Abilities, FsError> {
    let scratch = Scratch::make(dir)?;
    let kind = Mount::of(dir)?.kind;
    let at = scratch.0.as_path();
    Ok(Abilities {
        whiteouts: metadata::keeps_whiteouts(at)?,
        trusted_xattrs: xattrs::keeps_trusted(at)?,
        user_xattrs: xattrs::keeps_user(at)?,
        capabilities: xattrs::keeps_capabilities(at)?,
        acls: xattrs::keeps_acls(at)?,
        devices: metadata::keeps_devices(at)?,
        ownership: metadata::keeps_owners(at)?,
        special_modes: metadata::keeps_special_modes(at)?,
        hard_link_limit: links::limit(at)?,
        negative_times: metadata::keeps_negative_times(at)?,
        nanosecond_times: metadata::keeps_nanoseconds(at)?,
        directory_rename: names::renames_directories(at)?,
        exclusive_mkdir: names::makes_directories_exclusively(at)?,
        fsync: names::syncs(at)?,
        writers: kind.writers(),
        durability: kind.durability(),
    })
}

/// A directory that is removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn make(dir: &Path) -> Result<Self, FsError> {
        let path = dir.join(format!(".wharf-probe.{}", random_name()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| FsError::new("make directory", &path, source))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(source) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %source, "cannot remove what a probe made; remove it");
        }
    }
}

/// Takes the refusals of file systems for "no", and everything else for an error.
fn is_accepted(
    operation: &'static str,
    path: &Path,
    result: Result<(), rustix::io::Errno>,
) -> Result<bool, FsError> {
    match result {
        Ok(()) => Ok(true),
        Err(
            Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::OPNOTSUPP
            | Errno::NOSYS
            | Errno::NOTTY
            | Errno::OVERFLOW
            | Errno::RANGE
            | Errno::XDEV,
        ) => Ok(false),
        Err(errno) => Err(FsError::new(operation, path, errno.into())),
    }
}

/// Makes an empty file to try things on.
fn make_file(path: &Path) -> Result<std::fs::File, FsError> {
    std::fs::File::create_new(path).map_err(|source| FsError::new("create", path, source))
}

/// Makes a directory to try things on.
fn make_dir(path: &Path) -> Result<(), FsError> {
    std::fs::create_dir(path).map_err(|source| FsError::new("make directory", path, source))
}

fn lstat(path: &Path) -> Result<rustix::fs::Stat, FsError> {
    rustix::fs::lstat(path).map_err(|errno| FsError::new("stat", path, errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::missing_privileges;

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let found = probe(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(
            found.directory_rename && found.exclusive_mkdir && found.fsync,
            "{found:?}"
        );
        assert_eq!(found.hard_link_limit, None);
        if missing_privileges().is_empty() {
            assert!(
                found.whiteouts && found.ownership && found.special_modes,
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_only_a_sick_file_system_answers_is_an_error() {
        let path = Path::new("/x");
        assert!(!is_accepted("try", path, Err(Errno::OPNOTSUPP)).unwrap());
        for errno in [Errno::IO, Errno::STALE, Errno::NOTCONN, Errno::NOSPC, Errno::ROFS] {
            assert!(is_accepted("try", path, Err(errno)).is_err(), "{errno}");
        }
    }
}
