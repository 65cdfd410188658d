//! Benchmarks of wharf against what users would pick in its place, side by side in one run.
//!
//! Everything runs on 127.0.0.1, is bounded in count and time, and is gone at the end. The machine may be
//! noisy: servers take turns, and ratios of medians count.

mod client;
mod cluster;
mod extract;
mod layers;
mod mirror;
mod nodes;
mod published;
mod pull;
mod read;
mod relay;
mod report;
mod servers;

// The file systems and nodes that the tests start, and no other copy of how.
#[path = "../../tests/support"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the benchmarks need few of what the tests do"
)]
mod support {
    pub mod chain;
    pub mod clients;
    pub mod curl;
    pub mod dfs;
    pub mod images;
    pub mod mount;
    pub mod node;
    pub mod process;
    pub mod registry;
    pub mod suite;
    pub mod tree;

    pub use crate::layers::{sha256, sha256_file};

    /// Returns the length of a file, 0 if it is not there.
    pub fn file_length(path: &std::path::Path) -> u64 {
        std::fs::metadata(path).map_or(0, |metadata| metadata.len())
    }

    pub mod mirror {
        /// The program that nodes run: this checkout's, built with --release.
        pub const WHARF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/wharf");
    }
}

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "wharf-loadtest", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The mirror against docker-registry and nginx: cached blobs, manifests, a cold blob, memory.
    Mirror(mirror::Arguments),
    /// Extraction against GNU tar.
    Extract(extract::Arguments),
    /// A cold pull against skopeo with umoci, and against podman; how soon after its last byte a layer is there.
    Pull(pull::Arguments),
    /// Docker nodes that pull at once: wharf and its agents against docker-registry as a cache.
    Nodes(nodes::Arguments),
    /// Pulls of a large and a small image that the store has.
    Published(published::Arguments),
    /// Reading through the shared layers against a local overlay.
    Read(read::Arguments),
    #[command(hide = true)]
    Unpack(extract::OneArguments),
}

fn main() -> anyhow::Result<()> {
    let (report, json): (_, Option<PathBuf>) = match Arguments::parse().command {
        Command::Mirror(arguments) => (mirror::run(&arguments)?, arguments.json),
        Command::Extract(arguments) => (extract::run(&arguments)?, arguments.json),
        Command::Pull(arguments) => (pull::run(&arguments)?, arguments.json),
        Command::Nodes(arguments) => (nodes::run(&arguments)?, arguments.json),
        Command::Published(arguments) => (published::run(&arguments)?, arguments.json),
        Command::Read(arguments) => (read::run(&arguments)?, arguments.json),
        Command::Unpack(arguments) => return extract::run_one(&arguments),
    };
    report.print();
    if let Some(path) = json {
        std::fs::write(&path, report.to_json())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
