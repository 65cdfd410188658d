//! GlusterFS: one server with one brick.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::net::{Host, Network, SERVER};
use super::server::Server;
use crate::support::mount::FuseMount;

const SCRIPT: &str = include_str!("gluster.sh");
/// glusterd takes three seconds.
const START_TIMEOUT: Duration = Duration::from_secs(40);

/// A volume, mounted by both nodes.
#[derive(Debug)]
pub struct Gluster {
    // Dropped in this order: clients before their server, and the wire last.
    _clients: [FuseMount; 2],
    _server: Server,
    _network: Network,
}

impl Gluster {
    /// Starts the server in `work` with a brick of that many bytes (0: as many as there are), and mounts it at
    /// `a` and `b`.
    pub fn start(work: &Path, a: &Path, b: &Path, brick_bytes: u64) -> Self {
        let network = Network::start(work);
        let arguments = |command: &mut Command| {
            command.args(["/bin/sh", "-c", SCRIPT, "gluster.sh"]);
            command.arg(work).arg(SERVER).arg(brick_bytes.to_string());
        };
        let ready = || work.join("ready").exists();
        let server = Server::start("gluster", &network.server, work, arguments, START_TIMEOUT, ready);
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
