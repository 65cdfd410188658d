//! Mirrors that bring the same blobs, and what must hold while they do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::disk::{NodeNumber, Random, SimDisk, SimNode};
use crate::flight::beats::Beats;
use crate::flight::rule::{Rule, break_rule};
use crate::flight::{Claim, ClaimKey, Claims, Entered, News, Places};
use crate::fs::{Calls as _, FsError};
use crate::oci::{Algorithm, Digest};

const STALL: Duration = Duration::from_secs(15);

/// Longer than any of this may take, with all its faults.
const LIMIT: Duration = Duration::from_secs(1800);

/// How much later than they were seen to happen things may be taken for not having happened.
const SLACK: Duration = Duration::from_millis(50);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Faults {
    None,
    All,
}

/// Everything of one run.
struct World {
    disk: SimDisk,
    random: Mutex<Random>,
    blobs: Vec<Blob>,
    /// Who owns which blob at the moment, and since when.
    owners: Mutex<BTreeMap<usize, (NodeNumber, Instant)>>,
}

struct Blob {
    key: ClaimKey,
    content: Vec<u8>,
    path: PathBuf,
    /// What upstream says if it does not have it.
    is_refused: bool,
    fetched: Mutex<usize>,
}

/// One process.
struct Mirror {
    world: Arc<World>,
    node: SimNode,
    claims: Claims<SimNode>,
}

/// Why a mirror does not have a blob.
enum Failure {
    /// Upstream does not have it.
    Refused,
    /// The store failed; its clients ask again.
    Store,
}

impl From<FsError> for Failure {
    fn from(_: FsError) -> Self {
        Self::Store
    }
}

/// Runs one seed, and returns what does not hold.
pub(super) fn run(seed: u64, faults: Faults, broken: Option<Rule>) -> Result<(), String> {
    break_rule(broken);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let ended = runtime.block_on(async { timeout(LIMIT, play(seed, faults)).await });
    break_rule(None);
    ended.unwrap_or_else(|_| Err("somebody waits for ever".to_owned()))
}

async fn play(seed: u64, faults: Faults) -> Result<(), String> {
    let mut random = Random::new(seed);
    let dirs = [
        "/s",
        "/s/staging",
        "/s/staging/claims",
        "/s/staging/work",
        "/s/mirrors",
        "/s/blobs",
    ];
    let disk = SimDisk::new(seed, &dirs.map(Path::new));
    let blobs = (0..1 + random.below(3))
        .map(|number| {
            let size = 1 + random.below(40) as usize;
            let content: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
            let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
            Blob {
                key: ClaimKey::blob(&digest, None),
                path: PathBuf::from(format!("/s/blobs/{}", digest.hex())),
                content,
                is_refused: faults == Faults::All && random.once_in(8),
                fetched: Mutex::new(0),
            }
        })
        .collect();
    let mirrors = 2 + random.below(4) as usize;
    let world = Arc::new(World {
        disk,
        blobs,
        owners: Mutex::default(),
        random: Mutex::new(random.clone()),
    });
    let mut processes: Vec<(NodeNumber, Vec<JoinHandle<()>>)> = Vec::new();
    for number in 0..mirrors {
        processes.push((number, start(&world, number, &mut random)));
    }
    if faults == Faults::All {
        world.disk.let_nap(200 + random.below(2000));
        let mut next_number = mirrors;
        for _ in 0..1 + random.below(4) {
            sleep(random.millis(0..8000)).await;
            // Rather one that others wait for.
            let owners: Vec<NodeNumber> = world
                .owners
                .lock()
                .unwrap()
                .values()
                .map(|(owner, _)| *owner)
                .collect();
            let owner = (!owners.is_empty()).then(|| owners[random.below(owners.len() as u64) as usize]);
            let of_owner = processes.iter().position(|(number, _)| Some(*number) == owner);
            let any = random.below(processes.len() as u64) as usize;
            let victim = of_owner.filter(|_| random.once_in(2)).unwrap_or(any);
            let time = random.millis(500..60_000);
            let number = processes[victim].0;
            tracing::trace!(number, ?time, "harm");
            match random.below(4) {
                0 => {
                    world.disk.kill(number);
                    processes[victim].1.iter().for_each(JoinHandle::abort);
                    world.disown(number);
                    // Its next start is another process.
                    processes[victim] = (next_number, start(&world, next_number, &mut random));
                    next_number += 1;
                }
                1 => world.disk.stop(number, time),
                2 => world.disk.cut(number, time),
                // The server: nobody is harmed more than others.
                _ => world.disk.hang(random.millis(500..14_000)),
            }
        }
    }
    for (_, tasks) in processes {
        for task in tasks {
            // A killed one's is cancelled.
            if task.await.is_err_and(|error| error.is_panic()) {
                return Err("a mirror panicked".to_owned());
            }
        }
    }
    sleep(Duration::from_secs(30)).await;
    world.check(faults)
}

