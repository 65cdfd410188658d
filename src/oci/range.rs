//! Byte ranges of a blob (RFC 9110, section 14), as registries use them.

/// One asked range of bytes, not yet held against a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-last`, both inclusive; open-ended without `last`.
    From { first: u64, last: Option<u64> },
    /// `bytes=-count`: the last `count` bytes.
    Suffix { count: u64 },
}

/// What a range means for a blob of known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// The bytes from `start` up to, and not including, `end`.
    Satisfiable { start: u64, end: u64 },
    /// Nothing of the range lies within the blob: status 416.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads a `Range` header's value.
    ///
    /// Returns `None` for what a server is to ignore: another unit, several
    /// ranges, anything malformed. The whole blob is a correct answer then.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, spec) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
            return None;
        }
        let (first, last) = spec.trim().split_once('-')?;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        match (first, last) {
            ("", count) => Some(Self::Suffix {
                count: number(count)?,
            }),
            (first, "") => Some(Self::From {
                first: number(first)?,
                last: None,
            }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From {
                    first,
                    last: Some(last),
                })
            }
        }
    }

    /// Holds the range against a blob's length in bytes.
    pub fn within(self, length: u64) -> RangeOutcome {
        let (start, end) = match self {
            Self::From { first, last } => {
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                (first, end)
            }
            Self::Suffix { count } => (length.saturating_sub(count), length),
        };
        if start >= end {
            return RangeOutcome::Unsatisfiable;
        }
        RangeOutcome::Satisfiable { start, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        use RangeOutcome::{Satisfiable, Unsatisfiable};
        for (header, outcome) in [
            ("bytes=0-", Some(Satisfiable { start: 0, end: 10 })),
            ("bytes=0-0", Some(Satisfiable { start: 0, end: 1 })),
            ("Bytes = 3-4", Some(Satisfiable { start: 3, end: 5 })),
            ("bytes=3-400", Some(Satisfiable { start: 3, end: 10 })),
            (
                "bytes=9-99999999999999999999999",
                Some(Satisfiable { start: 9, end: 10 }),
            ),
            ("bytes=-4", Some(Satisfiable { start: 6, end: 10 })),
            ("bytes=-40", Some(Satisfiable { start: 0, end: 10 })),
            ("bytes=-0", Some(Unsatisfiable)),
            ("bytes=10-", Some(Unsatisfiable)),
            ("bytes=10-12", Some(Unsatisfiable)),
            ("bytes=4-3", None),
            ("bytes=0-1,3-4", None),
            ("items=0-1", None),
            ("bytes=+1-2", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes", None),
            ("", None),
        ] {
            assert_eq!(
                ByteRange::parse(header).map(|range| range.within(10)),
                outcome,
                "{header:?}"
            );
        }
        assert_eq!(ByteRange::parse("bytes=0-").unwrap().within(0), Unsatisfiable);
        assert_eq!(ByteRange::parse("bytes=-5").unwrap().within(0), Unsatisfiable);
    }
}
