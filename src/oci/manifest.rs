//! Reads what wharf needs of a manifest, and leaves its bytes alone.
//!
//! The bytes are what a digest names and are served as they came; this reads
//! beside them which kind of manifest it is and which blobs it names. Source:
//! image-spec `manifest.md` and `image-index.md`, Docker's schema 2.

use serde::Deserialize;

use super::digest::Digest;
use super::media_type;
use super::platform::Platform;

/// The largest manifest that is taken, in bytes: what registries themselves allow.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// What a manifest or index says of a blob or of another manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size_bytes: u64,
    /// The blob's bytes may be fetched from elsewhere only ("foreign" layers); registries do not hold them.
    pub is_foreign: bool,
    /// What the image runs on, if it is an index that names it and says so.
    pub platform: Option<Platform>,
}

/// The blobs of an image whose layers can be extracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBlobs {
    pub config: Descriptor,
    /// The bottom one first; never empty.
    pub layers: Vec<Descriptor>,
}

/// A manifest's kind, and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// An image or artifact: its config and layers.
    Image {
        media_type: String,
        config: Option<Descriptor>,
        layers: Vec<Descriptor>,
    },
    /// An index or manifest list.
    Index {
        media_type: String,
        manifests: Vec<Descriptor>,
    },
    /// Anything else that is JSON with a schema version, such as Docker's schema 1.
    Other { media_type: String },
}

/// Why some bytes are not taken for a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ParseManifestError {
    #[error("not the JSON of a manifest")]
    Json(#[from] serde_json::Error),
    #[error("neither an image manifest nor an index: it has no config, no layers and no manifests")]
    Shapeless,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    platform: Option<serde_json::Value>,
}

impl Manifest {
    /// Reads the bytes of a manifest.
    ///
    /// A manifest without a media type of its own (OCI allows that) gets the one of its shape.
    ///
    /// # Errors
    /// Fails if the bytes are no JSON object of one of the known shapes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseManifestError> {
        let raw: RawManifest = serde_json::from_slice(bytes)?;
        if let Some(manifests) = raw.manifests {
            return Ok(Self::Index {
                media_type: raw.media_type.unwrap_or_else(|| media_type::OCI_INDEX.to_owned()),
                manifests: manifests.into_iter().map(Into::into).collect(),
            });
        }
        if raw.config.is_some() || raw.layers.is_some() {
            return Ok(Self::Image {
                media_type: raw
                    .media_type
                    .unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned()),
                config: raw.config.map(Into::into),
                layers: raw.layers.into_iter().flatten().map(Into::into).collect(),
            });
        }
        match (raw.media_type, raw.schema_version) {
            (Some(media_type), _) => Ok(Self::Other { media_type }),
            (None, Some(1)) => Ok(Self::Other {
                media_type: media_type::DOCKER_SCHEMA1.to_owned(),
            }),
            (None, _) => Err(ParseManifestError::Shapeless),
        }
    }

    /// Returns the manifest's media type: its own, or the one of its shape.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Image { media_type, .. } | Self::Index { media_type, .. } | Self::Other { media_type } => {
                media_type
            }
        }
    }

    /// Returns the blobs that an image's pull fetches from a registry: its config, then its layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match self {
            Self::Image { config, layers, .. } => (config.as_ref(), layers.as_slice()),
            Self::Index { .. } | Self::Other { .. } => (None, [].as_slice()),
        };
        config.into_iter().chain(layers).filter(|blob| !blob.is_foreign)
    }

    /// Returns the blobs of an image whose layers are changesets of a file system.
    ///
    /// `None` of everything else that manifests are used for: Helm charts, signatures, attestations (whose
    /// config may be an image's), WASM modules, artifacts without a config, and images some of whose
    /// layers are foreign.
    pub fn image_blobs(&self) -> Option<ImageBlobs> {
        let Self::Image {
            config: Some(config),
            layers,
            ..
        } = self
        else {
            return None;
        };
        let is_layer = |blob: &Descriptor| !blob.is_foreign && media_type::is_layer(&blob.media_type);
        let is_image = media_type::is_image_config(&config.media_type)
            && !config.is_foreign
            && !layers.is_empty()
            && layers.iter().all(is_layer);
        is_image.then(|| ImageBlobs {
            config: config.clone(),
            layers: layers.clone(),
        })
    }

    /// Returns the digest of the image that an index has for a platform.
    ///
    /// Of several that would do, the architecture's usual one, else the first.
    pub fn image_for(&self, platform: &Platform) -> Option<&Digest> {
        let offers = || {
            self.children().iter().filter_map(|child| {
                let offered = child.platform.as_ref()?;
                platform.takes(offered).then_some((&child.digest, offered))
            })
        };
        offers()
            .find(|(_, offered)| offered.is_usual())
            .or_else(|| offers().next())
            .map(|(digest, _)| digest)
    }

    /// Returns the manifests that an index names.
    pub fn children(&self) -> &[Descriptor] {
        match self {
            Self::Index { manifests, .. } => manifests,
            Self::Image { .. } | Self::Other { .. } => &[],
        }
    }
}

