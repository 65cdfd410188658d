//! Runs file operations off the async threads, each with a deadline.
//!
//! A distributed file system whose server is gone does not fail: its calls
//! hang, uninterruptibly. Such a call keeps its thread, so their number is
//! bounded: past [`MAX_OVERDUE`] every further call fails at once, until one
//! of the hung ones returns.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};

use super::FsError;

/// How many calls may hang before further ones are refused: a small part of
/// tokio's 512 blocking threads, so that downloads and fills keep theirs.
const MAX_OVERDUE: usize = 32;

/// How much sooner a call is given up while an earlier one hangs: a request makes several
/// calls, and its client waits 30 s at most (containerd).
const HASTE: u32 = 10;

const RUNNING: u8 = 0;
const LATE: u8 = 1;
const DONE: u8 = 2;

/// The way to the file system, for calls that are to answer soon.
#[derive(Clone, Debug)]
pub struct Disk {
    deadline: Duration,
    overdue: Arc<AtomicUsize>,
}

impl Disk {
    /// Makes a way on which each call may take `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            overdue: Arc::default(),
        }
    }

    /// Returns how long a call may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Runs `call` on a blocking thread.
    ///
    /// # Errors
    /// What `call` returns; [`super::FsErrorKind::Timeout`] if it takes longer than the
    /// deadline, or if too many earlier ones still do. A late call's own result is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: &Path,
        call: impl FnOnce() -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, FsError> {
        let error = |source| FsError::new(operation, path, source);
        self.check().map_err(error)?;
        let deadline = match self.overdue.load(Ordering::Acquire) {
            0 => self.deadline,
            _ => self.deadline / HASTE,
        };
        let (_, watch) = self.spawn(deadline, call);
        match watch.await {
            Ok(Some(Ok(result))) => result,
            Ok(Some(Err(panicked))) | Err(panicked) => Err(error(io::Error::other(panicked))),
            Ok(None) => {
                let text = format!("the file system did not answer within {deadline:?}");
                Err(error(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }

    /// Starts `call` on a blocking thread, for whoever gets its results in another way.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if too many earlier calls hang.
    pub fn start(&self, call: impl FnOnce() + Send + 'static) -> io::Result<Started> {
        self.check()?;
        Ok(self.spawn(self.deadline, call).0)
    }

    fn check(&self) -> io::Result<()> {
        let overdue = self.overdue.load(Ordering::Acquire);
        if overdue < MAX_OVERDUE {
            return Ok(());
        }
        let text = format!("{overdue} earlier calls to the file system still hang");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    fn spawn<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> (Started, JoinHandle<Option<Result<T, JoinError>>>) {
        let state = Arc::new(AtomicU8::new(RUNNING));
        let running = Running {
            state: Arc::clone(&state),
            overdue: Arc::clone(&self.overdue),
        };
        let call = tokio::task::spawn_blocking(move || {
            let _running = running;
            call()
        });
        // A task of its own, so that a call that hangs is counted also when its caller has left.
        let watch = tokio::spawn(watch(
            call,
            Arc::clone(&state),
            Arc::clone(&self.overdue),
            deadline,
        ));
        (Started(state), watch)
    }
}

/// A call that was started.
#[derive(Debug)]
pub struct Started(Arc<AtomicU8>);

impl Started {
    /// Tells whether the call has ended, however late.
    pub fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire) == DONE
    }
}

/// Waits for a call's end; `None` if it is late, and counted as such until it ends.
async fn watch<T>(
    call: JoinHandle<T>,
    state: Arc<AtomicU8>,
    overdue: Arc<AtomicUsize>,
    deadline: Duration,
) -> Option<Result<T, JoinError>> {
    if let Ok(ended) = tokio::time::timeout(deadline, call).await {
        return Some(ended);
    }
    // Counted before the call is told, so that the count never goes below zero.
    overdue.fetch_add(1, Ordering::AcqRel);
    let told = state.compare_exchange(RUNNING, LATE, Ordering::AcqRel, Ordering::Acquire);
    if told.is_err() {
        overdue.fetch_sub(1, Ordering::AcqRel);
    }
    None
}

/// A call under way, until it is dropped.
struct Running {
    state: Arc<AtomicU8>,
    overdue: Arc<AtomicUsize>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.state.swap(DONE, Ordering::AcqRel) == LATE {
            self.overdue.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::fs::FsErrorKind;

    #[tokio::test]
    async fn a_call_that_hangs_is_counted_though_its_caller_has_left() {
        let disk = Disk::new(Duration::from_millis(1));
        let mut releases = Vec::new();
        for _ in 0..MAX_OVERDUE {
            let (release, wait) = mpsc::channel::<()>();
            releases.push(release);
            let hung = disk.run("open", Path::new("/x"), move || {
                let _ = wait.recv();
                Ok(())
            });
            tokio::pin!(hung);
            assert!(futures_util::poll!(&mut hung).is_pending());
        }
        let is_refused = async || {
            let ended = disk.run("open", Path::new("/x"), || Ok(())).await;
            ended.is_err_and(|error| error.full_text().contains("32 earlier calls"))
        };
        while !is_refused().await {
            tokio::task::yield_now().await;
        }
        drop(releases);
    }

    #[tokio::test]
    async fn a_call_that_hangs_ends_in_a_timeout_and_many_of_them_in_a_refusal_until_they_return() {
        let disk = Disk::new(Duration::from_millis(20));
        let mut releases = Vec::new();
        for _ in 0..MAX_OVERDUE {
            let (release, wait) = mpsc::channel::<()>();
            releases.push(release);
            let hung = disk.run("open", Path::new("/x"), move || {
                // Ends when the sender is dropped.
                let _ = wait.recv();
                Ok(())
            });
            assert_eq!(hung.await.unwrap_err().kind(), FsErrorKind::Timeout);
        }
        let refused = disk.run("open", Path::new("/x"), || Ok(())).await.unwrap_err();
        assert!(
            refused.full_text().contains("32 earlier calls"),
            "{}",
            refused.full_text()
        );
        drop(releases);
        while disk.run("open", Path::new("/x"), || Ok(())).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}
