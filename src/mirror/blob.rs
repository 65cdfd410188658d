//! Opens a blob for a client: from the store, or from the one fill that brings it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::body::FileStream;
use super::fill::{Fill, FillError, FillKey, FillTask, Standing};
use super::negative::Asked;
use super::tail::Tail;
use super::{Inner, Mirror, MirrorError, UPSTREAM_WAIT};
use crate::flight::{Leader, Seat};
use crate::fs::{FsError, OpenFile};
use crate::index::Member;
use crate::oci::{ByteRange, Digest, RangeOutcome, Repository};
use crate::telemetry::labels::BlobResult;
use crate::upstream::Upstream;

/// How long a client waits for upstream's answer before it gets its headers on the manifest's word.
///
/// containerd waits 30 s for headers; an error that comes before them can still be told.
const HEADERS_WAIT: Duration = Duration::from_secs(10);

/// How often a client joins anew because the fill that it followed failed for somebody else's reason.
const MAX_JOINS: usize = 4;

/// A blob that a client may read.
pub struct OpenBlob {
    /// The blob's size; not known if neither a manifest nor upstream tells it.
    pub size_bytes: Option<u64>,
    source: Source,
}

enum Source {
    Stored(StoredFile),
    Filling(Tail),
}

/// The bytes of a blob, or of a part of it.
pub struct BlobStream(Origin);

enum Origin {
    Stored(FileStream, Box<StoredFile>),
    Filling(Box<Tail>),
}

/// The file of a blob in the store.
struct StoredFile {
    mirror: Arc<Inner>,
    digest: Digest,
    file: Arc<OpenFile>,
}

/// A blob that is to be brought, and what is known of it.
pub(super) struct Wanted<'a> {
    pub(super) upstream: Upstream,
    pub(super) repository: &'a Repository,
    pub(super) digest: &'a Digest,
    /// What a manifest says of its size.
    pub(super) expected_size: Option<u64>,
    pub(super) standing: Standing,
}

impl Wanted<'_> {
    /// Makes a fill that nobody works on yet.
    pub(super) fn fill(&self) -> Fill {
        Fill::new(self.repository.clone(), self.digest.clone())
    }
}

/// What the store says of a blob.
enum Lookup {
    Stored(Arc<OpenFile>, u64),
    Missing,
    /// The store fails, or what it has is damaged.
    Failing,
}

impl Mirror {
    /// Opens a blob as a client of `repository` asks for it, to be read from where `range` begins.
    ///
    /// A blob that is not there is filled, once for all who ask.
    ///
    /// # Errors
    /// What upstream answers, and [`FillError::Busy`] if the store fails and too many blobs are
    /// streamed past it already. Cancelling it ends no fill.
    pub async fn open_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<OpenBlob, MirrorError> {
        let opened = self.inner.open_blob(repository, digest, range).await;
        let result = match &opened {
            Ok((_, result)) => *result,
            Err(_) => BlobResult::Error,
        };
        self.inner.metrics.blob(result);
        opened.map(|(blob, _)| blob)
    }

    /// Returns the size of a blob as far as it is known, without starting a fill.
    ///
    /// # Errors
    /// What upstream answers, which is asked if the store does not have the blob.
    pub async fn stat_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, MirrorError> {
        let inner = &self.inner;
        if let Some(member) = inner.member(repository, digest).await
            && inner.may_share(&repository.host, digest).await
            && let Lookup::Stored(_, size) = inner.look_up(digest, Some(member)).await
        {
            return Ok(Some(size));
        }
        let under_way = inner
            .fills
            .get(&inner.fill_key(&repository.host, digest))
            .filter(|fill| fill.repository == *repository);
        if let Some(size) = under_way.and_then(|fill| fill.size_bytes()) {
            return Ok(Some(size));
        }
        inner.ask_for_blob(repository, digest).await
    }
}

impl OpenBlob {
    /// Reads the bytes from `start` up to `end`, or to the blob's end.
    pub fn read(self, start: u64, end: Option<u64>) -> BlobStream {
        match self.source {
            Source::Stored(stored) => {
                let end = end.or(self.size_bytes).unwrap_or(start);
                let file = Arc::clone(&stored.file);
                let stream = FileStream::new(file, start..end, &stored.mirror.buffers);
                BlobStream(Origin::Stored(stream, Box::new(stored)))
            }
            Source::Filling(mut tail) => {
                tail.set_range(start, end);
                BlobStream(Origin::Filling(Box::new(tail)))
            }
        }
    }
}

