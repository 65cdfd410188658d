//! Ends before the end: sources that fail, unpackings that are cancelled, writers that cannot write.

use std::fs;
use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::build::{Tar, gzip, zstd};
use super::{Scratch, bounded, listing, message, options};
use crate::unpack::{Options, Progress, UnpackError, unpack};

/// Fails when all has been read.
struct Broken(Cursor<Vec<u8>>);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::new(io::ErrorKind::ConnectionReset, "upstream hung up")),
            count => Ok(count),
        }
    }
}

/// What keeps both the pool and the channel of a large file busy.
fn large() -> Vec<u8> {
    let mut tar = Tar::new();
    for number in 0..500 {
        tar = tar.dir(format!("d{number}")).file(format!("d{number}/f"), "x");
    }
    tar.dir("d")
        .file("d/large", vec![b'x'; 1 << 20])
        .file("d/last", "")
        .end()
}

fn with_writers(writers: usize) -> Options {
    let mut options = options();
    options.writers = writers;
    options
}

#[test]
fn what_a_source_fails_with_is_told() {
    let tar = large();
    for writers in [1, 8] {
        for bytes in [tar.clone(), gzip(&tar), zstd(&tar)] {
            for length in [0, 3, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
                let source = Broken(Cursor::new(bytes[..length].to_vec()));
                let error = Scratch::new()
                    .unpack_from(source, &with_writers(writers))
                    .unwrap_err();
                assert_eq!(
                    message(&error),
                    "cannot read the layer's bytes: upstream hung up",
                    "{length}"
                );
            }
        }
    }
}

/// Cancels once so many bytes have been read, and then never ends.
struct Cancelling {
    progress: Arc<Progress>,
    tar: Cursor<Vec<u8>>,
    after: usize,
}

impl Read for Cancelling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        if count == 0 {
            buffer.fill(0);
            return Ok(buffer.len());
        }
        self.after = self.after.saturating_sub(count);
        if self.after == 0 {
            self.progress.cancelled.store(true, Ordering::Relaxed);
        }
        Ok(count)
    }
}

#[test]
fn a_cancelled_unpacking_ends() {
    let tar = large();
    for writers in [1, 8] {
        for after in [0, 100_000, 1 << 20, tar.len()] {
            let scratch = Scratch::new();
            let progress = Arc::new(Progress {
                entries: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                cancelled: AtomicBool::new(false),
            });
            let source = Cancelling {
                progress: Arc::clone(&progress),
                tar: Cursor::new(tar.clone()),
                after,
            };
            let (target, tar_split) = (scratch.target(), scratch.tar_split());
            let mut options = with_writers(writers);
            options.limits.max_layer_bytes = u64::MAX;
            let result = bounded(move || unpack(source, &target, &tar_split, &options, &progress));
            assert!(
                matches!(result, Err(UnpackError::Cancelled)),
                "after {after} bytes"
            );
        }
    }
}

#[test]
fn a_writer_that_fails_ends_the_reading_with_its_error() {
    // In a small file, in the large one, and in the directory that the large one waits for.
    for in_the_way in ["d7/f", "d499", "d/large", "d"] {
        for writers in [1, 8] {
            let scratch = Scratch::new();
            let path = scratch.target().join(in_the_way);
            if in_the_way.contains('/') {
                // Their directories are made by a layer before.
                fs::create_dir_all(path.parent().unwrap()).unwrap();
            }
            fs::write(&path, "in the way").unwrap();
            let error = scratch
                .unpack_from(Cursor::new(large()), &with_writers(writers))
                .unwrap_err();
            let UnpackError::Fs(error) = error else {
                panic!("{error}");
            };
            assert_eq!(error.io_error().kind(), io::ErrorKind::AlreadyExists);
            assert!(path.starts_with(error.path()), "{error}");
        }
    }
}

#[test]
fn progress_tells_bytes_and_entries() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("d")
        .file("d/f", "x")
        .hardlink("d/g", "d/f")
        .file(".wh.x", "")
        .end();
    let (target, tar_split, bytes) = (scratch.target(), scratch.tar_split(), tar.len() as u64);
    let progress = bounded(move || {
        let progress = Progress::default();
        unpack(
            Cursor::new(gzip(&tar)),
            &target,
            &tar_split,
            &options(),
            &progress,
        )
        .unwrap();
        progress
    });
    assert_eq!(progress.bytes.load(Ordering::Relaxed), bytes);
    assert_eq!(progress.entries.load(Ordering::Relaxed), 4);
    assert_eq!(listing(&scratch.target()).len(), 4);
}
