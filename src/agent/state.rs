//! The agent's records in sled, under its root.
//!
//! What is in them can be made again: local snapshots have their records beside them, layers of the store are named by
//! what they are. So records that cannot be read are put aside, and do not keep a node from working.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// sled's own default would be a gigabyte.
const CACHE_BYTES: u64 = 8 << 20;

/// Opens the records, or new ones in place of those that cannot be read.
///
/// # Errors
/// Fails if another agent has them open, or the disk refuses.
pub(super) fn open(root: &Path) -> anyhow::Result<sled::Db> {
    let path = root.join("records");
    let open = || sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).open();
    match open() {
        // sled's only sign of a lock that is taken, by a text.
        Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
            anyhow::bail!(
                "another agent uses {}; stop it, or give this one a directory of its own (--root DIR)",
                root.display()
            )
        }
        Err(error @ (sled::Error::Corruption { .. } | sled::Error::Unsupported(_))) => {
            let aside = put_aside(&path).with_context(|| format!("cannot put {} aside", path.display()))?;
            tracing::error!(
                %error, put_aside = %aside.display(),
                "the records of snapshots cannot be read; they are made again from the snapshots themselves"
            );
            open().with_context(|| format!("cannot make the records of snapshots in {}", path.display()))
        }
        opened => {
            opened.with_context(|| format!("cannot open the records of snapshots in {}", path.display()))
        }
    }
}

fn put_aside(path: &Path) -> std::io::Result<PathBuf> {
    let free = |number: &u32| !path.with_extension(format!("unreadable-{number}")).exists();
    let number = (1..).find(free).unwrap_or_default();
    let aside = path.with_extension(format!("unreadable-{number}"));
    std::fs::rename(path, &aside)?;
    Ok(aside)
}
