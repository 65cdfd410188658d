//! Beats: how mirrors of one store know which of them are alive.
//!
//! A mirror makes a new name every two seconds while it works for others, and seldom otherwise; names are seen on every
//! file system, while times and contents are seen late (facts/dfs.md 2c), and clocks differ. Who waits for a mirror counts
//! the time without a new name, on its own clock, between listings that were answered: neither the time in which it was
//! itself stopped nor that in which its file system hung says anything of the other one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::rule::{Rule, is_kept};
use crate::fs::{Calls, FsError};

/// How often a mirror beats that owns something.
const BEAT: Duration = Duration::from_secs(2);

/// How often one does that owns nothing.
const IDLE_BEAT: Duration = Duration::from_secs(30);

/// How much of the time between two listings counts at most: who waits lists every second, unless it is blocked.
const MAX_STEP: Duration = Duration::from_secs(2);

/// How many listings without a new beat there must have been.
const MIN_LISTINGS: u32 = 3;

/// How long a listing is believed by the others of this process who want the same.
const FRESH: Duration = Duration::from_millis(500);

/// Of how many mirrors listings are kept.
const MAX_LISTINGS: usize = 1024;

/// The beats of this mirror, and what it has seen of others. Cheap to clone.
#[derive(Clone)]
pub struct Beats<C: Calls> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Calls> {
    calls: C,
    /// This mirror's directory.
    own: PathBuf,
    /// What this mirror owns.
    owned: AtomicUsize,
    owns: Notify,
    /// Other mirrors show themselves, dead or alive.
    has_company: AtomicBool,
    listings: Mutex<BTreeMap<PathBuf, Listing>>,
}

/// What a listing of a mirror's directory has shown.
#[derive(Clone, Debug)]
struct Listing {
    beat: Option<String>,
    /// There was nothing at all.
    is_empty: bool,
    at: Instant,
}

/// What somebody who waits for a mirror has seen of it since he began.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    beat: Option<String>,
    /// How much time without a new beat counts.
    silent: Duration,
    listings: u32,
    /// How many listings in a row have found nothing at all: names come and go in any order.
    empty: u32,
    last: Option<Instant>,
}

/// The mirror owns something as long as this is held.
pub struct Owning<C: Calls>(Beats<C>);

