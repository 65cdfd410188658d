//! Which manifest types a client accepts (RFC 9110, section 12.5.1).

/// What a client's `Accept` lines say, all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Media ranges without parameters, in lower case; a range of quality 0 is left out.
    ranges: Vec<String>,
    is_given: bool,
}

impl Accept {
    /// Reads the values of all `Accept` lines.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut accept = Self::default();
        for line in lines {
            accept.is_given = true;
            accept.ranges.extend(line.split(',').filter_map(media_range));
        }
        accept
    }

    /// Tells whether a media type is accepted; everything is if no line was sent.
    pub fn accepts(&self, media_type: &str) -> bool {
        let main_type = media_type.split('/').next().unwrap_or_default();
        !self.is_given
            || self.ranges.iter().any(|range| {
                let any_subtype = range
                    .strip_suffix("/*")
                    .is_some_and(|of| of.eq_ignore_ascii_case(main_type));
                range == "*/*" || any_subtype || range.eq_ignore_ascii_case(media_type)
            })
    }
}

fn media_range(text: &str) -> Option<String> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next()?.to_ascii_lowercase();
    let is_refused = parts.any(|part| {
        part.strip_prefix("q=")
            .is_some_and(|quality| quality.parse::<f32>().is_ok_and(|quality| quality == 0.0))
    });
    (!range.is_empty() && !is_refused).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_accepted_if_any_line_names_it() {
        let table: [(&[&str], &str, bool); 8] = [
            (&[], "a/b", true),
            (&["*/*"], "a/b", true),
            (&["a/*"], "a/b", true),
            (&["c/d", "x/y, a/b;q=0.5"], "a/b", true),
            (&["A/B"], "a/b", true),
            (&["c/d"], "a/b", false),
            (&["a/b;q=0"], "a/b", false),
            (&[""], "a/b", false),
        ];
        for (lines, media_type, expected) in table {
            assert_eq!(
                Accept::parse(lines.iter().copied()).accepts(media_type),
                expected,
                "{lines:?}"
            );
        }
    }
}
