//! The configuration file as TOML has it: every key optional, no value checked.
//!
//! Values that need parsing stay text, so that flags and the file go through
//! the same checks ([`super::validate`]).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    #[serde(deserialize_with = "address_text")]
    pub(super) listen: Option<String>,
    pub(super) store: Option<PathBuf>,
    pub(super) index: Option<PathBuf>,
    pub(super) offline: Option<bool>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) tag_ttl: Option<String>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) negative_ttl: Option<String>,
    pub(super) immutable_tags: Option<Vec<String>>,
    pub(super) allow: Option<Vec<String>>,
    pub(super) deny: Option<Vec<String>>,
    pub(super) background_fills: Option<usize>,
    pub(super) extract: Option<bool>,
    pub(super) extract_layers: Option<usize>,
    pub(super) extract_writers: Option<usize>,
    pub(super) rootless_mounts: Option<bool>,
    #[serde(deserialize_with = "size_text")]
    pub(super) max_layer_size: Option<String>,
    pub(super) max_layer_entries: Option<usize>,
    #[serde(deserialize_with = "size_text")]
    pub(super) max_zstd_window: Option<String>,
    pub(super) uncached_streams: Option<usize>,
    #[serde(deserialize_with = "size_text")]
    pub(super) buffer_memory: Option<String>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) store_timeout: Option<String>,
    pub(super) share_work: Option<bool>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) stall_timeout: Option<String>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) drain_timeout: Option<String>,
    pub(super) hold_timeout: Option<String>,
    pub(super) htpasswd: Option<PathBuf>,
    pub(super) tls: Option<RawTls>,
    pub(super) log: RawLog,
    pub(super) upstream: BTreeMap<String, RawUpstream>,
    pub(super) access: Vec<RawAccessRule>,
}

/// `[tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) format: Option<String>,
    pub(super) level: Option<String>,
    pub(super) access: Option<bool>,
}

/// `[upstream."HOST"]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUpstream {
    pub(super) endpoints: Option<Vec<String>>,
    pub(super) ca: Option<PathBuf>,
    pub(super) client_certificate: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) username: Option<String>,
    pub(super) password: Option<super::Secret>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) docker_config: Option<RawDockerConfig>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) connect_timeout: Option<String>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) answer_timeout: Option<String>,
    #[serde(deserialize_with = "duration_text")]
    pub(super) idle_timeout: Option<String>,
    pub(super) max_connections: Option<usize>,
    pub(super) clients: Option<Vec<String>>,
}

/// `docker_config = true` for Docker's own place, or the file's path.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, or the path of a Docker config.json in quotes"
)]
pub(super) enum RawDockerConfig {
    Default(bool),
    File(PathBuf),
}

/// `[[access]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAccessRule {
    pub(super) repositories: Vec<String>,
    pub(super) clients: Vec<String>,
}

/// Reads a string, and says what else it should have been.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }
}

fn address_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_str(Text("an address and port in quotes, such as \"0.0.0.0:5000\""))
}

fn duration_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_str(Text("a duration in quotes, such as \"60s\""))
}

fn size_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_str(Text("a size in quotes, such as \"48MiB\""))
}
