//! Claims: of many mirrors that share one store and nothing else, one does the work.
//!
//! What is claimed has a directory, and in it one for each generation of owners:
//!
//! ```text
//! staging/claims/<key>/<generation>/            made by mkdir, which one wins: the owner
//!                      owner@<owner>@<file>     who it is, and which file in its own work directory grows
//!                      size@<bytes>             what the file will have, once that is known
//!                      failed                   why there will be nothing: read by those who wait, and cleared soon
//! mirrors/<owner>/beat@<number>                 a new name every two seconds, as long as the owner lives (`beats`)
//! ```
//!
//! ```text
//!            ┌── nobody: mkdir 0 ──→ won ──→ is it done? ── no ──→ owner ──→ published ──→ cleared
//! the names ─┤                        │            └── yes ──→ cleared       └──→ failed ──→ cleared
//!            └── generation n ←───────┘ lost
//!                     └──→ follower ──→ it is there, or it failed
//!                              ├──→ generation n+1 is there: its follower
//!                              └──→ no beat for `stall_timeout`: mkdir n+1 ──→ won: owner, with what n has left
//! ```
//!
//! Why each race ends well. Nothing here makes anything right: what is published is verified, has its name by its
//! content, and comes by a rename, so two owners who finish publish the same. Claims save work.
//!
//! - *Two claim at once*: mkdir has one winner; the others see its generation, also before its owner's name is there.
//! - *One looks, finds nothing, and claims when it has been done and cleared meanwhile*: whoever wins looks for what was to
//!   be done once more. A name that is published is seen everywhere within about 10 ms; claims are cleared a second later.
//! - *The owner dies, or its node does*: no beat comes. Whoever waits counts the time, but only between listings that were
//!   answered: a file system that hangs for the one who waits says nothing of the owner. The next generation is claimed
//!   beside the first, which stays: or a latecomer would win it again. What the dead one wrote is copied, never
//!   continued: if it wakes up, it finds its own files and nobody else's.
//! - *The owner was only slow*: it finds a higher generation, or its own gone, stops, and follows whoever is there. If it does
//!   not look in time, both finish.
//! - *Two find it dead at once*: mkdir of the next generation has one winner.
//! - *The owner fails* (upstream has no such blob, say): it says so in its own generation, which is then over. Those who
//!   wait read it; one for whom the reason does not count claims the next generation.
//! - *Clearing while somebody claims*: the directory of the key is renamed away as a whole, so a claim is in it or in a new
//!   one. One that was in it is lost, and with it a moment of nobody knowing that its owner works: work is done twice.
//! - *Left claims* (the owner died, and nobody waited): the next who asks waits as any follower, or not at all if the owner
//!   is known to be dead: its directory of beats is gone, as after an orderly end.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::beats::{Beats, Owning, Watch};
use super::rule::{Rule, is_kept};
use crate::fs::{Calls, FsError, random_name};
use crate::oci::{Algorithm, DiffId, Digest, RegistryHost};

/// How often a claim is tried anew because others came and went meanwhile.
const MAX_RACES: usize = 16;

/// How often who waits looks at the names, and the owner whether it has been overtaken.
const POLL: Duration = Duration::from_secs(1);

/// The first looks come sooner: most work is small.
const FIRST_POLL: Duration = Duration::from_millis(50);

/// How long after it is done a claim is cleared: who looks meanwhile sees what was published.
const CLEARED_AFTER: Duration = Duration::from_secs(1);

/// How long those who wait have to read a failure.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

const FAILED: &str = "failed";

/// The directories of a store in which its mirrors agree.
#[derive(Clone, Debug)]
pub struct Places {
    /// Has a directory for each claimed key.
    pub claims: PathBuf,
    /// Has a directory for each mirror.
    pub mirrors: PathBuf,
    /// Has a directory for each owner's work in progress.
    pub work: PathBuf,
    /// This process's name in the two above: no other has it, or will.
    pub owner: String,
}

/// What is claimed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey(String);

