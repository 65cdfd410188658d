//! Wires the parts together, binds, serves and drains: the only place that sees everything.

mod reload;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::AddExtension;
use axum_server::accept::{Accept, NoDelayAcceptor};
use axum_server::service::SendService;
use axum_server::tls_rustls::RustlsAcceptor;
use axum_server::{Handle, Server};
use hyper_util::rt::TokioTimer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::http::{Access, App, Holds, router};
use crate::index::Index;
use crate::mirror::Mirror;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::Upstreams;

/// How many connections may wait to be accepted: a cluster's nodes start their pulls together.
const BACKLOG: u32 = 4096;

/// How long a client may take for a request's headers.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// How many times what one call to the store may take its opening may take.
const OPENING_CALLS: u32 = 3;

/// How long the process waits at its end for calls that hang in the file system.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// How long the removal of half-extracted layers may hold up the end.
const LAST_REMOVALS: Duration = Duration::from_secs(5);

/// What answers the requests of one connection.
type Service = AddExtension<Router, ConnectInfo<SocketAddr>>;

/// Serves until SIGTERM or SIGINT, then drains for at most `drain_timeout`.
///
/// # Errors
/// Fails, with the path, key or address and the remedy, if something that the configuration names
/// cannot be used.
pub fn run(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_timeout(LAST_CALLS);
    served
}

/// Lets the process open as many files as it may: a download takes two, and many systems give 1024 at first.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let _file_size = outlive_file_size_limit()?;
    let mut signals = (
        listen_for(SignalKind::terminate())?,
        listen_for(SignalKind::interrupt())?,
    );
    let access = Arc::new(Access::open(&config)?);
    let tls = config.tls.as_ref().map(tls::load).transpose()?;
    // Clients are refused, and go elsewhere, until there is something to serve.
    let socket = bind(config.listen)?;
    let store = tokio::select! {
        store = open_store(&config) => store?,
        _ = signals.0.recv() => return Ok(()),
        _ = signals.1.recv() => return Ok(()),
    };
    let staging = store.clone();
    let index = Index::open(&config.index)?;
    let metrics = Metrics::new(config.upstreams.keys().cloned());
    let upstreams = Upstreams::new(&config, metrics.clone())?;
    let draining = CancellationToken::new();
    let app = App {
        mirror: Mirror::new(&config, store, index, upstreams, metrics.clone()),
        access: Arc::clone(&access),
        metrics,
        log_access: config.log.access,
        holds: Arc::new(Holds::new(config.hold_timeout, draining.clone())),
        draining: draining.clone(),
    };
    if let Some(path) = config.htpasswd.clone() {
        tokio::spawn(reload::when_changed(vec![path], move || Ok(access.reload()?)));
    }
    let listener = socket
        .listen(BACKLOG)
        .with_context(|| cannot_listen(config.listen))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(
        address = %listener.local_addr().unwrap_or(config.listen),
        scheme,
        store = %config.store.display(),
        index = %config.index.display(),
        offline = config.offline,
        "serving"
    );
    let handle = Handle::new();
    let mirror = app.mirror.clone();
    mirror.join_peers().await;
    mirror.keep_image_store();
    let drain = Drain {
        handle: handle.clone(),
        draining,
        timeout: config.drain_timeout,
    };
    let draining = tokio::spawn(drain.at_signal(signals));
    // A blob's last byte goes out by itself: it must not wait until the client has acknowledged the rest.
    let no_delay = NoDelayAcceptor::new();
    let served = match (tls, &config.tls) {
        (Some(tls), Some(files)) => {
            let (current, files) = (tls.clone(), files.clone());
            let paths = vec![files.certificate.clone(), files.key.clone()];
            tokio::spawn(reload::when_changed(paths, move || tls::reload(&current, &files)));
            accept(listener, RustlsAcceptor::new(tls).acceptor(no_delay), handle, app).await
        }
        _ => accept(listener, no_delay, handle, app).await,
    };
    served?;
    // Nobody is connected any more; what has been fetched whole is not to be thrown away.
    let until = draining.await.unwrap_or_else(|_| Instant::now());
    let ended = async {
        tokio::join!(mirror.published(), mirror.stop_extracting());
    };
    if timeout_at(until.max(Instant::now() + LAST_CALLS), ended)
        .await
        .is_err()
    {
        tracing::warn!("blobs that were fetched whole are not published: the store is too slow");
        return Ok(());
    }
    mirror.leave_peers().await;
    // What is not removed in time is removed by the next start.
    let discarding = tokio::task::spawn_blocking(move || staging.discard_staging());
    if let Ok(Ok(Err(error))) = timeout(LAST_REMOVALS, discarding).await {
        tracing::warn!(error = error.full_text(), "staging stays");
    }
    Ok(())
}

/// Lets a limit on file sizes make a write fail, and not end the process, while the result lives
/// (setrlimit(2), RLIMIT_FSIZE).
pub(crate) fn outlive_file_size_limit() -> anyhow::Result<Signal> {
    listen_for(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
}

fn listen_for(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot listen for signals")
}

/// Takes the address, on which nobody can connect yet.
fn bind(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A mirror that is started again must not wait for connections that linger.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok::<_, std::io::Error>(socket)
    };
    bind().with_context(|| cannot_listen(address))
}

fn cannot_listen(address: SocketAddr) -> String {
    format!(
        "cannot listen on {address}; stop what listens there, or choose another address (--listen ADDR:PORT)"
    )
}

/// Opens the store, unless its file system hangs.
///
/// # Errors
/// As [`Store::open`], and that it takes too long.
pub(crate) async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let root = config.store.clone();
    let limit = config.store_timeout * OPENING_CALLS;
    let opening = tokio::task::spawn_blocking(move || Store::open(&root));
    let Ok(opened) = timeout(limit, opening).await else {
        let (store, limit) = (config.store.display(), humantime::format_duration(limit));
        anyhow::bail!(
            "the file system of store {store} has not answered within {limit}; see that it is mounted and its servers run"
        );
    };
    Ok(opened.context("opening the store died")??)
}

async fn accept<A>(
    listener: TcpListener,
    acceptor: A,
    handle: Handle<SocketAddr>,
    app: App,
) -> anyhow::Result<()>
where
    A: Accept<TcpStream, Service> + Clone + Send + Sync + 'static,
    A::Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    A::Service: SendService<Request<hyper::body::Incoming>> + Send,
    A::Future: Send,
{
    let mut server = Server::<SocketAddr>::from_listener(listener)
        .acceptor(acceptor)
        .handle(handle)
        .first_request_timeout(HEADERS_TIMEOUT);
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT);
    server
        .serve(router(app).into_make_service_with_connect_info::<SocketAddr>())
        .await
        .context("cannot accept connections")
}

/// How the process ends.
struct Drain {
    handle: Handle<SocketAddr>,
    draining: CancellationToken,
    timeout: Duration,
}

impl Drain {
    /// Stops to accept at the first signal, and returns until when requests under way may go on.
    ///
    /// The second signal ends the process as if draining had taken too long.
    async fn at_signal(self, (mut terminate, mut interrupt): (Signal, Signal)) -> Instant {
        let mut signalled = async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        signalled().await;
        let Self {
            handle,
            draining,
            timeout,
        } = self;
        tracing::info!(connections = handle.connection_count(), ?timeout, "draining");
        draining.cancel();
        handle.graceful_shutdown(Some(timeout));
        tokio::spawn(async move {
            signalled().await;
            handle.shutdown();
        });
        Instant::now() + timeout
    }
}
