//! What an agent does that has lost its records: makes those of layers of the store again, before it says what it uses.
//!
//! Local snapshots have their records beside them. Which layers of the store this node had, a mirror has written down
//! (the node's last statement), and the local snapshots that lie on them name them. A record too many is removed by
//! containerd's garbage collector, which knows what it was told; one too few would give a layer free that is in use.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use super::error::SnapshotError;
use super::name::SharedName;
use super::snapshots::Snapshots;
use crate::agent::references::References;
use crate::oci::Digest;

/// How often a store that is not there is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Snapshots {
    /// Says what this node uses of the store: at once if its records are whole, else when they are again.
    pub(super) fn state_uses(&self, records_are_new: bool) {
        // A full disk may have kept sled from some of them.
        if !records_are_new && self.inner.records.lost_parents().is_empty() {
            self.inner.state_references(BTreeSet::new());
            return;
        }
        let snapshots = self.clone();
        tokio::spawn(async move {
            let blobs = snapshots.recover().await;
            // As a change, so that none comes between.
            let stated = snapshots.on_disk(|inner| {
                inner.state_references(blobs);
                Ok(())
            });
            if let Err(error) = stated.await {
                tracing::error!(%error, "what this node uses is not stated");
            }
            snapshots.note_links().await;
        });
    }

    /// Makes the records again; returns the blobs that this node had linked, as far as a mirror knows.
    async fn recover(&self) -> BTreeSet<Digest> {
        let references: &References = &self.inner.references;
        let stated = loop {
            match self.inner.layers.stated(references.node_id()).await {
                Ok(stated) => break stated,
                // Why is in the log.
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        };
        let (layers, blobs) = stated.map_or_else(Default::default, |stated| (stated.layers, stated.blobs));
        let mut names: Vec<String> = layers.iter().map(ToString::to_string).collect();
        names.extend(self.inner.records.lost_parents());
        for name in names.iter().filter(|name| name.parse::<SharedName>().is_ok()) {
            self.recover_layer(name).await;
        }
        blobs
    }

    async fn recover_layer(&self, name: &str) {
        loop {
            match self.known(name).await {
                Ok(_) => return,
                // A store that fails says nothing of the layer.
                Err(SnapshotError::Store(_)) => sleep(LOOK_AGAIN).await,
                Err(error) => {
                    tracing::info!(
                        snapshot = name, %error,
                        "a layer of the store that this node had is not known again"
                    );
                    return;
                }
            }
        }
    }
}
