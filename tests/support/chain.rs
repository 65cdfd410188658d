//! The names of stacks of layers.

use super::sha256;

/// Names stacks as the image-spec does ("Layer ChainID").
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain_ids: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        chain_ids.push(match chain_ids.last() {
            None => diff_id.clone(),
            Some(below) => sha256(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain_ids
}

/// Names layers as containers/image does, for containers/storage to find them again; the bottom one first.
pub fn layer_ids(diff_ids: &[String]) -> Vec<String> {
    let mut layer_ids: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        layer_ids.push(match layer_ids.last() {
            None => hex(diff_id),
            Some(below) => hex(&sha256(format!("{below}+{}", hex(diff_id)).as_bytes())),
        });
    }
    layer_ids
}

fn hex(digest: &str) -> String {
    digest
        .strip_prefix("sha256:")
        .expect("a sha256 digest")
        .to_owned()
}
