//! The configuration: raw keys become validated types, and an error names the key.
//!
//! A [`Config`] exists only when every key of it is valid. Values are merged in
//! this order, the later ones winning: defaults, the file, `WHARF_…` variables,
//! flags. `config/wharf.toml` documents every key at its default.

mod client;
mod error;
mod load;
mod raw;
mod secret;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobSet;
use url::Url;

pub use client::{Client, ParseClientError};
pub use error::{ConfigError, Origin};
pub use load::Overrides;
pub use secret::Secret;
pub use validate::log_level;

use crate::oci::RegistryHost;
use crate::unpack::Limits;

/// Everything that `wharf serve` can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The directory of the store, on the shared file system.
    pub store: PathBuf,
    /// The directory of the index, on a local disk; the store's path with `.index` added if not set.
    pub index: PathBuf,
    /// Never ask upstream.
    pub offline: bool,
    /// How long a tag is served without asking upstream.
    pub tag_ttl: Duration,
    /// How long it is remembered that upstream does not have a name.
    pub negative_ttl: Duration,
    /// Globs over tags that never change, and are asked for once.
    pub immutable_tags: GlobSet,
    /// Globs over the hosts without an upstream of their own that may be mirrored.
    pub allow: Vec<String>,
    /// Globs over the hosts without an upstream of their own that may not; wins over `allow`.
    pub deny: Vec<String>,
    /// How many fills started by manifests run at a time.
    pub background_fills: usize,
    /// How layers are extracted; they are not if not set.
    pub extract: Option<Extract>,
    /// How many blobs are streamed uncached at a time from each upstream.
    pub uncached_streams: usize,
    /// Bytes that the buffers of all downloads share.
    pub buffer_memory: u64,
    /// How long a call of the store may take.
    pub store_timeout: Duration,
    /// Whether the mirrors of a store fetch and extract for each other.
    pub share_work: bool,
    /// How long another mirror of the store may give no sign before its work is taken over.
    pub stall_timeout: Duration,
    /// How long requests under way may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// How long the manifest of an image is held at most until its layers are extracted, for clients that read
    /// them from the store.
    pub hold_timeout: Duration,
    /// Users and bcrypt hashes of those who may ask; everyone may if not set.
    pub htpasswd: Option<PathBuf>,
    /// TLS for clients; plain HTTP if not set.
    pub tls: Option<ServerTls>,
    /// Logs.
    pub log: Log,
    /// Upstreams by their host in image names; `docker.io` is always there.
    pub upstreams: BTreeMap<RegistryHost, Upstream>,
    /// Who may ask for which repositories.
    pub access: Vec<AccessRule>,
}

/// How the layers of images are extracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extract {
    /// How many layers at a time.
    pub layers: usize,
    /// How many threads create the files of one layer; by what the store's file system can do if not set.
    pub writers: Option<usize>,
    /// Mark opaque directories so that overlay mounts without root see it too.
    pub rootless_mounts: bool,
    /// What a layer may be at most.
    pub limits: Limits,
}

/// Certificate and key of the mirror itself, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate chain, the mirror's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// A filter as tracing-subscriber's `EnvFilter` reads it: `info`, `info,wharf::mirror=debug`.
    pub level: String,
    /// One line for each request.
    pub access: bool,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A registry to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Base URLs, tried in order: `http` or `https`, a host, no path. Never empty.
    pub endpoints: Vec<Url>,
    /// PEM certificates that are trusted besides the system's.
    pub ca: Option<PathBuf>,
    /// PEM certificate that wharf shows to the registry; set if and only if `client_key` is.
    pub client_certificate: Option<PathBuf>,
    /// PEM key of `client_certificate`.
    pub client_key: Option<PathBuf>,
    /// What wharf logs in with.
    pub credentials: Credentials,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an answer's headers may take.
    pub answer_timeout: Duration,
    /// How long an answer's body may pause.
    pub idle_timeout: Duration,
    /// How many requests are under way at a time, each on a connection of its own.
    pub max_connections: usize,
    /// Who may ask for anything of this upstream; everyone if empty.
    pub clients: Vec<Client>,
}

/// What wharf logs in to an upstream with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Anonymous.
    None,
    /// A user name and password from the configuration.
    Basic {
        /// The user's name.
        username: String,
        /// The password or access token.
        password: Secret,
    },
    /// A user name, and a file that holds the password.
    PasswordFile {
        /// The user's name.
        username: String,
        /// The file with the password; white space at its end is not part of it.
        path: PathBuf,
    },
    /// A Docker `config.json` with its credential helpers; `None`: where Docker itself looks for it.
    DockerConfig(Option<PathBuf>),
}

/// Who may ask for some repositories; everyone may ask for those that no rule names.
#[derive(Clone, Debug)]
pub struct AccessRule {
    /// Globs over `host/name`, such as `docker.io/acme/*`; `*` stands for slashes too.
    pub repositories: GlobSet,
    /// Who may ask; never empty.
    pub clients: Vec<Client>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5000)),
            store: PathBuf::from("wharf-store"),
            index: PathBuf::from("wharf-store.index"),
            offline: false,
            tag_ttl: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(10),
            immutable_tags: GlobSet::empty(),
            allow: vec!["*".to_owned()],
            // Hosts that no client should make a mirror reach: itself and its link's metadata services.
            deny: ["localhost", "localhost:*", "127.*", "169.254.*", "[[]*"]
                .map(str::to_owned)
                .to_vec(),
            background_fills: 4,
            extract: Some(Extract::default()),
            uncached_streams: 4,
            buffer_memory: 48 << 20,
            store_timeout: Duration::from_secs(20),
            share_work: false,
            stall_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            hold_timeout: Duration::from_secs(240),
            htpasswd: None,
            tls: None,
            log: Log::default(),
            upstreams: BTreeMap::from([(RegistryHost::docker_hub(), Upstream::default())]),
            access: Vec::new(),
        }
    }
}

impl Default for Extract {
    fn default() -> Self {
        Self {
            layers: 4,
            writers: None,
            rootless_mounts: false,
            limits: Limits {
                max_layer_bytes: 256 << 30,
                max_entries: 2_000_000,
                max_zstd_window_bytes: 128 << 20,
            },
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
            access: true,
        }
    }
}

impl Default for Upstream {
    /// Docker Hub, anonymously.
    fn default() -> Self {
        Self {
            endpoints: validate::docker_hub_endpoints(),
            ca: None,
            client_certificate: None,
            client_key: None,
            credentials: Credentials::None,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            max_connections: 16,
            clients: Vec::new(),
        }
    }
}
