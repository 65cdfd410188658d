//! Three hosts on one wire: a server and the nodes a and b, each a network namespace of its own.
//!
//! The namespaces have no names: each lives as long as a process of the test's, so that nothing of them can be
//! left behind, and tests side by side use the same addresses.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::process::{Service, bound_command, run_ok, wait_until};

/// The server's address, from everywhere on the wire.
pub const SERVER: &str = "10.77.0.1";

/// The wire and its hosts.
#[derive(Debug)]
pub struct Network {
    pub server: Host,
    pub a: Host,
    pub b: Host,
}

/// A network namespace.
#[derive(Debug)]
pub struct Host {
    holder: Service,
}

impl Network {
    /// Makes the hosts and connects them.
    pub fn start(logs: &Path) -> Self {
        let host = |name: &str| Host::start(&format!("host-{name}"), logs);
        let network = Self {
            server: host("server"),
            a: host("a"),
            b: host("b"),
        };
        network.server.shell(&format!(
            "ip link set lo up; ip link add br0 type bridge; ip addr add {SERVER}/24 dev br0; ip link set br0 up"
        ));
        for (name, number, node) in [("a", 2, &network.a), ("b", 3, &network.b)] {
            let pid = node.holder.id();
            network.server.shell(&format!(
                "ip link add node-{name} type veth peer name eth0 netns {pid}; \
                 ip link set node-{name} master br0 up"
            ));
            node.shell(&format!(
                "ip link set lo up; ip addr add 10.77.0.{number}/24 dev eth0; ip link set eth0 up"
            ));
        }
        network
    }
}

impl Host {
    fn start(name: &str, logs: &Path) -> Self {
        let mut command = bound_command("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let holder = Service::start(name, logs, command);
        let own = fs::read_link("/proc/self/ns/net").expect("a network namespace");
        let of_holder = format!("/proc/{}/ns/net", holder.id());
        wait_until("a network namespace", Duration::from_secs(10), || {
            fs::read_link(&of_holder).ok().filter(|link| *link != own)
        });
        Self { holder }
    }

    /// Returns a command that the host runs; it sees the test's mounts, and the test sees its.
    pub fn command(&self, program: &str) -> Command {
        let mut command = bound_command("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        command.arg("--").arg(program);
        command
    }

    fn shell(&self, script: &str) {
        let mut command = self.command("/bin/sh");
        command.args(["-euc", script]);
        run_ok(command);
    }
}
