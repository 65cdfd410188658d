//! Whether users of a machine reach the layers by their path, in words.

use std::path::Path;

use super::Check;
use crate::fs::{FsError, Mount, Reach};

const NAME: &str = "other users";
const REMEDY: &str = "chmod 0700 the store's directory, owned by root; where rootless or remapped nodes need 0711, \
                      mount it with nosuid,nodev on every machine";

/// Checks the way to the store.
pub(super) fn check(root: &Path, mount: &Mount) -> Result<Check, FsError> {
    let path = root.display();
    Ok(match Reach::of(root, mount)? {
        Reach::Writable { mode } => {
            let found = format!("may write into {path} (mode {mode:04o}), and so put wrong files there");
            Check::problem(NAME, found).remedy(REMEDY)
        }
        Reach::Owner { uid } => {
            let found = format!("uid {uid} owns {path}, and reaches the layers");
            Check::warning(NAME, found)
                .instead("serves blobs and extracts nothing")
                .remedy("chown root the store's directory, if layers are to be extracted")
        }
        Reach::Closed { mode } => Check::ok(NAME, format!("cannot reach the layers: mode {mode:04o}")),
        Reach::ClosedAbove { mode, door } => {
            let found = format!(
                "are stopped here by {} alone (store: mode {mode:04o})",
                door.display()
            );
            Check::warning(NAME, found).remedy(REMEDY)
        }
        Reach::Open { mode } => {
            let found = format!(
                "reach setuid programs of images (store: mode {mode:04o}, mount without nosuid,nodev)"
            );
            Check::problem(NAME, found).remedy(REMEDY)
        }
        Reach::Harmless { mode } => {
            let found = format!("reach the layers (mode {mode:04o}), harmlessly here: nosuid,nodev");
            Check::ok(NAME, found)
        }
    })
}
