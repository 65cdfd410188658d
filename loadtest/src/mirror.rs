//! The mirror's scenarios: what an operator gains and pays by putting wharf where docker-registry would be.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::client::{Connection, request};
use crate::relay;
use crate::report::{Bar, Report};
use crate::servers::{self, Image, Server};

const MIB: u64 = 1 << 20;
/// The cached blob.
const BLOB_BYTES: u64 = 256 * MIB;
/// The cold blob.
const COLD_BYTES: u64 = 64 * MIB;
/// How many clients ask for the cold blob at once.
const COLD_CLIENTS: usize = 16;
/// How many downloads are under way when memory is looked at.
const MEMORY_CLIENTS: usize = 200;
/// How long one server answers requests for a manifest at a time.
const MANIFEST_TURN: Duration = Duration::from_millis(1500);
/// How many connections ask for a manifest, and how many threads drive them.
const MANIFEST_CONNECTIONS: usize = 16;
const MANIFEST_THREADS: usize = 2;

#[derive(clap::Args)]
pub struct Arguments {
    /// The wharf to measure, built with --release
    #[arg(long, value_name = "PATH", default_value = "target/release/wharf")]
    wharf: PathBuf,
    /// How often each server gets its turn
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs all scenarios.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    if arguments.rounds == 0 || !arguments.wharf.exists() {
        bail!(
            "needs a round and {}: cargo build --release",
            arguments.wharf.display()
        );
    }
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let mut report = Report::default();
    cached(arguments, directory.path(), &mut report)?;
    cold(arguments, directory.path(), &mut report)?;
    Ok(report)
}

/// A server, and where it has the blob and the manifest.
struct Contender {
    name: &'static str,
    server: Server,
    blob: String,
    manifest: String,
}

fn cached(arguments: &Arguments, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let root = directory.join("registry");
    let image = servers::write_registry(&root, BLOB_BYTES)?;
    let registry = servers::docker_registry(directory, &root)?;
    let wharf = servers::wharf(&arguments.wharf, &directory.join("wharf"), registry.address)?;
    fill(&wharf, &image, &directory.join("wharf/store"))?;
    let api = |kind: &str, digest: &str| format!("/v2/library/big/{kind}/{digest}");
    let contender = |name, server, blob: String, manifest: String| Contender {
        name,
        server,
        blob,
        manifest,
    };
    let (blob, manifest) = (api("blobs", &image.layer), api("manifests", &image.manifest));
    let contenders = [
        contender("wharf", wharf, blob.clone(), manifest.clone()),
        contender("docker-registry", registry, blob, manifest),
        contender(
            "nginx",
            servers::nginx(directory, &root)?,
            format!("/{}", servers::registry_path(&image.layer)),
            format!("/{}", servers::registry_path(&image.manifest)),
        ),
    ];
    for connections in [1, 4] {
        let measure =
            |contender: &Contender| throughput(contender.server.address, &contender.blob, connections);
        let rates = take_turns(arguments.rounds, &contenders, measure)?;
        let what = format!("cached 256 MiB blob, {connections} connection(s)");
        compare(report, &what, "MiB/s", &contenders, &rates, (1.3, Some(0.9)));
    }
    let measure = |contender: &Contender| request_rate(contender.server.address, &contender.manifest);
    let rates = take_turns(arguments.rounds, &contenders, measure)?;
    compare(
        report,
        "manifest by digest, 16 connections",
        "req/s",
        &contenders,
        &rates,
        (4.0, None),
    );
    memory(
        report,
        "200 downloads of a cached 256 MiB blob",
        &contenders[0].server,
        &contenders[0].blob,
    )
}

