//! The files under `config/` with this node's paths and addresses in them.

use std::path::{Path, PathBuf};

use url::{Position, Url};

use super::{Order, SetupError};
use crate::oci::Platform;

/// The mirror that the files name.
const MIRROR: &str = "http://127.0.0.1:5000";

pub(super) const DAEMON_JSON: &str = include_str!("../../config/agent/daemon.json");
pub(super) const DOCKER: &str = include_str!("../../config/agent/containerd-2.toml");
pub(super) const DOCKER_1: &str = include_str!("../../config/agent/containerd-1.toml");
pub(super) const CRI: &str = include_str!("../../config/agent/kubernetes-2.toml");
pub(super) const CRI_LOCAL: &str = include_str!("../../config/agent/kubernetes-2-local-pull.toml");
pub(super) const CRI_1: &str = include_str!("../../config/agent/kubernetes-1.toml");
pub(super) const AGENT_ENV: &str = include_str!("../../config/systemd/wharf-agent.env");
pub(super) const AGENT_SOCKET: &str = include_str!("../../config/systemd/wharf-agent.socket");
pub(super) const AGENT_SERVICE: &str = include_str!("../../config/systemd/wharf-agent.service");
pub(super) const PODMAN_ENV: &str = include_str!("../../config/systemd/wharf-podman.env");
pub(super) const PODMAN_SERVICE: &str = include_str!("../../config/systemd/wharf-podman.service");
/// The image store that is on the store.
pub(super) const SHARED_IMAGE_STORE: &str = "/mnt/wharf/layers";
/// The image store that an agent keeps on this node.
pub(super) const LOCAL_IMAGE_STORE: &str = "/srv/wharf";
const HOSTS: &str = include_str!("../../config/agent/hosts.toml");
const REGISTRIES: &str = include_str!("../../config/podman/registries.conf");
const STORAGE_CONF: &str = include_str!("../../config/podman/storage.conf");

/// What stands in the files' places.
pub(super) struct Filling {
    replacements: Vec<(&'static str, String)>,
    mirrors: Vec<String>,
}

impl Filling {
    /// # Errors
    /// Fails if a path or an address would mean something else in one of the files.
    pub(super) fn new(order: &Order) -> Result<Self, SetupError> {
        let mirrors: Vec<String> = order.mirrors.iter().map(address).collect::<Result<_, _>>()?;
        let platform = Platform::current();
        Ok(Self {
            replacements: vec![
                ("/run/wharf/agent.sock", plain(&order.socket)?),
                ("/var/lib/wharf-agent", plain(&order.root)?),
                (LOCAL_IMAGE_STORE, plain(&order.podman)?),
                ("/mnt/wharf", plain(&order.store)?),
                ("/usr/local/bin/wharf", plain(&order.program)?),
                (
                    "linux/amd64",
                    format!("{}/{}", platform.os, platform.architecture),
                ),
            ],
            mirrors,
        })
    }

    /// Fills in a file whose mirrors, if it names any, are a list with that separator.
    pub(super) fn fill(&self, template: &str, separator: &str) -> String {
        let mut replacements = self.replacements.clone();
        replacements.push((MIRROR, self.mirrors.join(separator)));
        substitute(template, &replacements)
    }

    /// Returns hosts.toml, and its part for each mirror by the mirror's address.
    pub(super) fn hosts(&self) -> (String, Vec<(String, String)>) {
        let (head, host) = HOSTS.split_at(HOSTS.find("[host.").unwrap_or(HOSTS.len()));
        let part = |mirror: &String| (mirror.clone(), substitute(host, &[(MIRROR, mirror.clone())]));
        (head.to_owned(), self.mirrors.iter().map(part).collect())
    }

    /// Returns storage.conf with an image store of that path.
    pub(super) fn storage_conf(&self, image_store: &str) -> String {
        substitute(STORAGE_CONF, &[(SHARED_IMAGE_STORE, image_store.to_owned())])
    }

