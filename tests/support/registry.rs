//! Debian's `docker-registry`, and what its access log says that it was asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::curl::{Curl, MANIFEST_TYPES};
use super::images;
use super::process::{Service, bound_command, free_address, wait_until};

/// A running `docker-registry`.
pub struct Registry {
    service: Service,
    address: SocketAddr,
    _directory: TempDir,
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub method: String,
    pub path: String,
    pub status: u16,
    pub bytes: u64,
}

impl Registry {
    /// Starts a registry over the images of [`images`], which it cannot change.
    pub fn filled() -> Self {
        Self::start(&images::registry_root(), "readonly: {enabled: true}")
    }

    /// Starts a registry over `root`, with more keys for its `maintenance`.
    pub fn start(root: &Path, maintenance: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let config = format!(
            "version: 0.1\n\
             log: {{level: warn, accesslog: {{disabled: false}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {root:?}}}\n  \
               maintenance: {{uploadpurging: {{enabled: false}}, {maintenance}}}\n\
             http: {{addr: \"{address}\", secret: tests}}\n",
        );
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).expect("write the registry's configuration");
        let mut command = bound_command("docker-registry");
        command.arg("serve").arg(&path);
        let mut service = Service::start("registry", directory.path(), command);
        let url = format!("http://{address}/v2/");
        service.wait_ready(Duration::from_secs(20), || {
            Curl::new(&url).try_send().filter(|a| a.status == 200)
        });
        Self {
            service,
            address,
            _directory: directory,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path below `/v2/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Gets a manifest: its bytes and digest.
    pub fn manifest(&self, name: &str, reference: &str) -> (Vec<u8>, String) {
        let url = self.url(&format!("{name}/manifests/{reference}"));
        let answer = Curl::new(&url).accept(MANIFEST_TYPES).send();
        assert_eq!(answer.status, 200, "{url}");
        let digest = answer
            .header("docker-content-digest")
            .expect("a digest")
            .to_owned();
        (answer.body, digest)
    }

    /// The digests of an image's layers.
    pub fn layers(&self, name: &str, reference: &str) -> Vec<String> {
        let (bytes, _) = self.manifest(name, reference);
        let manifest: Value = serde_json::from_slice(&bytes).expect("a manifest");
        let layers = manifest["layers"].as_array().expect("layers");
        layers
            .iter()
            .map(|layer| layer["digest"].as_str().expect("a digest").to_owned())
            .collect()
    }

    /// The digests of an image's config and layers.
    pub fn blobs(&self, name: &str, reference: &str) -> Vec<String> {
        let (bytes, _) = self.manifest(name, reference);
        let manifest: Value = serde_json::from_slice(&bytes).expect("a manifest");
        let config = manifest["config"]["digest"]
            .as_str()
            .expect("a digest")
            .to_owned();
        [vec![config], self.layers(name, reference)].concat()
    }

    /// Gets a blob that is JSON.
    pub fn json_blob(&self, name: &str, digest: &str) -> Value {
        Curl::new(&self.url(&format!("{name}/blobs/{digest}")))
            .send()
            .json()
    }

    /// The digests of an image's layers before they were compressed.
    pub fn diff_ids(&self, name: &str, reference: &str) -> Vec<String> {
        let config = self.json_blob(name, &self.blobs(name, reference)[0]);
        let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("DiffIDs");
        diff_ids
            .iter()
            .map(|diff_id| diff_id.as_str().expect("a DiffID").to_owned())
            .collect()
    }

    /// What it has answered so far, in the order of the answers' ends.
    pub fn log(&self) -> Vec<Access> {
        self.service.stdout().lines().filter_map(parse_access).collect()
    }

    /// How often each blob was asked for by GET, by digest.
    pub fn blob_gets(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for access in self.log().iter().filter(|a| a.method == "GET" && a.status < 300) {
            if let Some((_, digest)) = access.path.split_once("/blobs/") {
                *counts.entry(digest.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Asserts that each of `digests` was fetched exactly once, waiting for the log to say so.
    pub fn assert_fetched_once(&self, digests: &[String]) {
        // The line comes after the body, and so may come after the client's success.
        wait_until(
            "the registry's log to have every blob",
            Duration::from_secs(10),
            || {
                let gets = self.blob_gets();
                digests
                    .iter()
                    .all(|digest| gets.contains_key(digest))
                    .then_some(())
            },
        );
        let gets = self.blob_gets();
        for digest in digests {
            assert_eq!(gets[digest], 1, "GETs of {digest} in {gets:?}");
        }
    }
}

/// Parses `ip - - [time] "GET /path HTTP/1.1" 200 12 "" "agent"`.
fn parse_access(line: &str) -> Option<Access> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut request = request.split(' ');
    let mut rest = rest.split(' ');
    Some(Access {
        method: request.next()?.to_owned(),
        path: request.next()?.to_owned(),
        status: rest.next()?.parse().ok()?,
        bytes: rest.next()?.parse().ok()?,
    })
}
