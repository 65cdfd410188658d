//! Nodes that pull an image at once: wharf with its agents against Docker through docker-registry as a cache.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cluster::{Cluster, Pulled, System};
use crate::extract::Target;
use crate::layers::{self, Spec};
use crate::report::Report;
use crate::servers;

const LAYERS: u64 = 4;
const FILES_A_LAYER: u64 = 3_000;

#[derive(clap::Args)]
pub struct Arguments {
    /// How many nodes pull at once
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8")]
    nodes: Vec<usize>,
    /// What wharf's store is on: ext4 (the temporary directory's file system), gluster, moosefs
    #[arg(long, value_name = "NAME", default_value = "gluster")]
    on: Target,
    /// How large the image is, uncompressed
    #[arg(long, value_name = "MIB", default_value_t = 220)]
    mib: u64,
    /// How often each has its turn
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What nodes that had nothing took of an image that nobody had pulled, and of one that the mirror had.
struct Measured {
    new: Pulled,
    known: Pulled,
    disk_bytes: u64,
}

/// Runs all numbers of nodes.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let root = directory.path().join("registry");
    write_image(directory.path(), &root, arguments.mib)?;
    let registry = servers::docker_registry(directory.path(), &root)?;
    let mut report = Report::default();
    for &nodes in &arguments.nodes {
        let (mut wharf, mut cache) = (vec![], vec![]);
        for _ in 0..arguments.rounds {
            for (system, all) in [(System::Wharf, &mut wharf), (System::Registry, &mut cache)] {
                let cluster = Cluster::start(system, arguments.on.kind(), registry.address)?;
                let measured = measure(&cluster, nodes)?;
                eprintln!(
                    "{nodes} nodes, {}: new {:.1} s, known {:.1} s",
                    system.name(),
                    measured.new.seconds,
                    measured.known.seconds
                );
                all.push(measured);
            }
        }
        compare(&mut report, nodes, &wharf, &cache);
    }
    Ok(report)
}

fn write_image(directory: &Path, root: &Path, mib: u64) -> anyhow::Result<()> {
    let specs = (0..LAYERS).map(|seed| Spec {
        files: FILES_A_LAYER,
        bytes: (mib << 20) / LAYERS,
        seed,
    });
    let written = layers::write_all(directory, specs)?;
    servers::write_layers(root, "big", &written)
}

fn measure(cluster: &Cluster, count: usize) -> anyhow::Result<Measured> {
    let nodes: Vec<_> = (0..count).map(|_| cluster.node()).collect();
    let disk = || nodes.iter().map(|node| node.disk_used("/var/lib")).sum::<u64>();
    let empty = disk();
    rustix::fs::sync();
    let new = cluster.pull(&nodes, "big")?;
    let disk_bytes = disk().saturating_sub(empty) / count as u64;
    for node in &nodes {
        node.docker(&["rmi", "--force", "big"]);
    }
    rustix::fs::sync();
    let known = cluster.pull(&nodes, "big")?;
    Ok(Measured {
        new,
        known,
        disk_bytes,
    })
}

fn compare(report: &mut Report, nodes: usize, wharf: &[Measured], cache: &[Measured]) {
    type Choice = fn(&Measured) -> Pulled;
    let choices: [(&str, Choice); 2] = [("new", |m| m.new), ("known", |m| m.known)];
    for (image, choice) in choices {
        let what = format!("{nodes} nodes, {image} image");
        for (system, all) in [(System::Wharf, wharf), (System::Registry, cache)] {
            let name = system.name();
            let each = |of: fn(Pulled) -> f64| all.iter().map(|m| of(choice(m))).collect::<Vec<_>>();
            let mut add = |what, unit, values: &[f64]| report.median(what, unit, values, None);
            add(format!("{what}: {name}"), "s", &each(|pulled| pulled.seconds));
            let upstream = each(|pulled| mb(pulled.upstream_bytes));
            add(format!("{what}: {name}, from upstream"), "MB", &upstream);
            let downloaded = each(|pulled| mb(pulled.downloaded_bytes));
            add(format!("{what}: {name}, downloaded by nodes"), "MB", &downloaded);
        }
    }
    for (system, all) in [(System::Wharf, wharf), (System::Registry, cache)] {
        let disk: Vec<f64> = all.iter().map(|measured| mb(measured.disk_bytes)).collect();
        let what = format!("{nodes} nodes: {}, disk of each", system.name());
        report.median(what, "MB", &disk, None);
    }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
