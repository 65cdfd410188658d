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
        let timed_out =
            |text: String| FsError::new(operation, path, io::Error::new(io::ErrorKind::TimedOut, text));
        let overdue = self.overdue.load(Ordering::Acquire);
        if overdue >= MAX_OVERDUE {
            return Err(timed_out(format!(
                "{overdue} earlier calls to the file system still hang"
            )));
        }
        let state = Arc::new(AtomicU8::new(RUNNING));
        let running = tokio::task::spawn_blocking({
            let (state, overdue) = (Arc::clone(&state), Arc::clone(&self.overdue));
            move || {
                let result = call();
                if state.swap(DONE, Ordering::AcqRel) == LATE {
                    overdue.fetch_sub(1, Ordering::AcqRel);
                }
                result
            }
        });
        let deadline = if overdue == 0 {
            self.deadline
        } else {
            self.deadline / HASTE
        };
        match tokio::time::timeout(deadline, running).await {
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => Err(FsError::new(operation, path, io::Error::other(panicked))),
            Err(_) => {
                // Counted before the call is told, so that the count never goes below zero.
                self.overdue.fetch_add(1, Ordering::AcqRel);
                let told = state.compare_exchange(RUNNING, LATE, Ordering::AcqRel, Ordering::Acquire);
                if told.is_err() {
                    self.overdue.fetch_sub(1, Ordering::AcqRel);
                }
                Err(timed_out(format!(
                    "the file system did not answer within {deadline:?}"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::fs::FsErrorKind;

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
