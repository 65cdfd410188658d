//! A file system in memory that several nodes share, each with its own late view of it (facts/dfs.md 2b, 2c and 3).
//!
//! What a call does happens on the server, in one order; mkdir has one winner. Others see a name within 10 ms, and bytes
//! that are appended within 3 s. A call of a node that is cut off, or while the server hangs, takes until that ends; past its
//! deadline it is an error, and may be done all the same, later.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::fs::{Calls, FsError};

/// What a call may take before it is an error (`store_timeout`).
const DEADLINE: Duration = Duration::from_secs(20);

/// How late others see a name at most.
pub(super) const NAME_LAG_MS: u64 = 10;

/// How late others see appended bytes at most.
const GROWTH_LAG_MS: u64 = 3000;

pub(super) type NodeNumber = usize;

/// Random numbers of a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }
}

/// The file system.
#[derive(Clone)]
pub(super) struct SimDisk {
    began: Instant,
    state: Arc<Mutex<State>>,
}

struct State {
    random: Random,
    /// What each name was, and from when on; the latest last.
    names: BTreeMap<PathBuf, Vec<Change>>,
    files: Vec<SimFile>,
    events: u64,
    nodes: BTreeMap<NodeNumber, NodeState>,
    /// How seldom a node sleeps before a call, if it does.
    naps: Option<u64>,
    /// Until when no call of anybody is done.
    hangs_until: Option<Instant>,
    broken: Option<String>,
}

#[derive(Clone, Debug)]
struct Change {
    event: u64,
    by: NodeNumber,
    at: Instant,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dir,
    File(usize),
}

/// A file, whatever its name.
struct SimFile {
    maker: NodeNumber,
    content: Vec<u8>,
    /// When it had how many bytes.
    growth: Vec<(u64, Instant, usize)>,
    /// It has a final name, and changes no more.
    is_published: bool,
}

#[derive(Clone, Debug, Default)]
struct NodeState {
    /// Something has happened to it.
    is_harmed: bool,
    is_dead: bool,
    stopped_until: Option<Instant>,
    cut_until: Option<Instant>,
}

/// The file system as one node reaches it.
#[derive(Clone)]
pub(super) struct SimNode {
    pub(super) disk: SimDisk,
    pub(super) number: NodeNumber,
}

