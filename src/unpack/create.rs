//! A writer: the system calls that create one entry, with all its metadata, in as few calls as can be.
//!
//! Each call on a distributed file system is a round trip, so nothing is set that is so already: modes come
//! with the creation (a writer's thread has a umask of its own, 0), owners only where they differ from
//! the process's.

mod link;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nix::sched::CloneFlags;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, makedev};
use rustix::io::Errno;

use super::entry::{Device, Extent, FileShape, Meta, Time};
use super::place::{Dir, Ground};
use super::pool::{Content, Job, Work};
use super::xattr::{self, Carrier};
use super::{Compromises, Options, Progress, UnpackError};
use crate::fs::{Durability, FsError};
pub(super) use link::{meta_of, read_xattrs};

/// All bits beyond the permissions.
const SPECIAL: u32 = 0o7000;

/// With less than this a file system is taken for full.
const ROOM_BYTES: u64 = 1 << 20;

/// What the writers of one layer share.
pub(super) struct Creation<'a> {
    pub(super) ground: Ground,
    pub(super) options: &'a Options,
    pub(super) compromises: Mutex<Compromises>,
    progress: &'a Progress,
    /// Bytes of the copies that stand for links: an archive makes them without sending them.
    copied_bytes: AtomicU64,
}

/// One writer, on its thread.
pub(super) struct Writer<'a> {
    shared: &'a Creation<'a>,
    /// Creating sets the mode that is asked for.
    has_exact_modes: bool,
    uid: u32,
    gid: u32,
}

