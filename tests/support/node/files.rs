//! The files of a node: those under `config/`, with the mirror's address for the one that they name.

use std::net::SocketAddr;

use super::Node;
use crate::support::clients::{client_file, config_file};
use crate::support::suite::Suite;

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
    /// Writes the files of a Docker node.
    pub fn configure_docker(&self, mirror: SocketAddr) {
        let containerd = match self.suite {
            Suite::Host | Suite::Trixie => "agent/containerd-1.toml",
            Suite::Forky => "agent/containerd-2.toml",
        };
        self.write("/etc/containerd/config.toml", &config_file(containerd));
        self.write(
            "/etc/docker/daemon.json",
            &client_file("agent/daemon.json", mirror),
        );
    }

    /// Writes the files of a Kubernetes node.
    pub fn configure_cri(&self, mirror: SocketAddr, mode: CriMode) {
        let (file, more) = match mode {
            CriMode::Transfer => ("agent/kubernetes-2.toml", MACHINE_2),
            CriMode::Local => ("agent/kubernetes-2-local-pull.toml", MACHINE_2),
            CriMode::Old => ("agent/kubernetes-1.toml", MACHINE_1),
        };
        self.write("/etc/containerd/config.toml", &(config_file(file) + more));
        let hosts = client_file("agent/hosts.toml", mirror);
        self.write("/etc/containerd/certs.d/_default/hosts.toml", &hosts);
    }

    /// Returns the variables of the agent, each as `NAME=value`.
    pub(super) fn agent_variables(mirror: SocketAddr) -> Vec<String> {
        let text = client_file("systemd/wharf-agent.env", mirror);
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.map(str::to_owned).collect()
    }
}

/// What the machine of the tests needs besides: a pod's image that its registry has, and no CAP_SYS_RESOURCE.
const MACHINE_2: &str = r#"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "docker.io/library/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
"#;
const MACHINE_1: &str = r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:latest"
  restrict_oom_score_adj = true
"#;
