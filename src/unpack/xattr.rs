//! Extended attributes: which of a layer's are set, and which cannot be.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Compromises;
use super::entry::Xattr;
use crate::fs::Abilities;

/// Marks an opaque directory for overlayfs (kernel documentation, overlayfs.rst, "whiteouts and opaque directories").
pub(super) const TRUSTED_OPAQUE: &str = "trusted.overlay.opaque";

/// The same for overlay mounts of those who are not root (`userxattr`), and fuse-overlayfs.
pub(super) const USER_OPAQUE: &str = "user.overlay.opaque";

/// What POSIX ACLs are kept in.
pub(super) const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// What an attribute is kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Capability,
    Acl,
    User,
    Trusted,
    Other,
}

/// Where attributes are set: an open file, or a name in an open directory.
pub(super) enum Carrier<'a> {
    File(&'a OwnedFd),
    Name(&'a OwnedFd, &'a [u8]),
}

/// Returns what keeps an attribute; `None` if it must not come from a layer.
///
/// overlayfs' own attributes would redirect or hide files of other layers; the label is the node's matter, and
/// what has a prefix of its own (`lustre.`, `ceph.`, `system.nfs4_acl`) the file system's.
pub(super) fn class_of(name: &[u8]) -> Option<Class> {
    match name {
        b"security.capability" => Some(Class::Capability),
        b"security.selinux" => None,
        _ if ACLS.contains(&name) => Some(Class::Acl),
        _ if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") => None,
        _ if name.starts_with(b"user.") => Some(Class::User),
        _ if name.starts_with(b"trusted.") => Some(Class::Trusted),
        _ if name.starts_with(b"security.") => Some(Class::Other),
        _ => None,
    }
}

impl Class {
    /// Tells whether the file system keeps attributes of this class.
    pub(super) fn is_kept(self, abilities: &Abilities) -> bool {
        match self {
            Self::Capability => abilities.capabilities,
            Self::Acl => abilities.acls,
            Self::User => abilities.user_xattrs,
            Self::Trusted => abilities.trusted_xattrs,
            Self::Other => true,
        }
    }

    /// Counts an attribute that is lost.
    pub(super) fn count_lost(self, compromises: &mut Compromises) {
        match self {
            Self::Capability => compromises.lost_capabilities += 1,
            Self::Acl => compromises.lost_acls += 1,
            Self::User | Self::Trusted | Self::Other => compromises.lost_xattrs += 1,
        }
    }
}

impl Carrier<'_> {
    /// Sets an attribute; tells whether the carrier can have it.
    ///
    /// # Errors
    /// Any errno that does not mean that it cannot.
    pub(super) fn set(&self, xattr: &Xattr) -> rustix::io::Result<bool> {
        let set = match self {
            Self::File(file) => rustix::fs::fsetxattr(file, &*xattr.name, &xattr.value, XattrFlags::empty()),
            Self::Name(dir, name) => rustix::fs::lsetxattr(
                path_of(dir, name),
                &*xattr.name,
                &xattr.value,
                XattrFlags::empty(),
            ),
        };
        match set {
            Ok(()) => Ok(true),
            Err(
                // Not supported at all, or not for this kind of file (user.* on a symbolic link).
                Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL
                // Larger than the file system takes.
                | Errno::TOOBIG | Errno::RANGE,
            ) => Ok(false),
            // ext4 answers ENOSPC to a value larger than a block, or there is no room.
            Err(Errno::NOSPC) if self.has_room() => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn has_room(&self) -> bool {
        let (Self::File(fd) | Self::Name(fd, _)) = self;
        super::create::has_room(fd)
    }
}

/// Returns a path to a name in an open directory, for calls that know paths alone.
pub(super) fn path_of(dir: &OwnedFd, name: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_rule_overlayfs_is_never_set() {
        for (name, expected) in [
            ("trusted.overlay.opaque", None),
            ("trusted.overlay.redirect", None),
            ("user.overlay.whiteout", None),
            ("security.selinux", None),
            ("security.capability", Some(Class::Capability)),
            ("system.posix_acl_default", Some(Class::Acl)),
            ("user.overlays", Some(Class::User)),
            ("trusted.x", Some(Class::Trusted)),
            ("security.ima", Some(Class::Other)),
            ("lustre.lov", None),
            ("system.nfs4_acl", None),
        ] {
            assert_eq!(class_of(name.as_bytes()), expected, "{name}");
        }
    }
}
