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
