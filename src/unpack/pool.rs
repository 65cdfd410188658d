//! The writers: threads that create what the reader of the archive finds.
//!
//! Creating files on a distributed file system waits for its servers, so several are created at a time
//! (facts: 4 to 8 writers are 2 to 4 times one). A job whose directory is not there yet waits in
//! [`super::place::Dir`], and is ready once that is made; jobs are independent otherwise. What has to
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
use super::place::{Dir, Ground};

/// How many jobs may be under way. Each may keep a block of the stream in memory, at worst.
const MAX_JOBS: usize = 384;

/// Bytes of content, maps of holes and extended attributes that jobs may hold.
const MAX_HELD_BYTES: usize = 24 << 20;

/// How many jobs a writer takes at once while there are plenty: each taking costs locks and wake-ups.
const MAX_BATCH: usize = 16;

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
        target: Arc<LinkTarget>,
    },
    /// A name that another directory of the same layer has at the same place.
    Share {
        source: Arc<Ground>,
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
    /// There is room for jobs again, or none is under way.
    room: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Job>,
    /// Jobs that were submitted and have not ended.
    under_way: usize,
    held_bytes: usize,
    /// Threads that work on jobs, and how many of them have none.
    writers: usize,
    idle_writers: usize,
    /// Who waits for room.
    waiting: usize,
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
        if !state.has_room(bytes, 1) {
            // Not for each job that ends, which would be a wake-up for each.
            state = self.wait_for_room(state, |state| state.has_room(bytes, 2));
        }
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        state.under_way += 1;
        state.held_bytes += bytes;
        drop(state);
        let dir = Arc::clone(&job.dir);
        if let Some(job) = dir.or_await(job) {
            let mut state = self.lock();
            state.ready.push_back(job);
            // A wake-up is a system call also when nobody sleeps.
            if state.idle_writers > 0 {
                self.work.notify_one();
            }
        }
        Ok(())
    }

    /// Waits until every job has ended.
    ///
    /// # Errors
    /// As [`Pool::submit`].
    pub(super) fn wait_idle(&self) -> Result<(), UnpackError> {
        let state = self.wait_for_room(self.lock(), |state| state.under_way == 0);
        state.error.clone().map_or(Ok(()), Err)
    }

    /// Works on jobs until the pool is closed; `perform` is what a writer does.
    pub(super) fn run(&self, mut perform: impl FnMut(Job) -> Result<(), UnpackError>) {
        self.lock().writers += 1;
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while let Some(is_wanted) = self.next_jobs(&mut batch) {
            // Whatever of a batch a panic leaves over has to end too.
            let mut endings: VecDeque<Ending<'_>> = batch.iter().map(|job| Ending::of(self, job)).collect();
            for job in batch.drain(..) {
                let ended = if is_wanted { perform(job) } else { Ok(()) };
                if let Some(mut ending) = endings.pop_front() {
                    ending.error = ended.err();
                }
            }
        }
    }

    /// Waits for jobs, and tells whether they are still wanted; `None` if there will be no more.
    fn next_jobs(&self, batch: &mut Vec<Job>) -> Option<bool> {
        let mut state = self.lock();
        loop {
            if !state.ready.is_empty() {
                let fair = state.ready.len() / (2 * state.writers);
                let count = fair.clamp(1, MAX_BATCH);
                batch.extend(state.ready.drain(..count));
                return Some(state.error.is_none());
            }
            if state.is_closed && (state.under_way == 0 || state.error.is_some()) {
                return None;
            }
            state.idle_writers += 1;
            state = self.wait(&self.work, state);
            state.idle_writers -= 1;
        }
    }

    /// Waits until `is_enough`, or until there is an error.
    fn wait_for_room<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        is_enough: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        state.waiting += 1;
        while state.error.is_none() && !is_enough(&state) {
            state = self.wait(&self.room, state);
        }
        state.waiting -= 1;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condition.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells whether a job that holds `bytes` may be added, while only the `share`th part of the room may be taken.
    fn has_room(&self, bytes: usize, share: usize) -> bool {
        self.under_way == 0
            || (self.under_way < MAX_JOBS / share && self.held_bytes + bytes <= MAX_HELD_BYTES / share)
    }
}

/// The end of a job, also of one that panicked.
struct Ending<'a> {
    pool: &'a Pool,
    bytes: usize,
    makes: Option<Arc<Dir>>,
    error: Option<UnpackError>,
}

impl<'a> Ending<'a> {
    fn of(pool: &'a Pool, job: &Job) -> Self {
        Self {
            pool,
            bytes: job.held_bytes(),
            makes: match &job.work {
                Work::MakeDir { made, .. } => Some(Arc::clone(made)),
                _ => None,
            },
            error: Some(UnpackError::Died),
        }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // Before what waits is let go, or it would fail for want of its directory, and hide why.
        if let Some(error) = self.error.take() {
            self.pool.lock().error.get_or_insert(error);
        }
        // Also after an error: what waits must come to its end too.
        let awaiting = self.makes.take().map(|dir| dir.made()).unwrap_or_default();
        let mut state = self.pool.lock();
        state.under_way -= 1;
        state.held_bytes -= self.bytes;
        let is_over = state.error.is_some() || (state.is_closed && state.under_way == 0);
        let wakes_writers = state.idle_writers > 0 && (is_over || !awaiting.is_empty());
        // Whoever waits for room waits for half of it.
        let wakes_reader = is_over || state.under_way == 0 || state.has_room(0, 2);
        state.ready.extend(awaiting);
        let is_waited_for = state.waiting > 0;
        drop(state);
        if wakes_writers {
            self.pool.work.notify_all();
        }
        if wakes_reader && is_waited_for {
            self.pool.room.notify_all();
        }
    }
}

impl Job {
    /// Returns how much memory it holds that an archive can make large.
    fn held_bytes(&self) -> usize {
        let own = match &self.work {
            Work::File { shape, content, .. } => {
                let content = match content {
                    Content::Whole(pieces) => pieces.iter().map(Bytes::len).sum(),
                    Content::Pieces(_) => 0,
                };
                content + size_of_val(&*shape.extents)
            }
            _ => 0,
        };
        own + self.meta().map_or(0, Meta::held_bytes)
    }

    fn meta(&self) -> Option<&Meta> {
        match &self.work {
            Work::File { meta, .. }
            | Work::Symlink { meta, .. }
            | Work::Device { meta, .. }
            | Work::FinishDir { meta, .. } => Some(meta),
            Work::MakeDir { .. } | Work::Link { .. } | Work::Share { .. } | Work::Whiteout => None,
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
