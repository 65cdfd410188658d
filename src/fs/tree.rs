//! Directory trees: whole ones are published by one rename, or removed.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::{FsError, make_dirs_durably, sync_dir};

/// How often a call that a file system asks to repeat is repeated.
const MAX_TRIES: u32 = 8;

/// The pause before the first repetition; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Whose a name is after [`publish_dir`] or [`super::publish_file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The one that was to be published.
    Ours,
    /// Somebody else's, who was first. What was to be published is where it was.
    Theirs,
}

/// Gives a directory that is not empty its final name, whose parents are made if needed; its content must be
/// durable.
///
/// # Errors
/// Any errno but those of a name that is taken: ENOTEMPTY and EEXIST. EAGAIN is tried again.
pub fn publish_dir(staged: &Path, target: &Path) -> Result<Published, FsError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    make_dirs_durably(parent)?;
    sync_dir(staged)?;
    let renamed = patiently(|| std::fs::rename(staged, target), |errno| errno == Errno::AGAIN);
    match renamed {
        Ok(()) => {
            sync_dir(parent)?;
            Ok(Published::Ours)
        }
        Err(source) => match Errno::from_io_error(&source) {
            Some(Errno::NOTEMPTY | Errno::EXIST) => {
                // Whoever goes by it may do so before its maker has come this far.
                sync_dir(parent)?;
                Ok(Published::Theirs)
            }
            Some(_) | None => Err(FsError::new("rename", target, source)),
        },
    }
}

/// Removes a directory with all that is in it, and follows no symbolic link; that it is gone already is fine.
///
/// # Errors
/// Any errno but ENOENT. ENOTEMPTY is tried again: NFS keeps a name for what somebody still has open.
pub fn remove_tree(path: &Path) -> Result<(), FsError> {
    let is_passing = |errno| matches!(errno, Errno::NOTEMPTY | Errno::AGAIN | Errno::BUSY);
    match patiently(|| std::fs::remove_dir_all(path), is_passing) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FsError::new("remove", path, source)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn patiently(mut call: impl FnMut() -> io::Result<()>, is_passing: impl Fn(Errno) -> bool) -> io::Result<()> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..MAX_TRIES {
        match call() {
            Err(source) if Errno::from_io_error(&source).is_some_and(&is_passing) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            ended => return ended,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_first_of_two_has_the_name_and_the_other_learns_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b/final");
        for (name, expected) in [("one", Published::Ours), ("two", Published::Theirs)] {
            let staged = dir.path().join(name);
            std::fs::create_dir_all(staged.join("diff")).unwrap();
            std::fs::write(staged.join("diff/who"), name).unwrap();
            assert_eq!(publish_dir(&staged, &target).unwrap(), expected);
            assert_eq!(staged.exists(), expected == Published::Theirs);
        }
        assert_eq!(std::fs::read(target.join("diff/who")).unwrap(), b"one");
    }

    #[test]
    fn what_is_not_there_cannot_be_published() {
        let dir = tempfile::tempdir().unwrap();
        let error = publish_dir(&dir.path().join("none"), &dir.path().join("final")).unwrap_err();
        assert!(error.is_missing(), "{}", error.full_text());
    }

    #[test]
    fn a_deep_tree_is_removed_and_nothing_that_its_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), b"x").unwrap();
        let tree = dir.path().join("tree");
        let mut deep = tree.clone();
        deep.extend(std::iter::repeat_n("d", 200));
        std::fs::create_dir_all(&deep).unwrap();
        symlink(&outside, deep.join("link")).unwrap();
        symlink("/", tree.join("root")).unwrap();
        std::fs::write(tree.join("unreadable"), b"x").unwrap();
        std::fs::set_permissions(tree.join("unreadable"), std::fs::Permissions::from_mode(0o0)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_call_is_repeated_as_long_as_its_errno_may_pass() {
        let mut calls = 0;
        let again = || {
            calls += 1;
            if calls < 3 {
                Err(Errno::AGAIN.into())
            } else {
                Ok(())
            }
        };
        patiently(again, |errno| errno == Errno::AGAIN).unwrap();
        assert_eq!(calls, 3);
        assert!(patiently(|| Err(Errno::IO.into()), |errno| errno == Errno::AGAIN).is_err());
    }
}
