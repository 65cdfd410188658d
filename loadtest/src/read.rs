//! What reading through the shared layers costs, against an overlay of the same layers on the local disk.
//!
//! Each turn mounts an overlay in a mount namespace of its own, empties the kernel's caches, and does the same twice:
//! cold and warm. What the file system's client and server keep in their own memory they keep.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::extract::Target;
use crate::layers::{self, Codec, Spec};
use crate::report::Report;
use crate::servers;
use crate::support::dfs::Shared;
use crate::support::mirror::WHARF;

/// The image's layers of many small files; one with Python and one with a large file lie on them.
const LAYERS: u64 = 4;
const FILES_A_LAYER: u64 = 1_000;

/// Directories of Python's library that no start reads: other people's packages, which may be any number, and tests.
const LEFT_OUT: [&str; 3] = ["site-packages", "dist-packages", "test"];

/// Does WORK twice in a new overlay of LOWER, cold and warm, and prints the nanoseconds of each.
///
/// Arguments: an empty directory, the lower directories, the work.
const SCRIPT: &str = r#"
mkdir -p "$1/upper" "$1/work" "$1/merged"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work,index=off" "$1/merged"
cd "$1/merged"
sync
echo 3 >/proc/sys/vm/drop_caches
for turn in cold warm; do
  start=$(date +%s%N)
  eval "$3" >/dev/null
  echo $(($(date +%s%N) - start))
done
"#;

#[derive(clap::Args)]
pub struct Arguments {
    /// What the store is on: gluster, moosefs, ext4 (the temporary directory's file system)
    #[arg(long, value_name = "NAME", default_value = "gluster")]
    on: Target,
    /// How large all small files are together, and the large one
    #[arg(long, value_name = "MIB", default_value_t = 220)]
    mib: u64,
    /// How often each has its turn
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// This machine's Python, which becomes a layer.
struct Python {
    program: PathBuf,
    library: PathBuf,
    /// What both are below.
    prefix: PathBuf,
}

/// Runs all works.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let work = directory.path();
    let python = Python::find()?;
    let root = work.join("registry");
    write_image(work, &root, arguments.mib << 20, &python)?;
    let registry = servers::docker_registry(work, &root)?;
    let shared = Shared::start(arguments.on.kind());
    let near = work.join("store");
    eprintln!("pulling the image into both stores");
    pull(&near, registry.address)?;
    pull(&shared.a().join("store"), registry.address)?;
    let local = lower_directories(&near)?;
    let remote = lower_directories(&shared.b().join("store"))?;
    let mut report = Report::default();
    for (name, script) in works(&python) {
        eprintln!("{name}");
        let (mut ours, mut theirs) = (vec![], vec![]);
        for _ in 0..arguments.rounds {
            theirs.push(turn(work, &local, &script)?);
            ours.push(turn(work, &remote, &script)?);
        }
        compare(&mut report, name, arguments.on.name(), &ours, &theirs);
    }
    Ok(report)
}

impl Python {
    fn find() -> anyhow::Result<Self> {
        let script = "import os, sys, sysconfig; print(os.path.realpath(sys.executable)); \
                      print(sysconfig.get_path('stdlib')); print(sys.base_prefix)";
        let text = output(Command::new("python3").args(["-c", script]))?;
        let mut lines = text.lines().map(PathBuf::from);
        let mut next = || lines.next().context("python3 does not tell where it is");
        Ok(Self {
            program: next()?,
            library: next()?,
            prefix: next()?,
        })
    }

    /// Its program and library as a tar stream, below the same directories.
    fn tar(&self) -> anyhow::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        let inside = |path: &Path| path.strip_prefix("/").map(Path::to_owned);
        archive.append_path_with_name(&self.program, inside(&self.program)?)?;
        let mut directories = vec![self.library.clone()];
        while let Some(directory) = directories.pop() {
            archive.append_dir(inside(&directory)?, &directory)?;
            for entry in std::fs::read_dir(&directory)? {
                let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
                if !kind.is_dir() {
                    archive.append_path_with_name(&path, inside(&path)?)?;
                } else if !path
                    .file_name()
                    .is_some_and(|name| LEFT_OUT.iter().any(|out| name == *out))
                {
                    directories.push(path);
                }
            }
        }
        Ok(archive.into_inner()?)
    }
}

