//! `wharf agent`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use clap::builder::BoolishValueParser;

use super::mirror_argument::MirrorUrlParser;
use super::node_paths::NodePaths;
use crate::agent::mirrors::MirrorUrl;
use crate::agent::{self, Settings, SnapshotSettings};
use crate::config::{Log, LogFormat, log_level};

/// Where everything is on this node.
#[derive(Debug, Args)]
#[command(
    after_help = "With --podman the socket is served only if --socket names it or systemd hands it over."
)]
pub(super) struct AgentArguments {
    /// Directory of the store on this node, which may be mounted read-only
    #[arg(long, value_name = "DIR", env = "WHARF_STORE")]
    store: PathBuf,
    #[command(flatten)]
    paths: NodePaths,
    /// A mirror of this store, such as `http://mirror:5000`; several, the preferred one first
    #[arg(
        long = "mirror",
        value_name = "URL",
        value_parser = MirrorUrlParser::<MirrorUrl>::default(),
        env = "WHARF_MIRRORS",
        hide_env_values = true,
        value_delimiter = ',',
        required_unless_present = "podman"
    )]
    mirrors: Vec<MirrorUrl>,
    /// Keep an image store for Podman, CRI-O and Buildah there, on a local disk, for storage.conf to name
    #[arg(long, value_name = "DIR", env = "WHARF_PODMAN")]
    podman: Option<PathBuf>,
    /// Bring the image store of --podman up to date, serve nothing, and end
    #[arg(long, requires = "podman")]
    once: bool,
    /// Unix socket of the containerd whose content store gets the layers' blobs
    #[arg(
        long,
        value_name = "ADDR",
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: String,
    /// Link the layers' blobs into containerd's content store, as `docker images`, `save` and `push` want them
    #[arg(
        long, value_name = "BOOL", env = "WHARF_CONTENT_LINKS", value_parser = BoolishValueParser::new(),
        num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true"
    )]
    content_links: bool,
    /// How long containerd waits at most for a layer that is not on the store yet
    #[arg(long, value_name = "DURATION", env = "WHARF_PREPARE_WAIT", default_value = "10s", value_parser = duration)]
    prepare_wait: Duration,
    /// How long a call to the store may take
    #[arg(long, value_name = "DURATION", env = "WHARF_STORE_TIMEOUT", default_value = "10s", value_parser = duration)]
    store_timeout: Duration,
    /// What is logged: error, warn, info, debug, or a filter such as info,wharf::snapshotter=debug
    #[arg(long, value_name = "FILTER", env = "WHARF_LOG_LEVEL", default_value = "info", value_parser = log_level)]
    log_level: String,
}

/// Serves snapshots until told to stop.
pub(super) fn run(arguments: AgentArguments) -> anyhow::Result<()> {
    crate::telemetry::init(&Log {
        format: LogFormat::Text,
        level: arguments.log_level,
        access: false,
    })?;
    let has_snapshots = match &arguments.podman {
        None => true,
        Some(_) => !arguments.once && (arguments.paths.socket.is_some() || is_handed_a_socket()),
    };
    if has_snapshots && arguments.mirrors.is_empty() {
        bail!("snapshots need a mirror that brings layers; name one (--mirror URL), or serve no socket");
    }
    let containerd = arguments.containerd.trim_start_matches("unix://");
    let snapshots = SnapshotSettings {
        socket: arguments.paths.socket(),
        root: arguments.paths.root,
        containerd: arguments.content_links.then(|| PathBuf::from(containerd)),
        prepare_wait: arguments.prepare_wait,
    };
    let settings = Settings {
        store: arguments.store,
        mirrors: arguments.mirrors,
        store_timeout: arguments.store_timeout,
        snapshots: has_snapshots.then_some(snapshots),
        image_store: arguments.podman,
    };
    if arguments.once {
        agent::refresh_image_store(&settings)
    } else {
        agent::run(&settings)
    }
}

/// Tells whether systemd has opened the socket (sd_listen_fds(3)).
fn is_handed_a_socket() -> bool {
    std::env::var_os("LISTEN_FDS").is_some()
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