impl ClaimKey {
    /// Names the fill of a blob; apart for a host that is not configured, whose bytes only its own clients wait for.
    pub fn blob(digest: &Digest, stranger: Option<&RegistryHost>) -> Self {
        let name = format!("blob-{}-{}", digest.algorithm().as_str(), digest.hex());
        match stranger {
            // By a digest, for a name has at most 255 bytes.
            Some(host) => {
                let host = Digest::of(Algorithm::Sha256, host.as_str().as_bytes());
                Self(format!("{name}-{}", &host.hex()[..16]))
            }
            None => Self(name),
        }
    }

    /// Names the extraction of a layer.
    pub fn layer(diff_id: &DiffId) -> Self {
        let digest = diff_id.digest();
        Self(format!("layer-{}-{}", digest.algorithm().as_str(), digest.hex()))
    }
}

/// Tells whether what is claimed has been done; of another's call, so by the final name.
pub trait IsDone: Fn() -> Self::Future + Send + Sync {
    /// The answer.
    type Future: Future<Output = Result<bool, FsError>> + Send;
}

impl<T, A> IsDone for T
where
    T: Fn() -> A + Send + Sync,
    A: Future<Output = Result<bool, FsError>> + Send,
{
    type Future = A;
}

/// The claims of one mirror. Cheap to clone.
#[derive(Clone)]
pub struct Claims<C: Calls> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Calls> {
    calls: C,
    places: Places,
    beats: Beats<C>,
    stall_timeout: Duration,
}

/// What came of asking for a claim.
pub enum Entered<C: Calls> {
    /// The work is done.
    Done,
    /// It is this mirror's.
    Ours(Claim<C>),
    /// It is another one's.
    Theirs(Following<C>),
}

/// What a follower has to know.
pub enum News<C: Calls> {
    /// The work is done.
    Done,
    /// There is an owner, another one than before, or more is known of its work.
    Owner(Work),
    /// It failed, for this reason.
    Failed(Failed<C>),
    /// It is this mirror's now.
    Ours(Claim<C>),
}

/// The work of an owner, as far as it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub generation: u64,
    /// The file that grows.
    pub file: PathBuf,
    /// How many bytes it will have.
    pub size_bytes: Option<u64>,
}

/// A mirror's right to do something, and its duty to say what came of it. Dropped, it is given up.
pub struct Claim<C: Calls> {
    claims: Claims<C>,
    key: ClaimKey,
    generation: u64,
    /// The name in this process's work directory under which others find what it writes.
    file: String,
    left: Vec<Work>,
    is_told: bool,
    held: Arc<()>,
    /// Others see that this mirror is alive.
    _owning: Owning<C>,
}

/// A mirror's waiting for another one's work.
pub struct Following<C: Calls> {
    claims: Claims<C>,
    key: ClaimKey,
    /// What was told of the owner.
    told: Option<Work>,
    /// Whose beats are watched: a generation, and its owner once that is known.
    watched: Option<(u64, Option<String>)>,
    watch: Watch,
    poll: Duration,
}

/// A failure that was read.
pub struct Failed<C: Calls> {
    /// What the owner has written about it.
    pub reason: Vec<u8>,
    following: Following<C>,
    generation: u64,
}

/// What the names of a key say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    generation: u64,
    owner: Option<String>,
    work: Option<Work>,
    has_failed: bool,
}