impl BlobStream {
    /// Returns the next bytes; `None` at the end of what was asked for.
    ///
    /// # Errors
    /// What the store or the fill failed with: the client's connection must be cut then.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match &mut self.0 {
            Origin::Stored(stream, stored) => {
                let next = stream.next().await;
                next.map_err(|error| stored.mirror.note_unreadable(&stored.digest, error))
            }
            Origin::Filling(tail) => tail.next().await,
        }
    }
}

impl Inner {
    pub(super) async fn open_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<(OpenBlob, BlobResult), MirrorError> {
        let asked = Asked::Blob(repository.clone(), digest.clone());
        let mut last = MirrorError::Fill(FillError::Abandoned);
        for _ in 0..MAX_JOINS {
            let member = self.member(repository, digest).await;
            let may_share = self.may_share(&repository.host, digest).await;
            let found = self.look_up(digest, member).await;
            let store_fails = matches!(found, Lookup::Failing);
            if let Lookup::Stored(file, size) = found
                && may_share
            {
                if member.is_none() {
                    self.ask_for_blob(repository, digest).await?;
                }
                let blob = OpenBlob {
                    size_bytes: Some(size),
                    source: Source::Stored(StoredFile {
                        mirror: Arc::clone(self),
                        digest: digest.clone(),
                        file,
                    }),
                };
                return Ok((blob, BlobResult::Hit));
            }
            if let Some(error) = self.negatives.get(&asked) {
                return Err(error);
            }
            let wanted = Wanted {
                upstream: self.upstream(&repository.host)?,
                repository,
                digest,
                expected_size: member.and_then(|member| member.size_bytes),
                standing: Standing::of(member, may_share),
            };
            let (mut tail, result) = self.join_fill(&wanted);
            let is_others = tail.fill().repository != *repository;
            if is_others {
                match wanted.standing {
                    Standing::Member => {}
                    Standing::Unknown => drop(self.ask_for_blob(repository, digest).await?),
                    Standing::Untrusted => tail = self.stream_alone(&wanted),
                }
            }
            let answer = self.await_answer(tail, &wanted, range, store_fails);
            let answer = timeout(UPSTREAM_WAIT, answer);
            match answer.await.map_err(|_| MirrorError::Slow)? {
                Ok((blob, true)) => return Ok((blob, BlobResult::Uncached)),
                Ok((blob, false)) => return Ok((blob, result)),
                Err(FillError::Abandoned | FillError::Unwanted(_)) => {}
                // The leader asked as a client of another repository: this one may fare better.
                Err(error) if is_others => last = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last)
    }

    /// Waits until the fill has something to tell, and opens the blob on it; tells whether it goes past the store.
    async fn await_answer(
        self: &Arc<Self>,
        mut tail: Tail,
        wanted: &Wanted<'_>,
        range: Option<ByteRange>,
        store_fails: bool,
    ) -> Result<(OpenBlob, bool), FillError> {
        let answered = match wanted.expected_size.or(tail.fill().size_bytes()) {
            Some(size) => match timeout(HEADERS_WAIT, tail.answered()).await {
                Ok(answered) => answered?,
                Err(_) => Some(size),
            },
            None => tail.answered().await?,
        };
        // An empty blob has no last byte to hold back: its headers alone would be taken for the whole.
        if answered == Some(0) {
            tail.verified().await?;
        }
        let start = match (range, answered) {
            (Some(range), Some(size)) => match range.within(size) {
                RangeOutcome::Satisfiable { start, .. } => start,
                RangeOutcome::Unsatisfiable => size,
            },
            _ => 0,
        };
        // Before it is asked what the window holds: it keeps what a reader who is there needs.
        tail.set_range(start, None);
        // What is only in the staged file cannot be counted on while the store fails.
        let can_be_read = {
            let window = tail.fill().window();
            window.holds_from(start) || (!store_fails && window.can_be_read_from(start))
        };
        if !can_be_read {
            tail = self.stream_alone(wanted);
            tail.answered().await?;
        }
        let is_uncached = tail.fill().is_uncached();
        let blob = OpenBlob {
            size_bytes: answered,
            source: Source::Filling(tail),
        };
        Ok((blob, is_uncached))
    }

    /// Starts the fill of a blob, or follows the one under way.
    fn join_fill(self: &Arc<Self>, wanted: &Wanted<'_>) -> (Tail, BlobResult) {
        let key = self.fill_key(&wanted.repository.host, wanted.digest);
        match self.fills.join(key, || wanted.fill()) {
            Seat::Follower(fill) => {
                let tail = Tail::new(fill, self.buffers.clone(), Some(self.metrics.follower()));
                (tail, BlobResult::Follow)
            }
            Seat::Leader(leader) => {
                // The reader is there before the task starts, which would end without any.
                let tail = Tail::new(Arc::clone(leader.flight()), self.buffers.clone(), None);
                let fill = Arc::clone(leader.flight());
                tokio::spawn(self.fill_task(wanted, fill, Some(leader)).run());
                (tail, BlobResult::Fill)
            }
        }
    }

    /// Streams a blob for one client, who cannot share what others have: it goes past the store.
    fn stream_alone(self: &Arc<Self>, wanted: &Wanted<'_>) -> Tail {
        let fill = Arc::new(wanted.fill());
        let tail = Tail::new(Arc::clone(&fill), self.buffers.clone(), None);
        tokio::spawn(self.fill_task(wanted, fill, None).run());
        tail
    }

    pub(super) fn fill_task(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        fill: Arc<Fill>,
        leader: Option<Leader<FillKey, Fill>>,
    ) -> FillTask {
        FillTask {
            mirror: Arc::clone(self),
            upstream: wanted.upstream.clone(),
            fill,
            leader,
            expected_size: wanted.expected_size,
            standing: wanted.standing,
        }
    }

    /// Asks upstream whether a repository has a blob, once for all who want to know; returns its size.
    async fn ask_for_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, MirrorError> {
        let asked = Asked::Blob(repository.clone(), digest.clone());
        if let Some(error) = self.negatives.get(&asked) {
            return Err(error);
        }
        let upstream = self.upstream(&repository.host)?;
        let find = || {
            let (inner, upstream) = (Arc::clone(self), upstream.clone());
            let (repository, digest, asked) = (repository.clone(), digest.clone(), asked.clone());
            async move {
                match upstream.head_blob(&repository.name, &digest).await {
                    Ok(head) => {
                        // Not the size: the bytes must be held against a manifest's word, or none.
                        inner.index.add(&repository, &[(digest, None)]);
                        Ok(head.size_bytes)
                    }
                    Err(error) => Err(inner.negatives.noted(asked, error.into())),
                }
            }
        };
        let asking = self.blob_heads.ask((repository.clone(), digest.clone()), find);
        self.in_time(asking).await
    }

    /// Counts a failed read of a stored blob, which its next readers are to get from upstream.
    fn note_unreadable(&self, digest: &Digest, source: io::Error) -> io::Error {
        let error = FsError::new("read", &self.store.blob_path(digest), source);
        self.note_store_error(&error);
        self.unreadable.note(digest);
        io::Error::other(error)
    }

    /// Opens a blob in the store; a failing store is counted, and is never a miss.
    async fn look_up(&self, digest: &Digest, member: Option<Member>) -> Lookup {
        if !self.offline && self.unreadable.contains(digest) {
            return Lookup::Failing;
        }
        let (store, wanted) = (self.store.clone(), digest.clone());
        let path = store.blob_path(digest);
        let opened = self
            .disk
            .run("open", &path, move || store.open_blob(&wanted))
            .await;
        let expected = member.and_then(|member| member.size_bytes);
        match opened {
            Ok(Some(blob)) => match expected {
                Some(expected) if expected != blob.size_bytes => {
                    let text = format!("it has {} bytes and not {expected}; remove it", blob.size_bytes);
                    self.note_store_error(&FsError::new("trust", &path, io::Error::other(text)));
                    Lookup::Failing
                }
                Some(_) | None => Lookup::Stored(blob.file, blob.size_bytes),
            },
            Ok(None) => Lookup::Missing,
            Err(error) => {
                self.note_store_error(&error);
                Lookup::Failing
            }
        }
    }
}
