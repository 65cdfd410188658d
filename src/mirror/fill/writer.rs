//! Writes a fill's window into its staged file, one blocking call at a time.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::flight::Beats;
use crate::fs::{Disk, FsError, StagedFile};
use crate::mirror::window::Window;

/// How often what is written is shown to other mirrors: some file systems (MooseFS) do so by themselves only when the writer
/// pauses.
const SHOWN_EVERY: Duration = Duration::from_millis(500);

/// What a call gives back: the file, and how many bytes it has more.
type Written = (StagedFile, Result<u64, FsError>);

/// The staged file of one fill.
pub(super) struct Writer {
    state: State,
    deadline: Duration,
    /// Tells whether others read the file.
    readers: Option<Beats<Disk>>,
    synced_at: Instant,
}

enum State {
    Idle(StagedFile),
    Busy {
        call: JoinHandle<Written>,
        until: Instant,
    },
    /// The file is taken, or lost in a call that failed or hangs.
    Gone,
}

impl Writer {
    /// Takes over a staged file; each call may take `deadline`.
    ///
    /// Other mirrors may read what is written, if `readers` tells that there are some.
    pub(super) fn new(staged: StagedFile, deadline: Duration, readers: Option<Beats<Disk>>) -> Self {
        Self {
            state: State::Idle(staged),
            deadline,
            readers,
            synced_at: Instant::now(),
        }
    }

    /// Starts to write what the window has and the file has not, unless a call is under way.
    pub(super) fn start(&mut self, window: &Window) {
        if !matches!(self.state, State::Idle(_)) {
            return;
        }
        let pieces = window.unwritten();
        if pieces.is_empty() {
            return;
        }
        if let State::Idle(mut staged) = std::mem::replace(&mut self.state, State::Gone) {
            let has_readers = self.readers.as_ref().is_some_and(Beats::has_company);
            let is_synced = has_readers && self.synced_at.elapsed() >= SHOWN_EVERY;
            if is_synced {
                self.synced_at = Instant::now();
            }
            let call = tokio::task::spawn_blocking(move || {
                let count = pieces.iter().map(|piece| piece.len() as u64).sum();
                let written = staged.write(&pieces).and_then(|()| match is_synced {
                    true => staged.show(),
                    false => Ok(()),
                });
                (staged, written.map(|()| count))
            });
            let until = Instant::now() + self.deadline;
            self.state = State::Busy { call, until };
        }
    }

    /// Tells whether a call is under way.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.state, State::Busy { .. })
    }

    /// Waits for the call under way, and returns how many bytes the file has more; 0 if there is none.
    ///
    /// Loses nothing when it is cancelled.
    ///
    /// # Errors
    /// What the call failed with, and [`crate::fs::FsErrorKind::Timeout`] if it hangs. The file is gone then.
    pub(super) async fn written(&mut self) -> Result<u64, FsError> {
        let State::Busy { call, until } = &mut self.state else {
            return Ok(0);
        };
        let ended = timeout_at(*until, call).await;
        self.state = State::Gone;
        let hung =
            |text: String, kind| FsError::new("write", "staging".as_ref(), std::io::Error::new(kind, text));
        match ended {
            Ok(Ok((staged, written))) => {
                if written.is_ok() {
                    self.state = State::Idle(staged);
                } else {
                    discard(staged);
                }
                written
            }
            Ok(Err(panicked)) => Err(hung(panicked.to_string(), std::io::ErrorKind::Other)),
            Err(_) => {
                let text = format!("the file system did not answer within {:?}", self.deadline);
                Err(hung(text, std::io::ErrorKind::TimedOut))
            }
        }
    }

    /// Takes the file out, if no call is under way and none has failed.
    pub(super) fn take(&mut self) -> Option<StagedFile> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(staged) => Some(staged),
            State::Busy { .. } | State::Gone => None,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(staged) = self.take() {
            discard(staged);
        }
    }
}

/// Removes a staged file off the async threads; at the end of the process, on the spot.
fn discard(staged: StagedFile) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(staged))),
        Err(_) => drop(staged),
    }
}
