//! A registry for this module's tests: raw HTTP/1.1 over TCP, so that it can break every rule.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

use crate::config::{Config, Upstream as UpstreamConfig};
use crate::oci::{Algorithm, Digest, Reference, RegistryHost, RepositoryName};
use crate::telemetry::Metrics;
use crate::upstream::{Upstream, Upstreams};

/// A request that the server has read.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.header(AUTHORIZATION)
    }

    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}

/// What the server does with a request.
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    then: Then,
}

enum Then {
    /// Wait for the next request.
    Continue,
    /// Send so many bytes of the body, and close.
    Cut(usize),
    /// Send so many bytes of the body, and nothing more.
    Stall(usize),
    /// Send nothing at all.
    Hang,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            then: Then::Continue,
        }
    }

    pub(super) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200).body(body)
    }

    pub(super) fn redirect(to: impl Into<String>) -> Self {
        Self::new(307).header("location", to)
    }

    pub(super) fn unauthorized(challenge: impl Into<String>) -> Self {
        Self::new(401).header("www-authenticate", challenge)
    }

    pub(super) fn hang() -> Self {
        Self {
            then: Then::Hang,
            ..Self::new(200)
        }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn cut_after(mut self, bytes: usize) -> Self {
        self.then = Then::Cut(bytes);
        self
    }

    pub(super) fn stall_after(mut self, bytes: usize) -> Self {
        self.then = Then::Stall(bytes);
        self
    }
}

/// A running server; stops when dropped.
pub(super) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

/// An address where nobody listens, and that nobody else can take meanwhile.
pub(super) struct Nobody(TcpSocket);

impl Nobody {
    pub(super) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    pub(super) fn url(&self) -> Url {
        url_of(self.0.local_addr().unwrap())
    }

    /// Starts a server at this address.
    pub(super) fn replaced_by(self, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Server::listen(self.0.listen(64).unwrap(), answer)
    }
}

impl Server {
    /// Answers every request with what `answer` makes of it.
    pub(super) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Nobody::new().replaced_by(answer)
    }

    fn listen(listener: TcpListener, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let (answer, seen) = (Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                tokio::spawn(async move { serve(stream, &*answer, &log).await });
            }
        });
        Self {
            address,
            seen,
            accepting,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> Url {
        url_of(self.address)
    }

    /// Returns the requests so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the targets of the requests so far.
    pub(super) fn targets(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.target).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves one connection until it, or the script, ends.
async fn serve(
    stream: TcpStream,
    answer: &(dyn Fn(&Seen) -> Reply + Send + Sync),
    log: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    while let Some(seen) = read_request(&mut stream).await? {
        log.lock().unwrap().push(seen.clone());
        let reply = answer(&seen);
        let length = match reply.then {
            Then::Hang => return wait_for_end(&mut stream).await,
            Then::Cut(bytes) | Then::Stall(bytes) => bytes,
            Then::Continue => reply.body.len(),
        };
        let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
        let is_framed =
            |(name, _): &(String, String)| name == "content-length" || name == "transfer-encoding";
        if !reply.headers.iter().any(is_framed) {
            head += &format!("content-length: {}\r\n", reply.body.len());
        }
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        if seen.method != "HEAD" {
            stream.write_all(&reply.body[..length]).await?;
        }
        stream.flush().await?;
        match reply.then {
            Then::Continue => {}
            Then::Cut(_) => return Ok(()),
            Then::Stall(_) | Then::Hang => return wait_for_end(&mut stream).await,
        }
    }
    Ok(())
}

async fn read_request(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Seen>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines[0].split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let headers: HeaderMap = lines[1..]
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            let name: HeaderName = name.parse().unwrap();
            (name, value.trim().parse::<HeaderValue>().unwrap())
        })
        .collect();
    let length = headers
        .get(CONTENT_LENGTH)
        .map_or("0", |value| value.to_str().unwrap());
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await?;
    Ok(Some(Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body: String::from_utf8(body).unwrap(),
    }))
}

async fn wait_for_end(stream: &mut BufStream<TcpStream>) -> io::Result<()> {
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

pub(super) fn url_of(address: SocketAddr) -> Url {
    format!("http://{address}").parse().unwrap()
}

/// The upstream that all tests ask.
pub(super) fn host() -> RegistryHost {
    "registry.test".parse().unwrap()
}

/// Settings with these endpoints, and timeouts that a test can wait for.
pub(super) fn config(endpoints: impl IntoIterator<Item = Url>) -> UpstreamConfig {
    UpstreamConfig {
        endpoints: endpoints.into_iter().collect(),
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(3),
        ..UpstreamConfig::default()
    }
}

/// An upstream with these settings, and its metrics.
pub(super) fn upstream_of(config: UpstreamConfig) -> (Upstream, Metrics) {
    let metrics = Metrics::new([host()]);
    let config = Config {
        upstreams: [(host(), config)].into(),
        ..Config::default()
    };
    let upstreams = Upstreams::new(&config, metrics.clone()).unwrap();
    (upstreams.get(&host()).unwrap(), metrics)
}

/// An upstream with one endpoint.
pub(super) fn upstream(server: &Server) -> Upstream {
    upstream_of(config([server.url()])).0
}

pub(super) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(super) fn tag(text: &str) -> Reference {
    text.parse().unwrap()
}

pub(super) fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}
