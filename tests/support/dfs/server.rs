//! A server with all that it starts, in mount and process namespaces of its own on a host of the wire.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::net::Host;
use crate::support::process::Service;

const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that is not asked to end but killed: nobody needs its files any more.
#[derive(Debug)]
pub struct Server {
    service: Service,
}

impl Server {
    /// Starts a server that stays in the foreground, and waits until `ready` says that it can be used.
    pub fn start(
        name: &str,
        host: &Host,
        logs: &Path,
        arguments: impl FnOnce(&mut Command),
        timeout: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Self {
        let mut command = host.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        arguments(&mut command);
        let mut server = Self {
            service: Service::start(name, logs, command),
        };
        server.service.wait_ready(timeout, || ready().then_some(()));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // With the first process of a namespace all end, and only then does what waits for it.
        for pid in children(self.service.id()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.service.wait(STOP_TIMEOUT);
    }
}

fn children(pid: u32) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pid = |word: &str| Pid::from_raw(word.parse().ok()?);
    list.split_whitespace().filter_map(pid).collect()
}
