//! Watches an unpacking: lets the log tell how far it is, and gives up one that hangs.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::LayerError;
use crate::fs::FsError;
use crate::unpack;

/// When something is done about an unpacking that takes long.
pub(super) struct Patience {
    /// How often the log tells how far it is.
    tell_every: Duration,
    /// What does not come on for so long hangs.
    hangs_after: Duration,
}

/// A sync of gigabytes takes minutes on a slow file system, and upstream is given up after minutes too.
pub(super) const PATIENCE: Patience = Patience {
    tell_every: Duration::from_secs(10),
    hangs_after: Duration::from_secs(3600),
};

/// Waits for an unpacking's end; `tell` gets how many entries and bytes are done.
///
/// One that hangs is told to end and left behind, so that it keeps nobody else from extracting: a call that
/// hangs in the file system cannot be ended.
///
/// # Errors
/// What it failed with; of what hangs, that the file system of `store` does not answer.
pub(super) async fn watched<T>(
    unpacking: impl Future<Output = Result<T, LayerError>>,
    progress: &unpack::Progress,
    store: &Path,
    patience: &Patience,
    tell: impl Fn(u64, u64),
) -> Result<T, LayerError> {
    tokio::pin!(unpacking);
    let mut ticks = interval_at(Instant::now() + patience.tell_every, patience.tell_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut since) = (done(progress), Instant::now());
    loop {
        tokio::select! {
            ended = &mut unpacking => return ended,
            _ = ticks.tick() => {}
        }
        let now = done(progress);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= patience.hangs_after {
            progress.cancelled.store(true, Ordering::Relaxed);
            return Err(hangs(store, patience.hangs_after).into());
        }
        tell(now.0, now.1);
    }
}

fn done(progress: &unpack::Progress) -> (u64, u64) {
    (
        progress.entries.load(Ordering::Relaxed),
        progress.bytes.load(Ordering::Relaxed),
    )
}

fn hangs(store: &Path, after: Duration) -> FsError {
    let text = format!("the file system did not answer within {after:?}");
    FsError::new(
        "extract a layer in",
        store,
        std::io::Error::new(std::io::ErrorKind::TimedOut, text),
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;
    use crate::fs::FsErrorKind;

    #[tokio::test]
    async fn what_does_not_come_on_is_given_up_and_told_to_end() {
        let (progress, told) = (unpack::Progress::default(), Cell::new(0));
        let patience = Patience {
            tell_every: Duration::from_millis(1),
            hangs_after: Duration::from_millis(50),
        };
        let comes_on_until = 3;
        let tell = |_, _| {
            told.set(told.get() + 1);
            if told.get() <= comes_on_until {
                progress.bytes.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (store, started) = (Path::new("/store"), Instant::now());
        let hung = watched(pending::<Result<(), _>>(), &progress, store, &patience, tell).await;
        let Err(LayerError::Fs(error)) = hung else {
            panic!("{hung:?}")
        };
        assert_eq!(error.kind(), FsErrorKind::Timeout);
        assert!(progress.cancelled.load(Ordering::Relaxed));
        assert!(told.get() > comes_on_until && started.elapsed() > patience.hangs_after);
    }
}
