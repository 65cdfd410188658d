//! Single flight: one leader does the work, everybody else who asks follows it.
//!
//! Here it is who leads in this process; in `claim`, which of the mirrors of a store does ([`Claims`]).
//!
//! [`Flights`] says who leads; what a flight shows to its followers is the
//! flight's own matter (a fill shows a growing file). [`Questions`] is the
//! short form, for work that ends in one answer. A flight's states:
//!
//! - *under way*: its key is in the map; whoever joins becomes a follower.
//! - *landed* or *abandoned*: the [`Leader`] guard was dropped and the key is
//!   free. Whoever joins now leads, and so must look first whether the work was
//!   done in the meantime.

mod beats;
mod claim;
mod rule;
#[cfg(test)]
mod sim;
mod sweep;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use beats::Beats;
pub(crate) use claim::owners;
pub use claim::{Claim, ClaimKey, Claims, Entered, Failed, Following, IsDone, News, Places, Work};
pub use sweep::Sweep;

/// How often an asker leads or follows anew after a question was abandoned (its task panicked).
const MAX_ABANDONED: usize = 3;

/// The flights of one kind of work, by what they are about. Cheap to clone.
pub struct Flights<K, T> {
    under_way: Arc<Mutex<HashMap<K, Arc<T>>>>,
}

/// The place of one who joined.
pub enum Seat<K: Eq + Hash, T> {
    /// The first: does the work, and ends the flight by dropping the guard.
    Leader(Leader<K, T>),
    /// Everybody else.
    Follower(Arc<T>),
}

/// The leader's guard; the flight ends when it is dropped, whatever the reason.
pub struct Leader<K: Eq + Hash, T> {
    flights: Flights<K, T>,
    key: K,
    flight: Arc<T>,
}

/// Questions that are asked once for all who want the answer. Cheap to clone.
pub struct Questions<K, A> {
    flights: Flights<K, watch::Receiver<Option<A>>>,
}

/// The task that was to find the answer died; its panic is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the question was abandoned by those who asked it")]
pub struct Abandoned;

impl<K: Eq + Hash + Clone, T> Flights<K, T> {
    /// Joins the flight about `key`, or starts it with what `make` returns.
    pub fn join(&self, key: K, make: impl FnOnce() -> T) -> Seat<K, T> {
        let mut under_way = self.lock();
        if let Some(flight) = under_way.get(&key) {
            return Seat::Follower(Arc::clone(flight));
        }
        let flight = Arc::new(make());
        under_way.insert(key.clone(), Arc::clone(&flight));
        Seat::Leader(Leader {
            flights: self.clone(),
            key,
            flight,
        })
    }

    /// Returns the flight about `key`, if one is under way.
    pub fn get(&self, key: &K) -> Option<Arc<T>> {
        self.lock().get(key).cloned()
    }
}

impl<K: Eq + Hash, T> Flights<K, T> {
    /// No code that holds the lock can panic half-way, so a poisoned map is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<T>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, T> Leader<K, T> {
    /// Returns what the flight shows to its followers.
    pub fn flight(&self) -> &Arc<T> {
        &self.flight
    }
}

impl<K: Eq + Hash, T> Drop for Leader<K, T> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

impl<K, A> Questions<K, A>
where
    K: Eq + Hash + Clone + Send + 'static,
    A: Clone + Send + Sync + 'static,
{
    /// Returns the answer to `key`: of the question under way, or of a new one that `find` answers.
    ///
    /// The work is a task of its own, so it ends also when every asker has left.
    ///
    /// # Errors
    /// [`Abandoned`] if the task panicked, each time that it was tried.
    pub async fn ask<F>(&self, key: K, find: impl Fn() -> F) -> Result<A, Abandoned>
    where
        F: Future<Output = A> + Send + 'static,
    {
        for _ in 0..MAX_ABANDONED {
            let (sender, receiver) = watch::channel(None);
            let mut answer = match self.flights.join(key.clone(), || receiver) {
                Seat::Follower(answer) => (*answer).clone(),
                Seat::Leader(leader) => {
                    let answer = (**leader.flight()).clone();
                    let found = find();
                    tokio::spawn(async move {
                        let found = found.await;
                        // Ended before the answer is told: who asks after it was told asks anew.
                        drop(leader);
                        sender.send_replace(Some(found));
                    });
                    answer
                }
            };
            if let Ok(told) = answer.wait_for(Option::is_some).await
                && let Some(told) = &*told
            {
                return Ok(told.clone());
            }
        }
        Err(Abandoned)
    }
}

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self {
            under_way: Arc::clone(&self.under_way),
        }
    }
}

impl<K, A> Clone for Questions<K, A> {
    fn clone(&self) -> Self {
        Self {
            flights: self.flights.clone(),
        }
    }
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            under_way: Arc::default(),
        }
    }
}

impl<K, A> Default for Questions<K, A> {
    fn default() -> Self {
        Self {
            flights: Flights::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_askers_share_one_answer_and_the_next_asks_anew() {
        let questions = Questions::default();
        let (asked, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let find = || {
            let (asked, go) = (Arc::clone(&asked), Arc::clone(&go));
            async move {
                let number = asked.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                number
            }
        };
        let askers = futures_util::future::join_all((0..100).map(|_| questions.ask("key", find)));
        let release = async {
            while asked.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            go.notify_one();
        };
        let (answers, ()) = tokio::join!(askers, release);
        assert_eq!(answers, vec![Ok(0); 100]);
        go.notify_one();
        assert_eq!(questions.ask("key", find).await, Ok(1));
    }

    #[tokio::test]
    async fn the_work_goes_on_when_its_asker_leaves() {
        let questions: Questions<&str, ()> = Questions::default();
        let (started, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let find = || {
            let (started, done) = (Arc::clone(&started), Arc::clone(&done));
            async move {
                started.notify_one();
                tokio::task::yield_now().await;
                done.notify_one();
            }
        };
        tokio::select! {
            biased;
            () = started.notified() => {}
            _ = questions.ask("key", find) => panic!("answered before its asker left"),
        }
        done.notified().await;
    }

    #[tokio::test]
    async fn an_abandoned_question_is_taken_over_and_at_last_an_error() {
        let questions: Questions<&str, ()> = Questions::default();
        let asked = AtomicUsize::new(0);
        let find = || {
            asked.fetch_add(1, Ordering::SeqCst);
            async { panic!("meant to") }
        };
        assert_eq!(questions.ask("key", find).await, Err(Abandoned));
        assert_eq!(asked.load(Ordering::SeqCst), MAX_ABANDONED);
    }
}
