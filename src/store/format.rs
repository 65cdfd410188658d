//! `wharf.json`: the store's format version and id.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs::{self, FsError, FsErrorKind};

use super::layout::Layout;

/// The format that this version reads and writes.
const FORMAT_VERSION: u32 = 1;

/// Why a store cannot be opened. Each text says the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error("store {} cannot be written; give wharf a directory that its user may write (--store DIR)", path.display())]
    Unwritable { path: PathBuf, source: FsError },
    #[error("there is no store at {}; name the directory of one (--store DIR)", path.display())]
    Missing { path: PathBuf },
    #[error("store {} cannot be read; give wharf a directory that its user may read (--store DIR)", path.display())]
    Unreadable { path: PathBuf, source: FsError },
    #[error("{} is not wharf's; give wharf an empty directory (--store DIR), or restore the file", path.display())]
    Foreign {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("store {} has format {found}, and this wharf knows {FORMAT_VERSION}; use the wharf that made it, or another directory", path.display())]
    Version { path: PathBuf, found: u32 },
}

#[derive(Serialize, Deserialize)]
struct FormatFile {
    format: u32,
    store_id: String,
}

/// Makes the store if it is not there, and checks its format.
pub(super) fn open_or_make(layout: &Layout) -> Result<(), OpenStoreError> {
    let unwritable = |source| OpenStoreError::Unwritable {
        path: layout.root().to_owned(),
        source,
    };
    // A shared file system has users who may not have what wharf's credentials fetched.
    fs::make_private_dir(layout.root()).map_err(unwritable)?;
    fs::make_dirs(&layout.work()).map_err(unwritable)?;
    let path = layout.format_file();
    if fs::stat(&path).map_err(unwritable)?.is_none() {
        make(&path).map_err(unwritable)?;
    }
    check(layout)
}

/// Checks the format of a store that is there.
pub(super) fn check(layout: &Layout) -> Result<(), OpenStoreError> {
    let path = layout.format_file();
    let root = || layout.root().to_owned();
    let text = match fs::read(&path) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(OpenStoreError::Missing { path: root() }),
        Err(source) => return Err(OpenStoreError::Unreadable { path: root(), source }),
    };
    let found: FormatFile = serde_json::from_slice(&text).map_err(|source| OpenStoreError::Foreign {
        path: path.clone(),
        source,
    })?;
    if found.format != FORMAT_VERSION {
        return Err(OpenStoreError::Version {
            path: root(),
            found: found.format,
        });
    }
    Ok(())
}

/// Writes the file under a name of its own and links it, so that of several starting mirrors one makes it, whole.
fn make(path: &Path) -> Result<(), FsError> {
    let store_id = super::owner::random_name();
    let file = FormatFile {
        format: FORMAT_VERSION,
        store_id: store_id.clone(),
    };
    let mut text = serde_json::to_vec_pretty(&file)
        .map_err(|error| FsError::new("encode", path, std::io::Error::other(error)))?;
    text.push(b'\n');
    let own = path.with_extension(store_id);
    fs::create_new(&own, &text)?;
    let linked = match std::fs::hard_link(&own, path).map_err(|source| FsError::new("link", path, source)) {
        Err(error) if error.kind() == FsErrorKind::Exists => Ok(()),
        // A file system without hard links: the last of several starters wins, and all read its file.
        Err(_) => std::fs::rename(&own, path).map_err(|source| FsError::new("rename", path, source)),
        Ok(()) => Ok(()),
    };
    fs::remove(&own)?;
    linked
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_store_is_its_owners_alone_unless_somebody_made_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mode_of = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let made = dir.path().join("new/store");
        open_or_make(&Layout::new(&made)).unwrap();
        assert_eq!(mode_of(&made), 0o700);
        let given = dir.path().join("given");
        std::fs::create_dir(&given).unwrap();
        std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o711)).unwrap();
        open_or_make(&Layout::new(&given)).unwrap();
        assert_eq!(mode_of(&given), 0o711);
    }
}
