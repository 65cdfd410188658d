//! Further names of a file, and copies of it where the file system allows no more names.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{CreateError, SPECIAL, Writer, call, has_room};
use crate::unpack::UnpackError;
use crate::unpack::entry::{Meta, Time, Xattr};
use crate::unpack::link::{LinkTarget, Name};
use crate::unpack::place::{Dir, Ground};
use crate::unpack::xattr::{self, Carrier, path_of};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 128 << 10;

impl Writer<'_> {
    /// Makes a further name of a file, or a copy of it.
    pub(super) fn link(
        &self,
        dir: &Arc<Dir>,
        place: &OwnedFd,
        name: &[u8],
        target: &LinkTarget,
    ) -> Result<(), CreateError> {
        // Held while the link is made: links of one file follow each other, as its limit wants.
        let mut names = target.lock();
        let new = Name {
            dir: Arc::clone(dir),
            name: name.into(),
        };
        let Some(current) = names.current().cloned() else {
            return Err(("link", Errno::NOENT).into());
        };
        let from = self.shared.ground.dir(&current.dir)?;
        let limit = self.shared.options.abilities.hard_link_limit;
        let may_link = limit.is_none_or(|limit| names.count < limit);
        if may_link {
            match rustix::fs::linkat(&*from, &*current.name, place, name, AtFlags::empty()) {
                Ok(()) => {
                    names.add(new);
                    return self.dress_link(place, name, names.meta.take());
                }
                // GlusterFS answers ENOSPC when its attribute that lists the names is full.
                Err(Errno::MLINK) => {}
                Err(Errno::NOSPC) if has_room(place) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(("link", errno).into()),
            }
        }
        self.copy(&from, &current.name, place, name)?;
        names.add_copy(new);
        self.shared.note(|compromises| compromises.copied_links += 1);
        self.dress_link(place, name, names.meta.take())
    }

    /// Makes a name of a file of another directory of the layer, or a copy of it.
    pub(super) fn share(
        &self,
        source: &Ground,
        dir: &Arc<Dir>,
        place: &OwnedFd,
        name: &[u8],
    ) -> Result<(), CreateError> {
        let from = source.dir(dir)?;
        match rustix::fs::linkat(&*from, name, place, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => self.copy(&from, name, place, name),
            Err(Errno::NOSPC) if has_room(place) => self.copy(&from, name, place, name),
            Err(errno) => Err(("link", errno).into()),
        }
    }

    /// Gives a file the metadata of a link's entry, where it differs: runtimes do so.
    fn dress_link(&self, place: &OwnedFd, name: &[u8], meta: Option<Meta>) -> Result<(), CreateError> {
        // Once for a file and not for each link, which costs a call.
        let Some(meta) = &meta else {
            return Ok(());
        };
        let stat = rustix::fs::statat(place, name, AtFlags::SYMLINK_NOFOLLOW).map_err(call("stat"))?;
        let is_symlink = stat.st_mode & 0o170_000 == 0o120_000;
        let owner_differs =
            (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) && self.shared.options.abilities.ownership;
        let mode_differs = !is_symlink && stat.st_mode & 0o7777 != self.mode(meta).as_raw_mode();
        let time_differs = stat.st_mtime != self.times(meta).last_modification.tv_sec;
        if owner_differs {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(meta.uid),
                rustix::fs::Gid::from_raw(meta.gid),
            );
            rustix::fs::chownat(place, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(call("change owner of"))?;
        }
        if !is_symlink && (mode_differs || (owner_differs && meta.mode & SPECIAL != 0)) {
            rustix::fs::chmodat(place, name, self.mode(meta), AtFlags::empty())
                .map_err(call("change mode of"))?;
        }
        if owner_differs {
            // Changing the owner takes the capabilities away.
            self.set_xattrs(&Carrier::Name(place, name), meta)?;
        }
        if owner_differs || mode_differs || time_differs {
            rustix::fs::utimensat(place, name, &self.times(meta), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(call("set times of"))?;
        }
        Ok(())
    }

    /// Copies a file with its metadata.
    fn copy(&self, from: &OwnedFd, source: &[u8], place: &OwnedFd, name: &[u8]) -> Result<(), CreateError> {
        let stat = rustix::fs::statat(from, source, AtFlags::SYMLINK_NOFOLLOW).map_err(call("stat"))?;
        let meta = meta_of(
            &stat,
            read_xattrs(from, source).map_err(call("read attributes of"))?,
        );
        match stat.st_mode & 0o170_000 {
            0o100_000 => {}
            0o120_000 => {
                let target = rustix::fs::readlinkat(from, source, Vec::new()).map_err(call("read link"))?;
                rustix::fs::symlinkat(&*target, place, name).map_err(call("make link"))?;
                return self.dress_name(place, name, &meta, false);
            }
            kind => {
                let kind = rustix::fs::FileType::from_raw_mode(kind);
                let mode = Mode::from_raw_mode(meta.mode);
                rustix::fs::mknodat(place, name, kind, mode, stat.st_rdev).map_err(call("make device"))?;
                return self.dress_name(place, name, &meta, true);
            }
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, source, flags, Mode::empty()).map_err(call("open"))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(meta.mode & !SPECIAL);
        let file = rustix::fs::openat(place, name, flags, mode).map_err(call("create"))?;
        self.count_copy(&stat)?;
        copy_content(&source, &file, stat.st_size as u64)?;
        self.finish_file(file, &meta)
    }

    /// Holds what is about to be copied against the limit of a layer's bytes.
    fn count_copy(&self, stat: &Stat) -> Result<(), CreateError> {
        // What is allocated, where the file system tells that.
        let bytes = (stat.st_size as u64).min(512 * stat.st_blocks as u64);
        let max = self.shared.options.limits.max_layer_bytes;
        let before = self.shared.copied_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > max {
            return Err(CreateError::Unpack(UnpackError::limit("max_layer_size", max)));
        }
        Ok(())
    }
}

