//! What lies under a mount: the directory that is seen there while nothing is mounted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{FsError, Mount};

/// The file system that a mount point is in, without what is mounted there.
///
/// It is a mount of its own that no path leads to, and ends with this; nothing is unmounted.
#[derive(Debug)]
pub struct BareDir {
    parent: OwnedFd,
    /// The directory that holds the mount point.
    parent_path: PathBuf,
}

impl BareDir {
    /// Opens what lies under the mount that `path` is in; `None` if that is the root.
    ///
    /// # Errors
    /// Any errno; EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.2.
    pub fn under(path: &Path) -> Result<Option<Self>, FsError> {
        let point = PathBuf::from(Mount::of(path)?.point);
        let Some(parent_path) = point.parent() else {
            return Ok(None);
        };
        // Without AT_RECURSIVE what is mounted below is not in it.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let parent = open_tree(CWD, parent_path, flags)
            .map_err(|errno| FsError::new("look under what is mounted in", parent_path, errno.into()))?;
        Ok(Some(Self {
            parent,
            parent_path: parent_path.to_owned(),
        }))
    }

    /// Tells whether something has that name under the mount; `path` is absolute, and has no links.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn has(&self, path: &Path) -> Result<bool, FsError> {
        match statat(&self.parent, self.inside(path)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FsError::new("stat under the mount", path, errno.into())),
        }
    }

    /// Makes an empty file that everybody reads, and the directories that lead to it; one that is there
    /// stays.
    ///
    /// # Errors
    /// Any errno.
    pub fn make_empty(&self, path: &Path) -> Result<(), FsError> {
        let error = |errno: Errno| FsError::new("make under the mount", path, errno.into());
        let inside = self.inside(path)?;
        let dirs = inside.parent().into_iter().flat_map(Path::components);
        let mut dir = self
            .parent
            .try_clone()
            .map_err(|error| FsError::new("open", path, error))?;
        let (dir_flags, dir_mode) = (
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o755),
        );
        // The first one is a mount's own handle, which may have been opened by its path alone.
        for name in dirs.filter(|part| matches!(part, Component::Normal(_))) {
            match mkdirat(&dir, name.as_os_str(), dir_mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(error(errno)),
            }
            dir = openat(&dir, name.as_os_str(), dir_flags, Mode::empty()).map_err(error)?;
        }
        let name = inside.file_name().unwrap_or_default();
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(dir.as_fd(), name, flags, Mode::from_raw_mode(0o644)).map_err(error)?;
        Ok(())
    }

    fn inside<'a>(&self, path: &'a Path) -> Result<&'a Path, FsError> {
        let outside = |_| {
            FsError::new(
                "find under the mount",
                path,
                std::io::ErrorKind::InvalidInput.into(),
            )
        };
        path.strip_prefix(&self.parent_path).map_err(outside)
    }
}
