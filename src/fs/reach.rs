//! Whether users of a machine reach what is below a directory.
//!
//! Layers hold setuid programs of images, old ones too: who can start one is root. So a user must be stopped on
//! the way (mode 0700), or the mount must not honour them (nosuid, nodev). What counts is the directory itself:
//! the ones above it differ from machine to machine.

use std::path::{Path, PathBuf};

use rustix::fs::{Stat, StatVfsMountFlags, lgetxattr, stat};

use super::{FsError, Mount};

/// An access ACL of three entries says what the mode says; a longer one lets somebody in.
const PLAIN_ACL_BYTES: usize = 4 + 3 * 8;

/// Who reaches what is below a directory; `mode` is the directory's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Root alone.
    Closed { mode: u32 },
    /// Root alone here, because of a directory above it.
    ClosedAbove { mode: u32, door: PathBuf },
    /// Everybody, and programs of other users' rights work as any other.
    Harmless { mode: u32 },
    /// Everybody, and setuid programs work.
    Open { mode: u32 },
    /// Others may make and replace files in it.
    Writable { mode: u32 },
    /// Its owner, who is not root.
    Owner { uid: u32 },
}

impl Reach {
    /// Finds who reaches what is below `root`, which is in `mount`.
    ///
    /// # Errors
    /// Any errno.
    pub fn of(root: &Path, mount: &Mount) -> Result<Self, FsError> {
        let root = root
            .canonicalize()
            .map_err(|source| FsError::new("resolve", root, source))?;
        let at_root = look(&root)?;
        let mode = at_root.st_mode & 0o7777;
        if mode & 0o022 != 0 {
            return Ok(Self::Writable { mode });
        }
        if at_root.st_uid != 0 {
            return Ok(Self::Owner { uid: at_root.st_uid });
        }
        if is_closed(&root, &at_root) {
            return Ok(Self::Closed { mode });
        }
        if let Some(door) = closed_above(&root)? {
            return Ok(Self::ClosedAbove { mode, door });
        }
        let harmless = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
        Ok(if mount.flags.contains(harmless) {
            Self::Harmless { mode }
        } else {
            Self::Open { mode }
        })
    }

    /// Tells whether setuid programs below it are nobody's who should not have them.
    pub fn is_safe(&self) -> bool {
        match self {
            Self::Closed { .. } | Self::ClosedAbove { .. } | Self::Harmless { .. } => true,
            Self::Open { .. } | Self::Writable { .. } | Self::Owner { .. } => false,
        }
    }
}

/// Returns the directory above `root` that lets nobody but root through.
fn closed_above(root: &Path) -> Result<Option<PathBuf>, FsError> {
    for dir in root.ancestors().skip(1) {
        if is_closed(dir, &look(dir)?) {
            return Ok(Some(dir.to_owned()));
        }
    }
    Ok(None)
}

fn is_closed(dir: &Path, found: &Stat) -> bool {
    let is_closed_to_group = found.st_mode & 0o010 == 0 || (found.st_gid == 0 && !has_acl(dir));
    found.st_uid == 0 && found.st_mode & 0o001 == 0 && is_closed_to_group
}

fn has_acl(dir: &Path) -> bool {
    let mut acl = [0; 4096];
    lgetxattr(dir, "system.posix_acl_access", &mut acl).is_ok_and(|length| length > PLAIN_ACL_BYTES)
}

fn look(dir: &Path) -> Result<Stat, FsError> {
    stat(dir).map_err(|errno| FsError::new("stat", dir, errno.into()))
}
