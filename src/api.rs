//! What agents, and `wharf pull --mirror`, say to a mirror, under `/wharf/v1/`: JSON, both ways.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /wharf/v1/layers` | [`LayerWish`] | [`LayerAnswer`] |
//! | `POST /wharf/v1/images` | [`ImageWish`] | [`ImageReport`]s, a line each, as things come on; the last one has its `end` |
//! | `PUT /wharf/v1/nodes/<id>` | [`NodeStatement`] | [`NodeAnswer`], once it is on the store |
//! | `GET /wharf/v1/image-store?…` ([`ImageStoreQuestion::query`]) | | [`ImageStoreAnswer`], once there is news |
//!
//! A version of the path keeps its meaning: members may be added, and what a reader does not know it ignores.
//! Errors have the distribution spec's form, as everywhere else.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::fs::random_name;
use crate::oci::image_name::ImageName;
use crate::oci::{ChainId, Digest, Platform};

/// Asks that a stack's topmost layer be on the store, and to be told when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerWish {
    /// The stack. A mirror knows which images have it from the manifests that mirrors of this store have served.
    pub chain_id: ChainId,
    /// An image that has it, if that is known; preferred to what the mirror remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// The compressed layer, if it is to be on the store as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Digest>,
    /// How long the mirror may wait for it before it says that it is not there yet, in milliseconds.
    pub wait_ms: u64,
}

/// How far a layer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerAnswer {
    pub state: LayerState,
    /// Why, for [`LayerState::Unknown`] and [`LayerState::Failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Bytes of the compressed layer that have arrived, of a layer on its way.
    #[serde(default)]
    pub bytes: u64,
    /// All its bytes; 0 if they are not known.
    #[serde(default)]
    pub size_bytes: u64,
}

/// What has become of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// Its directory has its name, and so has the blob if that was wished for.
    Ready,
    /// On its way; asking again waits on.
    Running,
    /// No image with it is known here.
    Unknown,
    /// It will not come.
    Failed,
}

/// Asks that an image be on the store: its config, its layers, and their directories.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageWish {
    pub image: ImageName,
    /// Which image of an index; if not told, the one for the mirror's own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// How far an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its layers, the bottom one first.
    pub layers: Vec<LayerReport>,
    /// Once nothing more will come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ImageEnd>,
}

/// How far one layer of an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    pub blob: Digest,
    pub size_bytes: u64,
    pub stage: ReportedStage,
    /// Bytes of the blob that have arrived since somebody asked for it.
    pub fetched_bytes: u64,
    /// Entries that have been extracted.
    pub entries: u64,
    /// Why, for [`ReportedStage::Failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where a layer of an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportedStage {
    /// For its turn, or for another image's layer that is the same.
    Waiting,
    /// Its bytes arrive, and are extracted meanwhile.
    Fetching,
    /// All its bytes are there.
    Extracting,
    /// Extracted, and can be mounted with what is below.
    Published,
    /// Its blob is in the store, and it is not to be extracted.
    Stored,
    Failed,
}

/// What came of an image, besides its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEnd {
    /// Upstream could not say what the tag means; it did so long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_seconds: Option<u64>,
    /// What its config says that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Why its config, without which no layer is extracted, is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_failure: Option<String>,
    /// Its layers could be extracted, and this mirror extracts none.
    #[serde(default)]
    pub is_left_packed: bool,
    /// A blob that is not in the store and should be, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// What a node has in use, as a whole: the statement with the highest sequence number counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatement {
    /// Higher with each statement of this node, for ever.
    pub sequence: u64,
    /// For people; nothing goes by it.
    pub host_name: String,
    /// The version of wharf that the node runs.
    pub version: String,
    /// Each stack whose topmost layer this node has as a snapshot.
    pub layers: BTreeSet<ChainId>,
    /// Each blob of the store that is linked into the node's content store.
    pub blobs: BTreeSet<Digest>,
}

/// Which statement of a node counts now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAnswer {
    /// The highest on the store; above the one that was sent, that one was not written.
    pub sequence: u64,
    /// The highest that was there before, if any was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
}

/// Asks for the news of the store's image store (`layers/entries/`), and tells how far this node's lists are.
///
/// A node that asks has lists of its own, and does not read the store's `layers.json`: a manifest that is held
/// for the address which asks may go once `have` covers its layers, of all who ask from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStoreQuestion {
    /// Who asks: random, another one after each start of an agent. Several nodes may have one address.
    pub agent: String,
    /// Everything up to this number is in the node's lists; 0 if nothing is known to be.
    pub have: u64,
    /// Which mirror process counted that; to every other one `have` means 0. `None` before the first answer.
    pub mirror: Option<String>,
    /// How long the answer may wait for news, in seconds.
    pub wait: u64,
}

/// How far the store's image store is, as one mirror process counts.
///
/// Answered at once if that is more than `have`, else when it is, at the latest after `wait`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStoreAnswer {
    /// Higher with each change in `layers/entries/` that this process has seen; a node that lists the names
    /// after this answer finds all up to it.
    pub sequence: u64,
    /// The process that counts: random, another one after each start.
    pub mirror: String,
}

impl ImageStoreQuestion {
    /// Reads the query of a request's URI; what makes no sense counts as not said.
    pub fn parse(query: &str) -> Self {
        let mut question = Self {
            agent: String::new(),
            have: 0,
            mirror: None,
            wait: 0,
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "agent" => question.agent = value.into_owned(),
                "have" => question.have = value.parse().unwrap_or_default(),
                "wait" => question.wait = value.parse().unwrap_or_default(),
                "mirror" => question.mirror = Some(value.into_owned()),
                _ => {}
            }
        }
        question
    }

    /// Returns the query of the request's URI.
    pub fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("agent", &self.agent);
        query.append_pair("have", &self.have.to_string());
        if let Some(mirror) = &self.mirror {
            query.append_pair("mirror", mirror);
        }
        query.append_pair("wait", &self.wait.to_string());
        query.finish()
    }
}

/// A node's id, made once: 32 hexadecimal digits. Safe as a file's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

/// A text is no node's id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a node's id, which has 32 hexadecimal digits")]
pub struct ParseNodeIdError(String);

impl NodeId {
    /// Makes an id that no other node has.
    pub fn random() -> Self {
        Self(format!("{}{}", random_name(), random_name()))
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 32 && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseNodeIdError(text.to_owned()))
    }
}

impl TryFrom<String> for NodeId {
    type Error = ParseNodeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
