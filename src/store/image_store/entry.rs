//! One object of layers.json.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::LayerPlace;
use crate::oci::{Algorithm, DiffId, Digest, LayerId};
use crate::store::ChainRecord;
use crate::store::blob::Compression;

/// What names of aliases begin with.
const ALIAS: &str = "alias-";

/// The name of an entry, safe as a path component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryName {
    Layer(LayerId),
    /// Of one more blob that has a layer's DiffID; the id is made up.
    Alias(LayerId),
}

/// A layer as layers.json has it, or another blob with the same DiffID as one (containers/storage `layers.go`, `Layer`).
///
/// Written once: what an entry of a name says never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    id: LayerId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<LayerId>,
    /// RFC 3339.
    created: String,
    compressed_diff_digest: Digest,
    /// Bytes of the blob.
    compressed_size: u64,
    diff_digest: DiffId,
    /// Bytes of the uncompressed stream.
    diff_size: u64,
    /// As containers/storage numbers them (`archive.Compression`).
    #[serde(default)]
    compression: u8,
}

impl EntryName {
    /// Returns the name of the entry by which one more blob is known to have a DiffID.
    pub fn of_alias(diff_id: &DiffId, blob: &Digest) -> Self {
        Self::Alias(alias_id(diff_id, blob))
    }

    /// Takes what is found in the directory of entries; `None` if it is no entry's name.
    pub fn parse(name: &str) -> Option<Self> {
        match name.strip_prefix(ALIAS) {
            Some(id) => LayerId::parse(id).map(Self::Alias),
            None => LayerId::parse(name).map(Self::Layer),
        }
    }

    /// Returns the id that the entry has in the list.
    pub fn id(&self) -> &LayerId {
        match self {
            Self::Layer(id) | Self::Alias(id) => id,
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(id) => id.fmt(f),
            Self::Alias(id) => write!(f, "{ALIAS}{id}"),
        }
    }
}

impl Entry {
    /// Makes the entry of a layer, whose blob is compressed so.
    pub fn of_layer(place: &LayerPlace, record: &ChainRecord, compression: Compression) -> Self {
        Self {
            id: place.layer_id.clone(),
            parent: place.below.first().cloned(),
            created: now(),
            compressed_diff_digest: record.blob.clone(),
            compressed_size: record.blob_size_bytes,
            diff_digest: record.diff_id.clone(),
            diff_size: record.size_bytes,
            compression: number_of(compression),
        }
    }

    /// Makes the entry that says that one more blob has a layer's DiffID; it has no directory.
    ///
    /// Who pulls an image with that blob then finds the DiffID, and by that the layer.
    pub fn of_alias(
        record: &ChainRecord,
        blob: &Digest,
        blob_size_bytes: u64,
        compression: Compression,
    ) -> Self {
        Self {
            id: alias_id(&record.diff_id, blob),
            parent: None,
            created: now(),
            compressed_diff_digest: blob.clone(),
            compressed_size: blob_size_bytes,
            diff_digest: record.diff_id.clone(),
            diff_size: record.size_bytes,
            compression: number_of(compression),
        }
    }

    /// Returns the layer's id, or the one that was made up.
    pub(super) fn id(&self) -> &LayerId {
        &self.id
    }

    /// Returns the blob by whose digest clients find it.
    pub(super) fn blob(&self) -> &Digest {
        &self.compressed_diff_digest
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// Returns an id that is no layer's.
fn alias_id(diff_id: &DiffId, blob: &Digest) -> LayerId {
    LayerId::made_up(&Digest::of(
        Algorithm::Sha256,
        format!("{diff_id} {blob}").as_bytes(),
    ))
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn number_of(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Gzip => 2,
        Compression::Zstd => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::chain::chain;
    use crate::unpack::Compromises;

    #[test]
    fn an_entry_reads_as_containers_storage_wants_it_and_an_alias_as_another_layer() {
        let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let links = chain(&[DiffId::new(digest("a")), DiffId::new(digest("b"))]);
        let record = ChainRecord {
            layer_id: links[1].layer_id.clone(),
            diff_id: links[1].diff_id.clone(),
            parent: links[1].parent.clone(),
            blob: digest("blob"),
            blob_size_bytes: 4,
            size_bytes: 5,
            entries: 6,
            tree_digest: "x".to_owned(),
            compromises: Compromises::default(),
            expanded: false,
            root_is_implied: false,
        };
        let entry = Entry::of_layer(&LayerPlace::of(&links, 1), &record, Compression::Gzip);
        let json: serde_json::Value = serde_json::from_slice(&entry.to_json().unwrap()).unwrap();
        assert_eq!(json["id"], links[1].layer_id.as_str());
        assert_eq!(json["parent"], links[0].layer_id.as_str());
        assert_eq!(json["diff-digest"], digest("b").to_string());
        assert_eq!(json["diff-size"], 5);
        assert_eq!(json["compressed-diff-digest"], digest("blob").to_string());
        assert_eq!(json["compressed-size"], 4);
        assert_eq!(json["compression"], 2);
        assert_eq!(serde_json::from_value::<Entry>(json).unwrap(), entry);
        let alias = Entry::of_alias(&record, &digest("other"), 7, Compression::Zstd);
        assert_eq!((alias.compression, &alias.diff_digest), (4, &record.diff_id));
        let names = [
            EntryName::Layer(entry.id),
            EntryName::of_alias(&record.diff_id, &digest("other")),
        ];
        assert!(
            names
                .iter()
                .all(|name| EntryName::parse(&name.to_string()).as_ref() == Some(name))
        );
        assert_eq!(names[1].id(), &alias.id);
        for bad in ["..", "alias-", "alias-x", ".nfs0001"] {
            assert_eq!(EntryName::parse(bad), None, "{bad}");
        }
    }
}
