//! Numbers of tar headers.

use super::entry::Time;

/// Reads a header's number: octal digits, or big-endian two's complement if the first bit is set
/// (GNU, star). An empty field is 0.
pub(super) fn header_number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The marker bit is no part of the number; the next one is its sign.
        let is_negative = first & 0x40 != 0;
        let start = if is_negative {
            i128::from(first | 0x80) - 256
        } else {
            i128::from(first & 0x7f)
        };
        let mut number = start;
        for byte in rest {
            number = number.checked_mul(256)? + i128::from(*byte);
        }
        return number.try_into().ok();
    }
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ' || *byte == 0)
        .take_while(|byte| *byte != b' ' && *byte != 0)
        .collect();
    if digits.is_empty() {
        return Some(0);
    }
    i64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

/// Reads a decimal number that has no sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_plain
        .then(|| std::str::from_utf8(text).ok()?.parse().ok())
        .flatten()
}

/// Reads a time of a PAX record: decimal seconds since 1970, with a sign and a fraction if there is one.
pub(super) fn pax_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.as_bytes().get(place).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + char::from(digit).to_digit(10)?;
    }
    Some(match (is_negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        // Nanoseconds count forward.
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_numbers_are_octal_or_binary_and_may_be_negative() {
        for (field, expected) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"-1\0", Some(-1)),
            (b"garbage\0", None),
        ] {
            assert_eq!(header_number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let time = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        for (text, expected) in [
            ("0", time(0, 0)),
            ("12.5", time(12, 500_000_000)),
            ("12.0000000019", time(12, 1)),
            ("-1", time(-1, 0)),
            ("-1.25", time(-2, 750_000_000)),
            ("1.", time(1, 0)),
            ("", None),
            ("1e9", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(pax_time(text.as_bytes()), expected, "{text}");
        }
    }
}
