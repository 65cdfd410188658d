//! `wharf serve`, the binary under test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::curl::Curl;
use super::process::{Service, bound_command, free_address};

/// The program under test.
pub const WHARF: &str = env!("CARGO_BIN_EXE_wharf");

/// What a mirror is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The endpoint of docker.io, and of example.test.
    pub upstream: SocketAddr,
    /// The store, if not a directory of the mirror's own.
    pub store: Option<PathBuf>,
    pub tag_ttl: &'static str,
    /// More top-level keys.
    pub keys: &'static str,
}

impl Options {
    /// The defaults, with an upstream.
    pub fn new(upstream: SocketAddr) -> Self {
        Self {
            upstream,
            store: None,
            tag_ttl: "60s",
            keys: "",
        }
    }
}

/// A running mirror.
pub struct Mirror {
    service: Service,
    address: SocketAddr,
    store: PathBuf,
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
        let index = directory.path().join("index");
        let Options {
            upstream,
            tag_ttl,
            keys,
            ..
        } = options;
        let config = format!(
            "listen = \"{address}\"\nstore = {store:?}\nindex = {index:?}\ntag_ttl = \"{tag_ttl}\"\n{keys}\n\
             [upstream.\"docker.io\"]\nendpoints = [\"http://{upstream}\"]\n\
             [upstream.\"example.test\"]\nendpoints = [\"http://{upstream}\"]\n",
        );
        std::fs::write(directory.path().join("wharf.toml"), config).expect("write a configuration");
        let service = serve(directory.path(), address);
        Self {
            service,
            address,
            store,
            directory,
        }
    }

    /// Starts it again, on the same address and store, after it has ended.
    pub fn start_again(&mut self) {
        assert!(self.service.status().is_some(), "the mirror still runs");
        self.service = serve(self.directory.path(), self.address);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.service.stderr() + &self.service.stdout()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks for a path by GET.
    pub fn get(&self, path: &str) -> Curl {
        Curl::new(&self.url(path))
    }

    /// The sum of a metric over all its label sets that contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let answer = self.get("/metrics").send();
        let text = String::from_utf8(answer.body).expect("text");
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.service.kill();
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

fn serve(directory: &Path, address: SocketAddr) -> Service {
    let mut command = wharf();
    command
        .arg("serve")
        .arg("--config")
        .arg(directory.join("wharf.toml"));
    let mut service = Service::start("wharf", directory, command);
    wait_ready(&mut service, address);
    service
}

/// Waits until a mirror at `address` says that it is ready.
pub fn wait_ready(service: &mut Service, address: SocketAddr) {
    let url = format!("http://{address}/readyz");
    service.wait_ready(Duration::from_secs(20), || {
        Curl::new(&url).try_send().filter(|a| a.status == 200)
    });
}

/// Returns the command of the program under test, without the environment's settings for it.
pub fn wharf() -> Command {
    let mut command = bound_command(WHARF);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WHARF_")) {
        command.env_remove(name);
    }
    command
}
