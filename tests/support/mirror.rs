//! `wharf serve`, the binary under test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;

use super::client::Request;
use super::curl::Curl;
use super::process::{Service, bound_command, free_address};

/// The program under test.
pub const WHARF: &str = env!("CARGO_BIN_EXE_wharf");

/// What a mirror is started with: its configuration file, in parts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store, if not a directory of the mirror's own.
    pub store: Option<PathBuf>,
    pub tag_ttl: &'static str,
    keys: String,
    /// Host, endpoints and more keys of each upstream.
    upstreams: Vec<(String, Vec<String>, String)>,
    tables: String,
    /// What its clients trust, if it speaks TLS.
    trust: Option<Arc<ClientConfig>>,
    /// The largest file that it may write.
    max_file_bytes: Option<u64>,
    variables: Vec<(String, String)>,
}

impl Options {
    /// The defaults, with an upstream for docker.io and example.test.
    pub fn new(upstream: SocketAddr) -> Self {
        let url = format!("http://{upstream}");
        let options = Self {
            store: None,
            tag_ttl: "60s",
            keys: String::new(),
            upstreams: Vec::new(),
            tables: String::new(),
            trust: None,
            max_file_bytes: None,
            variables: Vec::new(),
        };
        options
            .upstream("docker.io", &[&url])
            .upstream("example.test", &[&url])
    }

    /// Adds top-level keys, as TOML.
    pub fn keys(mut self, toml: &str) -> Self {
        self.keys += &format!("{toml}\n");
        self
    }

    /// Adds an upstream, in place of one of the same host.
    pub fn upstream(mut self, host: &str, endpoints: &[&str]) -> Self {
        self.upstreams.retain(|(other, ..)| other != host);
        let endpoints = endpoints.iter().map(|&url| url.to_owned()).collect();
        self.upstreams.push((host.to_owned(), endpoints, String::new()));
        self
    }

    /// Adds keys to the upstream that was added last, as TOML.
    pub fn upstream_keys(mut self, toml: &str) -> Self {
        let (.., keys) = self.upstreams.last_mut().expect("an upstream");
        *keys += &format!("{toml}\n");
        self
    }

    /// Adds a table, as TOML.
    pub fn table(mut self, toml: &str) -> Self {
        self.tables += &format!("{toml}\n");
        self
    }

    /// Lets clients speak TLS, with what they trust.
    pub fn trust(mut self, client: Arc<ClientConfig>) -> Self {
        self.trust = Some(client);
        self
    }

    /// Lets every file fail that grows beyond this, as on a full file system.
    pub fn max_file_bytes(mut self, bytes: u64) -> Self {
        self.max_file_bytes = Some(bytes);
        self
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn to_toml(&self, address: SocketAddr, store: &Path, index: &Path) -> String {
        let Self { tag_ttl, keys, .. } = self;
        let mut toml = format!(
            "listen = \"{address}\"\nstore = {store:?}\nindex = {index:?}\ntag_ttl = \"{tag_ttl}\"\n{keys}"
        );
        for (host, endpoints, keys) in &self.upstreams {
            toml += &format!("[upstream.\"{host}\"]\nendpoints = {endpoints:?}\n{keys}");
        }
        toml + &self.tables
    }
}

/// A running mirror.
pub struct Mirror {
    service: Service,
    address: SocketAddr,
    store: PathBuf,
    options: Options,
    directory: TempDir,
}

impl Mirror {
    /// Starts a mirror and waits until it is ready.
    pub fn start(options: &Options) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let store = options
            .store
            .clone()
            .unwrap_or_else(|| directory.path().join("store"));
        let config = options.to_toml(address, &store, &directory.path().join("index"));
        std::fs::write(directory.path().join("wharf.toml"), config).expect("write a configuration");
        Self {
            service: serve(options, directory.path(), address),
            address,
            store,
            options: options.clone(),
            directory,
        }
    }

    /// Starts it again, on the same address and store, after it has ended.
    pub fn start_again(&mut self) {
        assert!(self.service.status().is_some(), "the mirror still runs");
        self.service = serve(&self.options, self.directory.path(), self.address);
    }

    /// Its process's id.
    pub fn id(&self) -> u32 {
        self.service.id()
    }

    /// Whether it has ended, however.
    pub fn has_ended(&mut self) -> bool {
        self.service.status().is_some()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Its index.
    pub fn index(&self) -> PathBuf {
        self.directory.path().join("index")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.service.stderr() + &self.service.stdout()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks for a path by GET, by curl.
    pub fn get(&self, path: &str) -> Curl {
        Curl::new(&self.url(path))
    }

    /// Asks for a path by GET, by a client that does as it is told.
    pub fn ask(&self, path: &str) -> Request {
        ask(&self.options, self.address, path)
    }

    /// All metrics.
    pub fn metrics(&self) -> String {
        String::from_utf8(self.ask("/metrics").send().body).expect("text")
    }

    /// The sum of a metric over all its label sets that contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.metrics();
        let is_meant = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        };
        let lines = text.lines().filter(is_meant);
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Stops it until it is to go on (SIGSTOP).
    pub fn pause(&mut self) {
        self.service.signal(Signal::STOP);
    }

    /// Lets it go on after a [`pause`](Self::pause).
    pub fn go_on(&mut self) {
        self.service.signal(Signal::CONT);
    }

    /// Sends SIGTERM.
    pub fn terminate(&mut self) {
        self.service.signal(Signal::TERM);
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        self.service.wait(timeout)
    }

    /// Sends SIGTERM and asserts that it exits with 0.
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.wait(Duration::from_secs(20));
        assert!(status.success(), "after SIGTERM: {status}");
    }
}

fn serve(options: &Options, directory: &Path, address: SocketAddr) -> Service {
    let mut command = match options.max_file_bytes {
        None => wharf(),
        Some(bytes) => wharf_with_max_file_bytes(bytes),
    };
    command
        .arg("serve")
        .arg("--config")
        .arg(directory.join("wharf.toml"))
        .envs(options.variables.iter().cloned());
    let mut service = Service::start("wharf", directory, command);
    wait_until_ready(&mut service, &ask(options, address, "/readyz"));
    service
}

fn ask(options: &Options, address: SocketAddr, path: &str) -> Request {
    let request = Request::get(address, path);
    match &options.trust {
        None => request,
        Some(client) => request.tls(client),
    }
}

/// Waits until a mirror at `address` says that it is ready.
pub fn wait_ready(service: &mut Service, address: SocketAddr) {
    wait_until_ready(service, &Request::get(address, "/readyz"));
}

fn wait_until_ready(service: &mut Service, request: &Request) {
    service.wait_ready(Duration::from_secs(20), || {
        let answer = request.clone().try_send().ok();
        answer.filter(|answer| answer.status == 200)
    });
}

/// Returns the command of the program under test.
pub fn wharf() -> Command {
    without_settings(bound_command(WHARF))
}

/// Returns the command of the program under test, whose writes fail when a file grows too large.
fn wharf_with_max_file_bytes(bytes: u64) -> Command {
    let mut command = bound_command("/bin/sh");
    // Without the trap the kernel would kill it instead.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", bytes / 512);
    command.args(["-euc", &script, "sh", WHARF]);
    without_settings(command)
}

/// Takes away what the environment would tell it: settings and proxies.
fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars() {
        if name.starts_with("WHARF_") || name.to_ascii_uppercase().ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command
}
