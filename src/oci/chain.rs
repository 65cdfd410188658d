//! Names of layers: by their own content, and by the stack that they lie on.
//!
//! Sources: image-spec `config.md` ("Layer DiffID", "Layer ChainID"); for [`LayerId`]
//! containers/image, which looks layers up by this formula.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::{Algorithm, Digest, Hasher, ParseDigestError};

/// The digest of a layer's uncompressed tar stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(Digest);

/// The digest that names a stack of layers: the DiffIDs from the bottom up to this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

/// The name of a stack's topmost layer in containers/storage: 64 hex digits.
///
/// Differs from the hex of the ChainID from the second layer on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct LayerId(Box<str>);

/// One layer of an image, in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLink {
    pub diff_id: DiffId,
    pub chain_id: ChainId,
    pub layer_id: LayerId,
    /// The stack below; `None` for the bottom layer.
    pub parent: Option<ChainId>,
}

impl DiffId {
    /// Takes a digest over an uncompressed tar stream.
    pub fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// Returns the digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl ChainId {
    /// Takes a digest that names a stack.
    pub fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// Returns the digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl LayerId {
    /// Makes an id out of a digest, which must be made of what no layer's id is made of.
    pub fn made_up(digest: &Digest) -> Self {
        Self(digest.hex().into())
    }

    /// Reads 64 lower-case hex digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let digest: Digest = format!("sha256:{hex}").parse().ok()?;
        Some(Self(digest.hex().into()))
    }

    /// Returns the hex digits; safe as a path component.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the links of a stack, the bottom one first.
pub fn chain(diff_ids: &[DiffId]) -> Vec<ChainLink> {
    let mut links: Vec<ChainLink> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let link = match links.last() {
            None => ChainLink {
                diff_id: diff_id.clone(),
                chain_id: ChainId(diff_id.0.clone()),
                layer_id: LayerId(diff_id.0.hex().into()),
                parent: None,
            },
            Some(below) => ChainLink {
                diff_id: diff_id.clone(),
                chain_id: ChainId(hash_of(&format!("{} {}", below.chain_id, diff_id))),
                layer_id: LayerId(
                    hash_of(&format!("{}+{}", below.layer_id.0, diff_id.0.hex()))
                        .hex()
                        .into(),
                ),
                parent: Some(below.chain_id.clone()),
            },
        };
        links.push(link);
    }
    links
}

fn hash_of(text: &str) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(text.as_bytes());
    hasher.finish()
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ChainId {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl FromStr for DiffId {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// 64 lower-case hex digits, as a stored record names its layer.
impl<'de> Deserialize<'de> for LayerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        Self::parse(&hex).ok_or_else(|| serde::de::Error::custom("no layer's id: 64 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_named_as_the_specification_and_containers_storage_name_it() {
        let diff_id = |seed: &str| DiffId(hash_of(seed));
        let links = chain(&[diff_id("a"), diff_id("b"), diff_id("a")]);
        assert_eq!(links[0].chain_id.digest(), links[0].diff_id.digest());
        assert_eq!(links[0].layer_id.as_str(), links[0].diff_id.digest().hex());
        assert_eq!(links[0].parent, None);
        for pair in links.windows(2) {
            let text = format!("{} {}", pair[0].chain_id, pair[1].diff_id);
            assert_eq!(pair[1].chain_id.digest(), &hash_of(&text));
            let text = format!("{}+{}", pair[0].layer_id, pair[1].diff_id.digest().hex());
            assert_eq!(pair[1].layer_id.as_str(), hash_of(&text).hex());
            assert_eq!(pair[1].parent.as_ref(), Some(&pair[0].chain_id));
        }
        assert_ne!(links[0].chain_id, links[2].chain_id);
    }

    #[test]
    fn a_layer_id_is_read_only_as_hex_of_its_length() {
        let id = LayerId(hash_of("x").hex().into());
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<LayerId>(&json).unwrap(), id);
        for bad in ["\"..\"", "\"\"", "\"ABC\"", "1"] {
            assert!(serde_json::from_str::<LayerId>(bad).is_err(), "{bad}");
        }
    }
}
