//! From compressed bytes to blocks of the tar stream, on a thread of its own.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::{Limits, UnpackError};

/// Bytes of a block. Contents are slices of blocks, so a small file keeps a block alive until it is written.
pub(super) const BLOCK_BYTES: usize = 128 << 10;

/// Bytes that are read from the source at once.
const SOURCE_BYTES: usize = 128 << 10;

/// How many bytes tell what a stream is compressed with.
const MAGIC_BYTES: usize = 4;

/// What a stream is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells it from the first bytes: RFC 1952 2.3.1, RFC 8878 3.1.1 and 3.1.2 (skippable frames).
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Sends the decompressed stream as blocks, all but the last one full; ends early when nobody takes them.
pub(super) fn decode(
    source: impl Read,
    limits: &Limits,
    blocks: &SyncSender<Result<Bytes, UnpackError>>,
) -> Result<(), UnpackError> {
    let mut source = Remembering::new(source);
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    // A source may give a byte at a time.
    let read = (&mut source).take(MAGIC_BYTES as u64).read_to_end(&mut start);
    read.map_err(|error| source.read_error().unwrap_or_else(|| UnpackError::read(&error)))?;
    let compression = Compression::of(&start);
    let mut source = BufReader::with_capacity(SOURCE_BYTES, Cursor::new(start).chain(source));
    let decoded = match compression {
        Compression::None => send_blocks(&mut source, blocks),
        Compression::Gzip => send_blocks(&mut MultiGzDecoder::new(&mut source), blocks),
        Compression::Zstd => {
            zstd_decoder(&mut source, limits).and_then(|mut zstd| send_blocks(&mut zstd, blocks))
        }
    };
    decoded.map_err(|error| {
        // What the source itself failed with is not the decoder's.
        if let Some(error) = source.get_mut().get_mut().1.read_error() {
            return error;
        }
        if compression == Compression::Zstd && error.to_string().contains("too much memory") {
            return UnpackError::limit("max_zstd_window", limits.max_zstd_window_bytes);
        }
        UnpackError::Decode {
            compression: compression.name(),
            source: error.into(),
        }
    })
}

fn zstd_decoder<'a, R: BufRead>(
    source: &'a mut R,
    limits: &Limits,
) -> io::Result<zstd::stream::read::Decoder<'static, &'a mut R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
    decoder.window_log_max(limits.max_zstd_window_bytes.max(1).ilog2())?;
    Ok(decoder)
}

fn send_blocks(decoded: &mut impl Read, blocks: &SyncSender<Result<Bytes, UnpackError>>) -> io::Result<()> {
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        decoded.take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let is_last = block.len() < BLOCK_BYTES;
        if blocks.send(Ok(block.into())).is_err() || is_last {
            return Ok(());
        }
    }
}

/// Keeps what a source failed with, which decoders wrap or replace.
struct Remembering<R> {
    source: R,
    error: Option<io::Error>,
}

impl<R> Remembering<R> {
    fn new(source: R) -> Self {
        Self { source, error: None }
    }

    /// Takes what the source failed with.
    fn read_error(&mut self) -> Option<UnpackError> {
        self.error.take().map(|error| UnpackError::read(&error))
    }
}

impl<R: Read> Read for Remembering<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer).map_err(|error| {
            let kind = error.kind();
            // Whoever is interrupted asks again.
            if kind != io::ErrorKind::Interrupted {
                self.error = Some(error);
            }
            kind.into()
        })
    }
}
