//! Rename of directories, who wins a name, and whether fsync is answered.

use std::path::Path;
use std::sync::Barrier;

use rustix::io::Errno;

use super::{FsError, is_accepted, make_dir, make_file};

const MAKERS: usize = 4;
const NAMES: usize = 8;
/// JuiceFS answers EAGAIN while others rename nearby.
const ATTEMPTS: u32 = 5;

/// Tells whether a directory with a file moves to a free name, and not onto another one with a file.
pub(super) fn renames_directories(dir: &Path) -> Result<bool, FsError> {
    let [first, second, free] = ["rename.1", "rename.2", "rename.3"].map(|name| dir.join(name));
    for made in [&first, &second] {
        make_dir(made)?;
        make_file(&made.join(made.file_name().unwrap_or_default()))?;
    }
    if !is_accepted("rename", &first, rename(&first, &free))? {
        return Ok(false);
    }
    match rename(&free, &second) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        // It went over what was there, or nobody knows what it would do.
        result => return is_accepted("rename", &free, result).map(|_| false),
    }
    Ok(free.join("rename.1").exists() && second.join("rename.2").exists())
}

fn rename(from: &Path, to: &Path) -> Result<(), Errno> {
    for _ in 1..ATTEMPTS {
        match rustix::fs::rename(from, to) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    rustix::fs::rename(from, to)
}

/// Tells whether of several threads that make one directory exactly one succeeds.
pub(super) fn makes_directories_exclusively(dir: &Path) -> Result<bool, FsError> {
    let barrier = Barrier::new(MAKERS);
    let make_all = || -> Result<Vec<bool>, FsError> {
        barrier.wait();
        (0..NAMES)
            .map(|number| {
                let path = dir.join(format!("exclusive.{number}"));
                match std::fs::create_dir(&path) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
                    Err(source) => Err(FsError::new("make directory", &path, source)),
                }
            })
            .collect()
    };
    let won: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(make_all)).collect();
        let ended = makers.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.filter_map(Result::ok).collect()
    });
    let won = won.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok((0..NAMES).all(|number| won.iter().filter(|made| made[number]).count() == 1))
}

/// Tells whether fsync of a file and of a directory is answered with success.
pub(super) fn syncs(dir: &Path) -> Result<bool, FsError> {
    let path = dir.join("synced");
    let file = make_file(&path)?;
    rustix::io::write(&file, b"wharf").map_err(|errno| FsError::new("write", &path, errno.into()))?;
    if !is_accepted("sync", &path, rustix::fs::fsync(&file))? {
        return Ok(false);
    }
    let opened = std::fs::File::open(dir).map_err(|source| FsError::new("open", dir, source))?;
    is_accepted("sync", dir, rustix::fs::fsync(&opened))
}