/// Lets wharf fetch the image, and waits until its store has the layer.
fn fill(wharf: &Server, image: &Image, store: &Path) -> anyhow::Result<()> {
    let mut connection = Connection::open(wharf.address)?;
    connection.download(&request(wharf.address, "/v2/library/big/manifests/latest"))?;
    connection.download(&request(
        wharf.address,
        &format!("/v2/library/big/blobs/{}", image.layer),
    ))?;
    let hex = image.layer.trim_start_matches("sha256:");
    let blob = store.join("blobs/sha256").join(&hex[..2]).join(hex);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !blob.exists() {
        if Instant::now() > deadline {
            bail!("wharf has not stored {}", blob.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Measures each contender once a round; the values of one contender stand together.
fn take_turns<const N: usize>(
    rounds: usize,
    contenders: &[Contender; N],
    measure: impl Fn(&Contender) -> anyhow::Result<f64>,
) -> anyhow::Result<[Vec<f64>; N]> {
    let mut rates = std::array::from_fn(|_| Vec::new());
    for round in 0..=rounds {
        for (contender, rates) in contenders.iter().zip(&mut rates) {
            let rate = measure(contender).with_context(|| contender.name)?;
            // The first round warms the caches.
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    Ok(rates)
}

/// Tells each one's rate, and the first one's against the others', round by round.
fn compare(
    report: &mut Report,
    what: &str,
    unit: &'static str,
    contenders: &[Contender; 3],
    rates: &[Vec<f64>; 3],
    (registry_bar, nginx_bar): (f64, Option<f64>),
) {
    for (contender, rates) in contenders.iter().zip(rates) {
        report.median(format!("{what}: {}", contender.name), unit, rates, None);
    }
    let bars = [Some(registry_bar), nginx_bar];
    for ((contender, others), bar) in contenders.iter().zip(rates).skip(1).zip(bars) {
        let ratios: Vec<f64> = rates[0]
            .iter()
            .zip(others)
            .map(|(own, other)| own / other)
            .collect();
        report.median(
            format!("{what}: wharf / {}", contender.name),
            "",
            &ratios,
            bar.map(Bar::AtLeast),
        );
    }
}

/// Downloads a blob over each of some connections at once, and returns MiB a second of all together.
fn throughput(address: SocketAddr, path: &str, connections: usize) -> anyhow::Result<f64> {
    let request = request(address, path);
    let started = Instant::now();
    let bytes: u64 = std::thread::scope(|scope| {
        let downloads: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| anyhow::Ok(Connection::open(address)?.download(&request)?.bytes)))
            .collect();
        downloads.into_iter().map(join).sum::<anyhow::Result<u64>>()
    })?;
    Ok(bytes as f64 / MIB as f64 / started.elapsed().as_secs_f64())
}

/// Asks for a small answer over and over on open connections, and returns answers a second.
fn request_rate(address: SocketAddr, path: &str) -> anyhow::Result<f64> {
    let request = request(address, path);
    let drive = || {
        let connections = MANIFEST_CONNECTIONS / MANIFEST_THREADS;
        let mut connections = (0..connections)
            .map(|_| Connection::open(address))
            .collect::<Result<Vec<_>, _>>()?;
        let (started, mut count) = (Instant::now(), 0_u64);
        while started.elapsed() < MANIFEST_TURN {
            for connection in &mut connections {
                connection.send(&request)?;
            }
            for connection in &mut connections {
                let head = connection.head()?;
                if head.status != 200 {
                    bail!("status {}", head.status);
                }
                connection.skip(head.length)?;
                count += 1;
            }
        }
        Ok(count as f64 / started.elapsed().as_secs_f64())
    };
    std::thread::scope(|scope| {
        let drivers: Vec<_> = (0..MANIFEST_THREADS).map(|_| scope.spawn(drive)).collect();
        drivers.into_iter().map(join).sum()
    })
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a client panicked"))
}

/// Brings many downloads into the middle of their bodies, and looks at the server's memory.
fn memory(report: &mut Report, what: &str, server: &Server, path: &str) -> anyhow::Result<()> {
    let request = request(server.address, path);
    let mut connections = Vec::new();
    for _ in 0..MEMORY_CLIENTS {
        let mut connection = Connection::open(server.address)?;
        connection.send(&request)?;
        connections.push(connection);
    }
    for connection in &mut connections {
        connection.head()?;
    }
    for _ in 0..4 {
        for connection in &mut connections {
            connection.skip(MIB / 2)?;
        }
    }
    let mib = |line| Ok::<_, anyhow::Error>(server.memory_kib(line)? / 1024.0);
    report.value(
        format!("{what}: resident"),
        "MiB",
        mib("VmRSS")?,
        Some(Bar::AtMost(100.0)),
    );
    report.value(
        format!("{what}: most resident so far"),
        "MiB",
        mib("VmHWM")?,
        Some(Bar::AtMost(100.0)),
    );
    Ok(())
}

fn cold(arguments: &Arguments, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let root = directory.join("cold-registry");
    let image = servers::write_registry(&root, COLD_BYTES)?;
    let registry = servers::docker_registry(directory, &root)?;
    let path = format!("/v2/library/big/blobs/{}", image.layer);
    let (mut gets, mut bytes, mut lags, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=arguments.rounds {
        let (address, counts) = relay::start(registry.address, None)?;
        let direct = {
            let started = Instant::now();
            Connection::open(address)?
                .download(&request(address, &path))?
                .ended
                - started
        };
        counts.blob_gets.store(0, Ordering::SeqCst);
        counts.bytes.store(0, Ordering::SeqCst);
        let wharf = servers::wharf(
            &arguments.wharf,
            &directory.join(format!("cold-{round}")),
            address,
        )?;
        let (lag, took) = at_once(wharf.address, &path)?;
        if round > 0 {
            gets.push(counts.blob_gets.load(Ordering::SeqCst) as f64);
            bytes.push(counts.bytes.load(Ordering::SeqCst) as f64 / image.layer_bytes as f64);
            lags.push(lag.as_secs_f64() * 1000.0);
            ratios.push(took.as_secs_f64() / direct.as_secs_f64());
        }
    }
    let what = "cold 64 MiB blob, 16 clients at once";
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    report.value(
        format!("{what}: GETs upstream, at most"),
        "",
        most(&gets),
        Some(Bar::AtMost(1.0)),
    );
    report.value(
        format!("{what}: bytes upstream / blob, at most"),
        "",
        most(&bytes),
        Some(Bar::AtMost(1.005)),
    );
    report.median(
        format!("{what}: last first byte after the first one"),
        "ms",
        &lags,
        None,
    );
    report.value(
        format!("{what}: the same, at most"),
        "ms",
        most(&lags),
        Some(Bar::AtMost(100.0)),
    );
    report.median(
        format!("{what}: time of all / of one without wharf"),
        "",
        &ratios,
        None,
    );
    let (slow, _) = relay::start(registry.address, Some(16 * MIB))?;
    let wharf = servers::wharf(&arguments.wharf, &directory.join("cold-memory"), slow)?;
    memory(report, "200 followers of one cold fill", &wharf, &path)
}

/// Downloads a blob by many clients at once; returns how long after the first client's first byte the last one's
/// came, and how long all took.
fn at_once(address: SocketAddr, path: &str) -> anyhow::Result<(Duration, Duration)> {
    let (request, barrier) = (request(address, path), Arc::new(Barrier::new(COLD_CLIENTS + 1)));
    std::thread::scope(|scope| {
        let client = || {
            let mut connection = Connection::open(address)?;
            barrier.wait();
            connection.download(&request)
        };
        let clients: Vec<_> = (0..COLD_CLIENTS).map(|_| scope.spawn(client)).collect();
        barrier.wait();
        let started = Instant::now();
        let downloads = clients
            .into_iter()
            .map(join)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let first_bytes = || downloads.iter().map(|download| download.first_byte);
        let lag = first_bytes()
            .max()
            .zip(first_bytes().min())
            .map(|(last, first)| last - first);
        let ended = downloads
            .iter()
            .map(|download| download.ended)
            .max()
            .context("no client")?;
        Ok((lag.context("no client")?, ended - started))
    })
}