impl<C: Calls> Claims<C> {
    /// Makes the claims of the mirror whose name is in `places`, and which has begun to beat.
    ///
    /// An owner is taken for dead that has not beaten for `stall_timeout`.
    pub fn new(calls: C, places: Places, beats: Beats<C>, stall_timeout: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                calls,
                places,
                beats,
                stall_timeout,
            }),
        }
    }

    /// Claims something, or tells who has. `is_done` is asked after a claim is won, and says whether the final name is there.
    ///
    /// # Errors
    /// Any errno, and that of `is_done`; there is no claim then.
    pub async fn enter(&self, key: &ClaimKey, is_done: impl IsDone) -> Result<Entered<C>, FsError> {
        for _ in 0..MAX_RACES {
            if self.top(key).await?.is_some() {
                return Ok(Entered::Theirs(Following::new(self, key)));
            }
            if let Some(entered) = self.claim(key, 0, &is_done).await? {
                return Ok(entered);
            }
        }
        // Others come and go faster than this one looks; what they do will be seen.
        Ok(Entered::Theirs(Following::new(self, key)))
    }

    /// Tries to become the owner of one generation; `None` if somebody else has, or the claims were cleared.
    async fn claim(
        &self,
        key: &ClaimKey,
        generation: u64,
        is_done: &impl IsDone,
    ) -> Result<Option<Entered<C>>, FsError> {
        let (calls, dir) = (&self.inner.calls, self.dir(key));
        let own = dir.join(generation_name(generation));
        if generation == 0 {
            calls.make_dir(&dir).await?;
        }
        match calls.make_dir(&own).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            // Cleared in between.
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut claim = Claim {
            claims: self.clone(),
            key: key.clone(),
            generation,
            file: random_name(),
            left: Vec::new(),
            is_told: false,
            held: Arc::default(),
            _owning: self.inner.beats.own(),
        };
        if is_kept(Rule::SecondLook) && is_done().await? {
            claim.is_told = true;
            claim.clear(Duration::ZERO).await;
            return Ok(Some(Entered::Done));
        }
        let name = format!("owner@{}@{}", self.inner.places.owner, claim.file);
        match calls.make_name(&own.join(name)).await {
            Ok(()) => {}
            Err(error) if error.is_missing() => {
                claim.is_told = true;
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        for lower in (0..generation).rev() {
            claim.left.extend(self.look(key, lower).await?.work);
            if !is_kept(Rule::LowerStay) {
                calls.remove_tree(&dir.join(generation_name(lower))).await?;
            }
        }
        Ok(Some(Entered::Ours(claim)))
    }

    /// Returns what the names say of the highest generation; `None` if there is none.
    async fn top(&self, key: &ClaimKey) -> Result<Option<Seen>, FsError> {
        match self.top_generation(key).await? {
            Some(generation) => Ok(Some(self.look(key, generation).await?)),
            None => Ok(None),
        }
    }

    async fn top_generation(&self, key: &ClaimKey) -> Result<Option<u64>, FsError> {
        let names = self.inner.calls.list(&self.dir(key)).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).max())
    }

    /// Returns what the names say of one generation.
    async fn look(&self, key: &ClaimKey, generation: u64) -> Result<Seen, FsError> {
        let dir = self.dir(key).join(generation_name(generation));
        let names = self.inner.calls.list(&dir).await?;
        Ok(Seen::read(generation, &names, &self.inner.places.work))
    }

    /// Tells whether an owner is dead: by its beats, or, as long as its name is not there, as if it gave none.
    async fn is_stalled(&self, key: &ClaimKey, seen: &Seen, watch: &mut Watch) -> Result<bool, FsError> {
        let Inner {
            beats,
            places,
            stall_timeout,
            ..
        } = &*self.inner;
        let beating = match &seen.owner {
            Some(owner) => places.mirrors.join(owner),
            None => self.dir(key).join(generation_name(seen.generation)),
        };
        let has_appeared = seen.owner.is_some();
        beats
            .is_stalled(watch, &beating, has_appeared, *stall_timeout)
            .await
    }

    /// Returns what claims are made with, and where.
    pub(super) fn parts(&self) -> (&C, &Places) {
        (&self.inner.calls, &self.inner.places)
    }

    fn dir(&self, key: &ClaimKey) -> PathBuf {
        self.inner.places.claims.join(&key.0)
    }

    fn own_work(&self) -> PathBuf {
        let places = &self.inner.places;
        places.work.join(&places.owner)
    }
}

impl<C: Calls> Claim<C> {
    /// Returns the path at which others look for what this owner writes; nothing is there yet.
    pub fn file(&self) -> PathBuf {
        if let Some(work) = self.left.first().filter(|_| !is_kept(Rule::OwnInode)) {
            return work.file.clone();
        }
        self.claims.own_work().join(&self.file)
    }

    /// Returns what earlier owners have left, the latest first: to be copied, never to be written.
    pub fn left(&self) -> &[Work] {
        &self.left
    }