    /// Returns Podman's file of registries.
    pub(super) fn registries(&self) -> String {
        let block = |block: &str| {
            if !block.starts_with("[[registry.mirror]]") {
                return block.to_owned();
            }
            let mirrors: Vec<String> = self
                .mirrors
                .iter()
                .map(|mirror| registry_mirror(block, mirror))
                .collect();
            mirrors.join("\n\n")
        };
        let blocks: Vec<String> = REGISTRIES.trim_end().split("\n\n").map(block).collect();
        blocks.join("\n\n") + "\n"
    }
}

/// One mirror of one registry: Podman writes the protocol as a setting.
fn registry_mirror(block: &str, mirror: &str) -> String {
    let lines = block
        .lines()
        .filter(|line| !line.starts_with("insecure") || mirror.starts_with("http:"));
    let (_, host) = mirror.split_once("://").unwrap_or(("", mirror));
    let lines: Vec<String> = lines.map(|line| line.replace("127.0.0.1:5000", host)).collect();
    lines.join("\n")
}

/// Replaces in one pass, so that what one value brings is not replaced by another.
fn substitute(text: &str, replacements: &[(&str, String)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    let first = |rest: &str| {
        let found = replacements
            .iter()
            .filter_map(|(from, to)| Some((rest.find(from)?, *from, to.clone())));
        found.min_by_key(|(at, from, _)| (*at, usize::MAX - from.len()))
    };
    while let Some((at, from, to)) = first(rest) {
        filled.push_str(&rest[..at]);
        filled.push_str(&to);
        rest = &rest[at + from.len()..];
    }
    filled + rest
}

/// Returns a path that means itself in TOML, in a unit and in its environment file, without needless slashes.
pub(super) fn plain(path: &Path) -> Result<String, SetupError> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@".contains(c);
    let path: PathBuf = path.components().collect();
    match path.to_str() {
        Some(text) if path.is_absolute() && text.chars().all(is_plain) => Ok(text.to_owned()),
        Some(_) | None => Err(SetupError::Path(path)),
    }
}

/// Returns a mirror's address as all clients take it: Docker refuses logins and paths.
fn address(mirror: &Url) -> Result<String, SetupError> {
    // What is not shown may be a secret.
    let server = || {
        let server = &mirror[Position::BeforeHost..Position::AfterPort];
        format!("{}://{server}", mirror.scheme())
    };
    if !matches!(mirror.scheme(), "http" | "https") {
        return Err(SetupError::Mirror(server()));
    }
    if !mirror.username().is_empty() || mirror.password().is_some() {
        return Err(SetupError::Login(server()));
    }
    if mirror.path() != "/" || mirror.query().is_some() || mirror.fragment().is_some() {
        return Err(SetupError::MirrorPath(server()));
    }
    Ok(server())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_value_brings_is_not_replaced_by_another() {
        let replacements = [
            ("/a", "/b".to_owned()),
            ("/b", "/c".to_owned()),
            ("/bb", "/d".to_owned()),
        ];
        assert_eq!(substitute("/a /b /bb x", &replacements), "/b /c /d x");
    }

    #[test]
    fn paths_and_addresses_mean_themselves_in_every_file() {
        for path in [
            "relative",
            "/with space",
            "/per%cent",
            "/quote\"",
            "/back\\slash",
            "/new\nline",
        ] {
            assert!(plain(Path::new(path)).is_err(), "{path:?}");
        }
        for path in ["/srv/a-b_c.d/2", "/srv//a-b_c.d/./2/"] {
            assert_eq!(plain(Path::new(path)).unwrap(), "/srv/a-b_c.d/2", "{path}");
        }
        for (url, said) in [
            (
                "http://u:secret@m:5000",
                "http://m:5000 is given with a login, which",
            ),
            ("https://m:5443/path", "write https://m:5443\""),
            ("http://m?secret", "write http://m\""),
            ("ftp://u:secret@m", "ftp://m cannot be a mirror"),
        ] {
            let error = format!("{:?}", address(&url.parse().unwrap()).unwrap_err().to_string());
            assert!(!error.contains("secret") && error.contains(said), "{error}");
        }
        assert_eq!(
            address(&"https://m:5000/".parse().unwrap()).unwrap(),
            "https://m:5000"
        );
    }
}
