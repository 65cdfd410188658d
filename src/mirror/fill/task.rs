//! The task that works on one fill.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::patience::Patience;
use super::writer::Writer;
use super::{BUSY_RETRY_AFTER, Fill, FillError, FillKey, Stage, Standing};
use crate::flight::{Claim, Leader};
use crate::fs::{Disk, FsError, FsErrorKind};
use crate::mirror::Inner;
use crate::mirror::buffers::WindowBuffers;
use crate::mirror::negative::Asked;
use crate::oci::{Verified, Verifier};
use crate::store::StoredBlob;
use crate::telemetry::labels::FillOutcome;
use crate::telemetry::metrics::Running;
use crate::upstream::{BlobBody, ResumePoint, Upstream, UpstreamError, UpstreamErrorClass};

/// How often in a row upstream may fail without bringing a byte.
const MAX_FRUITLESS: u32 = 6;

/// The pause before the first repetition; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: below the idle time after which clients give up.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a fill whose store fails midway waits for a permit to go on.
const PERMIT_WAIT: Duration = Duration::from_secs(10);

/// The sync of a big blob takes minutes on a slow file system; an hour is a hang.
const PUBLISH_LIMIT: Duration = Duration::from_secs(3600);

/// How often the log tells how far a long fill is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What is reserved for a blob of unknown size: a block.
pub(super) const RESERVED_FOR_UNKNOWN: u64 = 4096;

/// A fill's task, with all that it works with.
pub(in crate::mirror) struct FillTask {
    pub(in crate::mirror) mirror: Arc<Inner>,
    pub(in crate::mirror) upstream: Upstream,
    pub(in crate::mirror) fill: Arc<Fill>,
    /// Without one the blob is streamed past the store, for one client that cannot share it.
    pub(in crate::mirror) leader: Option<Leader<FillKey, Fill>>,
    /// What a manifest says of the blob's size.
    pub(in crate::mirror) expected_size: Option<u64>,
    pub(in crate::mirror) standing: Standing,
}

/// The state of a fill under way.
pub(super) struct Flight<'a> {
    pub(super) task: &'a FillTask,
    pub(super) verifier: Verifier,
    /// The blob's size, once all of it has proved right.
    size: u64,
    /// None once the store has failed.
    pub(super) writer: Option<Writer>,
    /// Tells other mirrors of the store that this one fills; none if it does so for itself.
    pub(super) claim: Option<Claim<Disk>>,
    /// Some of it was written by another mirror.
    pub(super) has_copied: bool,
    permit: Option<UncachedPermit>,
    pub(super) window: WindowBuffers,
    validator: Option<String>,
    patience: Patience,
    told_progress: Instant,
}

type UncachedPermit = (OwnedSemaphorePermit, Running);

/// What ends one request to upstream before the blob is whole.
enum Interruption {
    Upstream(UpstreamError),
    /// The store failed, and going on past it takes a permit.
    NeedsPermit,
    Final(FillError),
}

enum Event {
    Received(Result<Option<Bytes>, UpstreamError>),
    Written(Result<u64, FsError>),
    ReaderMoved,
    ReadersLate,
}

impl From<UpstreamError> for Interruption {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<FillError> for Interruption {
    fn from(error: FillError) -> Self {
        Self::Final(error)
    }
}

/// Ends the fill for its readers also when the task panics or is cancelled.
struct Ending(Arc<Fill>);

impl Drop for Ending {
    fn drop(&mut self) {
        let is_open = matches!(self.0.progress.borrow().stage, Stage::Asking | Stage::Receiving);
        if is_open {
            self.0
                .advance(|progress| progress.stage = Stage::Failed(FillError::Abandoned));
        }
    }
}

impl FillTask {
    /// Works until the blob is published, or the fill has failed.
    pub(in crate::mirror) async fn run(self) {
        let ending = Ending(Arc::clone(&self.fill));
        let running = self.mirror.metrics.fill_running();
        let (digest, repository) = (&self.fill.digest, &self.fill.repository);
        match self.fly().await {
            Ok(None) => {}
            Ok(Some(outcome)) => {
                self.mirror.metrics.fill(outcome);
                tracing::info!(%digest, %repository, ?outcome, "filled");
            }
            Err(error) => {
                self.mirror.metrics.fill(FillOutcome::Failed);
                // Before the flight lands, so that nobody asks again in between.
                let asked = Asked::Blob(repository.clone(), digest.clone());
                self.mirror.negatives.noted(asked, error.clone().into());
                let cause: &dyn std::error::Error = &error;
                tracing::warn!(%digest, %repository, error = cause, "fill failed");
                self.fill
                    .advance(|progress| progress.stage = Stage::Failed(error));
            }
        }
        drop((running, ending));
    }

