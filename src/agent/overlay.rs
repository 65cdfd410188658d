//! Whether overlayfs can have its upper directories somewhere, found out by trying.
//!
//! The overlay is made and nowhere mounted, so that nothing is left of it (fsopen(2), fsconfig(2)).

use std::path::Path;

use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};

use crate::fs::{FsError, make_new_dir, random_name, remove_tree};

/// Tells whether `dir` can hold upper directories; `None` if this process may not try.
///
/// # Errors
/// Fails if the directories to try it with cannot be made.
pub(super) fn holds_uppers(dir: &Path) -> Result<Option<bool>, FsError> {
    let scratch = dir.join(format!(".overlay-{}", random_name()));
    make_new_dir(&scratch)?;
    let tried = try_in(&scratch);
    remove_tree(&scratch)?;
    match tried? {
        Ok(()) => Ok(Some(true)),
        // Mounting is containerd's part, which may have more rights.
        Err(Errno::PERM | Errno::NOSYS | Errno::NODEV) => Ok(None),
        Err(_) => Ok(Some(false)),
    }
}

fn try_in(scratch: &Path) -> Result<rustix::io::Result<()>, FsError> {
    let dirs = ["lower", "upper", "work"].map(|name| scratch.join(name));
    for dir in &dirs {
        make_new_dir(dir)?;
    }
    let [lower, upper, work] = &dirs;
    let make = || {
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, dir) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
            fsconfig_set_string(overlay.as_fd(), key, dir)?;
        }
        fsconfig_create(overlay.as_fd())
    };
    Ok(make())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_try() {
        let dir = tempfile::tempdir().unwrap();
        // Without root it cannot be tried.
        assert_ne!(holds_uppers(dir.path()).unwrap(), Some(false));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
