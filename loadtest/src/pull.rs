//! A whole cold pull: wharf against what a user would do in its place, on the local file system.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::layers::{self, Spec};
use crate::relay;
use crate::report::{Bar, Report};
use crate::servers;

/// How many layers the image has; together they hold what a large one does.
const LAYERS: u64 = 4;
const FILES_A_LAYER: u64 = 3_000;
const BYTES_A_LAYER: u64 = 55 << 20;

/// Slow enough that the network, and not the disk, is what the pull waits for.
const SLOW_BYTES_PER_SECOND: u64 = 12 << 20;

#[derive(clap::Args)]
pub struct Arguments {
    /// The wharf to measure, built with --release
    #[arg(long, value_name = "PATH", default_value = "target/release/wharf")]
    wharf: PathBuf,
    /// How often each has its turn
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs all comparisons.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let mut report = Report::default();
    many_layers(arguments, directory.path(), &mut report)?;
    after_the_last_byte(arguments, directory.path(), &mut report)?;
    Ok(report)
}

fn many_layers(arguments: &Arguments, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let root = directory.join("registry");
    let specs = (0..LAYERS).map(|seed| Spec {
        files: FILES_A_LAYER,
        bytes: BYTES_A_LAYER,
        seed,
    });
    write_image(directory, &root, specs)?;
    let registry = servers::docker_registry(directory, &root)?;
    let (mut wharf, mut umoci, mut podman) = (vec![], vec![], vec![]);
    for round in 0..arguments.rounds {
        let work = directory.join(format!("round-{round}"));
        fs::create_dir(&work)?;
        wharf.push(wharf_pull(arguments, &work, registry.address)?);
        umoci.push(skopeo_and_umoci(&work, registry.address)?);
        podman.push(podman_pull(&work, registry.address)?);
    }
    let against = |theirs: &[f64]| -> Vec<f64> { wharf.iter().zip(theirs).map(|(w, t)| w / t).collect() };
    report.median("cold pull, 4 layers, gzip: wharf pull", "s", &wharf, None);
    report.median("cold pull: skopeo copy, umoci unpack", "s", &umoci, None);
    report.median("cold pull: podman pull", "s", &podman, None);
    let bar = Some(Bar::AtMost(1.0));
    report.median("cold pull: wharf / skopeo and umoci", "", &against(&umoci), bar);
    report.median("cold pull: wharf / podman", "", &against(&podman), bar);
    Ok(())
}

/// How long after its last byte came over a slow network a layer is published.
fn after_the_last_byte(arguments: &Arguments, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let root = directory.join("slow-registry");
    let spec = Spec {
        files: LAYERS * FILES_A_LAYER,
        bytes: LAYERS * BYTES_A_LAYER,
        seed: LAYERS,
    };
    write_image(directory, &root, std::iter::once(spec))?;
    let registry = servers::docker_registry(directory, &root)?;
    let (address, counts) = relay::start(registry.address, Some(SLOW_BYTES_PER_SECOND))?;
    let (mut shares, mut lags) = (vec![], vec![]);
    for round in 0..arguments.rounds {
        let work = directory.join(format!("slow-{round}"));
        fs::create_dir(&work)?;
        let start = Instant::now();
        wharf_pull(arguments, &work, address)?;
        let end = Instant::now();
        let last = *counts.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.context("nothing was fetched")?;
        let lag = end.duration_since(last).as_secs_f64();
        lags.push(lag);
        // 0.2 s are within the bar however short the fetching.
        let allowed = (last.duration_since(start).as_secs_f64() * 0.1).max(0.2);
        shares.push(lag / allowed);
    }
    report.median("slow network: last byte to end of the pull", "s", &lags, None);
    let bar = Some(Bar::AtMost(1.0));
    report.median("the same, as a part of 10 % or 0.2 s", "", &shares, bar);
    Ok(())
}

fn write_image(directory: &Path, root: &Path, specs: impl Iterator<Item = Spec>) -> anyhow::Result<()> {
    let written = layers::write_all(directory, specs)?;
    servers::write_layers(root, "big", &written)
}

fn wharf_pull(arguments: &Arguments, work: &Path, upstream: SocketAddr) -> anyhow::Result<f64> {
    let mut pull = Command::new(&arguments.wharf);
    pull.arg("pull").arg("--store").arg(work.join("store"));
    pull.arg("--upstream")
        .arg(format!("http://{upstream}"))
        .arg("library/big:latest");
    timed(&mut [pull])
}

fn skopeo_and_umoci(work: &Path, registry: SocketAddr) -> anyhow::Result<f64> {
    let layout = work.join("oci");
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--src-tls-verify=false"]);
    copy.arg(format!("docker://{registry}/library/big:latest"));
    copy.arg(format!("oci:{}:latest", layout.display()));
    let mut unpack = Command::new("umoci");
    unpack
        .arg("unpack")
        .arg("--image")
        .arg(format!("{}:latest", layout.display()));
    unpack.arg(work.join("bundle"));
    timed(&mut [copy, unpack])
}

fn podman_pull(work: &Path, registry: SocketAddr) -> anyhow::Result<f64> {
    let mut pull = Command::new("podman");
    pull.args(["--storage-driver", "overlay", "--root"])
        .arg(work.join("podman"));
    pull.arg("--runroot").arg(work.join("podman-run"));
    pull.args(["pull", "--tls-verify=false"])
        .arg(format!("{registry}/library/big:latest"));
    timed(&mut [pull])
}

/// Runs commands one after the other, each from a disk that has nothing to write.
fn timed(commands: &mut [Command]) -> anyhow::Result<f64> {
    rustix::fs::sync();
    let start = Instant::now();
    for command in commands {
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {command:?}"))?;
        if !output.status.success() {
            bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(start.elapsed().as_secs_f64())
}