    /// Returns how the fill ended; `None` if the store had the blob already.
    async fn fly(&self) -> Result<Option<FillOutcome>, FillError> {
        let mut flight = Flight {
            task: self,
            verifier: Verifier::new(self.fill.digest.clone()),
            size: 0,
            writer: None,
            claim: None,
            has_copied: false,
            permit: None,
            window: self.mirror.buffers.window(),
            validator: None,
            patience: Patience::default(),
            told_progress: Instant::now(),
        };
        let crowded = |_| FillError::Crowded {
            retry_after: BUSY_RETRY_AFTER,
        };
        let places = self.mirror.fill_places.of(&self.fill.repository.host);
        let _place = places.try_acquire().map_err(crowded)?;
        if self.leader.is_none() {
            flight.take_permit()?;
        } else if flight.is_there_already().await? {
            return Ok(None);
        }
        let verified = match flight.fetch().await {
            Ok(Some(verified)) => verified,
            Ok(None) => return Ok(None),
            Err(error) => {
                flight.tell_failure(&error).await;
                return Err(error);
            }
        };
        let size = flight.size;
        let Fill {
            repository, digest, ..
        } = &*self.fill;
        self.mirror.index.add(repository, &[(digest.clone(), Some(size))]);
        self.mirror.index.mark_shared(&repository.host, digest);
        // Before a client can have all of it, so that the process does not end in between.
        let _publishing = self.mirror.publishing.token();
        self.fill.advance(|progress| {
            progress.size_bytes = Some(size);
            progress.stage = Stage::Verified;
        });
        let Some(writer) = flight.writer else {
            if self.standing == Standing::Untrusted {
                self.mirror.mark_sent(&repository.host, digest).await;
            }
            return Ok(Some(FillOutcome::Uncached));
        };
        match self.publish(writer, verified).await {
            Ok(()) => {
                if let Some(claim) = flight.claim.take() {
                    claim.done();
                }
                self.mirror.health.note_success();
                self.fill.window().release_written();
                Ok(Some(FillOutcome::Published))
            }
            Err(error) => {
                self.store_failed(&error);
                Ok(Some(FillOutcome::Uncached))
            }
        }
    }

    /// Writes what is left, and gives the blob its final name.
    async fn publish(&self, mut writer: Writer, verified: Verified) -> Result<(), FsError> {
        loop {
            writer.start(&self.fill.window());
            if !writer.is_busy() {
                break;
            }
            let count = writer.written().await?;
            self.fill.window().note_written(count);
        }
        let path = self.mirror.store.blob_path(&self.fill.digest);
        let lost = |text: &str| FsError::new("publish", &path, std::io::Error::other(text.to_owned()));
        let staged = writer.take().ok_or_else(|| lost("the staged file is gone"))?;
        let store = self.mirror.store.clone();
        let sender = self
            .mirror
            .guards
            .is_guarded()
            .then(|| self.fill.repository.host.clone());
        let call = tokio::task::spawn_blocking(move || {
            store.publish_blob(staged, &verified)?;
            sender.map_or(Ok(()), |host| store.mark_sent(&host, verified.digest()))
        });
        match timeout(PUBLISH_LIMIT, call).await {
            Ok(Ok(published)) => published,
            Ok(Err(panicked)) => Err(lost(&panicked.to_string())),
            Err(_) => Err(lost("the file system hangs")),
        }
    }