impl SimDisk {
    pub(super) fn new(seed: u64, dirs: &[&Path]) -> Self {
        let mut state = State {
            random: Random::new(seed ^ 0xd15c),
            names: BTreeMap::new(),
            files: Vec::new(),
            events: 0,
            nodes: BTreeMap::new(),
            naps: None,
            hangs_until: None,
            broken: None,
        };
        for dir in dirs {
            state.change(dir, usize::MAX, Some(Kind::Dir));
        }
        Self {
            began: Instant::now(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(super) fn node(&self, number: NodeNumber) -> SimNode {
        self.lock().nodes.entry(number).or_default();
        SimNode {
            disk: self.clone(),
            number,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets nodes be descheduled before a call for up to forty seconds, once in so many calls.
    pub(super) fn let_nap(&self, once_in: u64) {
        self.lock().naps = Some(once_in);
    }

    pub(super) fn kill(&self, node: NodeNumber) {
        self.harm(node, |state| state.is_dead = true);
    }

    pub(super) fn stop(&self, node: NodeNumber, time: Duration) {
        self.harm(node, |state| state.stopped_until = Some(Instant::now() + time));
    }

    pub(super) fn cut(&self, node: NodeNumber, time: Duration) {
        self.harm(node, |state| state.cut_until = Some(Instant::now() + time));
    }

    fn harm(&self, node: NodeNumber, change: impl FnOnce(&mut NodeState)) {
        let mut state = self.lock();
        let node = state.nodes.entry(node).or_default();
        node.is_harmed = true;
        change(node);
    }

    pub(super) fn is_harmed(&self, node: NodeNumber) -> bool {
        self.lock().nodes.get(&node).is_some_and(|node| node.is_harmed)
    }

    pub(super) fn hang(&self, time: Duration) {
        self.lock().hangs_until = Some(Instant::now() + time);
    }

    /// Notes that something does not hold; the first is what counts.
    pub(super) fn note_broken(&self, what: String) {
        self.lock().broken.get_or_insert(what);
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    /// Returns the content that has a name, as the server knows it.
    pub(super) fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        match state.now(path) {
            Some(Kind::File(file)) => Some(state.files[file].content.clone()),
            _ => None,
        }
    }

    /// Returns since when a name is there, as the server knows it.
    pub(super) fn since(&self, path: &Path) -> Option<Instant> {
        let state = self.lock();
        let last = state.names.get(path)?.last()?;
        last.kind.map(|_| last.at)
    }

    /// Returns the names below a directory, as the server knows them.
    pub(super) fn below(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let state = self.lock();
        let below = state.names.range(dir.to_owned()..).map(|(path, _)| path);
        let below = below
            .take_while(|path| path.starts_with(dir))
            .filter(|path| *path != dir);
        below.filter(|path| state.now(path).is_some()).cloned().collect()
    }
}

impl State {
    fn change(&mut self, path: &Path, by: NodeNumber, kind: Option<Kind>) {
        self.events += 1;
        self.change_as(self.events, path, by, kind);
    }

    fn change_as(&mut self, event: u64, path: &Path, by: NodeNumber, kind: Option<Kind>) {
        let at = Instant::now();
        self.names
            .entry(path.to_owned())
            .or_default()
            .push(Change { event, by, at, kind });
    }

    /// What has a name, as the server knows it.
    fn now(&self, path: &Path) -> Option<Kind> {
        self.names.get(path)?.last()?.kind
    }

    /// What has a name, as a node sees it.
    fn seen(&self, path: &Path, node: NodeNumber) -> Option<Kind> {
        let changes = self.names.get(path)?;
        let now = Instant::now();
        let is_seen =
            |change: &&Change| change.by == node || change.at + lag(change.event, node, NAME_LAG_MS) <= now;
        // A later change that is seen hides an earlier one that is not yet.
        changes.iter().rev().find(is_seen)?.kind
    }

    fn parent_is_there(&self, path: &Path) -> bool {
        path.parent()
            .is_none_or(|parent| self.now(parent) == Some(Kind::Dir))
    }

    fn children(&self, dir: &Path) -> Vec<PathBuf> {
        let below = self.names.range(dir.to_owned()..).map(|(path, _)| path);
        let below = below
            .take_while(|path| path.starts_with(dir))
            .filter(|path| *path != dir);
        below.cloned().collect()
    }
}

/// How late a node sees an event: the same each time that it is asked.
fn lag(event: u64, node: NodeNumber, most_ms: u64) -> Duration {
    let mut random = Random::new(event.wrapping_mul(31).wrapping_add(node as u64));
    random.millis(0..most_ms + 1)
}

fn error(operation: &'static str, path: &Path, kind: io::ErrorKind) -> FsError {
    FsError::new(operation, path, kind.into())
}

impl SimNode {
    /// Waits as long as the node is stopped; for ever if it is dead.
    pub(super) async fn is_running(&self) {
        loop {
            let state = self.disk.lock().nodes[&self.number].clone();
            if state.is_dead {
                std::future::pending::<()>().await;
            }
            match state.stopped_until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Does something on the server, and brings its result back; the log of a test that fails shows it.
    async fn call<T: Send>(
        &self,
        operation: &'static str,
        path: &Path,
        act: impl FnOnce(&mut State) -> Result<T, FsError> + Send,
    ) -> Result<T, FsError> {
        let started = self.disk.elapsed();
        let result = self.call_late(operation, path, act).await;
        let (ended, node) = (self.disk.elapsed(), self.number);
        let failed = result.as_ref().err().map(FsError::full_text);
        tracing::trace!(?started, ?ended, node, operation, path = %path.display(), failed, "called");
        result
    }

    async fn call_late<T: Send>(
        &self,
        operation: &'static str,
        path: &Path,
        act: impl FnOnce(&mut State) -> Result<T, FsError> + Send,
    ) -> Result<T, FsError> {
        let nap = {
            let mut state = self.disk.lock();
            // Most of all where the next step was decided on, and others may take it first.
            let seldom = if operation == "make directory" { 20 } else { 1 };
            let naps = state
                .naps
                .is_some_and(|once_in| state.random.once_in(1.max(once_in / seldom)));
            naps.then(|| state.random.millis(1000..40_000))
        };
        if let Some(nap) = nap {
            self.disk.stop(self.number, nap);
        }
        self.is_running().await;
        let started = Instant::now();
        let (there, back, happens_late) = {
            let mut state = self.disk.lock();
            let random = &mut state.random;
            let slow = random.once_in(50);
            let most = if slow { 400 } else { 4 };
            (random.millis(0..most), random.millis(0..most), random.once_in(2))
        };
        sleep(there).await;
        loop {
            let blocked_until = {
                let state = self.disk.lock();
                let cut = state.nodes[&self.number].cut_until;
                cut.max(state.hangs_until).filter(|until| *until > Instant::now())
            };
            let Some(until) = blocked_until else { break };
            if until < started + DEADLINE {
                sleep_until(until).await;
                continue;
            }
            sleep_until(started + DEADLINE).await;
            self.is_running().await;
            if happens_late {
                // Its caller has given it up; in the kernel it goes on. The effect comes now, for what it borrows ends here.
                let _ = act(&mut self.disk.lock());
            }
            return Err(error(operation, path, io::ErrorKind::TimedOut));
        }
        let result = {
            let mut state = self.disk.lock();
            if state.nodes[&self.number].is_dead {
                Err(error(operation, path, io::ErrorKind::TimedOut))
            } else {
                act(&mut state)
            }
        };
        sleep(back).await;
        let cut = self.disk.lock().nodes[&self.number].cut_until;
        if let Some(until) = cut.filter(|until| *until > Instant::now()) {
            // It was done, and the answer comes late, or too late.
            sleep_until(until.min(started + DEADLINE)).await;
            if until > started + DEADLINE {
                self.is_running().await;
                return Err(error(operation, path, io::ErrorKind::TimedOut));
            }
        }
        self.is_running().await;
        result
    }

    /// Appends to a file that this node has made, or makes it.
    pub(super) async fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), FsError> {
        let node = self.number;
        let appended = self.call("write", path, |state| {
            let file = match state.now(path) {
                Some(Kind::File(file)) => file,
                Some(Kind::Dir) => return Err(error("write", path, io::ErrorKind::IsADirectory)),
                None if !state.parent_is_there(path) => {
                    return Err(error("write", path, io::ErrorKind::NotFound));
                }
                None => {
                    state.files.push(SimFile {
                        maker: node,
                        content: Vec::new(),
                        growth: Vec::new(),
                        is_published: false,
                    });
                    let file = state.files.len() - 1;
                    state.change(path, node, Some(Kind::File(file)));
                    file
                }
            };
            state.events += 1;
            let event = state.events;
            let file = &mut state.files[file];
            let mut broken = None;
            if file.maker != node {
                broken = Some(format!(
                    "node {node} writes {} of node {}",
                    path.display(),
                    file.maker
                ));
            } else if file.is_published {
                broken = Some(format!(
                    "node {node} writes what is published: {}",
                    path.display()
                ));
            }
            file.content.extend_from_slice(bytes);
            let length = file.content.len();
            file.growth.push((event, Instant::now(), length));
            if let Some(broken) = broken {
                state.broken.get_or_insert(broken);
            }
            Ok(())
        });
        appended.await
    }

    /// Reads what this node can see of a file; `None` if it is not there.
    pub(super) async fn read_growing(&self, path: &Path) -> Result<Option<Vec<u8>>, FsError> {
        let node = self.number;
        let read = self.call("read", path, |state| {
            let Some(Kind::File(file)) = state.seen(path, node) else {
                return Ok(None);
            };
            let file = &state.files[file];
            let now = Instant::now();
            let is_seen = |(event, at, _): &&(u64, Instant, usize)| {
                file.maker == node || *at + lag(*event, node, GROWTH_LAG_MS) <= now
            };
            let length = file
                .growth
                .iter()
                .rev()
                .find(is_seen)
                .map_or(0, |(_, _, length)| *length);
            Ok(Some(file.content[..length].to_vec()))
        });
        read.await
    }

    /// Gives a file its final name; one that is taken stays.
    pub(super) async fn publish(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        let node = self.number;
        let published = self.call("publish", to, |state| {
            let Some(Kind::File(file)) = state.now(from) else {
                return Err(error("publish", from, io::ErrorKind::NotFound));
            };
            if state.now(to).is_some() {
                return Ok(());
            }
            if state.files[file].maker != node {
                let broken = format!(
                    "node {node} publishes the file of node {}",
                    state.files[file].maker
                );
                state.broken.get_or_insert(broken);
            }
            state.files[file].is_published = true;
            state.events += 1;
            let event = state.events;
            state.change_as(event, from, node, None);
            state.change_as(event, to, node, Some(Kind::File(file)));
            Ok(())
        });
        published.await
    }

    /// Tells whether a node sees a name.
    pub(super) async fn is_there(&self, path: &Path) -> Result<bool, FsError> {
        let node = self.number;
        self.call("stat", path, |state| Ok(state.seen(path, node).is_some()))
            .await
    }
}

impl Calls for SimNode {
    async fn make_dir(&self, path: &Path) -> Result<bool, FsError> {
        let node = self.number;
        let made = self.call("make directory", path, |state| {
            if state.now(path).is_some() {
                return Ok(false);
            }
            if !state.parent_is_there(path) {
                return Err(error("make directory", path, io::ErrorKind::NotFound));
            }
            state.change(path, node, Some(Kind::Dir));
            Ok(true)
        });
        made.await
    }

    async fn make_name(&self, path: &Path) -> Result<(), FsError> {
        let node = self.number;
        let made = self.call("create", path, |state| {
            if !state.parent_is_there(path) {
                return Err(error("create", path, io::ErrorKind::NotFound));
            }
            if state.now(path).is_none() {
                state.files.push(SimFile {
                    maker: node,
                    content: Vec::new(),
                    growth: Vec::new(),
                    is_published: true,
                });
                let file = state.files.len() - 1;
                state.change(path, node, Some(Kind::File(file)));
            }
            Ok(())
        });
        made.await
    }

    async fn put(&self, path: &Path, _staged: &Path, content: Vec<u8>) -> Result<(), FsError> {
        let node = self.number;
        let put = self.call("write", path, |state| {
            if !state.parent_is_there(path) {
                return Err(error("write", path, io::ErrorKind::NotFound));
            }
            let length = content.len();
            state.files.push(SimFile {
                maker: node,
                content,
                growth: vec![(0, Instant::now() - Duration::from_secs(10), length)],
                is_published: true,
            });
            let file = state.files.len() - 1;
            state.change(path, node, Some(Kind::File(file)));
            Ok(())
        });
        put.await
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, FsError> {
        let node = self.number;
        let listed = self.call("list", path, |state| {
            if state.seen(path, node) != Some(Kind::Dir) {
                return Ok(Vec::new());
            }
            let children = state.children(path).into_iter();
            let direct =
                children.filter(|child| child.parent() == Some(path) && state.seen(child, node).is_some());
            Ok(direct
                .filter_map(|child| Some(child.file_name()?.to_str()?.to_owned()))
                .collect())
        });
        listed.await
    }

    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FsError> {
        self.read_growing(path).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        let node = self.number;
        let renamed = self.call("rename", from, |state| {
            let Some(kind) = state.now(from) else {
                return Err(error("rename", from, io::ErrorKind::NotFound));
            };
            if !state.parent_is_there(to) {
                return Err(error("rename", to, io::ErrorKind::NotFound));
            }
            state.events += 1;
            let event = state.events;
            for child in state.children(from) {
                if let (Some(kind), Ok(rest)) = (state.now(&child), child.strip_prefix(from)) {
                    let target = to.join(rest);
                    state.change_as(event, &child, node, None);
                    state.change_as(event, &target, node, Some(kind));
                }
            }
            state.change_as(event, from, node, None);
            state.change_as(event, to, node, Some(kind));
            Ok(())
        });
        renamed.await
    }

    async fn remove(&self, path: &Path) -> Result<(), FsError> {
        let node = self.number;
        let removed = self.call("remove", path, |state| {
            if state.now(path).is_some() {
                state.change(path, node, None);
            }
            Ok(())
        });
        removed.await
    }

    async fn remove_tree(&self, path: &Path) -> Result<(), FsError> {
        let node = self.number;
        let removed = self.call("remove", path, |state| {
            state.events += 1;
            let event = state.events;
            let mut all = state.children(path);
            all.push(path.to_owned());
            for path in all {
                if state.now(&path).is_some() {
                    state.change_as(event, &path, node, None);
                }
            }
            Ok(())
        });
        removed.await
    }
}
