//! The writers: threads that create what the reader of the archive finds.
//!
//! Creating files on a distributed file system waits for its servers, so several are created at a time
//! (facts: 4 to 8 writers are 2 to 4 times one). A job whose directory is not there yet waits in
//! [`Dir`](super::place::Dir), and is ready once that is made; jobs are independent otherwise. What has to
//! come after others (links, times of directories) is submitted after [`Pool::wait_idle`].
//!
//! After the first error nothing more is created: jobs are dropped, also those that wait for a directory,
//! so that nobody waits for them.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::UnpackError;
use super::entry::{Device, FileShape, Meta};
use super::link::LinkTarget;
use super::place::Dir;

/// How many jobs may be under way. Each may keep a block of the stream in memory, at worst.
const MAX_JOBS: usize = 384;

/// Bytes of content that jobs may hold.
const MAX_HELD_BYTES: usize = 24 << 20;

/// Something to create.
pub(super) struct Job {
    /// The directory that it is created in.
    pub(super) dir: Arc<Dir>,
    pub(super) name: Box<[u8]>,
    pub(super) work: Work,
}

/// What to create.
pub(super) enum Work {
    MakeDir {
        made: Arc<Dir>,
        mode: u32,
    },
    File {
        meta: Meta,
        shape: FileShape,
        content: Content,
    },
    Symlink {
        meta: Meta,
        target: Arc<[u8]>,
    },
    Device {
        meta: Meta,
        device: Device,
    },
    Link {
        meta: Meta,
        target: Arc<LinkTarget>,
    },
    Whiteout,
    /// Gives a directory, whose content is complete, its metadata.
    FinishDir {
        meta: Meta,
        has_mode: bool,
        is_opaque: bool,
    },
}

/// The content of a file.
pub(super) enum Content {
    /// All of it.
    Whole(Vec<Bytes>),
    /// It comes in pieces while the archive is read.
    Pieces(Receiver<Bytes>),
}

/// The queue between the reader of the archive and the writers.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    /// There is a job, or there will be none.
    work: Condvar,
    /// A job has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Job>,
    /// Jobs that were submitted and have not ended.
    under_way: usize,
    held_bytes: usize,
    is_closed: bool,
    error: Option<UnpackError>,
}

/// Lets the writers end, however the reading ends.
pub(super) struct Closing<'a>(pub(super) &'a Pool);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.work.notify_all();
    }
}

impl Pool {
    /// Gives a job to the writers; waits while they have enough.
    ///
    /// # Errors
    /// What the first job that failed failed with.
    pub(super) fn submit(&self, job: Job) -> Result<(), UnpackError> {
        let bytes = job.held_bytes();
        let mut state = self.lock();
        while state.error.is_none()
            && state.under_way > 0
            && (state.under_way >= MAX_JOBS || state.held_bytes + bytes > MAX_HELD_BYTES)
        {
            state = self.wait(&self.ended, state);
        }
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        state.under_way += 1;
        state.held_bytes += bytes;
        drop(state);
        let dir = Arc::clone(&job.dir);
        if let Some(job) = dir.or_await(job) {
            self.lock().ready.push_back(job);
            self.work.notify_one();
        }
        Ok(())
    }

    /// Waits until every job has ended.
    ///
    /// # Errors
    /// As [`Pool::submit`].
    pub(super) fn wait_idle(&self) -> Result<(), UnpackError> {
        let mut state = self.lock();
        while state.error.is_none() && state.under_way > 0 {
            state = self.wait(&self.ended, state);
        }
        state.error.clone().map_or(Ok(()), Err)
    }

    /// Works on jobs until the pool is closed; `perform` is what a writer does.
    pub(super) fn run(&self, mut perform: impl FnMut(Job) -> Result<(), UnpackError>) {
        while let Some((job, is_wanted)) = self.next_job() {
            let mut ending = Ending {
                pool: self,
                bytes: job.held_bytes(),
                makes: match &job.work {
                    Work::MakeDir { made, .. } => Some(Arc::clone(made)),
                    _ => None,
                },
                error: Some(UnpackError::Died),
            };
            ending.error = match is_wanted {
                true => perform(job).err(),
                false => None,
            };
        }
    }

    /// Waits for a job; tells besides whether it is still wanted.
    fn next_job(&self) -> Option<(Job, bool)> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.ready.pop_front() {
                return Some((job, state.error.is_none()));
            }
            if state.is_closed && (state.under_way == 0 || state.error.is_some()) {
                return None;
            }
            state = self.wait(&self.work, state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condition.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a job, also of one that panicked.
struct Ending<'a> {
    pool: &'a Pool,
    bytes: usize,
    makes: Option<Arc<Dir>>,
    error: Option<UnpackError>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // Also after an error: what waits must come to its end too.
        let awaiting = self.makes.take().map(|dir| dir.made()).unwrap_or_default();
        let mut state = self.pool.lock();
        state.under_way -= 1;
        state.held_bytes -= self.bytes;
        if state.error.is_none() {
            state.error = self.error.take();
        }
        let wakes_all = !awaiting.is_empty() || state.error.is_some() || state.is_closed;
        state.ready.extend(awaiting);
        drop(state);
        if wakes_all {
            self.pool.work.notify_all();
        }
        self.pool.ended.notify_all();
    }
}

impl Job {
    fn held_bytes(&self) -> usize {
        match &self.work {
            Work::File {
                content: Content::Whole(pieces),
                ..
            } => pieces.iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_dir(dir: &Arc<Dir>, serial: u64) -> (Arc<Dir>, Job) {
        let made = Dir::below(dir, b"d", serial);
        let work = Work::MakeDir {
            made: Arc::clone(&made),
            mode: 0,
        };
        let job = Job {
            dir: Arc::clone(dir),
            name: b"d".as_slice().into(),
            work,
        };
        (made, job)
    }

    #[test]
    fn nothing_is_created_before_its_directory() {
        let pool = Pool::default();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let closing = Closing(&pool);
            let mut dir = Dir::root();
            let mut jobs = Vec::new();
            for serial in 1..=50 {
                let (made, job) = make_dir(&dir, serial);
                jobs.push(job);
                dir = made;
            }
            // The deepest first.
            for job in jobs.into_iter().rev() {
                pool.submit(job).unwrap();
            }
            for _ in 0..4 {
                scope.spawn(|| {
                    pool.run(|job| {
                        order.lock().unwrap().push(job.dir.path().components().count());
                        Ok(())
                    });
                });
            }
            pool.wait_idle().unwrap();
            drop(closing);
        });
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn after_an_error_nobody_waits_for_what_will_not_be_created() {
        let pool = Pool::default();
        std::thread::scope(|scope| {
            let closing = Closing(&pool);
            let (made, job) = make_dir(&Dir::root(), 1);
            let (sender, receiver) = std::sync::mpsc::sync_channel(0);
            let file = Work::File {
                meta: Meta::default(),
                shape: FileShape::dense(1),
                content: Content::Pieces(receiver),
            };
            let name = b"f".as_slice().into();
            pool.submit(Job {
                dir: made,
                name,
                work: file,
            })
            .unwrap();
            pool.submit(job).unwrap();
            scope.spawn(|| pool.run(|_| Err(UnpackError::Cancelled)));
            assert!(sender.send(Bytes::new()).is_err(), "the receiver is dropped");
            assert!(matches!(pool.wait_idle(), Err(UnpackError::Cancelled)));
            drop(closing);
        });
    }
}
