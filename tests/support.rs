//! The one place that starts and stops programs: registry, mirror, clients.
//!
//! Everything started here ends with the test, also when it panics, and lives in
//! a temporary directory that goes away with it.

pub mod agent;
pub mod archives;
pub mod chain;
pub mod client;
pub mod clients;
pub mod cluster;
pub mod curl;
pub mod dfs;
pub mod doctor;
pub mod gate;
pub mod images;
pub mod layers;
pub mod mirror;
pub mod mount;
pub mod node;
pub mod node_images;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod store;
pub mod suite;
pub mod throttle;
pub mod tls;
pub mod tree;
pub mod upstream;
pub mod wire;

use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The checkout.
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns the digest of bytes, as `sha256:…`.
pub fn sha256(bytes: &[u8]) -> String {
    format_digest(Sha256::digest(bytes).as_slice())
}

/// Returns the digest of a file, as `sha256:…`.
pub fn sha256_file(path: &Path) -> String {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = std::io::Read::read(&mut file, &mut buffer).expect("read");
        if length == 0 {
            return format_digest(hasher.finalize().as_slice());
        }
        hasher.update(&buffer[..length]);
    }
}

fn format_digest(hash: &[u8]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Returns the length of a file, 0 if it is not there.
pub fn file_length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
