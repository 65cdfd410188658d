//! Layers that are alike in every run: files as a distribution has them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// How many files a directory has.
const FILES_A_DIRECTORY: u64 = 12;

/// What a layer of the benchmark holds.
#[derive(Clone, Copy)]
pub struct Spec {
    pub files: u64,
    pub bytes: u64,
    /// Two layers of one seed are the same.
    pub seed: u64,
}

/// What a layer is compressed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Gzip,
    Zstd,
}

impl Codec {
    /// Returns the option that GNU tar reads it with.
    pub fn tar_option(self) -> &'static str {
        match self {
            Self::Gzip => "-z",
            Self::Zstd => "--zstd",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Writes layers, gzipped, and returns the path of each and the digest of its tar stream.
pub fn write_all(
    directory: &Path,
    specs: impl IntoIterator<Item = Spec>,
) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let write_one = |spec: Spec| {
        let path = directory.join(format!("layer-{}-{}", spec.seed, spec.bytes));
        let tar = write(&path, spec, Codec::Gzip)?;
        Ok((path, sha256(&tar)))
    };
    specs.into_iter().map(write_one).collect()
}

/// Writes a layer, compressed, and returns the bytes of its tar stream.
pub fn write(path: &Path, spec: Spec, codec: Codec) -> anyhow::Result<Vec<u8>> {
    let tar = build(spec)?;
    write_tar(path, &tar, codec)?;
    Ok(tar)
}

/// Writes a tar stream, compressed.
pub fn write_tar(path: &Path, tar: &[u8], codec: Codec) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    match codec {
        Codec::Gzip => {
            let mut gzip = GzEncoder::new(file, Compression::new(6));
            gzip.write_all(tar)?;
            gzip.finish()?.sync_all()?;
        }
        Codec::Zstd => {
            let mut zstd = zstd::Encoder::new(file, 3)?;
            zstd.write_all(tar)?;
            zstd.finish()?.sync_all()?;
        }
    }
    Ok(())
}

/// Returns the tar stream of one file.
pub fn one_file(name: &str, bytes: u64) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let content = text(&mut Random(bytes), bytes);
    let size = content.len() as u64;
    archive.append_data(&mut header(EntryType::Regular, size, 0o644), name, &*content)?;
    Ok(archive.into_inner()?)
}

fn build(spec: Spec) -> anyhow::Result<Vec<u8>> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (spec.seed + 1));
    let mut archive = tar::Builder::new(Vec::new());
    // Most files are small, a few hold most of the bytes: each third of a size is twice as large.
    let unit = spec.bytes / spec.files / 4;
    let root = format!("usr/share/layer-{}", spec.seed);
    let mut made = std::collections::HashSet::new();
    for number in 0..spec.files {
        let place = number / FILES_A_DIRECTORY;
        let directory = format!("{root}/{}/{}/{}", place % 7, place % 61, place);
        for (at, _) in directory.match_indices('/').chain([(directory.len(), "")]) {
            if made.insert(directory[..at].to_owned()) {
                archive.append_data(
                    &mut header(EntryType::Directory, 0, 0o755),
                    &directory[..at],
                    std::io::empty(),
                )?;
            }
        }
        let size = unit << (random.next() % 8).saturating_sub(3).min(5);
        let content = text(&mut random, size);
        let path = format!("{directory}/file-{number:06}.dat");
        archive.append_data(
            &mut header(EntryType::Regular, content.len() as u64, 0o644),
            path,
            &*content,
        )?;
    }
    Ok(archive.into_inner()?)
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

/// Text that compresses to a third or so, as programs and documents do.
fn text(random: &mut Random, size: u64) -> Vec<u8> {
    let mut text = Vec::new();
    while (text.len() as u64) < size {
        let word = random.next();
        let length = 3 + (word % 9) as usize;
        // A vocabulary of some thousand words.
        let mut letters = Random((word >> 8) % 4096 + 1);
        for _ in 0..length {
            text.push(b'a' + (letters.next() % 26) as u8);
        }
        text.push(if word.is_multiple_of(11) { b'\n' } else { b' ' });
    }
    text
}

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }
}

/// Returns the digest of a file, as `sha256:…`.
pub fn sha256_file(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    sha256(&bytes)
}

/// Returns the digest of bytes, as `sha256:…`.
pub fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
