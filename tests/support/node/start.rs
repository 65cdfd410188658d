//! The starting of a node's daemons.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Node, cgroup_parent};
use crate::support::process::run;
use crate::support::suite::Suite;

/// The agent's socket.
const AGENT_SOCKET: &str = "/run/wharf/agent.sock";
/// containerd's socket, where everybody looks for it.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const DOCKER_SOCKET: &str = "/run/docker.sock";
/// The agent's root.
pub const AGENT_ROOT: &str = "/var/lib/wharf-agent";

/// Starts the agent as systemd does: with the socket, which is not its own, as the descriptor 3.
const ACTIVATED: &str = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";

impl Node {
    /// Starts agent, containerd and dockerd, in that order, on a node that pulls from one mirror.
    pub fn start_all(suite: Suite, shared: &Path, mirror: SocketAddr) -> Self {
        let mut node = Self::start(suite, shared);
        node.configure_docker(mirror);
        node.start_agent(mirror);
        node.start_containerd();
        node.start_docker();
        node
    }

    /// Starts an agent of a mirror, and waits until it serves.
    pub fn start_agent(&mut self, mirror: SocketAddr) {
        self.agent_variables = Self::agent_variables(mirror);
        self.launch_agent();
        let socket = self.path_below_mounts(AGENT_SOCKET);
        self.agent.wait_ready(|| connect(&socket));
    }

    /// Starts containerd with the file that is there, and waits until it answers.
    pub fn start_containerd(&mut self) {
        self.launch_containerd();
        self.wait_for_containerd();
    }

    /// Starts dockerd with the file that is there, waits until it answers, and prints the versions.
    pub fn start_docker(&mut self) {
        self.launch_docker();
        self.wait_for_docker();
        let docker = self.docker(&["version", "--format", "{{.Server.Version}}"]);
        let containerd = self.shell("containerd --version | cut -d' ' -f3");
        println!(
            "{:?}: Docker {} on containerd {}",
            self.suite,
            docker.trim(),
            containerd.trim()
        );
    }

    /// Holds the agent's socket from now on, as systemd does: who connects while no agent runs waits for one.
    pub fn hold_agent_socket(&mut self) {
        self.agent.stop();
        let path = self.path_below_mounts(AGENT_SOCKET);
        let _ = std::fs::remove_file(&path);
        self.agent_socket = Some(UnixListener::bind(path).expect("bind the agent's socket"));
        self.launch_agent();
    }

    /// Starts the agent as it was started before.
    pub fn launch_agent(&mut self) {
        let mut command = self.command("env");
        command.args(&self.agent_variables);
        command.arg("WHARF_LOG_LEVEL=info,wharf::snapshotter=debug");
        if let Some(listener) = &self.agent_socket {
            command.args(["/bin/sh", "-euc", ACTIVATED, "sh"]);
            let listener = listener.try_clone().expect("clone a socket");
            command.stdin(Stdio::from(OwnedFd::from(listener)));
        }
        command.args(["/opt/wharf", "agent"]);
        self.agent.launch(command);
    }

    /// Starts containerd.
    pub fn launch_containerd(&mut self) {
        let mut command = self.command("containerd");
        command.args(["--config", "/etc/containerd/config.toml"]);
        self.containerd.launch(command);
    }

    /// Starts dockerd.
    pub fn launch_docker(&mut self) {
        let mut command = self.command("dockerd");
        command.args(["--containerd", CONTAINERD_SOCKET, "--bridge=none"]);
        command.args([
            "--iptables=false",
            "--ip6tables=false",
            "--cgroup-parent",
            &cgroup_parent(),
        ]);
        self.docker.launch(command);
    }

    /// Waits until all three serve.
    pub fn wait_for_all(&mut self) {
        let socket = self.path_below_mounts(AGENT_SOCKET);
        self.agent.wait_ready(|| connect(&socket));
        self.wait_for_containerd();
        self.wait_for_docker();
    }

    fn wait_for_containerd(&mut self) {
        let place = self.first.place;
        let socket = self.path_below_mounts(CONTAINERD_SOCKET);
        self.containerd.wait_ready(|| {
            connect(&socket)?;
            // It listens before its services are there.
            let mut command = place.command("ctr");
            command.args(["--connect-timeout", "1s", "version"]);
            run(command).status.success().then_some(())
        });
    }

    fn wait_for_docker(&mut self) {
        let socket = self.path_below_mounts(DOCKER_SOCKET);
        self.docker.wait_ready(|| connect(&socket));
        // It listens before it answers, and then answers when it can.
        self.docker(&["version"]);
    }
}

fn connect(socket: &PathBuf) -> Option<()> {
    UnixStream::connect(socket).ok().map(drop)
}
