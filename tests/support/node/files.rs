//! The files of a node, as under `config/`, and the starting of its daemons.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{Node, START_TIMEOUT, STORE, cgroup_parent, wait_for_socket};
use crate::support::process::run;

/// The agent's socket.
const AGENT_SOCKET: &str = "/run/wharf/agent.sock";
/// containerd's socket, where everybody looks for it.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// The agent's root.
pub const AGENT_ROOT: &str = "/var/lib/wharf-agent";

/// What an agent is started with.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    pub mirrors: Vec<SocketAddr>,
    pub arguments: Vec<&'static str>,
}

/// How Kubernetes' part of containerd pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CriMode {
    /// containerd 2: by the transfer service.
    Transfer,
    /// containerd 2: by itself.
    Local,
    /// containerd 1.
    Old,
}

impl Node {
    /// Starts an agent, and waits until it serves.
    pub fn start_agent(&mut self, options: &AgentOptions) {
        let mut command = self.command("/opt/wharf");
        command.args([
            "agent",
            "--store",
            STORE,
            "--root",
            AGENT_ROOT,
            "--socket",
            AGENT_SOCKET,
        ]);
        command.args(["--log-level", "info,wharf::snapshotter=debug"]);
        for mirror in &options.mirrors {
            command.arg(format!("--mirror=http://{mirror}"));
        }
        command.args(&options.arguments);
        let socket = self.path_below_mounts(AGENT_SOCKET);
        self.agent.start(command, Duration::from_secs(20), || {
            std::os::unix::net::UnixStream::connect(&socket).ok().map(drop)
        });
    }

    /// Starts containerd with the file that is there, and waits until it answers.
    pub fn start_containerd(&mut self) {
        let mut command = self.command("containerd");
        command.args(["--config", "/etc/containerd/config.toml"]);
        let containerd = self.command("ctr");
        let mut containerd = Some(containerd);
        let socket = self.path_below_mounts(CONTAINERD_SOCKET);
        let probe = || {
            std::os::unix::net::UnixStream::connect(&socket).ok()?;
            let mut command = containerd.take().expect("one probe");
            command.arg("version");
            let ended = run(command);
            assert!(ended.status.success(), "ctr version: {}", ended.stderr);
            Some(())
        };
        self.containerd.start(command, START_TIMEOUT, probe);
    }

    /// Starts dockerd with the file that is there, and waits until it answers.
    pub fn start_docker(&mut self) {
        let mut command = self.command("dockerd");
        command.args(["--containerd", CONTAINERD_SOCKET, "--bridge=none"]);
        command.args([
            "--iptables=false",
            "--ip6tables=false",
            "--cgroup-parent",
            &cgroup_parent(),
        ]);
        let socket = self.path_below_mounts("/run/docker.sock");
        self.docker.start(command, START_TIMEOUT, || {
            std::os::unix::net::UnixStream::connect(&socket).ok().map(drop)
        });
        let info = self.docker(&["version", "--format", "{{.Server.Version}}"]);
        let containerd = self.shell("containerd --version | cut -d' ' -f3");
        println!(
            "{:?}: Docker {} on containerd {}",
            self.suite(),
            info.trim(),
            containerd.trim()
        );
    }

    /// Writes the files of a Docker node whose layers lie on the store.
    pub fn configure_docker(&self, mirror: SocketAddr) {
        self.write(
            "/etc/containerd/config.toml",
            &format!("version = {}\n{PROXY}", self.suite().config_version()),
        );
        let daemon = serde_json::json!({
            "features": {"containerd-snapshotter": true},
            "storage-driver": "wharf",
            "registry-mirrors": [format!("http://{mirror}")],
        });
        self.write("/etc/docker/daemon.json", &daemon.to_string());
    }

    /// Writes the files of a Kubernetes node whose layers lie on the store.
    pub fn configure_cri(&self, mirror: SocketAddr, mode: CriMode) {
        let text = match mode {
            CriMode::Transfer => format!("version = 3\n{PROXY}{CRI_2}"),
            CriMode::Local => format!(
                "version = 3\n{PROXY}{}",
                CRI_2.replace("pull = false", "pull = true")
            ),
            CriMode::Old => format!("version = 2\n{PROXY}{CRI_1}"),
        };
        self.write("/etc/containerd/config.toml", &text);
        let hosts = format!(
            "server = \"https://registry-1.docker.io\"\n[host.\"http://{mirror}\"]\n\
             capabilities = [\"pull\", \"resolve\"]\n[host.\"http://{mirror}\".header]\nWharf-Hold = \"true\"\n"
        );
        self.write("/etc/containerd/certs.d/docker.io/hosts.toml", &hosts);
    }

    /// Starts agent, containerd and dockerd, in that order, on a node that pulls from one mirror.
    pub fn start_all(suite: crate::support::suite::Suite, shared: &Path, mirror: SocketAddr) -> Self {
        let mut node = Self::start(suite, shared);
        node.configure_docker(mirror);
        node.start_agent(&AgentOptions {
            mirrors: vec![mirror],
            ..AgentOptions::default()
        });
        node.start_containerd();
        node.start_docker();
        node
    }

    /// Waits until containerd listens.
    pub fn wait_for_containerd(&self) {
        wait_for_socket(&self.path_below_mounts(CONTAINERD_SOCKET), "containerd");
    }
}

const PROXY: &str = r#"
[proxy_plugins.wharf]
type = "snapshot"
address = "/run/wharf/agent.sock"
[proxy_plugins.wharf.exports]
root = "/var/lib/wharf-agent"
enable_remote_snapshot_annotations = "true"
"#;
const CRI_2: &str = r#"
[plugins."io.containerd.transfer.v1.local"]
config_path = "/etc/containerd/certs.d"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "overlayfs"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "wharf"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "wharf"
use_local_image_pull = false
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "docker.io/library/pause:latest"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
"#;
const CRI_1: &str = r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:latest"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "wharf"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/etc/containerd/certs.d"
"#;
