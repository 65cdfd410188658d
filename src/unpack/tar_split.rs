//! A layer's tar-split: what its directory lacks to make its tar stream again, byte for byte.
//!
//! ```text
//! stream → Recorder (the archive's thread) → pieces → write (a thread of its own) → the file
//! ```
//!
//! The file is gzip of one JSON object a line, in the order of the stream:
//!
//! - `{"type":2,"payload":"<base64>","position":n}`: bytes as they are;
//! - `{"type":1,"name":"a/b","size":n,"payload":"<base64 of 8 bytes>","position":n}`: the content of a file of the
//!   directory, with its CRC-64/GO-ISO, big endian. A name that is no UTF-8 is in `name_raw`, as base64.
//!
//! Who makes the stream again opens the directory's path joined with the name, cleaned as text, and reads that to
//! its end. So only the content of a dense file that lies at just that place is left to the directory
//! ([`super::apply`] knows); all else is in the file itself: headers, padding, the map and content of a sparse file,
//! what lies behind links of the layer, what follows the archive.
//!
//! A later entry may take a file away whose content was left to the directory. Such a file is moved aside
//! ([`Replaced`]), and when the archive is read, the tar-split is written once more with these contents in it.
//!
//! Source: `tar/storage` and `tar/asm` of github.com/vbatts/tar-split, which containers/storage reads it with.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64GoIso;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Progress, UnpackError};
use crate::fs::{self, Durability, FsError};

/// How many pieces may wait to be written. Each keeps a block of the stream in memory, at worst.
pub(super) const WAITING_PIECES: usize = 32;

/// The most bytes of one object's payload: who reads it has a whole one in memory.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// Half of `PATH_MAX`: a longer name, joined with the path of a store, might be none that can be opened.
const MAX_NAME_BYTES: usize = 2048;

/// Bytes that are written to the file at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Objects of raw bytes.
const SEGMENT: u8 = 2;

/// Objects of files' contents.
const FILE: u8 = 1;

/// What a layer's stream consists of.
pub(super) enum Piece {
    /// Bytes that the tar-split holds.
    Raw(Vec<u8>),
    /// A file whose content follows, as much as its size says, and lies in the directory.
    File { name: Vec<u8>, size: u64 },
    /// Of the last file.
    Content(Bytes),
    /// The stream has been read to its end.
    End,
}

/// Takes the stream apart as it is read.
pub(super) struct Recorder {
    pieces: SyncSender<Piece>,
    /// What is not sent yet.
    raw: Vec<u8>,
    /// Bytes of the current file's content that are still to come.
    content: u64,
    /// How many files have been sent.
    files: u64,
}

impl Recorder {
    /// Records into the channel that [`write()`] reads.
    pub(super) fn new(pieces: SyncSender<Piece>) -> Self {
        Self {
            pieces,
            raw: Vec::new(),
            content: 0,
            files: 0,
        }
    }

