//! The files of a node, as under `config/`.

use std::net::SocketAddr;

use super::Node;

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
    /// Writes the files of a Docker node whose layers lie on the store.
    pub fn configure_docker(&self, mirror: SocketAddr) {
        self.write(
            "/etc/containerd/config.toml",
            &format!("version = {}\n{PROXY}", self.suite.config_version()),
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
             capabilities = [\"pull\", \"resolve\"]\n[host.\"http://{mirror}\".header]\nWharf-Reads-Store = \"true\"\n"
        );
        self.write("/etc/containerd/certs.d/docker.io/hosts.toml", &hosts);
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