    fn store_failed(&self, error: &FsError) {
        self.mirror.note_store_error(error);
        // That there is no room for this blob says nothing of smaller ones, which ask for room in time.
        if error.operation() != "reserve" || error.kind() != FsErrorKind::Full {
            self.mirror.health.note_failure();
        }
        self.fill.window().lose_store();
    }
}

impl Flight<'_> {
    /// Looks again, for the blob may have been published before this fill led; stages a file if it was not.
    async fn is_there_already(&mut self) -> Result<bool, FillError> {
        let FillTask { mirror, fill, .. } = self.task;
        match self.open_stored().await {
            Ok(Some(blob))
                if !mirror.unreadable.contains(&fill.digest) && self.may_take(blob.size_bytes).await? =>
            {
                self.show(&blob);
                Ok(true)
            }
            // Published it cannot be a second time.
            Ok(Some(_)) => self.take_permit().map(|()| false),
            Ok(None) => self.take_turn().await,
            Err(error) => self.go_past_store(error).map(|()| false),
        }
    }

    pub(super) async fn open_stored(&self) -> Result<Option<StoredBlob>, FsError> {
        let FillTask { mirror, fill, .. } = self.task;
        let (store, digest) = (mirror.store.clone(), fill.digest.clone());
        let path = store.blob_path(&digest);
        mirror
            .disk
            .run("open", &path, move || store.open_blob(&digest))
            .await
    }

    /// Ends the fill with a blob that is in the store.
    pub(super) fn show(&self, blob: &StoredBlob) {
        let fill = &self.task.fill;
        fill.window().show_whole(Arc::clone(&blob.file), blob.size_bytes);
        fill.advance(|progress| {
            progress.size_bytes = Some(blob.size_bytes);
            progress.received = blob.size_bytes;
            progress.stage = Stage::Verified;
        });
    }

    /// Tells whether what is in the store will do.
    ///
    /// Of another size it is damaged, and told so by whoever opened it.
    pub(super) async fn may_take(&self, size: u64) -> Result<bool, FillError> {
        let FillTask {
            upstream,
            fill,
            expected_size,
            standing,
            ..
        } = self.task;
        if *standing == Standing::Unknown {
            upstream.head_blob(&fill.repository.name, &fill.digest).await?;
        }
        Ok(*standing != Standing::Untrusted && expected_size.is_none_or(|expected| expected == size))
    }

    /// Stages a file for this mirror alone.
    pub(super) async fn stage(&mut self) -> Result<(), FillError> {
        let FillTask {
            mirror,
            fill,
            expected_size,
            ..
        } = self.task;
        if mirror.health.is_suspect() {
            self.take_permit()?;
        }
        let reserved = expected_size.unwrap_or(RESERVED_FOR_UNKNOWN);
        let (path, store) = (mirror.store.root().to_owned(), mirror.store.clone());
        let staging = mirror.disk.run("stage", &path, move || {
            let staged = store.stage()?;
            staged.reserve(reserved)?;
            Ok(staged)
        });
        match staging.await {
            Ok(staged) => {
                fill.window().attach(staged.reader());
                self.writer = Some(Writer::new(staged, mirror.disk.deadline(), None));
                Ok(())
            }
            Err(error) => self.go_past_store(error),
        }
    }

    /// Goes on without the store, if somebody wants that and a permit is free.
    pub(super) fn go_past_store(&mut self, error: FsError) -> Result<(), FillError> {
        // Others are not to wait for what they will not see; whoever fares better takes it.
        (self.writer, self.claim) = (None, None);
        self.task.store_failed(&error);
        if !self.task.fill.window().has_readers() {
            return Err(FillError::Unwanted(error));
        }
        self.take_permit()
    }

    pub(super) fn take_permit(&mut self) -> Result<(), FillError> {
        if self.permit.is_none() {
            let permit = self.permits().try_acquire_owned();
            let busy = |_| FillError::Busy {
                retry_after: BUSY_RETRY_AFTER,
            };
            self.permit = Some((permit.map_err(busy)?, self.task.mirror.metrics.uncached_stream()));
        }
        Ok(())
    }

    fn permits(&self) -> Arc<Semaphore> {
        let FillTask { mirror, fill, .. } = self.task;
        mirror.permits.of(&fill.repository.host)
    }

