//! The index that lists what refers to a manifest (distribution-spec, "Listing Referrers").

use bytes::Bytes;
use serde_json::Value;

/// Why some bytes are no such index.
#[derive(Debug, thiserror::Error)]
pub enum ReferrersError {
    #[error("not the JSON of an index")]
    Json(#[from] serde_json::Error),
    #[error("an index without manifests")]
    Shapeless,
}

/// Returns the index that lists nothing.
pub fn empty() -> Bytes {
    Bytes::from_static(
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
    )
}

/// Checks that the bytes are an index, and returns how many manifests it lists.
///
/// # Errors
/// Fails if they are not.
pub fn count(bytes: &[u8]) -> Result<usize, ReferrersError> {
    let index: Value = serde_json::from_slice(bytes)?;
    match index.get("manifests") {
        Some(Value::Array(manifests)) => Ok(manifests.len()),
        Some(_) | None => Err(ReferrersError::Shapeless),
    }
}

/// Returns the index with the manifests of one artifact type alone.
///
/// # Errors
/// Fails if the bytes are no index.
pub fn filter(bytes: &[u8], artifact_type: &str) -> Result<Bytes, ReferrersError> {
    let mut index: Value = serde_json::from_slice(bytes)?;
    let Some(Value::Array(manifests)) = index.get_mut("manifests") else {
        return Err(ReferrersError::Shapeless);
    };
    manifests.retain(|manifest| manifest["artifactType"] == artifact_type);
    Ok(serde_json::to_vec(&index)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_the_manifests_of_its_type() {
        let index =
            br#"{"schemaVersion":2,"manifests":[{"artifactType":"a/b","size":1},{"artifactType":"c/d"},{}]}"#;
        let filtered: Value = serde_json::from_slice(&filter(index, "a/b").unwrap()).unwrap();
        assert_eq!(
            filtered,
            serde_json::json!({"schemaVersion": 2, "manifests": [{"artifactType": "a/b", "size": 1}]})
        );
        assert_eq!(count(&empty()).unwrap(), 0);
        assert_eq!(count(index).unwrap(), 3);
        for bad in [&b"<html>"[..], b"{}", b"[]"] {
            assert!(count(bad).is_err() && filter(bad, "a/b").is_err());
        }
    }
}
