//! How long the readers of an uncached blob wait for the slowest of them.
//!
//! What is only in memory moves on when all have read it. Nobody may hold up the
//! others for more than [`GRACE`] in all, neither by a stop nor by many short ones;
//! and who takes nothing for that long holds a permit that others wait for.

use std::time::Duration;

use tokio::time::Instant;

/// How long the slowest reader is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// What is known of the waiting in one fill.
#[derive(Default)]
pub(super) struct Patience {
    /// Since when nothing has moved.
    full_since: Option<Instant>,
    /// Since when somebody who has read everything waits for the others.
    held_up_since: Option<Instant>,
    /// How long somebody did before that.
    held_up: Duration,
}

impl Patience {
    /// Notes whether there is room for more, and whether somebody has read everything.
    pub(super) fn note(&mut self, now: Instant, has_room: bool, is_read_up: bool) {
        if let Some(since) = self.held_up_since.take() {
            self.held_up += now - since;
        }
        if has_room {
            self.full_since = None;
            return;
        }
        self.full_since.get_or_insert(now);
        self.held_up_since = is_read_up.then_some(now);
    }

    /// Returns when it ends, if it will.
    pub(super) fn end(&self) -> Option<Instant> {
        let full_until = self.full_since? + GRACE;
        let held_up_until = self
            .held_up_since
            .map(|since| since + GRACE.saturating_sub(self.held_up));
        Some(held_up_until.map_or(full_until, |until| until.min(full_until)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stop_ends_it() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        assert_eq!(patience.end(), None);
        patience.note(now, false, false);
        patience.note(now + SECOND, false, true);
        assert_eq!(patience.end(), Some(now + GRACE));
        patience.note(now + 2 * SECOND, true, true);
        assert_eq!(patience.end(), None);
    }

    #[test]
    fn many_short_stops_end_it_if_somebody_waits() {
        for (is_read_up, expected) in [(true, SECOND), (false, GRACE)] {
            let (mut patience, mut now) = (Patience::default(), Instant::now());
            for _ in 0..4 {
                patience.note(now, false, is_read_up);
                patience.note(now + SECOND, true, is_read_up);
                now += 2 * SECOND;
            }
            patience.note(now, false, is_read_up);
            assert_eq!(patience.end(), Some(now + expected), "{is_read_up}");
        }
    }
}
