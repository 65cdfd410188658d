//! Keeps the store's layers.json, and tells when it lists a layer.
//!
//! ```text
//! staged ──→ its entry ──→ its directory ──→ chain record ──→ layers.json
//! ```
//! layers.json follows from the names of the entries alone, of those whose directories are there. One task of each
//! mirror keeps it: it lists the names, reads those that it does not know, writes the list by a rename, and lists once
//! more until nothing is missing. A mirror that was stopped may rename an old list into place late, so each one looks now
//! and then whose list it is, and writes it again if an entry lacks; the last to look has listed all that was there
//! before. Nothing of this is needed for a right answer: a layer that is not listed is fetched from the mirror as a blob.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::coming::ComingLayer;
use super::{Inner, Mirror};
use crate::api::{ImageStoreAnswer, ImageStoreQuestion};
use crate::fs::{FileIdentity, FsError, Kind, Mount, random_name};
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
    /// The file that was seen to list just these.
    seen: Option<FileIdentity>,
    is_prepared: bool,
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
    /// Keeps layers.json as long as the process lives.
    pub(super) async fn keep_image_store(self: Arc<Self>) {
        let mut known = Known::default();
        loop {
            // Why is in the log.
            let pause = match self.refresh(&mut known).await {
                Ok(()) => INTERVAL,
                Err(_) => RETRY,
            };
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
        let new: Vec<EntryName> = names
            .into_iter()
            .filter(|name| !known.entries.contains_key(name))
            .collect();
        for part in new.chunks(READ_AT_ONCE) {
            let part = part.to_vec();
            let read = move |store: &Store| {
                let mut found = Vec::new();
                for name in part {
                    // Its mirror is about to publish it, and wants the list then; or it has died.
                    if store.is_complete(&name)?
                        && let Some(text) = store.read_or_remove_entry(&name)?
                    {
                        found.push((name, text));
                    }
                }
                Ok(found)
            };
            let found = self.on_store(read).await?;
            changed |= !found.is_empty();
            known.entries.extend(found);
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
