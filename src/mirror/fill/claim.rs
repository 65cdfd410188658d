//! Whose fill it is: this mirror's, or that of another one, whose file is read as it grows.
//!
//! A follower hashes what it reads, whoever wrote it: its clients get the last byte only when the blob is in the store and
//! all that they were sent has the digest. So it may go on in the file of another owner, who has taken over.

use std::future::pending;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::task::{FillTask, Flight, RESERVED_FOR_UNKNOWN};
use super::writer::Writer;
use super::{Fill, FillError, Stage, Standing};
use crate::flight::{Claim, ClaimKey, Entered, Following, News, Work};
use crate::fs::{self, Disk, FsError, OpenFile, StagedFile};
use crate::mirror::{MirrorError, MirrorErrorClass};
use crate::oci::Verifier;
use crate::telemetry::full_text;
use crate::upstream::UpstreamErrorClass;

/// How often a file is looked at that grows; on some file systems it is seen up to three seconds late (facts/dfs.md 2c).
const GROWTH_POLL: Duration = Duration::from_millis(100);

/// How much of another owner's file is read at a time.
const READ_BYTES: usize = 1 << 20;

/// How much of a dead owner's file is copied in one call of the store.
const COPY_BYTES: usize = 8 << 20;

type IsDone = Pin<Box<dyn Future<Output = Result<bool, FsError>> + Send>>;

/// What an owner tells those who wait for it.
#[derive(Debug, Serialize, Deserialize)]
struct Reason {
    /// Of which repository upstream was asked: another one may fare better.
    repository: String,
    outcome: Outcome,
    text: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    NotFound,
    BadUpstream,
    Limited { retry_after_seconds: u64 },
}

impl Outcome {
    fn class(self) -> MirrorErrorClass {
        match self {
            Self::NotFound => MirrorErrorClass::NotFound,
            Self::BadUpstream => MirrorErrorClass::BadUpstream,
            Self::Limited { retry_after_seconds } => MirrorErrorClass::Unavailable {
                retry_after: Some(Duration::from_secs(retry_after_seconds)),
            },
        }
    }
}

/// The file of another owner.
struct Source {
    path: PathBuf,
    file: Option<Arc<OpenFile>>,
    /// Readers of this fill may read it too: it has all that they may have.
    is_shown: bool,
}

impl FillTask {
    fn claim_key(&self) -> ClaimKey {
        let Fill {
            repository, digest, ..
        } = &*self.fill;
        let key = self.mirror.fill_key(&repository.host, digest);
        ClaimKey::blob(digest, key.stranger.as_ref())
    }

    /// Tells whether the blob is in the store, whoever has brought it.
    fn is_done(&self) -> impl Fn() -> IsDone + Send + Sync + 'static {
        let (mirror, digest) = (Arc::clone(&self.mirror), self.fill.digest.clone());
        move || {
            let (disk, store, digest) = (mirror.disk.clone(), mirror.store.clone(), digest.clone());
            Box::pin(async move {
                let path = store.blob_path(&digest);
                let stat = disk.run("stat", &path, move || store.stat_blob(&digest));
                Ok(stat.await?.is_some())
            })
        }
    }
}