    /// Tells those who wait how many bytes there will be.
    pub fn tell_size(&self, bytes: u64) -> impl Future<Output = ()> + Send + use<C> {
        let (claims, name) = (self.claims.clone(), self.own_dir().join(format!("size@{bytes}")));
        async move {
            if let Err(error) = claims.inner.calls.make_name(&name).await {
                tracing::debug!(
                    error = error.full_text(),
                    "the size of what is claimed is not told"
                );
            }
        }
    }

    /// Waits until another mirror has taken this one for dead, to follow that one, which may have done the work and cleared
    /// the claims by now. Does not return otherwise.
    pub fn overtaken(&self) -> impl Future<Output = Following<C>> + Send + use<C> {
        let (claims, key, generation) = (self.claims.clone(), self.key.clone(), self.generation);
        let held = Arc::downgrade(&self.held);
        async move {
            loop {
                sleep(POLL).await;
                // What fails here shows where the file is written.
                let top = claims.top_generation(&key).await;
                if held.strong_count() == 0 {
                    // Given up by this mirror itself.
                    std::future::pending::<()>().await;
                }
                if top.is_ok_and(|top| top != Some(generation)) {
                    return Following::new(&claims, &key);
                }
            }
        }
    }

    /// Says that the work is done: its final name is there.
    pub fn done(mut self) {
        self.is_told = true;
        let claim = self;
        spawn(async move { claim.clear(CLEARED_AFTER).await });
    }

    /// Says why there will be nothing.
    pub async fn fail(mut self, reason: Vec<u8>) {
        self.is_told = true;
        let staged = self.claims.own_work().join(random_name());
        let (calls, name) = (&self.claims.inner.calls, self.own_dir().join(FAILED));
        if let Err(error) = calls.put(&name, &staged, reason).await {
            tracing::debug!(
                error = error.full_text(),
                "the failure of what is claimed is not told"
            );
            self.clear(Duration::ZERO).await;
            return;
        }
        spawn(async move { self.clear(FAILURE_KEPT).await });
    }

    /// Gives the right up to whoever wants it.
    pub async fn give_up(mut self) {
        self.is_told = true;
        self.clear(Duration::ZERO).await;
    }

    /// Takes the claims of this key away, unless there is a higher one, whose owner will.
    async fn clear(&self, after: Duration) {
        if !after.is_zero() {
            sleep(after).await;
        }
        let (claims, calls) = (&self.claims, &self.claims.inner.calls);
        let cleared = async {
            if claims.top_generation(&self.key).await? != Some(self.generation) {
                return Ok(());
            }
            // As a whole, and at once: a claim that is made meanwhile is in it, or in a new one.
            let away = claims.own_work().join(random_name());
            match calls.rename(&claims.dir(&self.key), &away).await {
                Err(error) if error.is_missing() => return Ok(()),
                renamed => renamed?,
            }
            calls.remove_tree(&away).await
        };
        if let Err(error) = cleared.await {
            let error: FsError = error;
            tracing::debug!(error = error.full_text(), "a claim stays for a while");
        }
    }

    pub(super) fn own_dir(&self) -> PathBuf {
        self.claims.dir(&self.key).join(generation_name(self.generation))
    }
}

impl<C: Calls> fmt::Debug for Claim<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim {} of {}", self.generation, self.key.0)
    }
}

impl<C: Calls> Drop for Claim<C> {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        let claim = Self {
            claims: self.claims.clone(),
            key: self.key.clone(),
            generation: self.generation,
            file: std::mem::take(&mut self.file),
            left: Vec::new(),
            is_told: true,
            held: Arc::default(),
            _owning: self.claims.inner.beats.own(),
        };
        spawn(async move { claim.clear(Duration::ZERO).await });
    }
}

impl<C: Calls> Following<C> {
    fn new(claims: &Claims<C>, key: &ClaimKey) -> Self {
        Self {
            claims: claims.clone(),
            key: key.clone(),
            told: None,
            watched: None,
            watch: Watch::default(),
            poll: Duration::ZERO,
        }
    }