/// Starts a mirror whose clients ask for every blob.
fn start(world: &Arc<World>, number: NodeNumber, random: &mut Random) -> Vec<JoinHandle<()>> {
    let node = world.disk.node(number);
    let places = Places {
        claims: "/s/staging/claims".into(),
        mirrors: "/s/mirrors".into(),
        work: "/s/staging/work".into(),
        owner: format!("m{number}"),
    };
    let beats = Beats::new(node.clone(), places.mirrors.join(&places.owner));
    let own_work = places.work.join(&places.owner);
    let mirror = Arc::new(Mirror {
        claims: Claims::new(node.clone(), places, beats.clone(), STALL),
        world: Arc::clone(world),
        node,
    });
    let when: Vec<Duration> = world.blobs.iter().map(|_| random.millis(0..20_000)).collect();
    let appear = Arc::clone(&mirror);
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    let is_ready = Arc::clone(&ready);
    let mut tasks = Vec::new();
    let beating = tokio::spawn(async move {
        while appear.node.make_dir(&own_work).await.is_err() || beats.appear(&[]).await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
        is_ready.close();
        beats.run().await;
    });
    for (blob, when) in when.into_iter().enumerate() {
        let (mirror, ready) = (Arc::clone(&mirror), Arc::clone(&ready));
        tasks.push(tokio::spawn(async move {
            // Closed when the mirror has appeared.
            let _ = ready.acquire().await;
            sleep(when).await;
            mirror.serve(blob).await;
        }));
    }
    let guard = AbortOnDrop(beating);
    // Beats end with what the mirror is asked for, and a little later.
    let last = tasks.pop();
    if let Some(last) = last {
        tasks.push(tokio::spawn(async move {
            let guard = guard;
            let _ = last.await;
            sleep(Duration::from_secs(120)).await;
            drop(guard);
        }));
    }
    tasks
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl World {
    fn disown(&self, node: NodeNumber) {
        self.owners.lock().unwrap().retain(|_, (owner, _)| *owner != node);
    }

    fn check(&self, faults: Faults) -> Result<(), String> {
        if let Some(broken) = self.disk.broken() {
            return Err(broken);
        }
        for blob in &self.blobs {
            let fetched = *blob.fetched.lock().unwrap();
            match self.disk.content(&blob.path) {
                Some(content) if content != blob.content => {
                    return Err("what is published is wrong".to_owned());
                }
                Some(_) => {}
                None if blob.is_refused => {}
                None => return Err("a blob was never published".to_owned()),
            }
            if faults == Faults::None && fetched != blob.content.len() {
                return Err(format!("{fetched} bytes were fetched of {}", blob.content.len()));
            }
        }
        let left = self.disk.below(Path::new("/s/staging/claims"));
        if faults == Faults::None && !left.is_empty() {
            return Err(format!("claims are left: {left:?}"));
        }
        Ok(())
    }
}

impl Mirror {
    /// Brings a blob, as often as it takes.
    async fn serve(&self, blob: usize) {
        for _ in 0..20 {
            match self.bring(blob).await {
                Ok(()) => return self.check_content(blob).await,
                Err(Failure::Refused) => {
                    if !self.world.blobs[blob].is_refused {
                        self.world.disk.note_broken("a failure that was none".to_owned());
                    }
                    return;
                }
                Err(Failure::Store) => sleep(Duration::from_secs(2)).await,
            }
        }
        self.world
            .disk
            .note_broken(format!("mirror {} never got a blob", self.node.number));
    }

    async fn check_content(&self, blob: usize) {
        let blob = &self.world.blobs[blob];
        if self.world.disk.content(&blob.path).as_ref() != Some(&blob.content) {
            self.world
                .disk
                .note_broken("a client got something wrong".to_owned());
        }
    }

    fn is_done(
        &self,
        blob: usize,
    ) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<bool, FsError>> + Send>> {
        let (node, path) = (self.node.clone(), self.world.blobs[blob].path.clone());
        move || {
            let (node, path) = (node.clone(), path.clone());
            Box::pin(async move { node.is_there(&path).await })
        }
    }

    async fn bring(&self, blob: usize) -> Result<(), Failure> {
        let is_done = self.is_done(blob);
        if is_done().await? {
            return Ok(());
        }
        let key = &self.world.blobs[blob].key;
        let mut entered = self.claims.enter(key, &is_done).await?;
        loop {
            let mut following = match entered {
                Entered::Done => return Ok(()),
                Entered::Ours(claim) => match self.own(blob, claim).await? {
                    Some(following) => following,
                    None => return Ok(()),
                },
                Entered::Theirs(following) => following,
            };
            let mut served: Vec<u8> = Vec::new();
            let mut file: Option<PathBuf> = None;
            entered = loop {
                let news = {
                    let next = following.next(&is_done);
                    tokio::pin!(next);
                    loop {
                        tokio::select! {
                            biased;
                            news = &mut next => break news?,
                            () = sleep(Duration::from_millis(200)) => {}
                        }
                        if let Some(file) = &file {
                            self.follow(blob, file, &mut served).await?;
                        }
                    }
                };
                match news {
                    News::Done => break Entered::Done,
                    News::Owner(work) => file = Some(work.file),
                    News::Ours(claim) => break Entered::Ours(claim),
                    News::Failed(failed) if failed.reason == b"refused" => return Err(Failure::Refused),
                    News::Failed(failed) => break failed.try_anew(&is_done).await?,
                }
            };
        }
    }

    /// Serves what an owner has written so far.
    async fn follow(&self, blob: usize, file: &Path, served: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(content) = self.node.read_growing(file).await?
            && content.len() > served.len()
        {
            served.extend_from_slice(&content[served.len()..]);
            if !self.world.blobs[blob].content.starts_with(served) {
                self.world
                    .disk
                    .note_broken("a client got something wrong meanwhile".to_owned());
            }
        }
        Ok(())
    }

    /// Fetches a blob as its owner; follows whoever has taken this mirror for dead.
    async fn own(
        &self,
        blob: usize,
        claim: Claim<SimNode>,
    ) -> Result<Option<crate::flight::Following<SimNode>>, Failure> {
        let world = &self.world;
        let Blob {
            content,
            path,
            is_refused,
            fetched,
            ..
        } = &world.blobs[blob];
        self.check_claim(blob, &claim);
        let result = async {
            if *is_refused {
                claim.fail(b"refused".to_vec()).await;
                return Err(Failure::Refused);
            }
            let breaks = world.random.lock().unwrap().once_in(20) && world.disk.is_harmed(self.node.number);
            let mut have: Vec<u8> = Vec::new();
            for work in claim.left() {
                let left = self.node.read_growing(&work.file).await?.unwrap_or_default();
                if left.len() > have.len() {
                    have = left;
                }
            }
            let file = claim.file();
            if !have.is_empty() {
                self.node.append(&file, &have).await?;
            }
            let fetch = async {
                while have.len() < content.len() {
                    let pause = world.random.lock().unwrap().millis(20..900);
                    sleep(pause).await;
                    self.node.is_running().await;
                    *fetched.lock().unwrap() += 1;
                    let byte = content[have.len()];
                    have.push(byte);
                    self.node.append(&file, &[byte]).await?;
                }
                Ok::<_, Failure>(())
            };
            tokio::select! {
                biased;
                following = claim.overtaken() => return Ok(Some(following)),
                fetched = fetch => fetched?,
            }
            if breaks {
                claim.fail(b"broken".to_vec()).await;
                return Err(Failure::Store);
            }
            if have != *content {
                claim.give_up().await;
                return Err(Failure::Store);
            }
            match self.node.publish(&file, path).await {
                Ok(()) => claim.done(),
                Err(error) => {
                    claim.give_up().await;
                    return Err(error.into());
                }
            }
            Ok(None)
        };
        let ended = result.await;
        let mut owners = world.owners.lock().unwrap();
        if owners
            .get(&blob)
            .is_some_and(|(owner, _)| *owner == self.node.number)
        {
            owners.remove(&blob);
        }
        ended
    }

    /// Checks that nobody is at it whom nothing has happened to, and that it was not done before.
    fn check_claim(&self, blob: usize, claim: &Claim<SimNode>) {
        let world = &self.world;
        let number = self.node.number;
        tracing::trace!(number, blob, dir = %claim.own_dir().display(), "owns");
        let published = world.disk.since(&world.blobs[blob].path);
        // It was late, is overtaken, and will see that.
        let Some(claimed) = world.disk.since(&claim.own_dir()) else {
            return;
        };
        let before = world.owners.lock().unwrap().insert(blob, (number, claimed));
        // Who claimed before is late, and will see that it was overtaken.
        if let Some((owner, since)) = before
            && owner != number
            && since < claimed
            && !world.disk.is_harmed(owner)
        {
            world
                .disk
                .note_broken(format!("mirror {number} owns what mirror {owner} does"));
        }
        if published.is_some_and(|published| published + SLACK < claimed) {
            world
                .disk
                .note_broken(format!("mirror {number} fetches what is there"));
        }
    }
}
