//! Extended attributes: set, and read back.

use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use rustix::io::Errno;

use super::{FsError, is_accepted, make_dir, make_file};
use crate::fs::{ACCESS_ACL, FILE_CAPABILITY};

/// Longer than any value that is tried.
const MAX_VALUE: usize = 256;

/// Tries the mark of opaque directories.
pub(super) fn keeps_trusted(dir: &Path) -> Result<bool, FsError> {
    let path = dir.join("opaque");
    make_dir(&path)?;
    keeps(&path, "trusted.overlay.opaque", b"y")
}

/// Tries a user's attribute, on a directory too, as rootless mounts want their marks there.
pub(super) fn keeps_user(dir: &Path) -> Result<bool, FsError> {
    let (path, below) = (dir.join("user"), dir.join("user.d"));
    make_file(&path)?;
    make_dir(&below)?;
    Ok(keeps(&path, "user.wharf", b"yes")? && keeps(&below, "user.overlay.opaque", b"y")?)
}

pub(super) fn keeps_capabilities(dir: &Path) -> Result<bool, FsError> {
    let path = dir.join("capable");
    make_file(&path)?;
    keeps(&path, "security.capability", &FILE_CAPABILITY)
}

pub(super) fn keeps_acls(dir: &Path) -> Result<bool, FsError> {
    let path = dir.join("acl");
    make_file(&path)?;
    keeps(&path, "system.posix_acl_access", &ACCESS_ACL)
}

fn keeps(path: &Path, name: &str, value: &[u8]) -> Result<bool, FsError> {
    let set = lsetxattr(path, name, value, XattrFlags::empty());
    if !is_accepted("set attribute of", path, set)? {
        return Ok(false);
    }
    let mut found = [0; MAX_VALUE];
    match lgetxattr(path, name, &mut found) {
        Ok(length) => Ok(found[..length] == *value),
        // JuiceFS takes security.capability, and says afterwards that it has none.
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => is_accepted("read attribute of", path, Err(errno)),
    }
}