    async fn wait_for_permit(&mut self) -> Result<(), FillError> {
        let acquire = self.permits().acquire_owned();
        match timeout(PERMIT_WAIT, acquire).await {
            Ok(Ok(permit)) => {
                self.permit = Some((permit, self.task.mirror.metrics.uncached_stream()));
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(FillError::Busy {
                retry_after: BUSY_RETRY_AFTER,
            }),
        }
    }

    /// Has the whole blob arrive and proves it; `None` if another mirror has brought it into the store.
    async fn fetch(&mut self) -> Result<Option<Verified>, FillError> {
        loop {
            let overtaken = self.overtaken();
            let fill = &self.task.fill;
            let following = tokio::select! {
                received = self.receive() => {
                    received?;
                    let verifier = std::mem::replace(&mut self.verifier, Verifier::new(fill.digest.clone()));
                    self.size = verifier.seen();
                    return Ok(Some(verifier.finish()?));
                }
                following = overtaken => following,
                // It would keep its permit from others until upstream, which may stall, sends the next byte.
                () = fill.deserted() => return Err(FillError::Abandoned),
            };
            tracing::info!(digest = %fill.digest, "another mirror of the store goes on with the blob: this one was too slow");
            self.leave_to_other().await?;
            if self.follow(following).await? {
                return Ok(None);
            }
        }
    }

    /// Receives the whole blob, in as many requests as it takes.
    async fn receive(&mut self) -> Result<(), FillError> {
        let mut fruitless = 0;
        loop {
            let before = self.verifier.seen();
            let error = match self.request().await {
                Ok(()) => return Ok(()),
                Err(Interruption::Final(error)) => return Err(error),
                Err(Interruption::NeedsPermit) => {
                    self.wait_for_permit().await?;
                    continue;
                }
                Err(Interruption::Upstream(error)) => error,
            };
            let has_begun = self.verifier.seen() > 0;
            if self.verifier.seen() > before {
                fruitless = 0;
            }
            if !may_resume(&error, has_begun) || fruitless >= MAX_FRUITLESS {
                return Err(error.into());
            }
            let pause = error.retry_after().unwrap_or(FIRST_PAUSE * (1 << fruitless));
            fruitless += 1;
            tracing::debug!(digest = %self.task.fill.digest, received = self.verifier.seen(), ?pause, %error, "resuming");
            sleep(pause.clamp(FIRST_PAUSE, LONGEST_PAUSE)).await;
        }
    }

    /// Asks upstream for what is missing, and takes it in.
    async fn request(&mut self) -> Result<(), Interruption> {
        let FillTask { upstream, fill, .. } = self.task;
        let from = ResumePoint {
            offset: self.verifier.seen(),
            validator: self.validator.clone(),
        };
        let mut body = upstream
            .get_blob(&fill.repository.name, &fill.digest, from)
            .await?;
        // An upstream that ignores Range sends what is here already once more.
        let mut superfluous = self.verifier.seen().saturating_sub(body.offset());
        self.learn_size(body.size_bytes())?;
        self.tell_size(fill.size_bytes());
        self.validator = body.validator().map(str::to_owned);
        fill.advance(|progress| progress.stage = Stage::Receiving);
        loop {
            match self.next_event(&mut body).await {
                Event::Received(Ok(Some(mut bytes))) => {
                    let skipped = superfluous.min(bytes.len() as u64);
                    superfluous -= skipped;
                    // At most a buffer's length, which is a usize.
                    self.take_in(bytes.split_off(skipped as usize))?;
                }
                Event::Received(Ok(None)) => return self.end_of_body(),
                Event::Received(Err(error)) => return Err(error.into()),
                Event::Written(Ok(count)) => fill.window().note_written(count),
                Event::Written(Err(error)) => self.lose_store(error)?,
                Event::ReaderMoved => {}
                Event::ReadersLate => {
                    self.patience = Patience::default();
                    fill.window().leave_the_slow_behind(self.window.bytes() / 2);
                }
            }
        }
    }

    async fn next_event(&mut self, body: &mut BlobBody) -> Event {
        let fill = &self.task.fill;
        let (has_room, waits_for_readers) = {
            let mut window = fill.window();
            if let Some(writer) = &mut self.writer {
                writer.start(&window);
            }
            let limit = self.window.bytes();
            // Once all is there, nothing but its end is to come.
            let is_all = fill.size_bytes() == Some(self.verifier.seen());
            let has_room = window.has_room(limit / 2, limit) || is_all;
            let waits_for_readers = !has_room && !window.store_takes();
            self.patience
                .note(Instant::now(), !waits_for_readers, window.is_read_up());
            (has_room, waits_for_readers)
        };
        let late = self.patience.end();
        let writer = &mut self.writer;
        let written = async {
            match writer {
                Some(writer) if writer.is_busy() => writer.written().await,
                Some(_) | None => pending().await,
            }
        };
        let readers_late = async {
            match late {
                Some(late) => sleep_until(late).await,
                None => pending().await,
            }
        };
        tokio::select! {
            received = body.next(), if has_room => Event::Received(received),
            written = written => Event::Written(written),
            // Not while bytes are waited for: a client that comes and goes must not put off their timeout.
            () = fill.reader_moved.notified(), if waits_for_readers => Event::ReaderMoved,
            () = readers_late => Event::ReadersLate,
        }
    }

    fn take_in(&mut self, bytes: Bytes) -> Result<(), Interruption> {
        if bytes.is_empty() {
            return Ok(());
        }
        let fill = &self.task.fill;
        self.verifier.update(&bytes);
        let seen = self.verifier.seen();
        self.learn_least_size(seen)?;
        let is_wanted = {
            let mut window = fill.window();
            window.push(bytes);
            window.store_takes() || window.has_readers()
        };
        if !is_wanted {
            return Err(FillError::Abandoned.into());
        }
        fill.advance(|progress| progress.received = seen);
        if self.told_progress.elapsed() >= PROGRESS_EVERY {
            self.told_progress = Instant::now();
            let (digest, repository, size) = (&fill.digest, &fill.repository, fill.size_bytes());
            tracing::info!(%digest, %repository, received = seen, size, "filling");
        }
        Ok(())
    }

    fn lose_store(&mut self, error: FsError) -> Result<(), Interruption> {
        match self.go_past_store(error) {
            Err(FillError::Busy { .. }) => Err(Interruption::NeedsPermit),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }

    /// Holds the size that upstream tells against the manifest's, or against what it told before.
    pub(super) fn learn_size(&self, told: Option<u64>) -> Result<(), FillError> {
        let known = self.task.expected_size.or(self.task.fill.size_bytes());
        match (known, told) {
            (Some(expected), Some(actual)) if expected != actual => Err(self.wrong_size(expected, actual)),
            (known, told) => {
                let size = known.or(told);
                self.task.fill.advance(|progress| progress.size_bytes = size);
                Ok(())
            }
        }
    }

    pub(super) fn learn_least_size(&self, seen: u64) -> Result<(), FillError> {
        match self.task.fill.size_bytes() {
            Some(expected) if seen > expected => Err(self.wrong_size(expected, seen)),
            Some(_) | None => Ok(()),
        }
    }

    fn end_of_body(&self) -> Result<(), Interruption> {
        let seen = self.verifier.seen();
        match self.task.fill.size_bytes() {
            Some(expected) if seen != expected => Err(self.wrong_size(expected, seen).into()),
            Some(_) | None => Ok(()),
        }
    }

    fn wrong_size(&self, expected: u64, actual: u64) -> FillError {
        FillError::Size {
            digest: self.task.fill.digest.clone(),
            expected,
            actual,
        }
    }
}

/// A broken connection is resumed; an upstream that is away only for a blob that has begun to arrive.
fn may_resume(error: &UpstreamError, has_begun: bool) -> bool {
    match error.class() {
        UpstreamErrorClass::Broken => true,
        UpstreamErrorClass::Unavailable | UpstreamErrorClass::Limited => has_begun,
        UpstreamErrorClass::NotFound
        | UpstreamErrorClass::Denied
        | UpstreamErrorClass::Invalid
        | UpstreamErrorClass::Refused => false,
    }
}