    /// Waits until there is something to know. What was told is not told again.
    ///
    /// # Errors
    /// Any errno, and that of `is_done`. It can be asked again.
    pub async fn next(&mut self, is_done: impl IsDone) -> Result<News<C>, FsError> {
        loop {
            sleep(self.poll).await;
            self.poll = (self.poll * 2).clamp(FIRST_POLL, POLL);
            if is_done().await? {
                return Ok(News::Done);
            }
            let Some(top) = self.claims.top(&self.key).await? else {
                // It was cleared: done, or given up.
                if is_done().await? {
                    return Ok(News::Done);
                }
                match self.take(0, &is_done).await? {
                    Some(news) => return Ok(news),
                    None => continue,
                }
            };
            if top.has_failed {
                let path = self.claims.dir(&self.key).join(generation_name(top.generation));
                if let Some(reason) = self.claims.inner.calls.read(&path.join(FAILED)).await? {
                    let following = Self::new(&self.claims, &self.key);
                    return Ok(News::Failed(Failed {
                        reason,
                        following,
                        generation: top.generation,
                    }));
                }
                continue;
            }
            let watched = Some((top.generation, top.owner.clone()));
            if self.watched != watched {
                (self.watched, self.watch) = (watched, Watch::default());
            }
            if self.claims.is_stalled(&self.key, &top, &mut self.watch).await? {
                if let Some(news) = self.take(top.generation + 1, &is_done).await? {
                    return Ok(news);
                }
                continue;
            }
            if top.work.is_some() && top.work != self.told {
                self.told.clone_from(&top.work);
                if let Some(work) = top.work {
                    return Ok(News::Owner(work));
                }
            }
        }
    }

    async fn take(&self, generation: u64, is_done: &impl IsDone) -> Result<Option<News<C>>, FsError> {
        Ok(match self.claims.claim(&self.key, generation, is_done).await? {
            Some(Entered::Done) => Some(News::Done),
            Some(Entered::Ours(claim)) => {
                tracing::info!(key = self.key.0, generation, "took over from another mirror");
                Some(News::Ours(claim))
            }
            Some(Entered::Theirs(_)) | None => None,
        })
    }
}

impl<C: Calls> Failed<C> {
    /// Tries it as the next owner, for the reason does not count here; waits for whoever else does.
    ///
    /// # Errors
    /// Any errno, and that of `is_done`.
    pub async fn try_anew(self, is_done: impl IsDone) -> Result<Entered<C>, FsError> {
        let taken = self.following.take(self.generation + 1, &is_done).await?;
        Ok(match taken {
            Some(News::Done) => Entered::Done,
            Some(News::Ours(claim)) => Entered::Ours(claim),
            Some(News::Owner(_) | News::Failed(_)) | None => Entered::Theirs(self.following),
        })
    }
}

impl Seen {
    fn read(generation: u64, names: &[String], work: &Path) -> Self {
        let mut seen = Self {
            generation,
            has_failed: names.iter().any(|name| name == FAILED),
            ..Self::default()
        };
        let size_bytes = names
            .iter()
            .find_map(|name| name.strip_prefix("size@")?.parse().ok());
        let owner = names
            .iter()
            .find_map(|name| name.strip_prefix("owner@")?.split_once('@'));
        if let Some((owner, file)) = owner.filter(|(owner, file)| is_component(owner) && is_component(file)) {
            seen.owner = Some(owner.to_owned());
            seen.work = Some(Work {
                generation,
                file: work.join(owner).join(file),
                size_bytes,
            });
        }
        seen
    }
}

/// Returns the owners that the names in a generation's directory name: one, or none yet.
pub(crate) fn owners(names: &[String]) -> Vec<String> {
    let seen = Seen::read(0, names, Path::new(""));
    seen.owner.into_iter().collect()
}

