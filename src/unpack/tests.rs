//! Whole archives, built byte by byte, through the one door: one file a behaviour.

mod abilities;
mod build;
mod formats;
mod headers;
mod hostile;
mod limits;
mod links;
mod model;
mod mutate;
mod order;
mod settle;
mod stops;
mod tar_split;
mod whiteouts;

use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use tempfile::TempDir;

use super::{Limits, Options, Progress, UnpackError, Unpacked, unpack};
use crate::fs::{Abilities, Durability};
use crate::oci::{Algorithm, Digest};

/// No unpacking of these tests takes as long, however loaded the machine is, unless it hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// A directory to unpack into, and what lies beside it, which nothing may touch.
struct Scratch {
    dir: TempDir,
    outside: Vec<String>,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/kept"), "kept").unwrap();
        std::os::unix::fs::symlink("kept", dir.path().join("outside/link")).unwrap();
        let outside = untouched(&dir.path().join("outside"));
        Self { dir, outside }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn tar_split(&self) -> PathBuf {
        self.dir.path().join("tar-split.gz")
    }

    /// An absolute path beside the target, as an archive would name it.
    fn outside(&self, name: &str) -> String {
        let path = self.dir.path().join("outside").join(name);
        path.to_str().unwrap().to_owned()
    }

    fn unpack(&self, tar: impl Into<Vec<u8>>) -> Result<Unpacked, UnpackError> {
        self.unpack_with(tar, &options())
    }

    fn unpack_with(&self, tar: impl Into<Vec<u8>>, options: &Options) -> Result<Unpacked, UnpackError> {
        self.unpack_from(Cursor::new(tar.into()), options)
    }

    /// Unpacks, fails if it hangs, and checks that nothing beside the target has been touched and that the stream
    /// can be made again.
    fn unpack_from(
        &self,
        source: impl Read + Send + 'static,
        options: &Options,
    ) -> Result<Unpacked, UnpackError> {
        let (target, tar_split, options) = (self.target(), self.tar_split(), options.clone());
        let result = bounded(move || unpack(source, &target, &tar_split, &options, &Progress::default()));
        assert_eq!(untouched(&self.dir.path().join("outside")), self.outside);
        let mut beside: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        beside.sort();
        match &result {
            Ok(unpacked) => {
                assert_eq!(beside, ["outside", "tar-split.gz", "target"]);
                self.check_stream(unpacked);
            }
            Err(_) => {
                beside.retain(|name| !name.starts_with("tar-split.gz"));
                assert_eq!(beside, ["outside", "target"]);
            }
        }
        result
    }

    fn check_stream(&self, unpacked: &Unpacked) {
        match tar_split::assemble(&self.target(), &self.tar_split()) {
            Ok(assembled) => {
                let digest = Digest::of(Algorithm::Sha256, &assembled.stream);
                assert_eq!(
                    *unpacked.diff_id.digest(),
                    digest,
                    "the stream made again is another"
                );
            }
            // Only root can read what a layer may hold.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                assert!(!rustix::process::geteuid().is_root());
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Unpacks what has to be refused, and returns what the error says.
    fn refused(&self, tar: impl Into<Vec<u8>>) -> String {
        message(&self.unpack(tar).unwrap_err())
    }

    fn listing(&self) -> Vec<String> {
        listing(&self.target())
    }
}

/// Runs what must come to an end.
fn bounded<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || sender.send(run()));
    match receiver.recv_timeout(HANGS_AFTER) {
        Ok(value) => value,
        Err(_) if thread.is_finished() => panic!("it panicked"),
        Err(_) => panic!("it hangs"),
    }
}

/// Options of a file system that keeps everything which this process may make.
fn options() -> Options {
    let is_root = rustix::process::geteuid().is_root();
    Options {
        abilities: Arc::new(Abilities {
            whiteouts: true,
            trusted_xattrs: false,
            user_xattrs: true,
            capabilities: is_root,
            acls: true,
            devices: true,
            ownership: is_root,
            special_modes: true,
            hard_link_limit: None,
            negative_times: true,
            nanosecond_times: true,
            directory_rename: true,
            exclusive_mkdir: true,
            fsync: true,
            writers: 4,
            // Nothing here has to outlive the machine.
            durability: Durability::Close,
        }),
        writers: 4,
        user_opaque: false,
        limits: Limits {
            max_layer_bytes: 1 << 30,
            max_entries: 100_000,
            max_zstd_window_bytes: 128 << 20,
        },
    }
}

fn options_with(change: impl FnOnce(&mut Abilities)) -> Options {
    let mut options = options();
    let mut abilities = (*options.abilities).clone();
    change(&mut abilities);
    options.abilities = Arc::new(abilities);
    options
}

/// Writes an error with its causes.
fn message(error: &UnpackError) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

/// Lists a directory, one line an entry: kind, mode, name, and what it holds.
fn listing(dir: &Path) -> Vec<String> {
    walk(dir)
        .iter()
        .map(|path| {
            let stat = fs::symlink_metadata(path).unwrap();
            let name = path.strip_prefix(dir).unwrap().as_os_str().as_bytes();
            let name = name.escape_ascii();
            let mode = stat.mode() & 0o7777;
            let kind = stat.file_type();
            if kind.is_dir() {
                format!("d {mode:o} {name}")
            } else if kind.is_file() && stat.len() <= 100 {
                format!("f {mode:o} {name} {}", fs::read(path).unwrap().escape_ascii())
            } else if kind.is_file() {
                format!("f {mode:o} {name} ({} bytes)", stat.len())
            } else if kind.is_symlink() {
                let target = fs::read_link(path).unwrap();
                format!("l {name} {}", target.as_os_str().as_bytes().escape_ascii())
            } else if kind.is_char_device() && stat.rdev() == 0 {
                format!("w {name}")
            } else if kind.is_fifo() {
                format!("p {mode:o} {name}")
            } else {
                format!("? {mode:o} {name}")
            }
        })
        .collect()
}

/// Lists everything that a change of a file or directory would change.
fn untouched(dir: &Path) -> Vec<String> {
    let mut all = walk(dir);
    all.push(dir.to_owned());
    let line = |path: &PathBuf| {
        let stat = fs::symlink_metadata(path).unwrap();
        let (mode, links, size) = (stat.mode(), stat.nlink(), stat.len());
        let (changed, nanoseconds) = (stat.ctime(), stat.ctime_nsec());
        format!("{path:?} {mode:o} {links} {size} {changed}.{nanoseconds}")
    };
    all.iter().map(line).collect()
}

/// Returns the paths of all that a directory holds, in the order of their bytes.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                ahead.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}
