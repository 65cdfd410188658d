//! Names of images as people write them: `alpine`, `ghcr.io/acme/app:v1`, `app@sha256:…`.
//!
//! What is left out is Docker's: the host is Docker Hub, and the tag `latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::ParseNameError;
use super::reference::ParseReferenceError;
use super::{Reference, RegistryHost, Repository, Tag};

/// The tag of a name without one.
const DEFAULT_TAG: &str = "latest";

/// A repository, and what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    pub repository: Repository,
    pub reference: Reference,
}

/// Why a text names no image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseImageNameError {
    #[error(transparent)]
    Name(#[from] ParseNameError),
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
}

impl FromStr for ImageName {
    type Err = ParseImageNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is that of the host's port.
        let (full_name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            Some(_) | None => (rest, None),
        };
        let tag: Tag = tag.unwrap_or(DEFAULT_TAG).parse()?;
        let reference = match digest {
            // The digest says more than a tag beside it.
            Some(digest) => Reference::Digest(digest.parse().map_err(ParseReferenceError::from)?),
            None => Reference::Tag(tag),
        };
        let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let (host, name) = match full_name.split_once('/') {
            Some((host, name)) if is_host(host) => (host.parse()?, name),
            Some(_) | None => (RegistryHost::docker_hub(), full_name),
        };
        Ok(Self {
            repository: Repository::new(host, name.parse()?),
            reference,
        })
    }
}

impl TryFrom<String> for ImageName {
    type Error = ParseImageNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reference {
            Reference::Tag(tag) => write!(f, "{}:{}", self.repository, tag.as_str()),
            Reference::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_a_name_leaves_out_is_dockers() {
        let by_digest = format!("docker.io/library/app@{DIGEST}");
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("acme/app:v1", "docker.io/acme/app:v1"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("ghcr.io/acme/app", "ghcr.io/acme/app:latest"),
            ("localhost/app:v1", "localhost/app:v1"),
            ("registry.example:5000/a/b/c:v1", "registry.example:5000/a/b/c:v1"),
            (&format!("app@{DIGEST}"), &by_digest),
            (&format!("app:v1@{DIGEST}"), &by_digest),
        ] {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for bad in [
            "",
            "App",
            "a:",
            "a:b c",
            "a@sha256:x",
            "/a",
            "a/",
            "ghcr.io/",
            "../a",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
