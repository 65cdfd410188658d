//! A daemon of a node, which a test may end in several ways and start again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::{START_TIMEOUT, children};
use crate::support::process::Service;

/// How long a daemon may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A program on a node that runs until it is stopped; its output is kept over restarts.
pub struct Daemon {
    name: &'static str,
    logs: PathBuf,
    service: Option<Service>,
}

impl Daemon {
    pub(super) fn new(name: &'static str, logs: &Path) -> Self {
        Self {
            name,
            logs: logs.to_owned(),
            service: None,
        }
    }

    /// Starts it by a command of the node; it need not answer yet.
    pub(super) fn launch(&mut self, command: Command) {
        assert!(!self.runs(), "{} runs already", self.name);
        self.service = Some(Service::start(self.name, &self.logs, command));
    }

    /// Waits until it is there, as `ready` tells.
    pub(super) fn wait_ready(&mut self, ready: impl FnMut() -> Option<()>) {
        let service = self.service.as_mut().expect("a daemon that was launched");
        service.wait_ready(START_TIMEOUT, ready);
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.service
            .as_mut()
            .is_some_and(|service| service.status().is_none())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.service
            .as_ref()
            .map(|service| service.stderr())
            .unwrap_or_default()
    }

    /// Sends it a signal: what was started is nsenter, which waits for it.
    pub fn signal(&mut self, signal: Signal) {
        let Some(service) = &self.service else { return };
        for pid in children(service.id()) {
            // It may have ended since.
            let _ = kill_process(pid, signal);
        }
    }

    /// Sends SIGTERM and waits.
    pub fn stop(&mut self) {
        self.end_by(Signal::TERM);
    }

    /// Sends SIGKILL and waits.
    pub fn kill(&mut self) {
        self.end_by(Signal::KILL);
    }

    fn end_by(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(service) = &mut self.service {
            service.wait(STOP_TIMEOUT);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nobody needs its files any more.
        self.signal(Signal::KILL);
    }
}
