//! Whom to leave alone, and for how long.
//!
//! A server that does not answer is paused: 1 s, then twice as long each time,
//! up to a minute. When a pause is over, one request goes through (the probe)
//! and the others are still refused, until it is known whether it was answered.
//! Any answer, whatever its status, ends all that.
//!
//! A server that answers 429 is left alone for as long as it says, with requests
//! of that kind alone: Docker Hub limits manifests that are fetched and not the
//! HEADs that ask whether a tag has moved.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::labels::UpstreamKind;

/// The first pause: about what a process takes to restart.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: what a client may have to wait after upstream has come back.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The health of one server.
#[derive(Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Default)]
struct State {
    pause: Option<Pause>,
    /// Counts verdicts: of all the requests that one outage ends, the first alone counts.
    epoch: u64,
    limited_until: HashMap<UpstreamKind, Instant>,
}

struct Pause {
    length: Duration,
    until: Instant,
    is_probed: bool,
}

/// Why a server is not to be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It does not answer.
    Paused(Duration),
    /// It answered 429.
    Limited(Duration),
}

/// Leave to send one request; what came of it must be told, or the next one probes.
pub(super) struct Pass {
    health: Arc<Health>,
    epoch: u64,
    is_probe: bool,
}

impl Health {
    /// Tells whether a request of this kind would be let through.
    pub(super) fn check(&self, kind: UpstreamKind, now: Instant) -> Result<(), Rest> {
        self.lock().check(kind, now)
    }

    /// Lets a request of this kind through, or says how long the server is to be left alone.
    pub(super) fn admit(self: &Arc<Self>, kind: UpstreamKind, now: Instant) -> Result<Pass, Rest> {
        let mut state = self.lock();
        state.check(kind, now)?;
        let is_probe = state.pause.is_some();
        if let Some(pause) = &mut state.pause {
            pause.is_probed = true;
        }
        Ok(Pass {
            health: Arc::clone(self),
            epoch: state.epoch,
            is_probe,
        })
    }

    /// Leaves the server alone with requests of this kind.
    pub(super) fn limit(&self, kind: UpstreamKind, until: Instant) {
        self.lock().limited_until.insert(kind, until);
    }

    /// No code that holds the lock can panic half-way, so a poisoned state is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&self, kind: UpstreamKind, now: Instant) -> Result<(), Rest> {
        if let Some(pause) = &self.pause {
            if now < pause.until {
                return Err(Rest::Paused(pause.until - now));
            }
            if pause.is_probed {
                return Err(Rest::Paused(FIRST_PAUSE));
            }
        }
        match self.limited_until.get(&kind) {
            Some(until) if now < *until => Err(Rest::Limited(*until - now)),
            Some(_) | None => Ok(()),
        }
    }
}

impl Pass {
    /// Notes that there was an answer, whatever it was.
    pub(super) fn answered(self) {
        let mut state = self.health.lock();
        if state.pause.take().is_some() {
            state.epoch += 1;
        }
    }

    /// Notes that there was none.
    pub(super) fn unanswered(self, now: Instant) {
        let mut state = self.health.lock();
        if state.epoch != self.epoch {
            return;
        }
        let length = match &state.pause {
            Some(pause) => (pause.length * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        state.epoch += 1;
        state.pause = Some(Pause {
            length,
            until: now + length,
            is_probed: false,
        });
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.health.lock();
        if self.is_probe
            && state.epoch == self.epoch
            && let Some(pause) = &mut state.pause
        {
            pause.is_probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: UpstreamKind = UpstreamKind::ManifestGet;

    fn admit(health: &Arc<Health>, now: Instant) -> Result<Pass, Rest> {
        health.admit(KIND, now)
    }

    fn rest(result: Result<Pass, Rest>) -> Option<Rest> {
        result.err()
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_an_answer_ends_them() {
        let (health, mut now) = (Arc::new(Health::default()), Instant::now());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            admit(&health, now).ok().unwrap().unanswered(now);
            let pause = Duration::from_secs(seconds);
            assert_eq!(rest(admit(&health, now)), Some(Rest::Paused(pause)));
            now += pause;
        }
        admit(&health, now).ok().unwrap().answered();
        admit(&health, now).ok().unwrap().unanswered(now);
        assert_eq!(
            rest(admit(&health, now)),
            Some(Rest::Paused(Duration::from_secs(1)))
        );
    }

    #[test]
    fn one_request_probes_after_a_pause_and_the_others_are_refused_meanwhile() {
        let (health, now) = (Arc::new(Health::default()), Instant::now());
        admit(&health, now).ok().unwrap().unanswered(now);
        let later = now + Duration::from_secs(1);
        let probe = admit(&health, later).ok().unwrap();
        assert!(admit(&health, later).is_err());
        drop(probe);
        let probe = admit(&health, later).ok().unwrap();
        assert!(admit(&health, later).is_err());
        probe.answered();
        assert!(admit(&health, later).is_ok());
    }

    #[test]
    fn requests_that_one_outage_ends_count_once() {
        let (health, now) = (Arc::new(Health::default()), Instant::now());
        let passes: Vec<_> = (0..16).map(|_| admit(&health, now).ok().unwrap()).collect();
        passes.into_iter().for_each(|pass| pass.unanswered(now));
        assert_eq!(
            rest(admit(&health, now)),
            Some(Rest::Paused(Duration::from_secs(1)))
        );
    }

    #[test]
    fn a_limit_holds_for_its_kind_and_its_time() {
        let (health, now) = (Arc::new(Health::default()), Instant::now());
        let until = now + Duration::from_secs(5);
        health.limit(KIND, until);
        assert_eq!(
            rest(admit(&health, now)),
            Some(Rest::Limited(Duration::from_secs(5)))
        );
        assert!(health.check(UpstreamKind::ManifestHead, now).is_ok());
        assert!(admit(&health, until).is_ok());
    }
}