impl Flight<'_> {
    /// Settles which mirror fills the blob, and follows another one to the end; tells whether the blob is there then.
    pub(super) async fn take_turn(&mut self) -> Result<bool, FillError> {
        let mirror = Arc::clone(&self.task.mirror);
        // Who does not believe others' bytes fetches them for itself.
        let shares = self.task.standing != Standing::Untrusted;
        let Some(claims) = mirror.peers.claims().filter(|_| shares) else {
            return self.stage().await.map(|()| false);
        };
        match claims.enter(&self.task.claim_key(), self.task.is_done()).await {
            Ok(entered) => self.go_by(entered).await,
            Err(error) => self.go_past_store(error).map(|()| false),
        }
    }

    async fn go_by(&mut self, entered: Entered<Disk>) -> Result<bool, FillError> {
        match entered {
            Entered::Done => self.end_following().await.map(|()| true),
            Entered::Ours(claim) => self.own(claim).await.map(|()| false),
            Entered::Theirs(following) => self.follow(following).await,
        }
    }

    /// Follows another owner; tells whether the blob is there then, or this mirror's to fill.
    pub(super) async fn follow(&mut self, mut following: Following<Disk>) -> Result<bool, FillError> {
        let FillTask { upstream, fill, .. } = self.task;
        if self.task.standing == Standing::Unknown {
            upstream.head_blob(&fill.repository.name, &fill.digest).await?;
        }
        loop {
            let entered = match self.read_along(&mut following).await? {
                Ok(News::Failed(failed)) => {
                    let reason = serde_json::from_slice::<Reason>(&failed.reason);
                    if let Ok(reason) = reason
                        && reason.repository == fill.repository.to_string()
                    {
                        return Err(FillError::Told {
                            class: reason.outcome.class(),
                            text: reason.text,
                        });
                    }
                    failed.try_anew(self.task.is_done()).await
                }
                Ok(News::Ours(claim)) => Ok(Entered::Ours(claim)),
                Ok(News::Done | News::Owner(_)) => Ok(Entered::Done),
                Err(error) => Err(error),
            };
            following = match entered {
                Ok(Entered::Theirs(following)) => following,
                Ok(Entered::Ours(claim)) => return self.own(claim).await.map(|()| false),
                Ok(Entered::Done) => return self.end_following().await.map(|()| true),
                // Whoever fills it may fare better, but is not seen.
                Err(error) => return self.go_past_store(error).map(|()| false),
            };
        }
    }

    /// Takes in what owners write until one has ended; the inner error is the store's.
    async fn read_along(
        &mut self,
        following: &mut Following<Disk>,
    ) -> Result<Result<News<Disk>, FsError>, FillError> {
        let mut source: Option<Source> = None;
        loop {
            let next = following.next(self.task.is_done());
            tokio::pin!(next);
            let news = loop {
                let Some(source) = &mut source else {
                    break next.await;
                };
                tokio::select! {
                    biased;
                    news = &mut next => break news,
                    read = self.read_more(source) => match read {
                        Some(bytes) => self.take_followed(bytes)?,
                        None => tokio::select! {
                            biased;
                            news = &mut next => break news,
                            () = sleep(GROWTH_POLL) => {}
                        },
                    },
                }
            };
            match news {
                Ok(News::Owner(work)) => {
                    self.learn_size(work.size_bytes)?;
                    if source.as_ref().is_none_or(|source| source.path != work.file) {
                        source = Some(Source {
                            path: work.file,
                            file: None,
                            is_shown: false,
                        });
                    }
                }
                ended => return Ok(ended),
            }
        }
    }

    /// Reads what has been written beyond what this fill has; `None` if there is nothing, or it cannot be read now.
    async fn read_more(&self, source: &mut Source) -> Option<Bytes> {
        let FillTask { mirror, fill, .. } = self.task;
        let position = self.verifier.seen();
        let (known, path) = (source.file.clone(), source.path.clone());
        let read = move || {
            let file = match known {
                Some(file) => file,
                None => match fs::open(&path)? {
                    Some(file) => Arc::new(file),
                    None => return Ok(None),
                },
            };
            let mut buffer = BytesMut::zeroed(READ_BYTES);
            let count = file
                .read_at(&mut buffer, position)
                .map_err(|error| FsError::new("read", &path, error))?;
            buffer.truncate(count);
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            Ok(Some((file, buffer.freeze(), length)))
        };
        match mirror.disk.run("read", &source.path, read).await {
            Ok(Some((file, bytes, length))) => {
                // Before, its owner still copies what another one had.
                if !source.is_shown && length >= position {
                    fill.window().attach(Arc::clone(&file));
                    fill.advance(|progress| progress.stage = Stage::Receiving);
                    source.is_shown = true;
                }
                source.file = Some(file);
                (!bytes.is_empty()).then_some(bytes)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::debug!(error = error.full_text(), "another mirror's file is not read");
                source.file = None;
                None
            }
        }
    }

    /// Takes in bytes that another owner's file has.
    fn take_followed(&mut self, bytes: Bytes) -> Result<(), FillError> {
        self.verifier.update(&bytes);
        let seen = self.verifier.seen();
        self.learn_least_size(seen)?;
        let fill = &self.task.fill;
        {
            let mut window = fill.window();
            let count = bytes.len() as u64;
            window.push(bytes);
            window.note_written(count);
            window.has_room(self.window.bytes() / 2, self.window.bytes());
        }
        fill.advance(|progress| progress.received = seen);
        Ok(())
    }

    /// Shows the blob that is in the store now; what was taken in before must have been its beginning.
    async fn end_following(&mut self) -> Result<(), FillError> {
        let FillTask { mirror, fill, .. } = self.task;
        let blob = match self.open_stored().await {
            Ok(Some(blob)) => blob,
            Ok(None) => return Err(FillError::Abandoned),
            Err(error) => return Err(FillError::Unwanted(error)),
        };
        if self.verifier.seen() == 0 {
            if !self.may_take(blob.size_bytes).await? {
                return Err(FillError::Abandoned);
            }
            self.show(&blob);
            return Ok(());
        }
        let path = mirror.store.blob_path(&fill.digest);
        let mut source = Source {
            path,
            file: Some(Arc::clone(&blob.file)),
            is_shown: false,
        };
        while self.verifier.seen() < blob.size_bytes {
            match self.read_more(&mut source).await {
                Some(bytes) => self.take_followed(bytes)?,
                None => return Err(FillError::Abandoned),
            }
        }
        let verifier = std::mem::replace(&mut self.verifier, Verifier::new(fill.digest.clone()));
        if let Err(error) = verifier.finish() {
            let error = full_text(&error);
            tracing::warn!(digest = %fill.digest, error, "another mirror wrote something else; its readers are cut");
            return Err(FillError::Abandoned);
        }
        self.show(&blob);
        Ok(())
    }

    /// Makes the blob this mirror's to fill: with what others have left of it.
    async fn own(&mut self, claim: Claim<Disk>) -> Result<(), FillError> {
        let FillTask { mirror, fill, .. } = self.task;
        if mirror.health.is_suspect() {
            self.take_permit()?;
        }
        let staged = match self.stage_at(claim.file(), claim.left()).await {
            Ok(staged) => staged,
            Err(error) => return self.go_past_store(error),
        };
        let Copied { staged, verifier } = staged;
        let have = verifier.seen();
        if have < self.verifier.seen() {
            // They are visible no more: whoever read them asks anew.
            return Err(FillError::Abandoned);
        }
        self.verifier = verifier;
        fill.window().go_on_in(staged.reader(), have);
        if have > 0 {
            tracing::info!(digest = %fill.digest, bytes = have, "going on with what another mirror had");
            fill.advance(|progress| {
                progress.stage = Stage::Receiving;
                progress.received = have;
            });
        }
        self.has_copied = have > 0;
        self.writer = Some(Writer::new(staged, mirror.disk.deadline(), mirror.peers.beats()));
        self.claim = Some(claim);
        Ok(())
    }

    /// Stages a file that begins with the longest of what others have left.
    async fn stage_at(&self, path: PathBuf, left: &[Work]) -> Result<Copied, FsError> {
        let FillTask {
            mirror,
            fill,
            expected_size,
            ..
        } = self.task;
        let (store, digest) = (mirror.store.clone(), fill.digest.clone());
        let reserved = expected_size.unwrap_or(RESERVED_FOR_UNKNOWN);
        let (target, left) = (path.clone(), left.to_vec());
        let staging = mirror.disk.run("stage", &path, move || {
            let staged = store.stage_at(target)?;
            staged.reserve(reserved)?;
            let longest = left.iter().filter_map(|work| {
                let file = fs::open(&work.file).ok()??;
                let length = file.metadata().ok()?.len();
                Some((length, Arc::new(file)))
            });
            let longest = longest.max_by_key(|(length, _)| *length).map(|(_, file)| file);
            let verifier = Verifier::new(digest);
            Ok((Copied { staged, verifier }, longest))
        });
        let (mut copied, source) = staging.await?;
        let Some(source) = source else {
            return Ok(copied);
        };
        loop {
            let before = copied.verifier.seen();
            let source = Arc::clone(&source);
            let copy = move || copied.copy_from(&source).map(|()| copied);
            copied = mirror.disk.run("copy", &path, copy).await?;
            if copied.verifier.seen() == before {
                return Ok(copied);
            }
        }
    }

    /// Waits until another mirror has taken this one's fill over; never of a fill that is this mirror's alone.
    pub(super) fn overtaken(&self) -> impl Future<Output = Following<Disk>> + Send + use<> {
        let overtaken = self.claim.as_ref().map(Claim::overtaken);
        async move {
            match overtaken {
                Some(overtaken) => overtaken.await,
                None => pending().await,
            }
        }
    }

    /// Tells other mirrors the blob's size, if no manifest tells them.
    pub(super) fn tell_size(&self, size: Option<u64>) {
        if self.task.expected_size.is_none()
            && let (Some(claim), Some(size)) = (&self.claim, size)
        {
            tokio::spawn(claim.tell_size(size));
        }
    }

    /// Leaves the fill to the mirror that has taken it over: what has arrived is written, and stays readable.
    pub(super) async fn leave_to_other(&mut self) -> Result<(), FillError> {
        self.claim = None;
        let fill = &self.task.fill;
        while let Some(writer) = &mut self.writer {
            writer.start(&fill.window());
            if !writer.is_busy() {
                break;
            }
            match writer.written().await {
                Ok(count) => fill.window().note_written(count),
                Err(error) => return self.go_past_store(error),
            }
        }
        self.writer = None;
        Ok(())
    }

    /// Lets those who wait for this fill know why it failed, if they would fare no better.
    pub(super) async fn tell_failure(&mut self, error: &FillError) {
        let Some(claim) = self.claim.take() else {
            return;
        };
        let outcome = match MirrorError::from(error.clone()).class() {
            // With what another one had: that may have been at fault.
            MirrorErrorClass::BadUpstream if self.has_copied => None,
            MirrorErrorClass::NotFound => Some(Outcome::NotFound),
            MirrorErrorClass::BadUpstream => Some(Outcome::BadUpstream),
            MirrorErrorClass::Unavailable {
                retry_after: Some(after),
            } if matches!(error, FillError::Upstream(error) if error.class() == UpstreamErrorClass::Limited) => {
                Some(Outcome::Limited {
                    retry_after_seconds: after.as_secs(),
                })
            }
            MirrorErrorClass::Refused | MirrorErrorClass::Unavailable { .. } => None,
        };
        let Some(outcome) = outcome else {
            return claim.give_up().await;
        };
        let reason = Reason {
            repository: self.task.fill.repository.to_string(),
            outcome,
            text: full_text(error),
        };
        // It is made of texts and numbers.
        claim.fail(serde_json::to_vec(&reason).unwrap_or_default()).await;
    }
}

/// A staged file, and the proof of what it has so far.
struct Copied {
    staged: StagedFile,
    verifier: Verifier,
}

impl Copied {
    /// Appends what comes next in another file. Blocks.
    fn copy_from(&mut self, source: &OpenFile) -> Result<(), FsError> {
        let mut buffer = vec![0; COPY_BYTES];
        // What cannot be read is fetched.
        let Ok(count) = source.read_at(&mut buffer, self.verifier.seen()) else {
            return Ok(());
        };
        self.staged.write(&[&buffer[..count]])?;
        self.verifier.update(&buffer[..count]);
        Ok(())
    }
}
