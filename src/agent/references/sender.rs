//! States what is in use, one statement at a time, until a mirror has it.
//!
//! Of a node's statements the one with the highest number counts. A number is the time in milliseconds, or one more
//! than the last; if the store has a higher one, its answer says so, and the next is above that. So nothing needs to
//! be kept on the node, and a clock that was wrong does no harm.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};

use super::{InUse, Shared};
use crate::agent::mirrors::{Mirrors, MirrorsError};
use crate::api::{NodeAnswer, NodeId, NodeStatement};
use crate::telemetry::full_text;

/// How long a removal waits for others to go along.
const REMOVAL_PAUSE: Duration = Duration::from_secs(2);

/// The first and the longest pause after a statement that no mirror took.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The task that states.
pub(super) struct Sender {
    id: NodeId,
    host_name: String,
    /// The last number.
    sequence: u64,
    mirrors: Mirrors,
    shared: Arc<Shared>,
    /// The pauses that are left, while statements fail.
    pauses: Option<ExponentialBackoff>,
    has_refusal_been_logged: bool,
    /// The number that the store had last, if no attempt has failed since.
    acknowledged: Option<u64>,
    has_twin_been_logged: bool,
}

impl Sender {
    pub(super) fn new(id: NodeId, mirrors: Mirrors, shared: Arc<Shared>) -> Self {
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            id,
            host_name,
            sequence: 0,
            mirrors,
            shared,
            pauses: None,
            has_refusal_been_logged: false,
            acknowledged: None,
            has_twin_been_logged: false,
        }
    }

    /// States what is in use whenever it changes, and again after each interval, for ever.
    pub(super) async fn run(mut self, restate_interval: Duration) {
        loop {
            self.next_change(restate_interval).await;
            while let Err(pause) = self.state().await {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.shared.asked.notified() => {}
                }
            }
        }
    }

    /// Waits until there is something to state; at once if there is.
    async fn next_change(&self, restate_interval: Duration) {
        let restate = Instant::now() + restate_interval;
        loop {
            let written = self.shared.progress.borrow().written;
            let (changes, last_addition) = {
                let in_use = self.shared.in_use();
                (in_use.changes, in_use.last_addition)
            };
            if last_addition > written {
                return;
            }
            let is_removal = changes > written;
            tokio::select! {
                () = self.shared.added.notified() => {}
                () = self.shared.removed.notified(), if !is_removal => {}
                () = sleep(REMOVAL_PAUSE), if is_removal => return,
                () = tokio::time::sleep_until(restate), if changes > 0 => return,
            }
        }
    }

    /// Makes one statement.
    ///
    /// # Errors
    /// Returns how long to wait before the next attempt.
    async fn state(&mut self) -> Result<(), Duration> {
        let in_use = self.shared.in_use().clone();
        let changes = in_use.changes;
        self.sequence = next_after(self.sequence);
        let statement = self.statement(in_use);
        match self.mirrors.state_node(&self.id, &statement).await {
            Ok(answer) => {
                self.note_twin(answer);
                if answer.sequence > self.sequence {
                    return Err(self.note_higher(answer.sequence));
                }
                self.note_written(changes);
                Ok(())
            }
            Err(error) => {
                self.note_refusal(&error);
                Err(self.note_failure())
            }
        }
    }

    fn statement(&self, in_use: InUse) -> NodeStatement {
        NodeStatement {
            sequence: self.sequence,
            host_name: self.host_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layers: in_use.layers,
            blobs: in_use.blobs,
        }
    }

    fn note_written(&mut self, changes: u64) {
        if std::mem::take(&mut self.has_refusal_been_logged) {
            tracing::info!(node = %self.id, "a mirror writes down again what this node uses");
        }
        self.pauses = None;
        self.acknowledged = Some(self.sequence);
        self.shared.progress.send_modify(|progress| {
            progress.written = changes;
            progress.failed_at = None;
        });
    }

    /// Says once that somebody else states under this node's id.
    fn note_twin(&mut self, answer: NodeAnswer) {
        let last = self.acknowledged.zip(answer.previous);
        // A lower one is a list that a file system shows late.
        let is_foreign = last.is_some_and(|(own, previous)| previous > own);
        if is_foreign && !std::mem::replace(&mut self.has_twin_been_logged, true) {
            tracing::error!(
                node = %self.id,
                "another agent has this node's id, and each takes the place of what the other uses; if this node was \
                 copied, stop its agent, remove node-id from its --root and start it again"
            );
        }
    }

    /// Goes on above a number that the store has: this node's clock was ahead once.
    fn note_higher(&mut self, highest: u64) -> Duration {
        self.sequence = highest;
        if self.pauses.is_some() {
            return self.note_failure();
        }
        self.pauses();
        Duration::ZERO
    }

    /// Says once that a mirror refuses; that none answers is in the log.
    fn note_refusal(&mut self, error: &MirrorsError) {
        if matches!(error, MirrorsError::Silent(_)) || self.has_refusal_been_logged {
            return;
        }
        self.has_refusal_been_logged = true;
        tracing::warn!(
            node = %self.id, error = full_text(error),
            "no mirror writes down what this node uses; it is tried again"
        );
    }

    /// Notes a failed attempt; returns how long to wait before the next.
    fn note_failure(&mut self) -> Duration {
        self.acknowledged = None;
        self.shared.progress.send_modify(|progress| {
            progress.failures += 1;
            progress.failed_at = Some(Instant::now());
        });
        self.pauses().next().unwrap_or(PAUSES.1)
    }

    /// Returns the pauses that are left, all of them if nothing has failed yet.
    fn pauses(&mut self) -> &mut ExponentialBackoff {
        self.pauses.get_or_insert_with(|| {
            let growing = ExponentialBuilder::new()
                .with_min_delay(PAUSES.0)
                .with_max_delay(PAUSES.1);
            growing.without_max_times().with_jitter().build()
        })
    }
}

fn next_after(last: u64) -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since_epoch.as_millis()).unwrap_or_default();
    now.max(last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Notify, watch};

    use super::*;

    #[test]
    fn another_agent_with_this_nodes_id_is_noticed() {
        let shared = Shared {
            in_use: std::sync::Mutex::default(),
            progress: watch::Sender::default(),
            added: Notify::new(),
            removed: Notify::new(),
            asked: Notify::new(),
        };
        let mirrors = Mirrors::new(&[]).unwrap();
        let mut sender = Sender::new(NodeId::random(), mirrors, Arc::new(shared));
        for (acknowledged, previous, expected) in [
            // What an earlier process of this node stated.
            (None, Some(9), false),
            (Some(5), None, false),
            (Some(5), Some(5), false),
            // Shown late.
            (Some(5), Some(4), false),
            (Some(5), Some(6), true),
        ] {
            sender.acknowledged = acknowledged;
            let sequence = 10;
            sender.note_twin(NodeAnswer { sequence, previous });
            assert_eq!(
                sender.has_twin_been_logged, expected,
                "{acknowledged:?} {previous:?}"
            );
        }
    }
}
