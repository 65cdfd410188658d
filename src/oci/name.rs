//! Registry hosts and repository names (distribution-spec `spec.md`, "Pulling manifests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest `host/name` that clients and registries are known to take.
const MAX_NAME_LEN: usize = 255;

/// The host of Docker Hub in image names, which is also wharf's default upstream.
pub const DOCKER_HUB: &str = "docker.io";

/// A registry's host as image names write it: `ghcr.io`, `registry.example:5000`, `[::1]:5000`.
///
/// Safe as a path component: it is neither empty nor `.` or `..`, and holds no slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryHost(Box<str>);

/// A repository's name within its registry: `library/alpine`.
///
/// Follows the spec's grammar, so each of its components is safe as a path component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(Box<str>);

/// A repository of one registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    pub host: RegistryHost,
    pub name: RepositoryName,
}

/// Why a text is no registry host or repository name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseNameError {
    #[error("{0:?} is not a registry host (HOST or HOST:PORT)")]
    Host(String),
    #[error("{0:?} is not a repository name (lower-case components joined by slashes)")]
    Repository(String),
    #[error("name of {length} bytes is longer than {MAX_NAME_LEN}")]
    TooLong { length: usize },
}

impl RegistryHost {
    /// Returns Docker Hub's host, `docker.io`.
    pub fn docker_hub() -> Self {
        Self(DOCKER_HUB.into())
    }

    /// Returns the host as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether this is Docker Hub, whose one-component names mean `library/NAME`.
    pub fn is_docker_hub(&self) -> bool {
        &*self.0 == DOCKER_HUB
    }

    /// Tells whether the first component of a path reads as a host and not as a part of a name.
    ///
    /// The rule is that of image references (docker's `reference` package): it
    /// has a dot or a colon, or is `localhost`.
    pub fn looks_like_host(component: &str) -> bool {
        component == "localhost" || component.contains(['.', ':'])
    }
}

impl FromStr for RegistryHost {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseNameError::Host(text.to_owned());
        if text.len() > MAX_NAME_LEN {
            return Err(ParseNameError::TooLong { length: text.len() });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        if let Some(port) = port {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            if !digits || port.parse::<u16>().is_err() {
                return Err(invalid());
            }
        }
        let is_ipv6 = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        if !is_ipv6 && !is_domain(host) {
            return Err(invalid());
        }
        let lower = text.to_ascii_lowercase();
        Ok(match lower.as_str() {
            "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => Self::docker_hub(),
            _ => Self(lower.into()),
        })
    }
}

fn is_domain(host: &str) -> bool {
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

impl RepositoryName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name's components, each of them safe as a path component.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for RepositoryName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_NAME_LEN {
            return Err(ParseNameError::TooLong { length: text.len() });
        }
        if !text.split('/').all(is_name_component) {
            return Err(ParseNameError::Repository(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

/// Matches the spec's `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_name_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes.split(is_word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

impl Repository {
    /// Joins a host and a name, and spells out `library/` for Docker Hub's one-component names.
    pub fn new(host: RegistryHost, name: RepositoryName) -> Self {
        if host.is_docker_hub() && !name.as_str().contains('/') {
            let name = RepositoryName(format!("library/{}", name.as_str()).into());
            return Self { host, name };
        }
        Self { host, name }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)
    }
}

impl TryFrom<String> for RegistryHost {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RegistryHost> for String {
    fn from(host: RegistryHost) -> Self {
        host.0.into()
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> Self {
        name.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_follow_the_reference_grammar() {
        for good in [
            "docker.io",
            "localhost:5000",
            "a",
            "10.0.0.1:80",
            "[::1]:5000",
            "[fe80::1]",
        ] {
            assert_eq!(good.parse::<RegistryHost>().unwrap().as_str(), good);
        }
        for bad in [
            "", ".", "..", "a/b", "a:b", "a:", "-a.io", "a..b", "a:70000", "[::g]", "a b", "a\0",
        ] {
            assert!(bad.parse::<RegistryHost>().is_err(), "{bad:?}");
        }
        assert!("Index.Docker.io".parse::<RegistryHost>().unwrap().is_docker_hub());
    }

    #[test]
    fn names_follow_the_spec_grammar() {
        for good in ["a", "library/alpine", "a.b_c__d-e---f/g0", "0/1/2/3"] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().as_str(), good);
        }
        let long = "a/".repeat(200) + "a";
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "..",
            "a___b",
            "-a",
            "a-",
            "a b",
            "_tags",
            long.as_str(),
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn docker_hub_official_images_live_under_library() {
        let repository = |host: &str, name: &str| {
            Repository::new(host.parse().unwrap(), name.parse().unwrap()).to_string()
        };
        assert_eq!(repository("docker.io", "alpine"), "docker.io/library/alpine");
        assert_eq!(repository("docker.io", "acme/app"), "docker.io/acme/app");
        assert_eq!(repository("ghcr.io", "alpine"), "ghcr.io/alpine");
    }
}
