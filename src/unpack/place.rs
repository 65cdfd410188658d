//! Places below the layer's directory, and how they are opened: never through a symbolic link.
//!
//! Source: openat2(2). Every call of the writers names a directory that was opened beneath the layer's root
//! without following any link, and one name in it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::pool::Job;
use crate::fs::FsError;

/// How many directories are kept open. Entries of one directory mostly follow each other.
const MAX_OPEN: usize = 256;

/// A directory of the layer, which its parent's writer makes.
pub(super) struct Dir {
    parent: Option<Arc<Dir>>,
    name: Box<[u8]>,
    serial: u64,
    /// Bytes of its path below the layer's root.
    path_bytes: usize,
    state: Mutex<DirState>,
}

/// Whether a directory is there yet.
enum DirState {
    /// What waits for it.
    Awaited(Vec<Job>),
    Made,
}

/// The layer's directory on the file system.
pub(super) struct Ground {
    path: PathBuf,
    root: OwnedFd,
    open: Cache<u64, Arc<OwnedFd>>,
}

impl Dir {
    /// Makes the place of the root, which is there.
    pub(super) fn root() -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            name: Box::default(),
            serial: 0,
            path_bytes: 0,
            state: Mutex::new(DirState::Made),
        })
    }

    /// Makes the place of a directory that is to be made; `serial` is its own in this layer, and not 0.
    pub(super) fn below(parent: &Arc<Self>, name: &[u8], serial: u64) -> Arc<Self> {
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            name: name.into(),
            serial,
            path_bytes: parent.path_bytes + 1 + name.len(),
            state: Mutex::new(DirState::Awaited(Vec::new())),
        })
    }

    pub(super) fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Returns how long its path below the layer's root is, at most.
    pub(super) fn path_bytes(&self) -> usize {
        self.path_bytes
    }

    /// Tells whether these names lead here from the layer's root.
    pub(super) fn is_at(&self, names: &[&[u8]]) -> bool {
        let mut at = self;
        for name in names.iter().rev() {
            match &at.parent {
                Some(parent) if *at.name == **name => at = parent,
                Some(_) | None => return false,
            }
        }
        at.parent.is_none()
    }

    /// Returns the path below the layer's root; empty for the root.
    pub(super) fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(&*at.name);
            at = parent;
        }
        names.reverse();
        OsString::from_vec(names.join(b"/".as_slice())).into()
    }

    /// Gives a job back if the directory is there; else keeps it until [`Dir::made`].
    pub(super) fn or_await(&self, job: Job) -> Option<Job> {
        match &mut *self.lock() {
            DirState::Made => Some(job),
            DirState::Awaited(jobs) => {
                jobs.push(job);
                None
            }
        }
    }

    /// Notes that the directory is there, and returns what waited for it.
    pub(super) fn made(&self) -> Vec<Job> {
        match std::mem::replace(&mut *self.lock(), DirState::Made) {
            DirState::Awaited(jobs) => jobs,
            DirState::Made => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, DirState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ground {
    /// Opens the layer's directory.
    pub(super) fn open(path: &Path) -> Result<Self, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| FsError::new("open", path, errno.into()))?;
        Ok(Self {
            path: path.to_owned(),
            root,
            open: Cache::new(MAX_OPEN),
        })
    }

    /// Frees the directory of what new ones inherit, so that nothing of it gets into the layer.
    pub(super) fn prepare(&self) -> Result<(), FsError> {
        let error =
            |operation| move |errno: rustix::io::Errno| FsError::new(operation, &self.path, errno.into());
        rustix::fs::fchmod(&self.root, Mode::RWXU).map_err(error("change mode of"))?;
        match rustix::fs::fremovexattr(&self.root, "system.posix_acl_default") {
            Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(error("remove attribute of")(errno)),
        }
    }

    /// Makes durable all that was written to the file system.
    pub(super) fn sync(&self) -> Result<(), FsError> {
        rustix::fs::syncfs(&self.root).map_err(|errno| FsError::new("sync", &self.path, errno.into()))
    }

    /// Returns the layer's directory, open for reading.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Returns a directory of the layer, open as a place and not for reading.
    pub(super) fn dir(&self, dir: &Dir) -> Result<Arc<OwnedFd>, FsError> {
        self.open.get_or_insert_with(&dir.serial, || {
            open_beneath(&self.root, &dir.path(), OFlags::PATH | OFlags::DIRECTORY)
                .map(Arc::new)
                .map_err(|errno| FsError::new("open", &self.path.join(dir.path()), errno.into()))
        })
    }

    /// Names a failed operation.
    pub(super) fn error(
        &self,
        operation: &'static str,
        dir: &Dir,
        name: &[u8],
        errno: rustix::io::Errno,
    ) -> FsError {
        let mut path = self.path.join(dir.path());
        path.push(OsString::from_vec(name.to_vec()));
        FsError::new(operation, &path, errno.into())
    }
}

/// Opens what lies beneath a directory, without following any link; an empty path is the directory.
pub(super) fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere raced with the resolution (openat2(2), EAGAIN).
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            opened => return opened,
        }
    }
}
