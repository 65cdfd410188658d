//! A second directory of a layer, which shares the files of the first.
//!
//! containers/storage wants a directory for each stack that a layer is on. Files are hard links, and copies where the
//! file system takes no more names of one; directories are made anew.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags};

use super::create::{Creation, Writer, meta_of, read_xattrs};
use super::entry::Meta;
use super::place::{Dir, Ground, open_beneath};
use super::pool::{Closing, Job, Pool, Work};
use super::xattr::TRUSTED_OPAQUE;
use super::{Options, Progress, UnpackError, spawn};
use crate::fs::{Durability, FsError};

/// The mode of a directory in which names are still to be made.
const MAKING_MODE: u32 = 0o700;

/// Makes in `to`, an empty directory of the caller's alone, what is in `from`, and makes it durable.
///
/// `from` is a layer that is published: it does not change.
///
/// # Errors
/// Any errno; the directory's content is then of no use.
pub fn share(from: &Path, to: &Path, options: &Options) -> Result<(), UnpackError> {
    let ground = Ground::open(to)?;
    ground.prepare()?;
    let progress = Progress::default();
    let creation = Creation::new(ground, options, &progress);
    let source = Arc::new(Ground::open(from)?);
    let pool = Pool::default();
    std::thread::scope(|scope| {
        // Dropped before the threads are waited for.
        let _closing = Closing(&pool);
        for _ in 0..options.writers.max(1) {
            spawn(scope, "wharf-writer", || {
                let writer = Writer::new(&creation);
                pool.run(|job| writer.perform(job));
            })?;
        }
        let sharing = Sharing {
            from,
            source,
            pool: &pool,
        };
        sharing.run()
    })?;
    if options.abilities.durability == Durability::Syncfs {
        creation.ground.sync()?;
    }
    Ok(())
}

/// Walks the first directory, and says what is to be made in the second.
struct Sharing<'a> {
    from: &'a Path,
    source: Arc<Ground>,
    pool: &'a Pool,
}

impl Sharing<'_> {
    fn run(&self) -> Result<(), UnpackError> {
        let mut made = Vec::new();
        let mut waiting = VecDeque::from([Dir::root()]);
        let mut serial = 0;
        while let Some(dir) = waiting.pop_front() {
            let (meta, is_opaque, names) = self.read(&dir)?;
            for (name, is_dir) in names {
                let work = if is_dir {
                    serial += 1;
                    let inner = Dir::below(&dir, &name, serial);
                    waiting.push_back(Arc::clone(&inner));
                    Work::MakeDir {
                        made: inner,
                        mode: MAKING_MODE,
                    }
                } else {
                    Work::Share {
                        source: Arc::clone(&self.source),
                    }
                };
                let dir = Arc::clone(&dir);
                self.pool.submit(Job { dir, name, work })?;
            }
            made.push((dir, meta, is_opaque));
        }
        self.pool.wait_idle()?;
        // When nothing more is made in them.
        for (dir, meta, is_opaque) in made {
            let (place, name) = match dir.parent() {
                Some(parent) => (Arc::clone(parent), dir.name().into()),
                None => (Arc::clone(&dir), b".".as_slice().into()),
            };
            let work = Work::FinishDir {
                meta,
                has_mode: false,
                is_opaque,
            };
            self.pool.submit(Job {
                dir: place,
                name,
                work,
            })?;
        }
        self.pool.wait_idle()
    }

    /// Returns what a directory has: metadata, the mark of overlayfs, and names, with which of them are directories.
    #[allow(clippy::type_complexity, reason = "said in the line above, and used once")]
    fn read(&self, dir: &Dir) -> Result<(Meta, bool, Vec<(Box<[u8]>, bool)>), UnpackError> {
        let path: PathBuf = dir.path();
        let error = |operation| {
            let path = self.from.join(&path);
            move |errno: rustix::io::Errno| UnpackError::from(FsError::new(operation, &path, errno.into()))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let open: OwnedFd = open_beneath(self.source.root(), &path, flags).map_err(error("open"))?;
        let stat = rustix::fs::fstat(&open).map_err(error("stat"))?;
        let xattrs = read_xattrs(&open, b".").map_err(error("read attributes of"))?;
        let is_opaque = xattrs.iter().any(|xattr| xattr.name == TRUSTED_OPAQUE.as_bytes());
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&open).map_err(error("list"))? {
            let entry = entry.map_err(error("list"))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&open, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
                    FileType::from_raw_mode(stat.map_err(error("stat"))?.st_mode)
                }
                kind => kind,
            };
            names.push((name.into(), kind == FileType::Directory));
        }
        Ok((meta_of(&stat, xattrs), is_opaque, names))
    }
}
