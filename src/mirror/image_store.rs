//! Keeps the store's layers.json, and tells when it lists a layer.
//!
//! ```text
//! staged ──→ its entry ──→ layers.json ──→ its directory ──→ chain record     where all nodes see a new list at once
//! staged ──→ its entry ──→ its directory ──→ chain record ──→ layers.json     elsewhere; nodes keep lists of their own
//! ```
//! A directory that is there and not listed is the worst of all: a Podman that makes the layer itself takes it for what a
//! killed process has left, cannot remove it, and from then on fails whatever it is told. One that is listed and not there
//! yet makes a container fail to start, for a moment.
//!
//! layers.json follows from the names of the entries alone; of one without a directory, it is forgotten after a while. One
//! task of each mirror keeps it: it lists the names, reads those that it does not know, writes the list by a rename, and
//! lists once more until nothing is missing. A mirror that was stopped may rename an old list into place late, so each one looks now
//! and then whose list it is, and writes it again if an entry lacks; the last to look has listed all that was there
//! before. Nothing of this is needed for a right answer: a layer that is not listed is fetched from the mirror as a blob.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::coming::ComingLayer;
use super::{Inner, Mirror};
use crate::api::{ImageStoreAnswer, ImageStoreQuestion};
use crate::fs::{FileIdentity, FsError, Kind, Mount, random_name};
use crate::oci::Digest;
use crate::store::{EntryName, EntryTexts, Store};

/// How often it is looked whether the list is still the one that this mirror knows.
const INTERVAL: Duration = Duration::from_secs(30);

/// How soon it is tried again after the store has failed.
const RETRY: Duration = Duration::from_secs(5);

/// How many entries are read in one call of the store, so that none takes long.
const READ_AT_ONCE: usize = 64;

/// How often the list is written anew in a row, because entries came meanwhile, before others have their turn.
const MAX_REWRITES: usize = 8;

/// How late another node sees that a file was replaced, where its attributes are kept for a second (facts/dfs.md 2c).
const NETWORK_LAG: Duration = Duration::from_millis(1100);

/// The longest that a node's question waits.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How many nodes are remembered before those that have left are forgotten.
const MAX_NODES: usize = 4096;

/// How long an entry is listed whose directory is not there: its mirror is about to give it its name, or has died.
const GRACE: Duration = Duration::from_secs(60);

/// How long a layer waits to be listed before it is published all the same.
const ANNOUNCEMENT: Duration = Duration::from_secs(2);

/// How long a layer has been listed before it is there, if somebody has fetched its blob who may make it: it may have been
/// looked for just before, and must not come until it has been made then.
const LOOK: Duration = Duration::from_millis(500);

/// Of how many blobs it is remembered that such a client fetched them, and for how long.
const MAX_FETCHED: usize = 4096;
const FETCH: Duration = Duration::from_secs(600);

/// How long a node is waited for that keeps a list of its own, until its list has what the store's has.
const NODE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a node that does not ask at the moment is still believed to do so soon.
const NODE_PAUSE: Duration = Duration::from_secs(5);

/// The list of layers as this mirror knows it.
pub(super) struct ImageStore {
    /// Names this process to nodes.
    process: String,
    wanted: Notify,
    listed: Mutex<HashSet<EntryName>>,
    /// The blobs that clients of containers/storage fetch, and since when.
    fetched: Cache<Digest, Instant>,
    /// The list could not be brought up to date.
    fails: AtomicBool,
    /// Counts the lists that this process has seen to be whole.
    sequence: watch::Sender<u64>,
    /// How late nodes see a new list.
    lag: Duration,
    /// When the last one was written, or another mirror's was found.
    renewed_at: Mutex<Option<Instant>>,
    /// The nodes that keep a list of their own, by their addresses and agents.
    nodes: watch::Sender<Nodes>,
}

type Nodes = HashMap<(IpAddr, String), Node>;

/// A node that keeps a list of its own.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Its list has what this process had counted so.
    have: u64,
    /// How many of its questions wait.
    asking: usize,
    seen_at: Instant,
}

impl Node {
    fn is_there(&self) -> bool {
        self.asking > 0 || self.seen_at.elapsed() < NODE_PAUSE
    }
}

/// What the task that keeps the list remembers.
#[derive(Default)]
struct Known {
    entries: EntryTexts,
    /// Those of the names whose directories have not been seen, and since when.
    unconfirmed: HashMap<EntryName, Instant>,
    /// The file that was seen to list just these.
    seen: Option<FileIdentity>,
    is_prepared: bool,
}

