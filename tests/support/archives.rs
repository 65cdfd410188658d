//! Layers of every kind, and what other tools make of them.
//!
//! | where | what |
//! |---|---|
//! | [`made`] | by hand, byte by byte ([`tar`]) |
//! | [`tools`] | by GNU tar and bsdtar, and by `docker build`, buildah and umoci as images |
//! | [`reference`] | extracted by GNU tar, and stacked by umoci |

pub mod made;
pub mod reference;
pub mod tar;
pub mod tools;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;

/// How a layer comes over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    /// As estargz has it.
    GzipMembers,
    Zstd,
    /// As zstd:chunked has it, with a frame that is no content.
    ZstdFrames,
}

impl Packing {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::Gzip,
        Self::GzipMembers,
        Self::Zstd,
        Self::ZstdFrames,
    ];

    /// Packs a tar.
    pub fn pack(self, tar: &[u8]) -> Vec<u8> {
        // Not at a block's end: a reader must not depend on that.
        let (first, second) = tar.split_at(tar.len() / 2 + 1);
        match self {
            Self::Plain => tar.to_vec(),
            Self::Gzip => gzip(tar),
            Self::GzipMembers => [gzip(first), gzip(b""), gzip(second)].concat(),
            Self::Zstd => zstd(tar),
            Self::ZstdFrames => {
                // A skippable frame: its number, its length, and what it holds.
                let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip".to_vec();
                [zstd(first), skippable.clone(), zstd(second), skippable].concat()
            }
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("write to memory");
    encoder.finish().expect("write to memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("write to memory")
}

/// Writes layers as `<number>.tar` into a directory; returns their paths.
pub fn written(directory: &Path, layers: &[Vec<u8>]) -> Vec<PathBuf> {
    fs::create_dir_all(directory).expect("make a directory");
    let write = |(number, bytes): (usize, &Vec<u8>)| {
        let path = directory.join(format!("{number}.tar"));
        fs::write(&path, bytes).expect("write a layer");
        path
    };
    layers.iter().enumerate().map(write).collect()
}
