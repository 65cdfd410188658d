//! How many names one file may have.

use std::path::Path;

use rustix::io::Errno;

use super::{FsError, make_file};
use crate::fs::Mount;

/// More than GlusterFS gives a file at its defaults (47, or 100); each link costs it milliseconds.
const TRIED: u32 = 128;

/// Links one file until that is refused; `None` if it never was.
pub(super) fn limit(dir: &Path) -> Result<Option<u32>, FsError> {
    let first = dir.join("link.1");
    make_file(&first)?;
    for names in 1..TRIED {
        let next = dir.join(format!("link.{}", names + 1));
        match rustix::fs::link(&first, &next) {
            Ok(()) => {}
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return Ok(Some(names));
            }
            // GlusterFS keeps a file's names in an attribute, and when that is full says that the disk is.
            Err(Errno::NOSPC) if has_room(dir)? => return Ok(Some(names)),
            Err(errno) => return Err(FsError::new("link", &next, errno.into())),
        }
    }
    Ok(None)
}

fn has_room(dir: &Path) -> Result<bool, FsError> {
    let mount = Mount::of(dir)?;
    Ok(mount.free_bytes > 0 && (mount.free_inodes > 0 || mount.inodes == 0))
}