    /// Records the next bytes of the stream.
    pub(super) fn record(&mut self, bytes: &Bytes) -> Result<(), UnpackError> {
        let of_file = usize::try_from(self.content).map_or(bytes.len(), |content| content.min(bytes.len()));
        if of_file > 0 {
            self.content -= of_file as u64;
            self.send(Piece::Content(bytes.slice(..of_file)))?;
        }
        let mut rest = &bytes[of_file..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(MAX_PAYLOAD_BYTES - self.raw.len()));
            self.raw.extend_from_slice(now);
            if self.raw.len() == MAX_PAYLOAD_BYTES {
                self.send_raw()?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Says that the next `size` bytes are the content of a file which lies in the directory under the name of its
    /// entry, and returns its number. `None` if they have to be recorded as they are.
    pub(super) fn begin_file(&mut self, name: &[u8], size: u64) -> Result<Option<u64>, UnpackError> {
        if size == 0 || name.len() > MAX_NAME_BYTES {
            return Ok(None);
        }
        self.send_raw()?;
        self.content = size;
        self.send(Piece::File {
            name: name.to_vec(),
            size,
        })?;
        self.files += 1;
        Ok(Some(self.files - 1))
    }

    /// Says that this was all.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        self.send_raw()?;
        self.send(Piece::End)
    }

    fn send_raw(&mut self) -> Result<(), UnpackError> {
        match std::mem::take(&mut self.raw) {
            raw if raw.is_empty() => Ok(()),
            raw => self.send(Piece::Raw(raw)),
        }
    }

    /// Fails if the writing has; that says why.
    fn send(&self, piece: Piece) -> Result<(), UnpackError> {
        self.pieces.send(piece).map_err(|_| UnpackError::Died)
    }
}

/// Writes the pieces of a stream to a file that must not be there yet.
///
/// If they end before [`Piece::End`], what is written is of no use; whoever sent them knows why.
pub(super) fn write(
    pieces: &Receiver<Piece>,
    path: &Path,
    durability: Durability,
) -> Result<(), UnpackError> {
    let mut writer = Writer::create(path)?;
    let mut current = None;
    while let Ok(piece) = pieces.recv() {
        match piece {
            Piece::Raw(bytes) => writer.segment(&bytes)?,
            Piece::File { name, size } => {
                current = Some((name, size, size, crc_fast::Digest::new(Crc64GoIso)));
            }
            Piece::Content(bytes) => {
                let Some((name, size, rest, crc)) = &mut current else {
                    return Err(UnpackError::Died);
                };
                crc.update(&bytes);
                *rest = rest.saturating_sub(bytes.len() as u64);
                if *rest == 0 {
                    writer.file(name, *size, crc.finalize())?;
                    current = None;
                }
            }
            Piece::End => return writer.finish(durability),
        }
    }
    Ok(())
}

/// Files that were taken away by later entries of their archive, and the numbers that [`Recorder`] gave them.
///
/// They are moved and not read: in a bounded time, whatever their size, and without memory.
pub(super) struct Replaced {
    /// Where they are, each under its number; made with the first one.
    path: PathBuf,
    dir: Option<OwnedFd>,
    files: BTreeSet<u64>,
}

impl Replaced {
    /// Keeps them beside the tar-split, under a name that begins with its own.
    pub(super) fn beside(tar_split: &Path) -> Self {
        Self {
            path: tar_split.with_added_extension("replaced"),
            dir: None,
            files: BTreeSet::new(),
        }
    }

    /// Returns the directory to which the file with this number is to be moved, and the name that it gets.
    pub(super) fn place_of(&mut self, file: u64) -> Result<(&OwnedFd, String), FsError> {
        self.files.insert(file);
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => {
                fs::make_private_dir(&self.path)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(CWD, &self.path, flags, Mode::empty())
                    .map_err(|errno| FsError::new("open", &self.path, errno.into()))?
            }
        };
        Ok((self.dir.insert(dir), file.to_string()))
    }

    /// Writes the tar-split once more with the contents of these files, if there are any, and removes them.
    pub(super) fn embed(
        self,
        tar_split: &Path,
        durability: Durability,
        progress: &Progress,
    ) -> Result<(), UnpackError> {
        if self.files.is_empty() {
            return Ok(());
        }
        let whole = tar_split.with_added_extension("whole");
        let mut writer = Writer::create(&whole)?;
        let mut file = 0;
        read(tar_split, |object| {
            progress.check()?;
            if object.kind == SEGMENT {
                return writer.put(object);
            }
            if self.files.contains(&file) {
                self.copy(file, &object, &mut writer, progress)?;
            } else {
                writer.put(object)?;
            }
            file += 1;
            Ok(())
        })?;
        writer.finish(durability)?;
        std::fs::rename(&whole, tar_split).map_err(|source| FsError::new("rename", tar_split, source))?;
        fs::remove_tree(&self.path)?;
        Ok(())
    }

