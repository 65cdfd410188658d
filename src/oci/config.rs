//! What wharf needs of an image's config: which layers it is made of, and what it runs on.
//!
//! Source: image-spec `config.md`; Docker's container config has the same shape.

use serde::Deserialize;

use super::chain::DiffId;

/// The largest config that is read, in bytes; the biggest real ones have a long history and stay below 1 MiB.
pub const MAX_CONFIG_BYTES: usize = 8 << 20;

/// How many layers an image may have to be extracted: more than overlayfs takes (`OVL_MAX_STACK`, 500)
/// could not be mounted.
pub const MAX_LAYERS: usize = 500;

/// What an image's config says of its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// The operating system; empty in some very old images.
    pub os: String,
    pub architecture: String,
    /// The layers' DiffIDs, the bottom one first.
    pub diff_ids: Vec<DiffId>,
}

/// Why some bytes are not taken for an image's config.
#[derive(Debug, thiserror::Error)]
pub enum ParseConfigError {
    #[error("not the JSON of an image's config")]
    Json(#[from] serde_json::Error),
    #[error("its rootfs has the type {0:?} and not \"layers\"")]
    NotLayers(String),
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

impl ImageConfig {
    /// Reads the bytes of a config.
    ///
    /// # Errors
    /// Fails if they are not the JSON of one, or if its root file system is not made of layers.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseConfigError> {
        let raw: RawConfig = serde_json::from_slice(bytes)?;
        if raw.rootfs.kind != "layers" {
            return Err(ParseConfigError::NotLayers(raw.rootfs.kind));
        }
        Ok(Self {
            os: raw.os,
            architecture: raw.architecture,
            diff_ids: raw.rootfs.diff_ids.unwrap_or_default(),
        })
    }

    /// Tells whether its layers are changesets of a Linux file system, which overlayfs can stack.
    ///
    /// Windows and WASM images are not, nor are what builders attach to images as `unknown/unknown`.
    pub fn is_linux(&self) -> bool {
        matches!(self.os.as_str(), "linux" | "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF_ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(value: &serde_json::Value) -> Result<ImageConfig, ParseConfigError> {
        ImageConfig::parse(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_config_names_its_layers_and_its_platform() {
        let config = parse(&serde_json::json!({
            "os": "linux", "architecture": "arm64", "history": [{"created_by": "COPY"}],
            "rootfs": {"type": "layers", "diff_ids": [DIFF_ID, DIFF_ID]},
        }))
        .unwrap();
        assert_eq!(
            (config.os.as_str(), config.architecture.as_str()),
            ("linux", "arm64")
        );
        assert_eq!(config.diff_ids, vec![DiffId::new(DIFF_ID.parse().unwrap()); 2]);
        assert!(config.is_linux());
    }

    #[test]
    fn only_layers_of_linux_are_changesets_that_can_be_stacked() {
        for (os, expected) in [
            ("linux", true),
            ("", true),
            ("windows", false),
            ("wasip1", false),
            ("unknown", false),
        ] {
            let config =
                parse(&serde_json::json!({"os": os, "rootfs": {"type": "layers", "diff_ids": null}}));
            assert_eq!(config.unwrap().is_linux(), expected, "{os}");
        }
    }

    #[test]
    fn what_is_no_config_is_refused() {
        for bad in [
            serde_json::json!({}),
            serde_json::json!([]),
            serde_json::json!({"rootfs": {"diff_ids": []}}),
            serde_json::json!({"rootfs": {"type": "layers+base", "diff_ids": []}}),
            serde_json::json!({"rootfs": {"type": "layers", "diff_ids": ["sha256:../../etc"]}}),
            serde_json::json!({"rootfs": {"type": "layers", "diff_ids": "sha256:"}}),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
