//! The node's process: wires the snapshotter, serves it on a unix socket, and ends in order.
//! With it or alone, it keeps an image store for Podman up to date.

pub mod mirrors;
mod overlay;
mod podman;
pub mod references;
mod socket;
mod state;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::transport::Server;

use crate::snapshotter::proto::snapshots::snapshots_server::SnapshotsServer;
use crate::snapshotter::{Bounds, ContentStore, Parts, Service, Snapshots, StoreLayers};
use mirrors::{MirrorUrl, Mirrors};
use references::References;

/// How much longer than they wait for mirrors calls may take at the end; without calls it comes at once.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long an answer may take to leave.
const LAST_BYTES: Duration = Duration::from_millis(200);

/// How long calls that hang in the file system hold up the end.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// The agent's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's directory on this node; it is only read.
    pub store: PathBuf,
    /// The mirrors, the preferred one first; at least one if snapshots are served.
    pub mirrors: Vec<MirrorUrl>,
    /// How long a call to the store may take.
    pub store_timeout: Duration,
    /// What is served to containerd, if anything is.
    pub snapshots: Option<SnapshotSettings>,
    /// The directory of an image store for Podman, if one is kept.
    pub image_store: Option<PathBuf>,
}

/// How snapshots are served.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    /// The directory of local snapshots and records.
    pub root: PathBuf,
    /// The unix socket to serve.
    pub socket: PathBuf,
    /// containerd's socket; `None` if blobs are not to be linked into its content store.
    pub containerd: Option<PathBuf>,
    /// How long a call waits for mirrors to bring a layer.
    pub prepare_wait: Duration,
}

impl Settings {
    fn store(&self) -> anyhow::Result<PathBuf> {
        std::path::absolute(&self.store)
            .with_context(|| format!("{:?} cannot be a store (--store DIR)", self.store))
    }

    fn image_store(&self) -> anyhow::Result<Option<podman::Place>> {
        let Some(dir) = &self.image_store else {
            return Ok(None);
        };
        Ok(Some(podman::Place {
            dir: std::path::absolute(dir)
                .with_context(|| format!("{dir:?} cannot be an image store (--podman DIR)"))?,
            store: self.store()?,
            store_timeout: self.store_timeout,
        }))
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Fails, with the path and the remedy, if something that the settings name cannot be used. A store that is
/// not there is no reason to: it may be mounted later.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    in_runtime(serve(settings))
}

/// Brings the image store up to date and ends.
///
/// # Errors
/// Fails if the store cannot be read, or the directory not be written.
pub fn refresh_image_store(settings: &Settings) -> anyhow::Result<()> {
    let place = settings.image_store()?.context("no image store is named")?;
    in_runtime(podman::refresh_once(&place))
}

fn in_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_CALLS);
    ended
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut stops = StopSignals::new()?;
    warn_unless_root(settings.snapshots.is_some());
    let store = settings.store()?;
    let image_store = settings.image_store()?;
    // First of all: where another agent serves, this one is neither to take its root or its image store, nor to tell
    // a mirror of the node.
    let served = match &settings.snapshots {
        Some(snapshots) => Some((snapshots, socket::bind(&snapshots.socket)?)),
        None => None,
    };
    let mirrors = Mirrors::new(&settings.mirrors)?;
    let keeping = match image_store {
        Some(place) => {
            let keeper = podman::Keeper::open(&place)?;
            let mirrors = (!settings.mirrors.is_empty()).then(|| mirrors.clone());
            Some(AbortOnDropHandle::new(tokio::spawn(podman::keep(
                keeper, mirrors,
            ))))
        }
        None => None,
    };
    match (served, keeping) {
        (Some((of_snapshots, listener)), _keeping) => {
            let root = usable_root(&of_snapshots.root)?;
            let snapshots = open(settings, of_snapshots, mirrors, &store, &root)?;
            tracing::info!(
                socket = %of_snapshots.socket.display(),
                store = %store.display(),
                root = %root.display(),
                version = env!("CARGO_PKG_VERSION"),
                "serving snapshots"
            );
            serve_snapshots(snapshots, listener, of_snapshots.prepare_wait, &mut stops).await
        }
        (None, Some(keeping)) => tokio::select! {
            ended = keeping => ended.context("the image store is not kept up to date any more"),
            () = stops.any() => {
                tracing::info!("stopping");
                Ok(())
            }
        },
        (None, None) => Ok(()),
    }
}