fn write_image(directory: &Path, root: &Path, bytes: u64, python: &Python) -> anyhow::Result<()> {
    let specs = (0..LAYERS).map(|seed| Spec {
        files: FILES_A_LAYER,
        bytes: bytes / LAYERS,
        seed,
    });
    let mut written = layers::write_all(directory, specs)?;
    let mut more = |name: &str, tar: &[u8]| {
        let path = directory.join(name);
        layers::write_tar(&path, tar, Codec::Gzip)?;
        written.push((path, layers::sha256(tar)));
        anyhow::Ok(())
    };
    more("python", &python.tar()?)?;
    more("large", &layers::one_file("large", bytes)?)?;
    servers::write_layers(root, "big", &written)
}

fn pull(store: &Path, registry: SocketAddr) -> anyhow::Result<()> {
    let mut command = Command::new(WHARF);
    command.arg("pull").arg("--store").arg(store);
    let upstream = format!("http://{registry}");
    command.args(["--upstream", &upstream, "big"]);
    output(&mut command).map(drop)
}

/// Returns the directories of the image's layers, the topmost first.
fn lower_directories(store: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let inspect = |subject: &str| -> anyhow::Result<Value> {
        let mut command = Command::new(WHARF);
        command.arg("inspect").arg("--store").arg(store).arg(subject);
        Ok(serde_json::from_str(&output(&mut command)?)?)
    };
    let image = inspect("big")?;
    let top = image["layers"].as_array().and_then(|layers| layers.last());
    let top = top.and_then(|layer| layer["chain_id"].as_str());
    let chain = inspect(top.context("the image has no layers in the store")?)?;
    let directories = chain["lowerdirs"].as_array().context("no directories")?;
    Ok(directories
        .iter()
        .filter_map(|directory| directory.as_str().map(PathBuf::from))
        .collect())
}

/// What is done in the overlay's root.
fn works(python: &Python) -> [(&'static str, String); 4] {
    let start = format!(
        "PYTHONDONTWRITEBYTECODE=1 PYTHONHOME=$PWD{} .{} -c \
         'import asyncio, email, http.client, json, ssl, unittest, xml.etree.ElementTree'",
        python.prefix.display(),
        python.program.display(),
    );
    [
        (
            "find, with every file's metadata",
            "find . -printf '%m %s %p\n'".to_owned(),
        ),
        // GNU tar would read nothing if it saw that nothing is kept.
        ("tar of the tree", "tar -cf - usr | cat".to_owned()),
        ("Python start", start),
        ("sequential read of a large file", "cat large".to_owned()),
    ]
}

/// Returns the seconds of a work, cold and warm.
fn turn(work: &Path, lower: &[PathBuf], script: &str) -> anyhow::Result<[f64; 2]> {
    let directory = tempfile::tempdir_in(work)?;
    let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", SCRIPT, "sh"]);
    command.arg(directory.path()).arg(lower.join(":")).arg(script);
    let text = output(&mut command)?;
    let seconds = text.lines().map(|line| Ok(line.parse::<f64>()? / 1e9));
    let seconds = seconds.collect::<anyhow::Result<Vec<f64>>>()?;
    seconds.try_into().ok().context("not two figures")
}

fn compare(report: &mut Report, name: &str, store: &str, ours: &[[f64; 2]], theirs: &[[f64; 2]]) {
    for (state, at) in [("cold", 0), ("warm", 1)] {
        let of = |all: &[[f64; 2]]| all.iter().map(|turn| turn[at]).collect::<Vec<f64>>();
        let (ours, theirs) = (of(ours), of(theirs));
        let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(o, t)| o / t).collect();
        report.median(format!("{name}, {state}: local overlay"), "s", &theirs, None);
        report.median(
            format!("{name}, {state}: shared layers on {store}"),
            "s",
            &ours,
            None,
        );
        report.median(format!("{name}, {state}: shared / local"), "", &ratios, None);
    }
}

/// Runs a command, which must succeed, and returns what it prints.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