impl From<RawDescriptor> for Descriptor {
    fn from(raw: RawDescriptor) -> Self {
        let is_foreign = raw.urls.is_some_and(|urls| !urls.is_empty())
            || raw.media_type.contains("foreign")
            || raw.media_type.contains("nondistributable");
        Self {
            media_type: raw.media_type,
            digest: raw.digest,
            size_bytes: raw.size,
            is_foreign,
            // What it says beside the blob is no reason to refuse a manifest.
            platform: raw
                .platform
                .and_then(|platform| serde_json::from_value(platform).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Algorithm;
    use super::*;

    fn descriptor(media_type: &str, seed: &str) -> serde_json::Value {
        let digest = Digest::of(Algorithm::Sha256, seed.as_bytes());
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": 3})
    }

    fn parse(value: &serde_json::Value) -> Result<Manifest, ParseManifestError> {
        Manifest::parse(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn an_image_names_its_config_and_those_layers_that_registries_hold() {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let image = parse(&serde_json::json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", "c"),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "l"), descriptor(foreign, "f")],
        }))
        .unwrap();
        assert_eq!(image.media_type(), media_type::OCI_MANIFEST);
        let digests: Vec<_> = image.blobs().map(|blob| blob.digest.clone()).collect();
        assert_eq!(
            digests,
            [
                Digest::of(Algorithm::Sha256, b"c"),
                Digest::of(Algorithm::Sha256, b"l")
            ]
        );
    }

    #[test]
    fn an_index_names_manifests_and_the_image_of_each_platform() {
        let mut arm = descriptor(media_type::DOCKER_MANIFEST, "arm");
        arm["platform"] = serde_json::json!({"os": "linux", "architecture": "arm64"});
        let mut amd = descriptor(media_type::DOCKER_MANIFEST, "amd");
        amd["platform"] = serde_json::json!({"os": "linux", "architecture": "amd64"});
        let index =
            parse(&serde_json::json!({"mediaType": media_type::DOCKER_LIST, "manifests": [arm, amd]}))
                .unwrap();
        assert_eq!(index.blobs().count(), 0);
        assert_eq!(index.children().len(), 2);
        let image_for = |platform: &str| index.image_for(&platform.parse().unwrap()).cloned();
        assert_eq!(
            image_for("linux/amd64"),
            Some(Digest::of(Algorithm::Sha256, b"amd"))
        );
        assert_eq!(
            image_for("linux/arm64/v8"),
            Some(Digest::of(Algorithm::Sha256, b"arm"))
        );
        assert_eq!(image_for("linux/s390x"), None);
    }

    #[test]
    fn of_several_variants_the_usual_one_is_taken() {
        let entry = |seed: &str, variant: Option<&str>| {
            let mut entry = descriptor(media_type::OCI_MANIFEST, seed);
            entry["platform"] = serde_json::json!({"os": "linux", "architecture": "arm", "variant": variant});
            entry
        };
        let entries = [entry("six", Some("v6")), entry("seven", Some("v7"))];
        let index = parse(&serde_json::json!({"manifests": entries})).unwrap();
        for (platform, expected) in [("linux/arm", "seven"), ("linux/arm/v6", "six")] {
            let found = index.image_for(&platform.parse().unwrap());
            assert_eq!(
                found,
                Some(&Digest::of(Algorithm::Sha256, expected.as_bytes())),
                "{platform}"
            );
        }
    }

    #[test]
    fn only_images_have_layers_that_are_extracted() {
        const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
        const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let docker_foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        for (config, layers, expected) in [
            (
                media_type::OCI_CONFIG,
                vec![OCI_GZIP, "application/vnd.oci.image.layer.v1.tar+zstd"],
                true,
            ),
            (media_type::DOCKER_CONFIG, vec![DOCKER_GZIP], true),
            (media_type::OCI_CONFIG, vec![], false),
            (media_type::OCI_CONFIG, vec![OCI_GZIP, docker_foreign], false),
            (
                media_type::OCI_CONFIG,
                vec!["application/vnd.in-toto+json"],
                false,
            ),
            (
                media_type::OCI_CONFIG,
                vec!["application/vnd.dev.cosign.simplesigning.v1+json"],
                false,
            ),
            (
                media_type::OCI_CONFIG,
                vec!["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"],
                false,
            ),
            (
                "application/vnd.cncf.helm.config.v1+json",
                vec!["application/vnd.cncf.helm.chart.content.v1.tar+gzip"],
                false,
            ),
            (
                "application/vnd.wasm.config.v0+json",
                vec!["application/wasm"],
                false,
            ),
            ("application/vnd.oci.empty.v1+json", vec![OCI_GZIP], false),
        ] {
            let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer, layer)).collect();
            let manifest =
                parse(&serde_json::json!({"config": descriptor(config, "c"), "layers": layers})).unwrap();
            assert_eq!(manifest.image_blobs().is_some(), expected, "{config} {layers:?}");
        }
        let without_config = parse(&serde_json::json!({"layers": [descriptor(OCI_GZIP, "l")]})).unwrap();
        assert_eq!(without_config.image_blobs(), None);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for bad in [
            "",
            "null",
            "[]",
            "{}",
            "{\"schemaVersion\":2}",
            "\u{1f}\u{8b}",
            "{\"layers\":[{\"digest\":\"x\",\"size\":1}]}",
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let old = Manifest::parse(br#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#).unwrap();
        assert_eq!(old.media_type(), media_type::DOCKER_SCHEMA1);
    }
}
