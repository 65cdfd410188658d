//! Extraction: wharf's unpacking against GNU tar, on each file system, both made durable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use wharf::fs::Abilities;
use wharf::unpack::{Limits, Options, Progress, unpack};

use crate::layers::{self, Codec, Spec};
use crate::report::{Bar, Report};
use crate::support::dfs::{Kind, Shared};

/// What users call a large layer.
const SPEC: Spec = Spec {
    files: 12_000,
    bytes: 220 << 20,
    seed: 0,
};

/// Memory of the whole process that unpacks.
const MEMORY_BAR_MIB: f64 = 150.0;

#[derive(clap::Args)]
pub struct Arguments {
    /// Where to extract to: ext4 (the temporary directory's file system), gluster, moosefs
    #[arg(
        long = "on",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "ext4,moosefs,gluster"
    )]
    targets: Vec<Target>,
    /// How often each has its turn
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What a process of its own does, so that its memory can be told.
#[derive(clap::Args)]
pub struct OneArguments {
    layer: PathBuf,
    target: PathBuf,
    abilities: PathBuf,
}

/// A file system to extract to, or to have a store on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    Ext4,
    Gluster,
    Moosefs,
}

impl Target {
    pub fn kind(self) -> Kind {
        match self {
            Self::Ext4 => Kind::Ext4,
            Self::Gluster => Kind::Gluster,
            Self::Moosefs => Kind::MooseFs,
        }
    }

    /// Returns the most of GNU tar's time that wharf may take.
    fn most(self) -> f64 {
        match self {
            Self::Ext4 => 0.9,
            Self::Gluster => 0.334,
            Self::Moosefs => 0.5,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Gluster => "GlusterFS",
            Self::Moosefs => "MooseFS",
        }
    }
}

/// Runs all file systems and compressions.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let local = tempfile::tempdir().context("cannot make a directory")?;
    let written = [Codec::Gzip, Codec::Zstd].map(|codec| {
        let layer = local.path().join(codec.name());
        layers::write(&layer, SPEC, codec).map(|_| (layer, codec))
    });
    let layers = written.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for target in &arguments.targets {
        for (layer, codec) in &layers {
            // A new one for each: a file system that has just deleted much is slower at creating.
            let shared = Shared::start(target.kind());
            compare(layer, *codec, *target, shared.a(), arguments.rounds, &mut report)?;
        }
    }
    Ok(report)
}

/// Unpacks one layer and prints the seconds and the peak of resident KiB.
pub fn run_one(arguments: &OneArguments) -> anyhow::Result<()> {
    let abilities: Abilities = serde_json::from_slice(&fs::read(&arguments.abilities)?)?;
    let options = Options {
        writers: abilities.writers as usize,
        abilities: Arc::new(abilities),
        user_opaque: false,
        limits: Limits {
            max_layer_bytes: 1 << 40,
            max_entries: 2_000_000,
            max_zstd_window_bytes: 128 << 20,
        },
    };
    fs::create_dir(&arguments.target)?;
    let start = Instant::now();
    let layer = fs::File::open(&arguments.layer)?;
    let tar_split = arguments.target.with_added_extension("tar-split.gz");
    unpack(
        layer,
        &arguments.target,
        &tar_split,
        &options,
        &Progress::default(),
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak
        .and_then(|text| text.split_whitespace().next())
        .context("no VmHWM")?;
    println!("{seconds} {kib}");
    Ok(())
}

fn compare(
    layer: &Path,
    codec: Codec,
    target: Target,
    directory: &Path,
    rounds: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    // What was removed a moment ago slows ext4's next creations: all goes at the end.
    let work = tempfile::tempdir_in(directory).context("cannot make a directory")?;
    let abilities = work.path().join("abilities.json");
    let found = wharf::fs::probe(work.path())?;
    fs::write(&abilities, serde_json::to_vec(&found)?)?;
    let (mut ours, mut theirs, mut ratios, mut memory) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        rustix::fs::sync();
        let (seconds, mib) = wharf(layer, &work.path().join(format!("w{round}")), &abilities)?;
        rustix::fs::sync();
        let tar = gnu_tar(layer, codec, &work.path().join(format!("t{round}")))?;
        ours.push(seconds);
        theirs.push(tar);
        ratios.push(seconds / tar);
        memory.push(mib);
    }
    let what = format!("{}, {}", target.name(), codec.name());
    report.median(format!("{what}: wharf"), "s", &ours, None);
    report.median(format!("{what}: GNU tar, then sync -f"), "s", &theirs, None);
    report.median(
        format!("{what}: wharf / GNU tar"),
        "",
        &ratios,
        Some(Bar::AtMost(target.most())),
    );
    let bar = Some(Bar::AtMost(MEMORY_BAR_MIB));
    report.median(format!("{what}: wharf's peak memory"), "MiB", &memory, bar);
    Ok(())
}

fn wharf(layer: &Path, target: &Path, abilities: &Path) -> anyhow::Result<(f64, f64)> {
    let output = Command::new(std::env::current_exe()?)
        .arg("unpack")
        .args([layer, target, abilities])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(seconds)), Some(Ok(kib))) => Ok((seconds, kib / 1024.0)),
        _ => bail!("unpacking failed: {}", output.status),
    }
}

fn gnu_tar(layer: &Path, codec: Codec, target: &Path) -> anyhow::Result<f64> {
    fs::create_dir(target)?;
    let start = Instant::now();
    for command in [
        Command::new("tar")
            .args([codec.tar_option(), "-xf"])
            .arg(layer)
            .arg("-C")
            .arg(target),
        Command::new("sync").arg("-f").arg(target),
    ] {
        let status = command.status().context("cannot run tar and sync")?;
        if !status.success() {
            bail!("{command:?} failed: {status}");
        }
    }
    Ok(start.elapsed().as_secs_f64())
}
