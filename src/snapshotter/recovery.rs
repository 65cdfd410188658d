//! What an agent does that has lost its records: makes those of layers of the store again, before it says what it uses.
//!
//! Local snapshots have their records beside them. Which layers of the store this node had, a mirror has written down
//! (the node's last statement), and the local snapshots that lie on them name them. A record too many is removed by
//! containerd's garbage collector, which knows what it was told; one too few would give a layer free that is in use.

use std::time::Duration;

use tokio::time::sleep;

use super::name::SharedName;
use super::snapshots::Snapshots;
use crate::agent::references::References;

/// How often a store that is not there is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Snapshots {
    /// Says what this node uses of the store: at once if its records are whole, else when they are again.
    pub(super) fn state_uses(&self, records_are_new: bool) {
        if !records_are_new {
            self.inner.state_references();
            return;
        }
        let snapshots = self.clone();
        tokio::spawn(async move {
            snapshots.recover().await;
            // As a change, so that none comes between.
            let stated = snapshots.on_disk(|inner| {
                inner.state_references();
                Ok(())
            });
            if let Err(error) = stated.await {
                tracing::error!(%error, "what this node uses is not stated");
            }
        });
    }

    async fn recover(&self) {
        let references: &References = &self.inner.references;
        let stated = loop {
            match self.inner.layers.stated(references.node_id()).await {
                Ok(stated) => break stated,
                // Why is in the log.
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        };
        let stated = stated.into_iter().flat_map(|statement| statement.layers);
        let mut names: Vec<String> = stated.map(|chain_id| chain_id.to_string()).collect();
        names.extend(self.inner.records.lost_parents());
        for name in names.iter().filter(|name| name.parse::<SharedName>().is_ok()) {
            if let Err(error) = self.known(name).await {
                tracing::info!(snapshot = name, %error, "a layer of the store that this node had is not known again");
            }
        }
    }
}
