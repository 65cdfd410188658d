//! Whether users of a machine reach the layers by their path.
//!
//! Layers hold setuid programs of images, old ones too: who can start one is root. So a user must be stopped on
//! the way (mode 0700), or the mount must not honour them (nosuid, nodev). What counts is the store's own
//! directory: the ones above it differ from machine to machine.

use std::path::{Path, PathBuf};

use rustix::fs::{Stat, StatVfsMountFlags, lgetxattr, stat};

use super::Check;
use crate::fs::{FsError, Mount};

const NAME: &str = "other users";
const REMEDY: &str = "chmod 0700 the store's directory, owned by root; where rootless or remapped nodes need 0711, \
                      mount it with nosuid,nodev on every machine";
/// An access ACL of three entries says what the mode says; a longer one lets somebody in.
const PLAIN_ACL_BYTES: usize = 4 + 3 * 8;

/// Checks the way to the store.
pub(super) fn check(root: &Path, mount: &Mount) -> Result<Check, FsError> {
    let root = root
        .canonicalize()
        .map_err(|source| FsError::new("resolve", root, source))?;
    let at_root = look(&root)?;
    let mode = at_root.st_mode & 0o7777;
    if mode & 0o022 != 0 {
        let found = format!(
            "may write into {} (mode {mode:04o}), and so put wrong files there",
            root.display()
        );
        return Ok(Check::problem(NAME, found).remedy(REMEDY));
    }
    if at_root.st_uid != 0 {
        let found = format!(
            "uid {} owns {}, and reaches the layers",
            at_root.st_uid,
            root.display()
        );
        return Ok(
            Check::warning(NAME, found).remedy("chown root the store's directory, if layers are extracted")
        );
    }
    if is_closed(&root, &at_root) {
        return Ok(Check::ok(
            NAME,
            format!("cannot reach the layers: mode {mode:04o}"),
        ));
    }
    if let Some(door) = closed_above(&root)? {
        let found = format!(
            "are stopped here by {} alone (store: mode {mode:04o})",
            door.display()
        );
        return Ok(Check::warning(NAME, found).remedy(REMEDY));
    }
    let harmless = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    if !mount.flags.contains(harmless) {
        let found =
            format!("reach setuid programs of images (store: mode {mode:04o}, mount without nosuid,nodev)");
        return Ok(Check::problem(NAME, found).remedy(REMEDY));
    }
    Ok(Check::ok(
        NAME,
        format!("reach the layers (mode {mode:04o}), harmlessly here: nosuid,nodev"),
    ))
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
