//! A layer's compressed tar stream becomes a directory that overlayfs can use as a lower one.
//!
//! ```text
//! source → decode (a thread) → blocks → archive → apply (the caller's thread) → pool → create (writers' threads)
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `decode`, `stream` | gzip, zstd or neither, to blocks; hashed to the DiffID, counted, bounded |
//! | `archive`, `pax`, `number`, `entry` | tar's headers to entries |
//! | `apply`, `tree`, `name` | which entry means what and comes when; the layer's names in memory |
//! | `pool`, `place` | the queue of the writers; places that are opened beneath the layer's root alone |
//! | `create`, `link`, `xattr` | the system calls, and what a file system cannot keep |
//! | `tar_split` | what the directory lacks to make the tar stream again |
//! | `settle` | what depends on the layers below |
//! | `twin` | a second directory of a layer |
//!
//! Sources: image-spec `layer.md`; the kernel's overlayfs.rst. Knows no store and no network.

mod apply;
mod archive;
mod create;
mod decode;
mod digest;
mod entry;
mod error;
mod link;
mod name;
mod number;
mod pax;
mod place;
mod pool;
mod settle;
mod stream;
mod tar_split;
#[cfg(test)]
mod tests;
mod tree;
mod twin;
mod xattr;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use error::{EntryFault, UnpackError};
pub use twin::share;

use crate::fs::{Abilities, Durability, FsError};
use crate::oci::DiffId;
use apply::Reading;
use archive::Archive;
use create::{Creation, Writer};
use decode::decode;
use place::Ground;
use pool::{Closing, Pool};
use settle::{Below, Settling};
use stream::Stream;
use tar_split::{Recorder, Replaced, WAITING_PIECES};

/// How many blocks of the stream may wait between the decoder and the archive's reader.
const WAITING_BLOCKS: usize = 8;

/// How to unpack.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the file system of the target can keep.
    pub abilities: Arc<Abilities>,
    /// How many threads create files.
    pub writers: usize,
    /// Mark opaque directories with `user.overlay.opaque` too, for rootless overlay mounts.
    pub user_opaque: bool,
    pub limits: Limits,
}

/// What a layer may be at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed stream.
    pub max_layer_bytes: u64,
    pub max_entries: u64,
    /// Bytes of the window that a zstd frame may ask for.
    pub max_zstd_window_bytes: u64,
}

/// How far an unpacking is; read by others while it runs. All in all, never reset.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries that are in the directory.
    pub entries: AtomicU64,
    /// Bytes of the uncompressed stream that have been read.
    pub bytes: AtomicU64,
    /// Set to end it with [`UnpackError::Cancelled`].
    pub cancelled: AtomicBool,
}

impl Progress {
    /// Fails if it has been cancelled.
    fn check(&self) -> Result<(), UnpackError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(UnpackError::Cancelled);
        }
        Ok(())
    }
}

/// What a layer needs and its directory does not have, each with how many entries it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compromises {
    /// Hard links that became copies, for the file system refused them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub copied_links: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_capabilities: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_xattrs: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_acls: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_devices: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_owners: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_modes: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A directory that holds a layer, but for what depends on the layers below.
#[derive(Debug)]
pub struct Unpacked {
    pub diff_id: DiffId,
    /// Bytes of the uncompressed stream.
    pub size_bytes: u64,
    pub entries: u64,
    /// A digest over names, kinds, sizes, links' targets and devices.
    pub tree_digest: String,
    pub compromises: Compromises,
    /// What [`settle()`] has to do; relative paths.
    pub unsettled: Unsettled,
}

/// What of a layer depends on the layers below. If there is none, all chains can share the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// The layer's root has no entry.
    pub root_is_implied: bool,
    /// Other directories without an entry of their own: they look as below.
    pub implied: Vec<PathBuf>,
    /// Opaque directories that cannot be marked as such, and get a whiteout for each name below: all where no marks
    /// are kept, else the root, on which overlayfs looks for none.
    pub opaque: Vec<PathBuf>,
}