    /// Writes a file's content, which must be what its object says.
    fn copy(
        &self,
        file: u64,
        object: &Object<'_>,
        writer: &mut Writer,
        progress: &Progress,
    ) -> Result<(), UnpackError> {
        let path = self.path.join(file.to_string());
        let failed = |source| FsError::new("read", &path, source);
        let mut content = File::open(&path).map_err(failed)?;
        let (mut size, mut crc) = (0, crc_fast::Digest::new(Crc64GoIso));
        let mut buffer = vec![0; MAX_PAYLOAD_BYTES];
        loop {
            progress.check()?;
            let length = content.read(&mut buffer).map_err(failed)?;
            if length == 0 {
                break;
            }
            size += length as u64;
            crc.update(&buffer[..length]);
            writer.segment(&buffer[..length])?;
        }
        if (size, encode_crc(crc.finalize())) != (object.size, object.payload.to_string()) {
            return Err(failed(io::Error::other("it is not what was written")).into());
        }
        Ok(())
    }
}

/// One line.
#[derive(Serialize, Deserialize)]
struct Object<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name_raw: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(borrow)]
    payload: Cow<'a, str>,
    /// Its number, from 0.
    position: u64,
}

fn is_zero(size: &u64) -> bool {
    *size == 0
}

/// Writes objects, and numbers them.
struct Writer {
    path: PathBuf,
    gzip: GzEncoder<BufWriter<File>>,
    position: u64,
    /// Base64 of the last payload.
    payload: String,
    /// The last object: the compressor is called once for each.
    line: Vec<u8>,
}

impl Writer {
    fn create(path: &Path) -> Result<Self, FsError> {
        let file = File::create_new(path).map_err(|source| FsError::new("create", path, source))?;
        Ok(Self {
            path: path.to_owned(),
            // Headers are mostly zeros: any level takes these away.
            gzip: GzEncoder::new(BufWriter::with_capacity(BUFFER_BYTES, file), Compression::fast()),
            position: 0,
            payload: String::new(),
            line: Vec::new(),
        })
    }

    fn segment(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        BASE64.encode_string(bytes, &mut payload);
        let object = Object {
            kind: SEGMENT,
            name: None,
            name_raw: None,
            size: 0,
            payload: Cow::Borrowed(&payload),
            position: 0,
        };
        let written = self.put(object);
        self.payload = payload;
        written
    }

    fn file(&mut self, name: &[u8], size: u64, crc: u64) -> Result<(), UnpackError> {
        let (name, name_raw) = match std::str::from_utf8(name) {
            Ok(name) => (Some(name.into()), None),
            Err(_) => (None, Some(BASE64.encode(name).into())),
        };
        self.put(Object {
            kind: FILE,
            name,
            name_raw,
            size,
            payload: encode_crc(crc).into(),
            position: 0,
        })
    }

    /// Writes an object under the next number.
    fn put(&mut self, mut object: Object<'_>) -> Result<(), UnpackError> {
        object.position = self.position;
        self.position += 1;
        self.line.clear();
        let written = serde_json::to_writer(&mut self.line, &object).map_err(io::Error::from);
        self.line.push(b'\n');
        written
            .and_then(|()| self.gzip.write_all(&self.line))
            .map_err(|source| FsError::new("write", &self.path, source).into())
    }

    /// Ends the file, and makes it durable unless the layer's end does.
    fn finish(self, durability: Durability) -> Result<(), UnpackError> {
        let Self { path, gzip, .. } = self;
        let error = |operation| {
            let path = &path;
            move |source| FsError::new(operation, path, source)
        };
        let buffer = gzip.finish().map_err(error("write"))?;
        let file = buffer
            .into_inner()
            .map_err(|failed| error("write")(failed.into_error()))?;
        if durability == Durability::Fsync {
            file.sync_all().map_err(error("sync"))?;
        }
        // What the servers could not take may be told here alone.
        nix::unistd::close(file).map_err(|errno| error("close")(errno.into()))?;
        Ok(())
    }
}

/// Reads a tar-split object by object.
fn read(path: &Path, mut take: impl FnMut(Object<'_>) -> Result<(), UnpackError>) -> Result<(), UnpackError> {
    let failed = |source| FsError::new("read", path, source);
    let file = File::open(path).map_err(failed)?;
    let mut lines = BufReader::new(GzDecoder::new(file));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        let object = serde_json::from_slice(&line).map_err(|error| failed(error.into()))?;
        take(object)?;
        line.clear();
    }
    Ok(())
}

fn encode_crc(crc: u64) -> String {
    BASE64.encode(crc.to_be_bytes())
}
