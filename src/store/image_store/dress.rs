//! What lies beside a layer's `diff`, and its short name.

use std::path::Path;

use crate::fs::{self, FsError, FsErrorKind, StagedFile};
use crate::oci::LayerId;
use crate::store::layout::DIFF;

/// The digits of short names (RFC 4648, base 32).
const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Bits of a digit.
const DIGIT_BITS: u32 = 5;

/// How long short names are: at 8 digits, one in a million pairs of a million layers is alike, and 128 layers fit into
/// mount(2)'s page of options with the absolute paths that Podman 4 uses there (facts/podman.md 7).
const SHORT: usize = 8;

/// How long they may become where shorter ones are taken.
const LONGEST: usize = 12;

/// Makes the short name of a layer, or finds the one that it has.
///
/// The name is there before the layer is, so that two layers never have the same one.
pub(super) fn claim_short_name(dir: &Path, layer_id: &LayerId) -> Result<String, FsError> {
    let digits = digits_of(layer_id);
    let target = Path::new("..").join(layer_id.as_str()).join(DIFF);
    for length in SHORT..=LONGEST {
        let name = &digits[..length];
        let path = dir.join(name);
        match fs::make_link(&target, &path) {
            Ok(()) => {
                fs::sync_dir(dir)?;
                return Ok(name.to_owned());
            }
            Err(error) if error.is_missing() => {
                fs::make_dirs_durably(dir)?;
                return claim_short_name(dir, layer_id);
            }
            Err(error) if error.kind() == FsErrorKind::Exists => {}
            Err(error) => return Err(error),
        }
        if fs::read_link(&path)? == target {
            return Ok(name.to_owned());
        }
    }
    let error = std::io::Error::other("all short names of this layer are other layers'");
    Err(FsError::new("name", &dir.join(&digits), error))
}

/// Writes the leading bits of a layer's id in base 32.
fn digits_of(layer_id: &LayerId) -> String {
    let bits = u64::from_str_radix(&layer_id.as_str()[..16], 16).unwrap_or_default();
    let digit = |place: usize| {
        let shift = u64::BITS - DIGIT_BITS * (place as u32 + 1);
        char::from(DIGITS[((bits >> shift) & 0x1f) as usize])
    };
    (0..LONGEST).map(digit).collect()
}

/// Puts beside `diff` what is not there yet; `below` are the short names of the layers below, the topmost first.
pub(super) fn dress(
    dir: &Path,
    short_name: &str,
    below: &[String],
    stage: impl Fn() -> Result<StagedFile, FsError>,
) -> Result<(), FsError> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        if fs::stat(&path)?.is_some() {
            return Ok(());
        }
        let mut staged = stage()?;
        staged.write(&[text])?;
        staged.publish(&path)
    };
    if below.is_empty() {
        fs::make_dirs(&dir.join("empty"))?;
    } else {
        let lower: Vec<String> = below.iter().map(|name| format!("l/{name}")).collect();
        write("lower", &lower.join(":"))?;
    }
    // Podman 4 makes them where it compares a layer with what is below, and a node's mount is read-only.
    for name in ["merged", "work"] {
        fs::make_dirs(&dir.join(name))?;
    }
    // The last one: a layer that has it has the rest.
    write("link", short_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::chain::chain;
    use crate::oci::{Algorithm, DiffId, Digest};

    fn layer_id(seed: &str) -> LayerId {
        let diff_id = DiffId::new(Digest::of(Algorithm::Sha256, seed.as_bytes()));
        chain(&[diff_id]).remove(0).layer_id
    }

    #[test]
    fn a_layer_has_one_short_name_and_a_longer_one_where_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (layer_id("one"), layer_id("other"));
        let name = claim_short_name(dir.path(), &one).unwrap();
        assert_eq!(name.len(), SHORT);
        assert!(name.bytes().all(|digit| DIGITS.contains(&digit)), "{name}");
        assert_eq!(claim_short_name(dir.path(), &one).unwrap(), name);
        let taken = digits_of(&other)[..SHORT].to_owned();
        std::os::unix::fs::symlink("../elsewhere/diff", dir.path().join(&taken)).unwrap();
        let longer = claim_short_name(dir.path(), &other).unwrap();
        assert_eq!(longer, digits_of(&other)[..=SHORT]);
        let target = std::fs::read_link(dir.path().join(longer)).unwrap();
        assert_eq!(target, Path::new("..").join(other.as_str()).join("diff"));
    }
}
