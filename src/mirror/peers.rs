//! The other mirrors of the same store: this one shows itself to them, and shares the work with them ([`crate::flight`]).

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Inner, Mirror};
use crate::config::Config;
use crate::flight::{Beats, Claims, Sweep};
use crate::fs::Disk;
use crate::store::Store;
use crate::telemetry::full_text;

/// How soon a mirror tries again to show itself, whose store fails.
const RETRY: Duration = Duration::from_secs(5);

/// How often this mirror looks for what others have left.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// How long the end of a mirror waits until its name is gone: others notice a little later then.
const LEAVING: Duration = Duration::from_secs(2);

/// How this mirror agrees with others.
pub(super) struct Peers {
    /// `None` if the work is not shared, or the store only read.
    known: Option<Known>,
    /// Set once the others can see this mirror: they would take what it claims for a dead one's.
    has_appeared: OnceLock<()>,
}

struct Known {
    beats: Beats<Disk>,
    claims: Claims<Disk>,
}

impl Known {
    /// Clears what others have left that are gone for good, as long as the process lives.
    async fn sweep(&self) {
        let mut sweep = Sweep::default();
        loop {
            sleep(SWEEP_EVERY).await;
            if let Err(error) = sweep.run(&self.claims).await {
                tracing::debug!(
                    error = error.full_text(),
                    "what dead mirrors left is not cleared now"
                );
            }
        }
    }
}

impl Peers {
    pub(super) fn new(store: &Store, disk: &Disk, config: &Config) -> Self {
        let places = config.share_work.then(|| store.places().ok()).flatten();
        let known = places.map(|places| {
            let beats = Beats::new(disk.clone(), places.mirrors.join(&places.owner));
            Known {
                claims: Claims::new(disk.clone(), places, beats.clone(), config.stall_timeout),
                beats,
            }
        });
        Self {
            known,
            has_appeared: OnceLock::new(),
        }
    }

    /// Returns what tells whether there are others at all.
    pub(super) fn beats(&self) -> Option<Beats<Disk>> {
        Some(self.known.as_ref()?.beats.clone())
    }

    /// Returns the claims; `None` as long as others cannot see this mirror, which works for itself alone then.
    pub(super) fn claims(&self) -> Option<&Claims<Disk>> {
        self.has_appeared.get()?;
        Some(&self.known.as_ref()?.claims)
    }
}

impl Mirror {
    /// Shows this mirror to the others of its store, and goes on to do so as long as the process lives.
    ///
    /// Returns when that is done, or the store fails; then it is tried again.
    pub async fn join_peers(&self) {
        let is_done = self.inner.appear().await;
        let inner = std::sync::Arc::clone(&self.inner);
        tokio::spawn(async move {
            if !is_done {
                while !inner.appear().await {
                    sleep(RETRY).await;
                }
            }
            if let Some(known) = &inner.peers.known {
                tokio::join!(known.beats.run(), known.sweep());
            }
        });
    }

    /// Lets the others know at once that this mirror does nothing any more.
    pub async fn leave_peers(&self) {
        if let Some(known) = &self.inner.peers.known {
            let left = timeout(LEAVING, known.beats.disappear()).await;
            if !matches!(left, Ok(Ok(()))) {
                tracing::debug!("the other mirrors of the store notice late that this one has ended");
            }
        }
    }
}

impl Inner {
    async fn appear(&self) -> bool {
        let Some(known) = &self.peers.known else {
            return true;
        };
        let names = [format!("version@{}", env!("CARGO_PKG_VERSION"))];
        match known.beats.appear(&names).await {
            Ok(()) => {
                // It is set once only.
                let _ = self.peers.has_appeared.set(());
                true
            }
            Err(error) => {
                let error = full_text(&error);
                tracing::warn!(
                    error,
                    "other mirrors of the store do not see this one, and may fetch what it fetches"
                );
                false
            }
        }
    }
}
