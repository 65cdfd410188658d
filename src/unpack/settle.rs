//! What of a layer depends on the layers below it.
//!
//! A directory without an entry of its own looks in the container as it does below. An opaque directory on a
//! file system that keeps no `trusted.overlay.*` hides what the layers below have under its name by
//! whiteouts: one for each name, in itself and in all directories below it that the layers below have too.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::apply::implied_meta;
use super::create::{CreateError, Writer, call, meta_of, read_xattrs};
use super::entry::{Meta, Time};
use super::place::open_beneath;
use super::xattr::{TRUSTED_OPAQUE, class_of, path_of};
use super::{UnpackError, Unsettled};
use crate::fs::FsError;

/// The directories of the layers below, the topmost first.
pub(super) struct Below<'a> {
    layers: Vec<(&'a Path, OwnedFd)>,
}

/// What a name is in the layers below, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Directory,
    Other,
    /// A layer below deletes it.
    Gone,
}

impl<'a> Below<'a> {
    /// Opens the directories.
    pub(super) fn open(below: &'a [PathBuf]) -> Result<Self, FsError> {
        let open = |path: &'a PathBuf| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map(|fd| (path.as_path(), fd))
                .map_err(|errno| FsError::new("open", path, errno.into()))
        };
        Ok(Self {
            layers: below.iter().map(open).collect::<Result<_, _>>()?,
        })
    }

    /// Tells whether the root of the layers below looks as one that nothing is said of.
    pub(super) fn has_plain_root(&self) -> Result<bool, FsError> {
        Ok(self.meta(Path::new(""))?.is_none_or(|root| is_plain(&root)))
    }

    /// Returns what the layers below say of a directory; `None` if they have none there.
    fn meta(&self, path: &Path) -> Result<Option<Meta>, FsError> {
        let Some((layer, dir)) = self.dirs(path)?.into_iter().next() else {
            return Ok(None);
        };
        let error = |errno: Errno| FsError::new("stat", &layer.join(path), errno.into());
        let stat = rustix::fs::statat(&dir, ".", AtFlags::empty()).map_err(error)?;
        let xattrs = read_xattrs(&dir, b".").map_err(error)?;
        Ok(Some(meta_of(&stat, xattrs)))
    }

    /// Returns the directories that make up one at `path`, the topmost first.
    fn dirs(&self, path: &Path) -> Result<Vec<(&'a Path, OwnedFd)>, FsError> {
        let mut dirs = Vec::new();
        for (layer, root) in &self.layers {
            let error = |errno: Errno| FsError::new("look up", &layer.join(path), errno.into());
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let mut at = Some(open_beneath(root, Path::new(""), flags).map_err(error)?);
            let mut hides_below = false;
            for name in path {
                let Some(dir) = at.take() else {
                    break;
                };
                match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if is_dir(&stat) => {
                        let open = open_beneath(&dir, Path::new(name), flags).map_err(error)?;
                        hides_below |= is_opaque(&open);
                        at = Some(open);
                    }
                    // A file, link or whiteout ends what the further ones show.
                    Ok(_) => return Ok(dirs),
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(error(errno)),
                }
            }
            dirs.extend(at.map(|dir| (*layer, dir)));
            if hides_below {
                break;
            }
        }
        Ok(dirs)
    }

    /// Returns the names in a directory of the layers below, taken together.
    fn names(&self, path: &Path) -> Result<BTreeMap<Vec<u8>, Seen>, FsError> {
        let mut names = BTreeMap::new();
        for (layer, dir) in self.dirs(path)? {
            let error = |errno: Errno| FsError::new("list", &layer.join(path), errno.into());
            for entry in read_dir(&dir).map_err(error)? {
                let entry = entry.map_err(error)?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." || names.contains_key(name) {
                    continue;
                }
                let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
                names.insert(name.to_vec(), seen(&stat));
            }
        }
        Ok(names)
    }
}

/// The layer that is being finished.
pub(super) struct Settling<'a> {
    pub(super) root: &'a OwnedFd,
    pub(super) path: &'a Path,
    pub(super) below: Below<'a>,
    pub(super) writer: Writer<'a>,
    pub(super) may_make_whiteouts: bool,
}

