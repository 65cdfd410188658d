//! Tags, and what a manifest can be asked by.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, ParseDigestError};

/// The longest tag (distribution-spec: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
const MAX_TAG_LEN: usize = 128;

/// A tag, safe as a path component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

/// What names a manifest in its repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

/// Why a text is neither a tag nor a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseReferenceError {
    #[error("{0:?} is not a tag (up to {MAX_TAG_LEN} of A-Z a-z 0-9 _ . -, not starting with . or -)")]
    Tag(String),
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
}

impl Tag {
    /// Returns the tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tag under which registries without the referrers API keep what refers to `digest`.
    ///
    /// Source: distribution-spec, "Referrers Tag Schema".
    pub fn of_referrers(digest: &Digest) -> Self {
        let text = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
        Self(text.chars().take(MAX_TAG_LEN).collect())
    }
}

impl FromStr for Tag {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_tag_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let starts_well = !text.starts_with(['.', '-']);
        if text.is_empty() || text.len() > MAX_TAG_LEN || !starts_well || !text.bytes().all(is_tag_byte) {
            return Err(ParseReferenceError::Tag(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    /// Reads what has a colon as a digest, and all else as a tag.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(':') {
            return Ok(Self::Digest(text.parse()?));
        }
        Ok(Self::Tag(text.parse()?))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_spec_grammar() {
        for good in ["latest", "v1.2.3", "_x", "A-b_c.d", &"x".repeat(128)] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a b", "a\n", &"x".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_referrers_tag_of_a_long_digest_is_cut_to_the_length_of_a_tag() {
        let short = Digest::of(super::super::Algorithm::Sha256, b"");
        assert_eq!(Tag::of_referrers(&short).as_str().len(), 7 + 64);
        let long = Digest::of(super::super::Algorithm::Sha512, b"");
        assert_eq!(Tag::of_referrers(&long).as_str().len(), 128);
    }
}