/// A call that failed: which, and how.
type Failed = (&'static str, Errno);

impl<'a> Creation<'a> {
    pub(super) fn new(ground: Ground, options: &'a Options, progress: &'a Progress) -> Self {
        Self {
            ground,
            options,
            compromises: Mutex::default(),
            progress,
            copied_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn note(&self, count: impl FnOnce(&mut Compromises)) {
        count(&mut self.compromises.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<'a> Writer<'a> {
    /// Makes the writer of the calling thread, which must be a thread of its own.
    pub(super) fn new(shared: &'a Creation<'a>) -> Self {
        // The umask is the process's until the thread's is taken apart from it.
        let has_exact_modes = nix::sched::unshare(CloneFlags::CLONE_FS).is_ok();
        if has_exact_modes {
            rustix::process::umask(Mode::empty());
        }
        Self {
            shared,
            has_exact_modes,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// Creates what a job says.
    pub(super) fn perform(&self, job: Job) -> Result<(), UnpackError> {
        self.shared.progress.check()?;
        let Job { dir, name, work } = job;
        let is_entry = !matches!(work, Work::FinishDir { .. });
        let place = self.shared.ground.dir(&dir)?;
        self.create(&dir, &place, &name, work).map_err(|error| {
            error.named(|operation, errno| self.shared.ground.error(operation, &dir, &name, errno))
        })?;
        if is_entry {
            self.shared.progress.entries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn create(&self, of: &Arc<Dir>, dir: &OwnedFd, name: &[u8], work: Work) -> Result<(), CreateError> {
        match work {
            Work::MakeDir { mode, .. } => {
                rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)).map_err(call("make directory"))?;
            }
            Work::File { meta, shape, content } => self.file(dir, name, &meta, &shape, content)?,
            Work::Symlink { meta, target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(&target), dir, name).map_err(call("make link"))?;
                self.dress_name(dir, name, &meta, false)?;
            }
            Work::Device { meta, device } => self.device(dir, name, &meta, device)?,
            Work::Link { target } => self.link(of, dir, name, &target)?,
            Work::Share { source } => self.share(&source, of, dir, name)?,
            Work::Whiteout => {
                rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(call("make whiteout"))?;
            }
            Work::FinishDir {
                meta,
                has_mode,
                is_opaque,
            } => self.finish_dir(dir, name, &meta, has_mode && self.has_exact_modes, is_opaque)?,
        }
        Ok(())
    }

    fn file(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        meta: &Meta,
        shape: &FileShape,
        content: Content,
    ) -> Result<(), CreateError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(meta.mode & !SPECIAL);
        let file = rustix::fs::openat(dir, name, flags, mode).map_err(call("create"))?;
        let mut sink = Sink::new(&file, &shape.extents);
        match content {
            Content::Whole(pieces) => pieces.iter().try_for_each(|piece| sink.write(piece))?,
            Content::Pieces(pieces) => {
                while let Ok(piece) = pieces.recv() {
                    sink.write(&piece)?;
                }
                // The archive could not be read to the file's end: it says why.
                if !sink.is_complete() {
                    return Err(CreateError::Unpack(UnpackError::Cancelled));
                }
            }
        }
        if sink.end() < shape.size {
            rustix::fs::ftruncate(&file, shape.size).map_err(call("extend"))?;
        }
        self.finish_file(file, meta)
    }

    /// Gives a new file its metadata, and closes it.
    fn finish_file(&self, file: OwnedFd, meta: &Meta) -> Result<(), CreateError> {
        self.dress_file(&file, meta)?;
        if self.shared.options.abilities.durability == Durability::Fsync {
            rustix::fs::fsync(&file).map_err(call("sync"))?;
        }
        // What the servers could not take may be told here alone.
        nix::unistd::close(file).map_err(|errno| ("close", Errno::from_raw_os_error(errno as i32)))?;
        Ok(())
    }

    fn dress_file(&self, file: &OwnedFd, meta: &Meta) -> Result<(), CreateError> {
        if let Some((uid, gid)) = self.owner(meta) {
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(call("change owner of"))?;
        }
        if meta.mode & SPECIAL != 0 || !self.has_exact_modes {
            rustix::fs::fchmod(file, self.mode(meta)).map_err(call("change mode of"))?;
        }
        rustix::fs::futimens(file, &self.times(meta)).map_err(call("set times of"))?;
        // Last: a client that holds written bytes back (GlusterFS) sends them before it changes an owner, mode or
        // time, but not always before an attribute, and with the bytes the server drops security.capability.
        self.set_xattrs(&Carrier::File(file), meta)
    }

    /// Gives something other than a file its metadata, by its name.
    pub(super) fn dress_name(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        meta: &Meta,
        sets_mode: bool,
    ) -> Result<(), CreateError> {
        if let Some((uid, gid)) = self.owner(meta) {
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(call("change owner of"))?;
        }
        if sets_mode {
            rustix::fs::chmodat(dir, name, self.mode(meta), AtFlags::empty())
                .map_err(call("change mode of"))?;
        }
        self.set_xattrs(&Carrier::Name(dir, name), meta)?;
        rustix::fs::utimensat(dir, name, &self.times(meta), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(call("set times of"))?;
        Ok(())
    }

    fn device(&self, dir: &OwnedFd, name: &[u8], meta: &Meta, device: Device) -> Result<(), CreateError> {
        if !self.shared.options.abilities.devices {
            self.shared.note(|compromises| compromises.lost_devices += 1);
            return Ok(());
        }
        let (kind, number) = match device {
            Device::Character { major, minor } => (FileType::CharacterDevice, makedev(major, minor)),
            Device::Block { major, minor } => (FileType::BlockDevice, makedev(major, minor)),
            Device::Fifo => (FileType::Fifo, 0),
        };
        let mode = Mode::from_raw_mode(meta.mode & !SPECIAL);
        rustix::fs::mknodat(dir, name, kind, mode, number).map_err(call("make device"))?;
        self.dress_name(dir, name, meta, meta.mode & SPECIAL != 0 || !self.has_exact_modes)
    }

    fn finish_dir(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        meta: &Meta,
        has_mode: bool,
        is_opaque: bool,
    ) -> Result<(), CreateError> {
        if is_opaque {
            mark_opaque(dir, name, self.shared.options.user_opaque)?;
        }
        self.dress_name(dir, name, meta, !has_mode)?;
        self.sync_dir(dir, name)
    }

    /// Makes a directory's entries and metadata durable, if nothing else does.
    pub(super) fn sync_dir(&self, dir: &OwnedFd, name: &[u8]) -> Result<(), CreateError> {
        if self.shared.options.abilities.durability == Durability::Fsync {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(call("open"))?;
            rustix::fs::fsync(open).map_err(call("sync"))?;
        }
        Ok(())
    }

    /// Returns the owner that must be set.
    pub(super) fn owner(&self, meta: &Meta) -> Option<(Uid, Gid)> {
        if meta.uid == self.uid && meta.gid == self.gid {
            return None;
        }
        if !self.shared.options.abilities.ownership {
            self.shared.note(|compromises| compromises.lost_owners += 1);
            return None;
        }
        Some((Uid::from_raw(meta.uid), Gid::from_raw(meta.gid)))
    }

    /// Returns the mode that is to be set.
    pub(super) fn mode(&self, meta: &Meta) -> Mode {
        let mut mode = meta.mode;
        if mode & SPECIAL != 0 && !self.shared.options.abilities.special_modes {
            self.shared.note(|compromises| compromises.lost_modes += 1);
            mode &= !SPECIAL;
        }
        Mode::from_raw_mode(mode)
    }

    pub(super) fn times(&self, meta: &Meta) -> Timestamps {
        let Time {
            mut seconds,
            mut nanoseconds,
        } = meta.mtime;
        if seconds < 0 && !self.shared.options.abilities.negative_times {
            (seconds, nanoseconds) = (0, 0);
        }
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }

    pub(super) fn set_xattrs(&self, carrier: &Carrier<'_>, meta: &Meta) -> Result<(), CreateError> {
        for attribute in &meta.xattrs {
            let Some(class) = xattr::class_of(&attribute.name) else {
                continue;
            };
            let is_kept = class.is_kept(&self.shared.options.abilities)
                && carrier.set(attribute).map_err(call("set attribute of"))?;
            if !is_kept {
                self.shared.note(|compromises| class.count_lost(compromises));
            }
        }
        Ok(())
    }
}

/// Marks a directory as hiding what the layers below have under its name.
pub(super) fn mark_opaque(dir: &OwnedFd, name: &[u8], user_too: bool) -> Result<(), CreateError> {
    let path = xattr::path_of(dir, name);
    let mark = |attribute| rustix::fs::lsetxattr(&path, attribute, b"y", rustix::fs::XattrFlags::empty());
    mark(xattr::TRUSTED_OPAQUE).map_err(call("mark as opaque"))?;
    if user_too {
        mark(xattr::USER_OPAQUE).map_err(call("mark as opaque"))?;
    }
    Ok(())
}

/// What creating one entry fails with.
pub(super) enum CreateError {
    /// A call for the entry itself, which gets its name from the caller.
    Call(Failed),
    Fs(FsError),
    Unpack(UnpackError),
}

impl CreateError {
    /// Says what failed; `name` names a call that failed, and its path.
    pub(super) fn named(self, name: impl FnOnce(&'static str, Errno) -> FsError) -> UnpackError {
        match self {
            Self::Call((operation, errno)) => name(operation, errno).into(),
            Self::Fs(error) => error.into(),
            Self::Unpack(error) => error,
        }
    }
}

impl From<Failed> for CreateError {
    fn from(failed: Failed) -> Self {
        Self::Call(failed)
    }
}

impl From<FsError> for CreateError {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

/// Names a failed call.
pub(super) fn call(operation: &'static str) -> impl Fn(Errno) -> Failed {
    move |errno| (operation, errno)
}

/// Tells whether a file system has room and free inodes, so that ENOSPC must mean something else.
pub(super) fn has_room(fd: impl AsFd) -> bool {
    rustix::fs::fstatvfs(fd).is_ok_and(|stat| {
        let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        // 0 of 0 inodes: the file system does not count them.
        bytes > ROOM_BYTES && (stat.f_files == 0 || stat.f_ffree > 0)
    })
}

/// Writes content to where it lies in a file.
struct Sink<'a> {
    file: &'a OwnedFd,
    extents: std::slice::Iter<'a, Extent>,
    /// What of the current part is still to come.
    current: Extent,
}

impl<'a> Sink<'a> {
    fn new(file: &'a OwnedFd, extents: &'a [Extent]) -> Self {
        Self {
            file,
            extents: extents.iter(),
            current: Extent { offset: 0, length: 0 },
        }
    }

    fn write(&mut self, piece: &Bytes) -> Result<(), Failed> {
        let mut rest: &[u8] = piece;
        while !rest.is_empty() {
            if self.current.length == 0 {
                // The shape was checked against the content's length.
                let Some(next) = self.extents.next() else {
                    return Err(("write", Errno::FBIG));
                };
                self.current = *next;
            }
            let length = usize::try_from(self.current.length).map_or(rest.len(), |max| max.min(rest.len()));
            match rustix::io::pwrite(self.file, &rest[..length], self.current.offset) {
                Ok(0) => return Err(("write", Errno::NOSPC)),
                Ok(count) => {
                    self.current.offset += count as u64;
                    self.current.length -= count as u64;
                    rest = &rest[count..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(("write", errno)),
            }
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.current.length == 0 && self.extents.as_slice().is_empty()
    }

    /// Returns where the last byte written ends.
    fn end(&self) -> u64 {
        self.current.offset
    }
}
