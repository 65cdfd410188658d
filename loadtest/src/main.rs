//! Benchmarks of wharf against what users would pick in its place, side by side in one run.
//!
//! Everything runs on 127.0.0.1, is bounded in count and time, and is gone at the end. The machine may be
//! noisy: servers take turns, and ratios of medians count.

mod client;
mod extract;
mod layers;
mod mirror;
mod pull;
mod relay;
mod report;
mod servers;

// The file systems that the tests start, and no other copy of how.
#[path = "../../tests/support"]
#[allow(dead_code, reason = "the benchmarks need few of what the tests do")]
mod support {
    pub mod dfs;
    pub mod mount;
    pub mod process;
    pub mod tree;

    pub use crate::layers::sha256_file;
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
    #[command(hide = true)]
    Unpack(extract::OneArguments),
}

fn main() -> anyhow::Result<()> {
    let (report, json): (_, Option<PathBuf>) = match Arguments::parse().command {
        Command::Mirror(arguments) => (mirror::run(&arguments)?, arguments.json),
        Command::Extract(arguments) => (extract::run(&arguments)?, arguments.json),
        Command::Pull(arguments) => (pull::run(&arguments)?, arguments.json),
        Command::Unpack(arguments) => return extract::run_one(&arguments),
    };
    report.print();
    if let Some(path) = json {
        std::fs::write(&path, report.to_json())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
