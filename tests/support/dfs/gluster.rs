//! GlusterFS: one server with one brick.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::net::{Host, Network, SERVER};
use crate::support::mount::FuseMount;
use crate::support::process::Service;

const SCRIPT: &str = include_str!("gluster.sh");
/// glusterd takes three seconds.
const START_TIMEOUT: Duration = Duration::from_secs(40);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A volume, mounted by both nodes.
#[derive(Debug)]
pub struct Gluster {
    // Dropped in this order: clients before their server, and the wire last.
    _clients: [FuseMount; 2],
    _server: Server,
    _network: Network,
}

/// glusterd and what it has started, in a process namespace of their own.
#[derive(Debug)]
struct Server {
    service: Service,
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
    list.split_whitespace()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}

impl Gluster {
    /// Starts the server in `work` with a brick of that many bytes (0: as many as there are), and mounts it at
    /// `a` and `b`.
    pub fn start(work: &Path, a: &Path, b: &Path, brick_bytes: u64) -> Self {
        let network = Network::start(work);
        let mut command = network.server.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["--", "/bin/sh", "-c", SCRIPT, "gluster.sh"]);
        command.arg(work).arg(SERVER).arg(brick_bytes.to_string());
        let mut server = Server {
            service: Service::start("gluster", work, command),
        };
        server
            .service
            .wait_ready(START_TIMEOUT, || work.join("ready").exists().then_some(()));
        let clients = [("client-a", &network.a, a), ("client-b", &network.b, b)]
            .map(|(name, host, path)| mount(name, host, work, path));
        Self {
            _clients: clients,
            _server: server,
            _network: network,
        }
    }
}

fn mount(name: &str, host: &Host, work: &Path, path: &Path) -> FuseMount {
    let mut command = host.command("glusterfs");
    command.arg("--no-daemon").arg("--volfile-server").arg(SERVER);
    // Without --selinux and --capability it keeps no security.capability.
    command.args(["--volfile-id", "v1", "--acl", "--selinux", "--capability"]);
    command.arg("--log-file").arg(work.join(format!("{name}.log")));
    command.arg(path);
    FuseMount::start(name, work, path, command)
}
