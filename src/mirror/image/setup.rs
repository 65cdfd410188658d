//! Whether this mirror extracts layers; if not, the log says why, once, and what to do.

use std::sync::Arc;

use super::Extraction;
use crate::config::Extract;
use crate::fs::{Abilities, Mount, Reach, missing_privileges};
use crate::store::Store;
use crate::unpack::Options;

/// Prepares the extraction of layers; `None` if it is turned off or not possible here.
pub(in crate::mirror) fn extraction(config: Option<&Extract>, store: &Store) -> Option<Arc<Extraction>> {
    let Some(config) = config else {
        tracing::info!("layers are not extracted, as the configuration says `extract = false`");
        return None;
    };
    match abilities(store) {
        Ok(abilities) => {
            let writers = config.writers.unwrap_or(abilities.writers as usize).max(1);
            let options = Options {
                abilities,
                writers,
                user_opaque: config.rootless_mounts,
                limits: config.limits.clone(),
            };
            Some(Arc::new(Extraction::new(options, config.layers)))
        }
        Err(reason) => {
            tracing::warn!(
                reason,
                "layers are not extracted, blobs are served all the same; `extract = false` silences this"
            );
            None
        }
    }
}

/// Returns what the store's file system can keep, or why layers cannot be extracted.
fn abilities(store: &Store) -> Result<Arc<Abilities>, String> {
    let missing = missing_privileges();
    if !missing.is_empty() {
        return Err(format!(
            "this process lacks {}; run wharf as root, or with these capabilities",
            missing.join(", ")
        ));
    }
    let root = store.root();
    let reach = Mount::of(root).and_then(|mount| Reach::of(root, &mount));
    let reach = reach.map_err(|error| error.full_text())?;
    if !reach.is_safe() {
        // Who starts a setuid program of an image would be root on every machine.
        return Err(format!(
            "other users reach what is in the store; `chown root {0}` and `chmod 0700 {0}` keep them out \
             (`wharf doctor {0}` says more)",
            root.display()
        ));
    }
    let Some(abilities) = store.abilities() else {
        return Err(
            "what the store's file system can keep is not known; start wharf again as root".to_owned(),
        );
    };
    match abilities.refusal() {
        Some(refusal) => Err(format!(
            "on the store's file system {refusal}; `wharf doctor {}` says what to change",
            root.display()
        )),
        None => Ok(abilities),
    }
}