impl Settling<'_> {
    /// Does what is to be done, and tells whether the directory now belongs to this stack of layers alone.
    pub(super) fn run(&self, unsettled: &Unsettled) -> Result<bool, UnpackError> {
        for path in &unsettled.opaque {
            self.hide(path)?;
        }
        for path in &unsettled.implied {
            if let Some(meta) = self.below.meta(path)? {
                self.dress(path, &meta)?;
            }
        }
        let mut is_bound = !unsettled.opaque.is_empty() || !unsettled.implied.is_empty();
        if unsettled.root_is_implied
            && let Some(meta) = self.below.meta(Path::new(""))?
            && !is_plain(&meta)
        {
            let mtime = Time::default();
            self.dress(Path::new(""), &Meta { mtime, ..meta })?;
            is_bound = true;
        }
        Ok(is_bound)
    }

    fn dress(&self, path: &Path, meta: &Meta) -> Result<(), UnpackError> {
        let dir = self.open(path)?;
        let dressed = self.writer.dress_name(&dir, b".", meta, true);
        let dressed = dressed.and_then(|()| self.writer.sync_dir(&dir, b"."));
        dressed.map_err(|error| self.named(error, path))
    }

    /// Makes whiteouts for all that the layers below have in a directory and this layer has not.
    fn hide(&self, path: &Path) -> Result<(), UnpackError> {
        let mut ahead = VecDeque::from([path.to_owned()]);
        while let Some(path) = ahead.pop_front() {
            let dir = self.open(&path)?;
            let failed = |error: (&'static str, Errno)| self.named(error.into(), &path);
            let before = rustix::fs::statat(&dir, ".", AtFlags::empty())
                .map_err(call("stat"))
                .map_err(failed)?;
            let mut has_changed = false;
            for (name, below) in self.below.names(&path)? {
                if below == Seen::Gone {
                    continue;
                }
                match rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) if !self.may_make_whiteouts => return Err(UnpackError::NoWhiteouts),
                    Err(Errno::NOENT) => {
                        rustix::fs::mknodat(&dir, &*name, FileType::CharacterDevice, Mode::empty(), 0)
                            .map_err(call("make whiteout"))
                            .map_err(failed)?;
                        has_changed = true;
                    }
                    Ok(stat) if is_dir(&stat) && below == Seen::Directory => {
                        ahead.push_back(path.join(OsStr::from_bytes(&name)));
                    }
                    Ok(_) => {}
                    Err(errno) => return Err(failed(("stat", errno))),
                }
            }
            if has_changed {
                let times = self.writer.times(&meta_of(&before, Vec::new()));
                rustix::fs::utimensat(&dir, ".", &times, AtFlags::empty())
                    .map_err(call("set times of"))
                    .map_err(failed)?;
                let synced = self.writer.sync_dir(&dir, b".");
                synced.map_err(|error| self.named(error, &path))?;
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, FsError> {
        open_beneath(self.root, path, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| FsError::new("open", &self.path.join(path), errno.into()))
    }

    fn named(&self, error: CreateError, path: &Path) -> UnpackError {
        error.named(|operation, errno| FsError::new(operation, &self.path.join(path), errno.into()))
    }
}

/// Tells whether a root looks as one that nothing is said of.
fn is_plain(root: &Meta) -> bool {
    let plain = implied_meta();
    (root.mode, root.uid, root.gid) == (plain.mode, plain.uid, plain.gid)
        && !root.xattrs.iter().any(|xattr| class_of(&xattr.name).is_some())
}

/// Opens a directory's list; a descriptor by O_PATH has none.
fn read_dir(dir: &OwnedFd) -> rustix::io::Result<rustix::fs::Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    rustix::fs::Dir::new(open_beneath(dir, Path::new(""), flags)?)
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn seen(stat: &Stat) -> Seen {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Seen::Directory,
        FileType::CharacterDevice if stat.st_rdev == 0 => Seen::Gone,
        _ => Seen::Other,
    }
}

/// Where no such attributes are kept, nothing is marked by them.
fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 2];
    let length = rustix::fs::getxattr(path_of(dir, b"."), TRUSTED_OPAQUE, value.as_mut_slice());
    length.is_ok_and(|length| value[..length] == *b"y")
}
