//! The bound on how many requests one upstream is sent at a time.
//!
//! A blob's connection is held until its body was read, which may take an hour.
//! So blobs may take three in four of the connections, and there is always one
//! soon for a manifest or a token.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::telemetry::labels::UpstreamKind;

/// How long a blob waits for a connection: as long as containerd waits for progress of a pull.
const MAX_BODY_WAIT: Duration = Duration::from_secs(300);

/// The connections of one upstream.
pub(super) struct Connections {
    all: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    /// How long everything that is no blob waits.
    max_wait: Duration,
}

/// One connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _connection: OwnedSemaphorePermit,
    _body: Option<OwnedSemaphorePermit>,
}

/// Returns how many of an upstream's connections blobs may take.
pub(super) fn body_connections(max_connections: usize) -> usize {
    (max_connections * 3 / 4).max(1)
}

impl Connections {
    /// Makes room for so many connections at a time.
    pub(super) fn new(max_connections: usize, max_wait: Duration) -> Self {
        let most = max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(most)),
            bodies: Arc::new(Semaphore::new(body_connections(most))),
            max_wait,
        }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// Returns how long it has waited, if that was too long.
    pub(super) async fn acquire(&self, kind: UpstreamKind) -> Result<Permit, Duration> {
        let max_wait = match kind {
            UpstreamKind::BlobGet => MAX_BODY_WAIT,
            UpstreamKind::ManifestHead
            | UpstreamKind::ManifestGet
            | UpstreamKind::BlobHead
            | UpstreamKind::Token
            | UpstreamKind::Other => self.max_wait,
        };
        let permit = async {
            // In this order: a blob that waits for its share must not hold a connection meanwhile.
            let body = match kind {
                UpstreamKind::BlobGet => Some(Arc::clone(&self.bodies).acquire_owned().await.ok()?),
                UpstreamKind::ManifestHead
                | UpstreamKind::ManifestGet
                | UpstreamKind::BlobHead
                | UpstreamKind::Token
                | UpstreamKind::Other => None,
            };
            let connection = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Permit {
                _connection: connection,
                _body: body,
            })
        };
        let acquired = timeout(max_wait, permit).await.ok().flatten();
        acquired.ok_or(max_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_leave_a_quarter_of_the_connections_to_the_rest() {
        let connections = Connections::new(8, Duration::from_millis(1));
        let mut bodies = Vec::new();
        for _ in 0..6 {
            bodies.push(connections.acquire(UpstreamKind::BlobGet).await.unwrap());
        }
        let seventh = connections.acquire(UpstreamKind::BlobGet);
        tokio::pin!(seventh);
        assert!(futures_util::poll!(&mut seventh).is_pending());
        let _token = connections.acquire(UpstreamKind::Token).await.unwrap();
        let _manifest = connections.acquire(UpstreamKind::ManifestGet).await.unwrap();
        assert!(connections.acquire(UpstreamKind::ManifestGet).await.is_err());
        bodies.pop();
        seventh.await.unwrap();
    }

    #[tokio::test]
    async fn one_connection_is_shared_by_all() {
        let connections = Connections::new(1, Duration::from_millis(1));
        let body = connections.acquire(UpstreamKind::BlobGet).await.unwrap();
        assert!(connections.acquire(UpstreamKind::Token).await.is_err());
        drop(body);
        connections.acquire(UpstreamKind::Token).await.unwrap();
    }
}
