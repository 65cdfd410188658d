//! A gate that one side waits at and the other opens: how tests synchronise without sleeping.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long anybody waits at a gate; far longer than a sound test does.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gate, shut at first. A clone is the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    arrived: usize,
}

impl Gate {
    /// Makes a shut gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.state().is_open = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open; a gate that nobody opens lets its visitors go at last.
    pub fn pass(&self) {
        let mut state = self.state();
        state.arrived += 1;
        self.0.1.notify_all();
        self.wait_while(state, |state| !state.is_open);
    }

    /// Waits until `count` have come to it, whether or not it was open.
    pub fn wait_for(&self, count: usize) {
        let is_late = self.wait_while(self.state(), |state| state.arrived < count);
        assert!(!is_late, "{} of {count} came to a gate", self.arrived());
    }

    /// How many have come to it.
    pub fn arrived(&self) -> usize {
        self.state().arrived
    }

    /// Returns whether it took too long.
    fn wait_while(&self, state: MutexGuard<'_, State>, mut waits: impl FnMut(&State) -> bool) -> bool {
        let waited = self.0.1.wait_timeout_while(state, PATIENCE, |state| waits(state));
        waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
