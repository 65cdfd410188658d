//! `reference/`: one file of each kind that is easily lost on the way to a node.
//!
//! Who probes the store's file system leaves it, with what that can keep. A node whose mount is read-only cannot
//! probe; it looks at these.
//!
//! ```text
//! reference/
//!   acl          a POSIX ACL that names a user
//!   capable      security.capability, as ping has it
//!   opaque/      trusted.overlay.opaque=y
//!   user         user.wharf=yes
//!   setuid       mode 6755; empty, so that there is nothing to run
//!   whiteout     character device 0:0
//! ```

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lsetxattr, lstat};
use rustix::io::Errno;

use crate::fs::{self, ACCESS_ACL, Abilities, FILE_CAPABILITY, FsError, FsErrorKind};

const OPAQUE: (&str, &str, &[u8]) = ("opaque", "trusted.overlay.opaque", b"y");
const USER: (&str, &str, &[u8]) = ("user", "user.wharf", b"yes");
const CAPABLE: (&str, &str, &[u8]) = ("capable", "security.capability", &FILE_CAPABILITY);
const ACL: (&str, &str, &[u8]) = ("acl", "system.posix_acl_access", &ACCESS_ACL);
const SETUID_MODE: u32 = 0o6755;

/// What a node sees of the reference; `None` for what the store's file system does not keep anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub whiteout: Option<bool>,
    pub trusted_xattr: Option<bool>,
    pub user_xattr: Option<bool>,
    pub capability: Option<bool>,
    pub acl: Option<bool>,
    pub special_mode: Option<bool>,
}

/// Makes the reference at `path`, by one rename of a directory made at `staged`; one that is there stays.
pub(super) fn make(path: &Path, staged: &Path, abilities: &Abilities) -> Result<(), FsError> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let made = fill(staged, abilities).and_then(|()| match std::fs::rename(staged, path) {
        Ok(()) => Ok(true),
        // Another mirror's is there, with the same content.
        Err(error) if is_taken(&error) => Ok(false),
        Err(source) => Err(FsError::new("rename", path, source)),
    });
    if !matches!(made, Ok(true)) {
        // The work directory goes with its owner at the latest.
        let _ = std::fs::remove_dir_all(staged);
    }
    made.map(|_| ())
}

fn is_taken(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
    )
}

fn fill(staged: &Path, abilities: &Abilities) -> Result<(), FsError> {
    fs::make_dirs(&staged.join(OPAQUE.0))?;
    for name in [USER.0, CAPABLE.0, ACL.0, "setuid"] {
        fs::create_new(&staged.join(name), b"")?;
    }
    let kept = [
        (abilities.trusted_xattrs, OPAQUE),
        (abilities.user_xattrs, USER),
        (abilities.capabilities, CAPABLE),
        (abilities.acls, ACL),
    ];
    for (_, (name, attribute, value)) in kept.into_iter().filter(|(is_kept, _)| *is_kept) {
        let path = staged.join(name);
        lsetxattr(&path, attribute, value, XattrFlags::empty())
            .map_err(|errno| FsError::new("set attribute of", &path, errno.into()))?;
    }
    if abilities.special_modes {
        let path = staged.join("setuid");
        rustix::fs::chmod(&path, Mode::from_raw_mode(SETUID_MODE))
            .map_err(|errno| FsError::new("change mode of", &path, errno.into()))?;
    }
    if abilities.whiteouts {
        let path = staged.join("whiteout");
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(|errno| FsError::new("make node", &path, errno.into()))?;
    }
    Ok(())
}

/// Looks at the reference, as this machine's mount shows it.
///
/// # Errors
/// Any errno but those that say that an attribute is not there; ENOENT if there is no reference.
pub(super) fn examine(path: &Path, abilities: &Abilities) -> Result<Reference, FsError> {
    let stat = |name: &str| {
        let path = path.join(name);
        lstat(&path).map_err(|errno| FsError::new("stat", &path, errno.into()))
    };
    let has_whiteout = || match stat("whiteout") {
        Ok(found) => {
            Ok(FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0)
        }
        Err(error) if error.kind() == FsErrorKind::Missing => Ok(false),
        Err(error) => Err(error),
    };
    let has_mode = || Ok(stat("setuid")?.st_mode & 0o7777 == SETUID_MODE);
    stat(".")?;
    Ok(Reference {
        whiteout: abilities.whiteouts.then(has_whiteout).transpose()?,
        trusted_xattr: abilities
            .trusted_xattrs
            .then(|| shows(path, OPAQUE))
            .transpose()?,
        user_xattr: abilities.user_xattrs.then(|| shows(path, USER)).transpose()?,
        capability: abilities.capabilities.then(|| shows(path, CAPABLE)).transpose()?,
        acl: abilities.acls.then(|| shows(path, ACL)).transpose()?,
        special_mode: abilities.special_modes.then(has_mode).transpose()?,
    })
}

fn shows(dir: &Path, (name, attribute, value): (&str, &str, &[u8])) -> Result<bool, FsError> {
    let path = dir.join(name);
    let mut found = [0; 256];
    match lgetxattr(&path, attribute, &mut found) {
        Ok(length) => Ok(found[..length] == *value),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(FsError::new("read attribute of", &path, errno.into())),
    }
}
