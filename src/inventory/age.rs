//! How long ago something was: roughly, because it was dated by another machine's clock.

use std::fmt;
use std::time::{Duration, SystemTime};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A time of the past, printed as `about 5 min ago`; one of the future is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age(Duration);

impl Age {
    /// Returns how long ago a time was.
    pub(super) fn of(time: SystemTime) -> Self {
        Self(time.elapsed().unwrap_or_default())
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (count, unit) = match seconds {
            0..MINUTE => return f.write_str("less than a minute ago"),
            MINUTE..HOUR => (seconds / MINUTE, "min"),
            HOUR..DAY => (seconds / HOUR, "h"),
            _ => (seconds / DAY, "d"),
        };
        write!(f, "about {count} {unit} ago")
    }
}

/// Writes a time as JSON has it: RFC 3339, to the second.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_roughly() {
        for (seconds, expected) in [
            (59, "less than a minute ago"),
            (61, "about 1 min ago"),
            (2 * HOUR - 1, "about 1 h ago"),
            (40 * DAY, "about 40 d ago"),
        ] {
            assert_eq!(Age(Duration::from_secs(seconds)).to_string(), expected);
        }
        let ahead = SystemTime::now() + Duration::from_secs(100);
        assert_eq!(Age::of(ahead).to_string(), "less than a minute ago");
    }
}
