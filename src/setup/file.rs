//! One file of a node: what it is, what it should be, and the writing of it.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use similar::TextDiff;

use super::SetupError;
use crate::fs::{FsError, make_dirs, random_name, sync_dir};

/// A file that a runtime needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    pub path: PathBuf,
    /// What is there; `None` if nothing is.
    pub before: Option<String>,
    /// What should be there.
    pub after: String,
}

impl FileChange {
    /// Tells whether the file is not yet as it should be.
    pub fn is_change(&self) -> bool {
        self.before.as_ref() != Some(&self.after)
    }

    /// Returns the name under which [`Plan::write`](super::Plan::write) keeps what was there before it first changed the file.
    pub fn backup(&self) -> PathBuf {
        let beside = |path: &Path| {
            let mut name = path.to_owned().into_os_string();
            name.push(".wharf-backup");
            PathBuf::from(name)
        };
        // Of such directories some programs read every file, as CRI-O does: the backup would win.
        match (self.path.parent(), self.path.file_name()) {
            (Some(dir), Some(name)) if dir.extension().is_some_and(|extension| extension == "d") => {
                beside(dir).join(name)
            }
            _ => beside(&self.path),
        }
    }

    pub(super) fn diff(&self) -> String {
        if !self.is_change() {
            return String::new();
        }
        let name = self.path.display().to_string();
        let old_name = if self.before.is_some() {
            &*name
        } else {
            "/dev/null"
        };
        TextDiff::from_lines(self.before.as_deref().unwrap_or_default(), &*self.after)
            .unified_diff()
            .header(old_name, &name)
            .to_string()
    }

    pub(super) fn write(&self) -> Result<(), SetupError> {
        if !self.is_change() {
            return Ok(());
        }
        // A link stays one.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let dir = path.parent().unwrap_or(Path::new("/"));
        make_dirs(dir)?;
        let owner = path.metadata().ok();
        if let Some(before) = &self.before {
            self.keep(before, owner.as_ref())?;
        }
        let staged = dir.join(format!(".wharf-{}", random_name()));
        let written = write_new(&staged, &self.after, owner.as_ref()).and_then(|()| {
            std::fs::rename(&staged, &path).map_err(|source| FsError::new("rename", &path, source))
        });
        if written.is_err() {
            // What went wrong before it is what matters.
            let _ = std::fs::remove_file(&staged);
        }
        written?;
        sync_dir(dir)?;
        Ok(())
    }

    /// Keeps what was there, unless an older one is kept already.
    fn keep(&self, before: &str, owner: Option<&std::fs::Metadata>) -> Result<(), FsError> {
        let backup = self.backup();
        if backup.symlink_metadata().is_ok() {
            return Ok(());
        }
        if let Some(dir) = backup.parent() {
            make_dirs(dir)?;
        }
        write_new(&backup, before, owner)
    }
}

/// Writes a new file with another one's mode and owner, which appears with no more rights than that.
fn write_new(path: &Path, content: &str, like: Option<&std::fs::Metadata>) -> Result<(), FsError> {
    let error = |operation| move |source| FsError::new(operation, path, source);
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(error("create"))?;
    file.write_all(content.as_bytes()).map_err(error("write"))?;
    if let Some(like) = like {
        fchown(&file, Some(like.uid()), Some(like.gid())).map_err(error("change owner of"))?;
    }
    let mode = like.map_or(0o644, |like| like.mode() & 0o7777);
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(error("change mode of"))?;
    file.sync_all().map_err(error("sync"))
}
