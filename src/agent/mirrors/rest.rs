//! How long a mirror that does not answer is left alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The first pause: about what a process takes to restart.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: how late a mirror may be noticed that has come back.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The rest of one mirror, if it does not answer.
#[derive(Default)]
pub(super) struct Rest(Mutex<Option<Pause>>);

struct Pause {
    length: Duration,
    until: Instant,
    is_slow: bool,
}

impl Rest {
    /// Tells whether the mirror is to be left alone.
    pub(super) fn is_on(&self, now: Instant) -> bool {
        self.lock().as_ref().is_some_and(|pause| now < pause.until)
    }

    /// Tells whether its last failure made the asker wait.
    pub(super) fn is_slow(&self) -> bool {
        self.lock().as_ref().is_some_and(|pause| pause.is_slow)
    }

    /// Notes that it did not answer; `is_slow` if it was waited for.
    pub(super) fn begin(&self, now: Instant, is_slow: bool) {
        let mut pause = self.lock();
        let length = match &*pause {
            // Of the requests that one outage ends, the first alone counts.
            Some(last) if now < last.until => last.length,
            Some(last) => (last.length * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        *pause = Some(Pause {
            length,
            until: now + length,
            is_slow,
        });
    }

    /// Notes that it answered.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    /// No code that holds the lock can panic half-way, so a poisoned state is whole.
    fn lock(&self) -> MutexGuard<'_, Option<Pause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_an_answer_ends_them() {
        let (rest, mut now) = (Rest::default(), Instant::now());
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            rest.begin(now, false);
            let pause = Duration::from_secs(seconds);
            assert!(rest.is_on(now + pause - Duration::from_millis(1)), "{seconds}");
            now += pause;
            assert!(!rest.is_on(now), "{seconds}");
        }
        rest.begin(now, true);
        assert!(rest.is_slow());
        rest.end();
        assert!(!rest.is_on(now) && !rest.is_slow());
    }

    #[test]
    fn requests_that_one_outage_ends_count_once() {
        let (rest, now) = (Rest::default(), Instant::now());
        for _ in 0..16 {
            rest.begin(now, false);
        }
        assert!(!rest.is_on(now + FIRST_PAUSE));
    }
}