fn is_component(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

fn generation_name(generation: u64) -> String {
    format!("{generation:06}")
}

/// Runs what nobody waits for; at the end of the process it stays undone, and others do it.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn(task));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::fs::Disk;

    /// Makes the claims of a mirror of a store on this machine's disk.
    async fn claims(root: &Path, owner: &str) -> Claims<Disk> {
        let places = Places {
            claims: root.join("claims"),
            mirrors: root.join("mirrors"),
            work: root.join("work"),
            owner: owner.to_owned(),
        };
        for dir in [&places.claims, &places.work.join(owner)] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let disk = Disk::new(Duration::from_secs(20));
        let beats = Beats::new(disk.clone(), places.mirrors.join(owner));
        beats.appear(&["version@1".to_owned()]).await.unwrap();
        Claims::new(disk, places, beats, Duration::from_secs(15))
    }

    fn key(number: u32) -> ClaimKey {
        ClaimKey::blob(&Digest::of(Algorithm::Sha256, &number.to_be_bytes()), None)
    }

    #[tokio::test]
    async fn what_a_mirror_left_that_is_gone_for_good_is_cleared_and_nothing_of_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["here", "dead", "alive"];
        let [here, dead, alive] = [
            claims(dir.path(), names[0]).await,
            claims(dir.path(), names[1]).await,
            claims(dir.path(), names[2]).await,
        ];
        for (number, owner) in [(1, &dead), (2, &alive), (3, &here)] {
            let Ok(Entered::Ours(claim)) = owner.enter(&key(number), no).await else {
                panic!("somebody else's");
            };
            std::fs::write(claim.file(), "half").unwrap();
            std::mem::forget(claim);
        }
        let count = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        let mut sweep = crate::flight::Sweep::default();
        for number in 0..20 {
            sweep.run(&here).await.unwrap();
            let beat = dir
                .path()
                .join("mirrors/alive")
                .join(format!("beat@{number:012}"));
            std::fs::write(beat, "").unwrap();
            if number == 3 {
                assert_eq!(count(&dir.path().join("mirrors")), 3, "not at once");
            }
        }
        for place in ["mirrors", "work"] {
            assert!(!dir.path().join(place).join("dead").exists(), "{place}");
            assert!(dir.path().join(place).join("alive").exists(), "{place}");
        }
        assert_eq!(count(&dir.path().join("claims")), 2);
    }

    async fn no() -> Result<bool, FsError> {
        Ok(false)
    }

    #[tokio::test]
    async fn what_a_mirror_claims_costs_it_little_if_there_is_no_other_one() {
        let dir = tempfile::tempdir().unwrap();
        let claims = claims(dir.path(), "one").await;
        let mut costs = Vec::new();
        for number in 0..200 {
            let started = Instant::now();
            let Entered::Ours(claim) = claims.enter(&key(number), no).await.unwrap() else {
                panic!("somebody else's");
            };
            let entered = started.elapsed();
            let started = Instant::now();
            claim.give_up().await;
            costs.push(entered + started.elapsed());
        }
        costs.sort_unstable();
        println!(
            "the median of {} claims: {:?}",
            costs.len(),
            costs[costs.len() / 2]
        );
        assert!(costs[costs.len() / 2] < Duration::from_millis(5), "{costs:?}");
        assert_eq!(std::fs::read_dir(dir.path().join("claims")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_failure_is_read_by_who_waits_and_does_not_count_for_who_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (claims(dir.path(), "one").await, claims(dir.path(), "two").await);
        let Entered::Ours(claim) = one.enter(&key(1), no).await.unwrap() else {
            panic!("somebody else's");
        };
        let Entered::Theirs(mut following) = two.enter(&key(1), no).await.unwrap() else {
            panic!("claimed twice");
        };
        let News::Owner(work) = following.next(no).await.unwrap() else {
            panic!("no owner");
        };
        assert_eq!((work.file, work.size_bytes), (claim.file(), None));
        claim.fail(b"gone".to_vec()).await;
        let News::Failed(failed) = following.next(no).await.unwrap() else {
            panic!("no failure");
        };
        assert_eq!(failed.reason, b"gone");
        let Entered::Ours(next) = failed.try_anew(no).await.unwrap() else {
            panic!("somebody else's");
        };
        assert_eq!(next.generation, 1);
        next.done();
    }
}