impl Known {
    /// Takes an entry, and tells whether that changes the list.
    fn take(&mut self, name: EntryName, text: Arc<str>, is_there: bool) -> bool {
        if is_there {
            self.unconfirmed.remove(&name);
            return self.entries.insert(name, text).is_none();
        }
        let since = *self.unconfirmed.entry(name.clone()).or_insert_with(Instant::now);
        if since.elapsed() < GRACE {
            self.entries.insert(name, text).is_none()
        } else {
            self.entries.remove(&name).is_some()
        }
    }
}

impl ImageStore {
    /// Makes the list of a store that nothing is known of yet.
    pub(super) fn new(store: &Store) -> Self {
        let lag = match Mount::of(store.root()).map(|mount| mount.kind) {
            Ok(kind) => lag_of(&kind),
            Err(_) => NETWORK_LAG,
        };
        Self {
            process: random_name(),
            wanted: Notify::new(),
            listed: Mutex::default(),
            fetched: Cache::new(MAX_FETCHED),
            fails: AtomicBool::new(false),
            sequence: watch::Sender::new(0),
            lag,
            renewed_at: Mutex::default(),
            nodes: watch::Sender::default(),
        }
    }

    /// Has the list brought up to date soon.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Tells whether a layer is to be listed before its directory has its name: where other nodes see both at once.
    pub(super) fn lists_first(&self) -> bool {
        self.lag.is_zero()
    }

    /// Has a layer listed whose directory is about to get its name; waits until it is, or will not be soon.
    pub(super) async fn announce(&self, name: &EntryName, blob: &Digest) {
        if self.fails.load(Ordering::Relaxed) {
            return;
        }
        // Agents' nodes do not need the list, and are not to wait for it.
        let _ = timeout(ANNOUNCEMENT, self.listed(std::slice::from_ref(name))).await;
        let fetched = self.fetched.get(blob);
        if fetched.is_some_and(|since| since.elapsed() < FETCH) {
            sleep(LOOK).await;
        }
    }

    /// Notes that a client of containers/storage fetches a blob.
    pub(super) fn note_fetch(&self, blob: &Digest) {
        self.fetched.insert(blob.clone(), Instant::now());
    }

    /// Tells whether all these are listed, as far as this process knows.
    pub(super) fn lists(&self, names: &[EntryName]) -> bool {
        let listed = self.lock();
        names.iter().all(|name| listed.contains(name))
    }

    /// Waits until all these are listed.
    pub(super) async fn listed(&self, names: &[EntryName]) {
        let mut sequence = self.sequence.subscribe();
        self.want();
        // The sender is this one's own.
        let _ = sequence.wait_for(|_| self.lists(names)).await;
    }

    /// Waits until all nodes at this address can see what is listed now; which of them asks is not known.
    ///
    /// Their own lists if they keep some, and tell; else the store's, which is seen late on some file systems.
    pub(super) async fn seen_by(&self, address: IpAddr) {
        let sequence = *self.sequence.borrow();
        let mut nodes = self.nodes.subscribe();
        let are_there = |nodes: &Nodes| {
            let mut here = nodes.iter().filter(|((of, _), _)| *of == address);
            here.any(|(_, node)| node.is_there())
        };
        let keep_lists = are_there(&nodes.borrow());
        if keep_lists {
            let has_it = |nodes: &Nodes| {
                let mut here = nodes.iter().filter(|((of, _), _)| *of == address);
                here.all(|(_, node)| node.have >= sequence || !node.is_there())
            };
            if timeout(NODE_PATIENCE, nodes.wait_for(has_it)).await.is_err() {
                tracing::warn!(%address, "a node's own list of layers is not brought up to date; its client fetches blobs");
            }
            return;
        }
        if let Some(seen_at) = self.seen_at() {
            sleep_until(seen_at).await;
        }
    }

    /// Returns when every node sees what is listed now, but for those that keep lists of their own.
    fn seen_at(&self) -> Option<Instant> {
        let renewed_at = *self.renewed_at.lock().unwrap_or_else(PoisonError::into_inner);
        renewed_at.map(|renewed_at| renewed_at + self.lag)
    }

    /// Lets those go on that wait for what is listed now.
    fn show(&self, listed: HashSet<EntryName>) {
        *self.lock() = listed;
        *self.renewed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.sequence.send_modify(|sequence| *sequence += 1);
    }

