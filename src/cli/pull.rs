//! `wharf pull`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::mirror_argument::MirrorUrlParser;
use crate::agent::mirrors::MirrorUrl;
use crate::config::{Config, Log, Overrides};
use crate::oci::Platform;
use crate::oci::image_name::ImageName;
use crate::pull::{self, Order, by_mirror};

/// What to pull, and where to.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  every blob is in the store, and every layer that can be is extracted
  1  something could not be fetched or stored
  2  wrong arguments
  3  every blob is in the store, and some layers are not extracted
  130  interrupted; what is complete stays in the store")]
pub(super) struct PullArguments {
    /// Images, such as alpine, ghcr.io/acme/app:v1 or app@sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<ImageName>,
    /// Have a running mirror, such as http://mirror:5000, do it: nothing is needed here. Several mirrors of one
    /// store: the preferred one first
    #[arg(
        long = "mirror",
        value_name = "URL",
        value_parser = MirrorUrlParser::<MirrorUrl>::default(),
        value_delimiter = ',',
        conflicts_with_all = ["config", "store", "index", "upstream"]
    )]
    mirrors: Vec<MirrorUrl>,
    /// Configuration file of the mirror (TOML), for its upstreams and limits
    #[arg(long, value_name = "FILE", env = "WHARF_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of the store [default: wharf-store]
    #[arg(long, value_name = "DIR", env = "WHARF_STORE")]
    store: Option<PathBuf>,
    /// Directory of an index that no mirror has open [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
    /// Endpoint of docker.io, the default upstream [default: registry-1.docker.io]
    #[arg(long, value_name = "URL", env = "WHARF_UPSTREAM")]
    upstream: Option<String>,
    /// Which image of an index: OS/ARCHITECTURE[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
}

/// Pulls, and returns the exit code that says what came of it.
pub(super) fn run(arguments: PullArguments) -> anyhow::Result<ExitCode> {
    let order = Order {
        images: arguments.images,
        platform: arguments.platform.unwrap_or_else(Platform::current),
        own_index: arguments.index.is_some(),
    };
    if !arguments.mirrors.is_empty() {
        return Ok(by_mirror::run(&arguments.mirrors, &order)?.into());
    }
    let overrides = Overrides {
        store: arguments.store,
        index: arguments.index,
        upstream: arguments.upstream,
        ..Overrides::default()
    };
    let config = Config::load(arguments.config.as_deref(), overrides)?;
    // Log lines would tear the bars; without bars only what goes wrong is of interest.
    let level = if std::io::stderr().is_terminal() {
        "off"
    } else {
        "warn"
    };
    crate::telemetry::init(&Log {
        level: level.to_owned(),
        ..config.log.clone()
    })?;
    Ok(pull::run(&config, &order)?.into())
}