/// Unpacks a layer into `target`, an empty directory of the caller's alone, and makes it durable, with the layer's
/// tar-split.
///
/// `tar_split` is the name of a file that is not there yet, on the file system of `target` and not in it. It then
/// holds all that containers/storage needs beside the directory to make the layer's tar stream again. Names that begin
/// with it are used meanwhile.
///
/// The source is read to its end, beyond the archive's; compression is told from its first bytes.
/// The caller checks the DiffID (and the digest of what it gave). Blocks; a source that waits for its next
/// bytes holds it up.
///
/// # Errors
/// The directory's content is then of no use; nothing outside it has been touched.
pub fn unpack(
    source: impl Read + Send,
    target: &Path,
    tar_split: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Unpacked, UnpackError> {
    let ground = Ground::open(target)?;
    ground.prepare()?;
    let creation = Creation::new(ground, options, progress);
    let pool = Pool::default();
    let durability = options.abilities.durability;
    let read = std::thread::scope(|scope| {
        // Dropped before the threads are waited for.
        let _closing = Closing(&pool);
        for _ in 0..options.writers.max(1) {
            spawn(scope, "wharf-writer", || {
                let writer = Writer::new(&creation);
                pool.run(|job| writer.perform(job));
            })?;
        }
        let blocks = decoded(scope, source, &options.limits)?;
        let (sender, pieces) = sync_channel(WAITING_PIECES);
        let splitting = spawn(scope, "wharf-tar-split", move || {
            tar_split::write(&pieces, tar_split, durability)
        })?;
        let recorder = Some(Recorder::new(sender));
        let archive = Archive::new(Stream::new(blocks, recorder, &options.limits, progress));
        let read = Reading::new(archive, &pool, &creation, Replaced::beside(tar_split)).run();
        match (read, splitting.join().unwrap_or(Err(UnpackError::Died))) {
            // Who reads learns no more than that nobody takes the pieces.
            (Ok(_) | Err(UnpackError::Died), Err(error)) => Err(error),
            (read, _) => read,
        }
    })?;
    read.replaced.embed(tar_split, durability, progress)?;
    if durability == Durability::Syncfs {
        creation.ground.sync()?;
    }
    let compromises = creation
        .compromises
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(Unpacked {
        diff_id: read.diff_id,
        size_bytes: read.size_bytes,
        entries: read.tree_digest.entries,
        tree_digest: read.tree_digest.digest,
        compromises,
        unsettled: read.unsettled,
    })
}

/// Returns the DiffID of a layer's compressed stream, which is read to its end; nothing is unpacked. Blocks.
///
/// # Errors
/// That it cannot be read or decompressed, or is larger than the limits allow.
pub fn diff_id(
    source: impl Read + Send,
    limits: &Limits,
    progress: &Progress,
) -> Result<DiffId, UnpackError> {
    std::thread::scope(|scope| {
        let stream = Stream::new(decoded(scope, source, limits)?, None, limits, progress);
        Ok(stream.finish()?.0)
    })
}

/// Finishes a directory once the layers below it are known, and tells whether it is bound to them.
///
/// `below` are their directories, the topmost first. What is bound to its stack cannot be shared with another
/// one; what is not can, if [`suits`] says so.
///
/// # Errors
/// As [`unpack`].
pub fn settle(
    target: &Path,
    unsettled: &Unsettled,
    below: &[PathBuf],
    options: &Options,
) -> Result<bool, UnpackError> {
    let ground = Ground::open(target)?;
    let progress = Progress::default();
    let creation = Creation::new(ground, options, &progress);
    let is_bound = std::thread::scope(|scope| {
        let settling = spawn(scope, "wharf-writer", || {
            let settling = Settling {
                root: creation.ground.root(),
                path: target,
                below: Below::open(below)?,
                writer: Writer::new(&creation),
                may_make_whiteouts: options.abilities.whiteouts,
            };
            settling.run(unsettled)
        })?;
        settling.join().unwrap_or(Err(UnpackError::Died))
    })?;
    if is_bound && options.abilities.durability == Durability::Syncfs {
        creation.ground.sync()?;
    }
    Ok(is_bound)
}

/// Tells whether a directory whose root has no entry, made for another stack, looks right over `below`.
///
/// # Errors
/// Any errno.
pub fn suits(below: &[PathBuf]) -> Result<bool, FsError> {
    Below::open(below)?.has_plain_root()
}

/// Decompresses a source on a thread of its own.
fn decoded<'scope>(
    scope: &'scope Scope<'scope, '_>,
    source: impl Read + Send + 'scope,
    limits: &'scope Limits,
) -> Result<Receiver<Result<Bytes, UnpackError>>, UnpackError> {
    let (sender, blocks) = sync_channel(WAITING_BLOCKS);
    spawn(scope, "wharf-decoder", move || {
        if let Err(error) = decode(source, limits, &sender) {
            // Nobody listens any more if the reading has failed.
            let _ = sender.send(Err(error));
        }
    })?;
    Ok(blocks)
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, UnpackError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn_scoped(scope, run)
        .map_err(|source| UnpackError::Thread(source.into()))
}
