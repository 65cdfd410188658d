//! Kinds of files, owners, modes and times.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};

use super::{FsError, is_accepted, lstat, make_dir, make_file};

/// Beyond what signed 32 bits hold; user namespaces map such numbers.
const ODD_UID: u32 = 3_000_000_000;
const ODD_GID: u32 = 3_000_000_001;

pub(super) fn keeps_whiteouts(dir: &Path) -> Result<bool, FsError> {
    keeps_node(dir, "whiteout", FileType::CharacterDevice, (0, 0))
}

pub(super) fn keeps_devices(dir: &Path) -> Result<bool, FsError> {
    Ok(keeps_node(dir, "char", FileType::CharacterDevice, (1, 3))?
        && keeps_node(dir, "block", FileType::BlockDevice, (7, 0))?
        && keeps_node(dir, "fifo", FileType::Fifo, (0, 0))?)
}

fn keeps_node(dir: &Path, name: &str, kind: FileType, (major, minor): (u32, u32)) -> Result<bool, FsError> {
    let path = dir.join(name);
    let device = rustix::fs::makedev(major, minor);
    let made = rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, device);
    if !is_accepted("make node", &path, made)? {
        return Ok(false);
    }
    let found = lstat(&path)?;
    Ok(FileType::from_raw_mode(found.st_mode) == kind && (kind == FileType::Fifo || found.st_rdev == device))
}

pub(super) fn keeps_owners(dir: &Path) -> Result<bool, FsError> {
    match keeps_owner(&dir.join("owned"), ODD_UID, ODD_GID) {
        // bindfs answers EIO to such numbers; what takes plain ones is not sick.
        Err(error) => keeps_owner(&dir.join("owned.plainly"), 1000, 1001)
            .map(|_| false)
            .map_err(|_| error),
        kept => kept,
    }
}

fn keeps_owner(path: &Path, uid: u32, gid: u32) -> Result<bool, FsError> {
    make_file(path)?;
    let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let changed = rustix::fs::chownat(CWD, path, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW);
    if !is_accepted("change owner of", path, changed)? {
        return Ok(false);
    }
    let found = lstat(path)?;
    Ok((found.st_uid, found.st_gid) == (uid, gid))
}

pub(super) fn keeps_special_modes(dir: &Path) -> Result<bool, FsError> {
    let (program, shared) = (dir.join("setuid"), dir.join("sticky"));
    make_file(&program)?;
    make_dir(&shared)?;
    Ok(keeps_mode(&program, 0o6755)? && keeps_mode(&shared, 0o1777)? && keeps_mode(&shared, 0o2755)?)
}

fn keeps_mode(path: &Path, mode: u32) -> Result<bool, FsError> {
    let changed = rustix::fs::chmod(path, Mode::from_raw_mode(mode));
    Ok(is_accepted("change mode of", path, changed)? && lstat(path)?.st_mode & 0o7777 == mode)
}

pub(super) fn keeps_negative_times(dir: &Path) -> Result<bool, FsError> {
    let year = 365 * 24 * 3600;
    Ok(keeps_time(dir, "negative", -year, 0)?.is_some_and(|(seconds, _)| seconds == -year))
}

pub(super) fn keeps_nanoseconds(dir: &Path) -> Result<bool, FsError> {
    let time = (1_700_000_001, 123_456_789);
    Ok(keeps_time(dir, "nanoseconds", time.0, time.1)? == Some(time))
}

/// Gives a file a time, and returns the one that it then has; `None` if that is refused.
fn keeps_time(dir: &Path, name: &str, tv_sec: i64, tv_nsec: i64) -> Result<Option<(i64, i64)>, FsError> {
    let path = dir.join(name);
    make_file(&path)?;
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let set = rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW);
    if !is_accepted("set times of", &path, set)? {
        return Ok(None);
    }
    let found = lstat(&path)?;
    Ok(Some((
        found.st_mtime,
        i64::try_from(found.st_mtime_nsec).unwrap_or(0),
    )))
}