/// What tells this process to end.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for signals")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for signals")?,
        })
    }

    /// Waits for any of them.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve_snapshots(
    snapshots: Snapshots,
    listener: std::os::unix::net::UnixListener,
    prepare_wait: Duration,
    stops: &mut StopSignals,
) -> anyhow::Result<()> {
    listener
        .set_nonblocking(true)
        .context("cannot serve the socket")?;
    let listener = UnixListener::from_std(listener).context("cannot serve the socket")?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let calls = TaskTracker::new();
    let server = Server::builder()
        .add_service(SnapshotsServer::new(Service::new(snapshots, calls.clone())))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            let _ = stopped.await;
        });
    tokio::pin!(server);
    tokio::select! {
        served = &mut server => return served.context("cannot serve the socket"),
        () = stops.any() => {}
    }
    tracing::info!("stopping");
    drop(stop);
    calls.close();
    let answered = async {
        let _ = timeout(prepare_wait + LAST_ANSWERS, calls.wait()).await;
        sleep(LAST_BYTES).await;
    };
    // containerd may keep a connection that has been told to end, and asks a new agent by a new one.
    tokio::select! {
        served = server => served.context("cannot serve the socket"),
        () = answered => Ok(()),
    }
}

/// Says what does not work without root; containerd mounts, but the agent makes directories and reads the store.
fn warn_unless_root(has_snapshots: bool) {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return;
    }
    let uid = uid.as_raw();
    if has_snapshots {
        tracing::warn!(
            uid,
            "the agent is not root: it cannot read a store of mode 0700, give snapshots their owners, or link blobs \
             into containerd's content store; run it as root"
        );
    } else {
        tracing::warn!(
            uid,
            "the agent is not root: it cannot read a store of mode 0700; run it as root"
        );
    }
}

/// Opens what the node has of snapshots, and says if the store is not there.
fn open(
    settings: &Settings,
    of_snapshots: &SnapshotSettings,
    mirrors: Mirrors,
    store: &Path,
    root: &Path,
) -> anyhow::Result<Snapshots> {
    let db = state::open(root)?;
    let layers = StoreLayers::new(store, settings.store_timeout, &db).context("cannot read the records")?;
    let watched = layers.clone();
    tokio::spawn(async move { watched.check().await });
    let parts = Parts {
        layers,
        references: References::open(root, mirrors.clone())?,
        mirrors,
        content: of_snapshots.containerd.as_deref().map(ContentStore::new),
        bounds: Bounds {
            prepare_wait: of_snapshots.prepare_wait,
            reference_wait: REFERENCE_WAIT,
        },
    };
    Ok(Snapshots::open(root, &db, parts)?)
}

/// How long a call waits until a mirror has written down what it uses: with containerd's locks held.
const REFERENCE_WAIT: Duration = Duration::from_secs(2);

/// Makes the agent's root, whose path must fit into an overlay's options.
fn usable_root(root: &Path) -> anyhow::Result<PathBuf> {
    let root = std::path::absolute(root).with_context(|| format!("{} is no path", root.display()))?;
    // They separate the options of mount(2), and the lower directories of an overlay.
    if root
        .as_os_str()
        .as_bytes()
        .iter()
        .any(|byte| b",:\\".contains(byte))
        || root.to_str().is_none()
    {
        anyhow::bail!(
            "{} cannot hold snapshots: an overlay's options take no comma, colon or backslash, and gRPC only UTF-8; \
             choose another directory (--root DIR)",
            root.display()
        );
    }
    crate::fs::make_private_dir(&root)
        .map_err(anyhow::Error::from)
        .with_context(|| format!("cannot use {} for snapshots (--root DIR)", root.display()))?;
    if overlay::holds_uppers(&root)? == Some(false) {
        anyhow::bail!(
            "containers cannot run on {}: overlayfs does not take its file system for upper directories; choose a \
             directory on a local disk (--root DIR)",
            root.display()
        );
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_whose_socket_is_anothers_makes_nothing_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let _other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let settings = Settings {
            store: PathBuf::from("store"),
            mirrors: vec!["http://127.0.0.1:9".parse().unwrap()],
            store_timeout: Duration::from_secs(1),
            snapshots: Some(SnapshotSettings {
                root: dir.path().join("root"),
                socket,
                containerd: None,
                prepare_wait: Duration::ZERO,
            }),
            image_store: Some(dir.path().join("image-store")),
        };
        let error = format!("{:#}", run(&settings).unwrap_err());
        assert!(error.contains("another process"), "{error}");
        assert_eq!(crate::fs::list(dir.path()).unwrap(), ["agent.sock"]);
    }
}