/// Copies what is no hole: a file of a few bytes can be a hundred terabytes large.
fn copy_content(source: &OwnedFd, file: &OwnedFd, size: u64) -> Result<(), CreateError> {
    rustix::fs::ftruncate(file, size).map_err(call("extend"))?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(at) => at,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            // The file system knows of no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(call("find content of")(errno).into()),
        };
        let count = rustix::io::pread(source, &mut buffer, at).map_err(call("read"))?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let written = rustix::io::pwrite(file, rest, at).map_err(call("write"))?;
            if written == 0 {
                return Err(("write", Errno::NOSPC).into());
            }
            at += written as u64;
            rest = &rest[written..];
        }
    }
}

/// Returns the metadata that a file has.
pub(in crate::unpack) fn meta_of(stat: &Stat, xattrs: Vec<Xattr>) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            seconds: stat.st_mtime,
            // Nanoseconds are below a milliard.
            nanoseconds: stat.st_mtime_nsec as u32,
        },
        xattrs,
    }
}

/// Returns the attributes that a file has, those of overlayfs too; none where there are none at all.
///
/// ACLs are asked for by name: MooseFS does not list them.
pub(in crate::unpack) fn read_xattrs(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Vec<Xattr>> {
    let path = path_of(dir, name);
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(&path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    let listed = names[..length].split(|byte| *byte == 0);
    let mut names: BTreeSet<&[u8]> = listed.filter(|name| !name.is_empty()).collect();
    names.extend(xattr::ACLS);
    let mut xattrs = Vec::new();
    for name in names {
        let mut value = vec![0; 64 << 10];
        match rustix::fs::lgetxattr(&path, name, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(errno) => return Err(errno),
        }
        xattrs.push(Xattr {
            name: name.to_vec(),
            value,
        });
    }
    Ok(xattrs)
}
