//! A pull of what the store has already: it must not matter how large the image is.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cluster::{Cluster, System};
use crate::extract::Target;
use crate::layers::{self, Spec};
use crate::report::{Bar, Report};
use crate::servers;

/// How many layers both images have.
const LAYERS: u64 = 10;
/// What may differ however short a pull is.
const ALLOWED_SECONDS: f64 = 0.1;

#[derive(clap::Args)]
pub struct Arguments {
    /// What the store is on: ext4 (the temporary directory's file system), gluster, moosefs
    #[arg(long, value_name = "NAME", default_value = "gluster")]
    on: Target,
    /// How large the large image is, uncompressed; the small one has 10
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mib: u64,
    /// How often each has its turn
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Pulls a large and a small image by turns on a node that has neither.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let root = directory.path().join("registry");
    write_image(directory.path(), &root, "large", arguments.mib)?;
    write_image(directory.path(), &root, "small", 10)?;
    let registry = servers::docker_registry(directory.path(), &root)?;
    let cluster = Cluster::start(System::Wharf, arguments.on.kind(), registry.address)?;
    let nodes = [cluster.node()];
    for image in ["large", "small"] {
        cluster.pull(&nodes, image)?;
        nodes[0].docker(&["rmi", "--force", image]);
    }
    let (mut large, mut small, mut shares) = (vec![], vec![], vec![]);
    let (mut disk, mut downloaded) = (vec![], vec![]);
    for _ in 0..arguments.rounds {
        let before = nodes[0].disk_used("/var/lib");
        let pulled = cluster.pull(&nodes, "large")?;
        let used = nodes[0].disk_used("/var/lib").saturating_sub(before);
        let little = cluster.pull(&nodes, "small")?;
        nodes[0].docker(&["rmi", "--force", "large", "small"]);
        let allowed = (little.seconds * 0.2).max(ALLOWED_SECONDS);
        shares.push((pulled.seconds - little.seconds) / allowed);
        large.push(pulled.seconds);
        small.push(little.seconds);
        disk.push(used as f64 / 1e6);
        downloaded.push(pulled.downloaded_bytes as f64 / 1e6);
    }
    let mut report = Report::default();
    let of_large = format!("published image of {} MiB", arguments.mib);
    let second = Some(Bar::AtMost(1.0));
    report.median(format!("{of_large}: docker pull"), "s", &large, second);
    report.median("published image of 10 MiB: docker pull", "s", &small, None);
    report.median("the difference, as a part of 20 % or 0.1 s", "", &shares, second);
    report.median(format!("{of_large}: downloaded"), "MB", &downloaded, None);
    let bar = Some(Bar::AtMost(5.0));
    report.median(format!("{of_large}: disk of the node"), "MB", &disk, bar);
    Ok(report)
}

fn write_image(directory: &Path, root: &Path, name: &str, mib: u64) -> anyhow::Result<()> {
    let specs = (0..LAYERS).map(|number| Spec {
        files: 500,
        bytes: (mib << 20) / LAYERS,
        // No layer of one image is one of another's.
        seed: mib * LAYERS + number,
    });
    let written = layers::write_all(directory, specs)?;
    servers::write_layers(root, name, &written)
}