    /// Answers a node that keeps a list of its own: as soon as there is more than it has, or when its patience ends.
    async fn news(&self, address: IpAddr, question: &ImageStoreQuestion) -> ImageStoreAnswer {
        let is_ours = question.mirror.as_ref() == Some(&self.process);
        let have = if is_ours { question.have } else { 0 };
        let _asking = Asking::new(self, (address, question.agent.clone()), have);
        let mut sequence = self.sequence.subscribe();
        let wait = Duration::from_secs(question.wait).min(MAX_WAIT);
        let _ = timeout(wait, sequence.wait_for(|sequence| *sequence > have)).await;
        let sequence = *sequence.borrow();
        ImageStoreAnswer {
            sequence,
            mirror: self.process.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<EntryName>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that a node's question waits, as long as it does.
struct Asking<'a> {
    store: &'a ImageStore,
    who: (IpAddr, String),
}

impl<'a> Asking<'a> {
    fn new(store: &'a ImageStore, who: (IpAddr, String), have: u64) -> Self {
        store.nodes.send_modify(|nodes| {
            if nodes.len() >= MAX_NODES {
                nodes.retain(|_, node| node.is_there());
            }
            let seen_at = Instant::now();
            let node = nodes.entry(who.clone()).or_insert(Node {
                have,
                asking: 0,
                seen_at,
            });
            *node = Node {
                have,
                asking: node.asking + 1,
                seen_at,
            };
        });
        Self { store, who }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.store.nodes.send_modify(|nodes| {
            if let Some(node) = nodes.get_mut(&self.who) {
                node.asking = node.asking.saturating_sub(1);
                node.seen_at = Instant::now();
            }
        });
    }
}

impl Mirror {
    /// Answers a node that keeps a list of layers of its own: see [`ImageStoreQuestion`].
    pub async fn image_store_news(&self, address: IpAddr, question: &ImageStoreQuestion) -> ImageStoreAnswer {
        self.inner.image_store.news(address, question).await
    }
}

/// Returns how late another node sees a replaced file on such a file system.
fn lag_of(kind: &Kind) -> Duration {
    if kind.is_coherent() {
        Duration::ZERO
    } else {
        NETWORK_LAG
    }
}

impl Inner {
    /// Has a layer listed before its directory gets its name, where that is the order.
    pub(super) async fn list_first(&self, name: &EntryName, blob: &Digest) {
        if self.image_store.lists_first() {
            self.image_store.announce(name, blob).await;
        }
    }

    /// Keeps layers.json as long as the process lives.
    pub(super) async fn keep_image_store(self: Arc<Self>) {
        let mut known = Known::default();
        loop {
            // Why is in the log.
            let fails = self.refresh(&mut known).await.is_err();
            self.image_store.fails.store(fails, Ordering::Relaxed);
            let pause = if fails { RETRY } else { INTERVAL };
            let _ = timeout(pause, self.image_store.wanted.notified()).await;
        }
    }

    /// Brings layers.json up to date once; what fails is in the log.
    pub(super) async fn refresh_once(&self) {
        let _ = self.refresh(&mut Known::default()).await;
    }

    /// Brings layers.json up to date.
    async fn refresh(&self, known: &mut Known) -> Result<(), FsError> {
        if !known.is_prepared {
            self.on_store(Store::prepare_image_store).await?;
            known.is_prepared = true;
        }
        for _ in 0..MAX_REWRITES {
            let changed = self.read_entries(known).await?;
            // A list that this process has seen to be right is wrong now if entries came; any other is read.
            if (!changed || known.seen.is_none()) && self.is_current(known).await? {
                break;
            }
            let entries = known.entries.clone();
            let written = self.on_store(move |store| store.write_layer_list(&entries));
            known.seen = Some(written.await?);
            self.show(known);
        }
        Ok(())
    }

    /// Reads the entries that are not known, and forgets those that are gone; tells whether there were any.
    async fn read_entries(&self, known: &mut Known) -> Result<bool, FsError> {
        let names = self.on_store(Store::entry_names).await?;
        let before = known.entries.len();
        known.entries.retain(|name, _| names.contains(name));
        let mut changed = known.entries.len() < before;
        known.unconfirmed.retain(|name, _| names.contains(name));
        let is_open =
            |name: &EntryName| !known.entries.contains_key(name) || known.unconfirmed.contains_key(name);
        let open: Vec<EntryName> = names.into_iter().filter(is_open).collect();
        for part in open.chunks(READ_AT_ONCE) {
            let part = part.to_vec();
            let read = move |store: &Store| {
                let mut found = Vec::new();
                for name in part {
                    let is_there = store.is_complete(&name)?;
                    if let Some(text) = store.read_or_remove_entry(&name)? {
                        found.push((name, text, is_there));
                    }
                }
                Ok(found)
            };
            for (name, text, is_there) in self.on_store(read).await? {
                changed |= known.take(name, text, is_there);
            }
        }
        Ok(changed)
    }

    /// Tells whether layers.json lists what is known, whoever has written it.
    async fn is_current(&self, known: &mut Known) -> Result<bool, FsError> {
        let identity = self.on_store(Store::layer_list_identity).await?;
        if identity.is_some() && identity == known.seen {
            return Ok(true);
        }
        let entries = known.entries.clone();
        let lists = self.on_store(move |store| store.lists(&entries)).await?;
        if lists {
            known.seen = identity;
            self.show(known);
        }
        Ok(lists)
    }

    /// Lets the ends of blobs go on whose layers are listed, or will not be: as soon as every node sees the list.
    pub(super) fn has_come(&self, coming: impl IntoIterator<Item = ComingLayer> + Send + 'static) {
        let seen_at = self.image_store.seen_at();
        if let Some(seen_at) = seen_at.filter(|seen_at| *seen_at > Instant::now()) {
            tokio::spawn(async move {
                sleep_until(seen_at).await;
                drop(coming);
            });
        }
    }

    fn show(&self, known: &Known) {
        self.image_store.show(known.entries.keys().cloned().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn question(have: u64, mirror: Option<&str>, wait: u64) -> ImageStoreQuestion {
        let mirror = mirror.map(str::to_owned);
        let agent = "one".to_owned();
        ImageStoreQuestion {
            agent,
            have,
            mirror,
            wait,
        }
    }

    #[tokio::test]
    async fn a_node_that_keeps_a_list_is_waited_for_until_it_says_that_it_has_the_news() {
        let dir = tempfile::tempdir().unwrap();
        let list = ImageStore::new(&Store::open(dir.path()).unwrap());
        let ours = list.process.clone();
        list.sequence.send_replace(7);
        // Nobody keeps a list there: the store's is read.
        list.seen_by(NODE).await;
        let told = list.news(NODE, &question(0, None, 60)).await;
        assert_eq!(
            told,
            ImageStoreAnswer {
                sequence: 7,
                mirror: ours.clone()
            }
        );
        let mut seen = Box::pin(list.seen_by(NODE));
        assert!(futures_util::poll!(&mut seen).is_pending());
        // What another process has counted says nothing.
        let other = list.news(NODE, &question(9, Some("other"), 0)).await;
        assert_eq!(other.sequence, 7);
        assert!(futures_util::poll!(&mut seen).is_pending());
        let acknowledged = question(7, Some(&ours), 60);
        let mut news = Box::pin(list.news(NODE, &acknowledged));
        assert!(futures_util::poll!(&mut news).is_pending());
        seen.await;
        list.sequence.send_replace(8);
        assert_eq!(news.await.sequence, 8);
    }

    #[tokio::test]
    async fn of_two_nodes_with_one_address_both_are_waited_for_as_long_as_they_ask() {
        let dir = tempfile::tempdir().unwrap();
        let list = ImageStore::new(&Store::open(dir.path()).unwrap());
        let ours = list.process.clone();
        list.sequence.send_replace(1);
        let other = |have, wait| ImageStoreQuestion {
            agent: "other".to_owned(),
            ..question(have, Some(&ours), wait)
        };
        list.news(NODE, &question(0, None, 0)).await;
        list.news(NODE, &other(0, 0)).await;
        let mut seen = Box::pin(list.seen_by(NODE));
        list.news(NODE, &question(1, Some(&ours), 0)).await;
        assert!(futures_util::poll!(&mut seen).is_pending());
        list.news(NODE, &other(1, 0)).await;
        seen.await;
    }

    #[tokio::test]
    async fn a_node_without_a_list_of_its_own_is_waited_for_as_long_as_it_may_see_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut list = ImageStore::new(&Store::open(dir.path()).unwrap());
        list.lag = Duration::from_millis(50);
        list.seen_by(NODE).await;
        // Whether this mirror has written it, or has found another's.
        list.show(HashSet::new());
        let shown_at = Instant::now();
        list.seen_by(NODE).await;
        assert!(shown_at.elapsed() >= Duration::from_millis(45));
    }

    #[test]
    fn what_a_question_says_is_read_as_it_was_written() {
        for asked in [question(0, None, 50), question(7, Some("a&b=c"), 0)] {
            assert_eq!(ImageStoreQuestion::parse(&asked.query()), asked);
        }
        let nonsense = ImageStoreQuestion::parse("have=x&wait=-1&more");
        assert_eq!((nonsense.have, nonsense.wait), (0, 0));
    }
}