impl<C: Calls> Beats<C> {
    /// Makes the beats of the mirror that has the directory `own`, which is not there yet.
    pub fn new(calls: C, own: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                calls,
                own,
                owned: AtomicUsize::new(0),
                owns: Notify::new(),
                has_company: AtomicBool::new(false),
                listings: Mutex::default(),
            }),
        }
    }

    /// Shows this mirror to the others, with names that say what it is. Then it has to [beat](Self::run).
    ///
    /// # Errors
    /// Any errno.
    pub async fn appear(&self, names: &[String]) -> Result<(), FsError> {
        let Inner { calls, own, .. } = &*self.inner;
        if let Some(all) = own.parent() {
            calls.make_dir(all).await?;
        }
        calls.make_dir(own).await?;
        for name in names {
            calls.make_name(&own.join(name)).await?;
        }
        calls.make_name(&own.join(beat_name(0))).await?;
        self.look_for_company().await;
        Ok(())
    }

    /// Beats until it is dropped.
    pub async fn run(&self) {
        let Inner {
            calls,
            own,
            owned,
            owns,
            ..
        } = &*self.inner;
        let mut last = 0;
        loop {
            let pause = match owned.load(Ordering::Acquire) {
                0 => IDLE_BEAT,
                _ => BEAT,
            };
            // Who begins to own something begins to beat.
            let _ = timeout(pause, owns.notified()).await;
            let next = last + 1;
            if let Err(error) = calls.make_name(&own.join(beat_name(next))).await {
                tracing::debug!(error = error.full_text(), "a beat is lost");
                continue;
            }
            // What stays of it harms nobody.
            let _ = calls.remove(&own.join(beat_name(last))).await;
            last = next;
            self.look_for_company().await;
        }
    }

    /// Tells whether there are other mirrors, as far as this one knows: those who came a few seconds ago may not count yet.
    pub fn has_company(&self) -> bool {
        self.inner.has_company.load(Ordering::Relaxed)
    }

    async fn look_for_company(&self) {
        let Some(all) = self.inner.own.parent() else {
            return;
        };
        if let Ok(names) = self.inner.calls.list(all).await {
            let has_company = names
                .iter()
                .any(|name| Some(name.as_ref()) != self.inner.own.file_name());
            self.inner.has_company.store(has_company, Ordering::Relaxed);
        }
    }

    /// Takes this mirror's directory away: whoever waits for it does so no longer.
    ///
    /// # Errors
    /// Any errno.
    pub async fn disappear(&self) -> Result<(), FsError> {
        self.inner.calls.remove_tree(&self.inner.own).await
    }

    /// Notes that this mirror owns something.
    pub fn own(&self) -> Owning<C> {
        if self.inner.owned.fetch_add(1, Ordering::AcqRel) == 0 {
            self.inner.owns.notify_one();
        }
        Owning(self.clone())
    }

    /// Looks once more whether the mirror with this directory beats, and tells whether it has not for `limit`. One that
    /// `has_appeared` may have gone, too.
    ///
    /// # Errors
    /// Any errno; then nothing was seen, and the time until the next listing counts no more than usual.
    pub async fn is_stalled(
        &self,
        watch: &mut Watch,
        dir: &Path,
        has_appeared: bool,
        limit: Duration,
    ) -> Result<bool, FsError> {
        let listing = self.listing(dir).await?;
        watch.note(&listing);
        let has_gone = has_appeared && watch.empty >= MIN_LISTINGS;
        let is_seen_enough = watch.listings >= MIN_LISTINGS || !is_kept(Rule::BlockedIsNotSilent);
        Ok(is_seen_enough && (has_gone || watch.silent >= limit))
    }

    async fn listing(&self, dir: &Path) -> Result<Listing, FsError> {
        let known = self.listings().get(dir).cloned();
        if let Some(known) = known.filter(|known| known.at.elapsed() < FRESH) {
            return Ok(known);
        }
        let names = self.inner.calls.list(dir).await?;
        let listing = Listing {
            beat: last_beat(&names),
            is_empty: names.is_empty(),
            at: Instant::now(),
        };
        let mut all = self.listings();
        if all.len() >= MAX_LISTINGS {
            all.clear();
        }
        all.insert(dir.to_owned(), listing.clone());
        Ok(listing)
    }

    fn listings(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Listing>> {
        self.inner.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn note(&mut self, listing: &Listing) {
        let Some(last) = self.last.replace(listing.at) else {
            self.beat.clone_from(&listing.beat);
            return;
        };
        if listing.beat.is_some() && listing.beat != self.beat {
            self.beat.clone_from(&listing.beat);
            (self.silent, self.listings, self.empty) = (Duration::ZERO, 0, 0);
        } else if listing.at > last {
            let step = listing.at - last;
            self.empty = if listing.is_empty { self.empty + 1 } else { 0 };
            self.silent += match is_kept(Rule::BlockedIsNotSilent) {
                true => step.min(MAX_STEP),
                false => step,
            };
            self.listings += 1;
        }
    }
}

impl<C: Calls> Drop for Owning<C> {
    fn drop(&mut self) {
        self.0.inner.owned.fetch_sub(1, Ordering::AcqRel);
    }
}

const BEAT_PREFIX: &str = "beat@";

/// Returns the latest beat among the names in a mirror's directory.
pub(super) fn last_beat(names: &[String]) -> Option<String> {
    let beats = names.iter().filter(|name| name.starts_with(BEAT_PREFIX));
    beats.max().cloned()
}

fn beat_name(number: u64) -> String {
    format!("{BEAT_PREFIX}{number:012}")
}
