//! Names of entries: which place below the layer's root they mean.

use super::error::EntryFault;

/// The longest path that a system call takes (`PATH_MAX`, less its zero).
pub(super) const MAX_PATH_BYTES: usize = 4095;

/// The longest name in a directory (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;

/// What the name of an entry that deletes begins with (image-spec `layer.md`, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The entry that hides all that the layers below have in its directory.
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

/// What an entry's last name means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A file or directory of the layer.
    Present(&'a [u8]),
    /// This name of the layers below is gone.
    Whiteout(&'a [u8]),
    /// All names of the layers below are gone.
    Opaque,
    /// A mark of AUFS that means nothing here.
    Ignored,
}

/// Splits a name into the names on the way from the layer's root; none for the root itself.
///
/// Leading slashes and `.` mean nothing; `..` may go up to the root and not beyond.
pub(super) fn split(name: &[u8]) -> Result<Vec<&[u8]>, EntryFault> {
    if name.len() > MAX_PATH_BYTES {
        return Err(EntryFault::TooLong);
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or(EntryFault::Outside)?;
            }
            _ => {
                check(part)?;
                parts.push(part);
            }
        }
    }
    Ok(parts)
}

/// Checks a single name.
pub(super) fn check(name: &[u8]) -> Result<(), EntryFault> {
    if name.len() > MAX_NAME_BYTES {
        return Err(EntryFault::TooLong);
    }
    if name.contains(&0) {
        return Err(EntryFault::BadName);
    }
    Ok(())
}

/// Tells what an entry's last name means.
pub(super) fn meaning(name: &[u8]) -> Result<Meaning<'_>, EntryFault> {
    if name == OPAQUE_MARK {
        return Ok(Meaning::Opaque);
    }
    match name.strip_prefix(WHITEOUT_PREFIX) {
        None => Ok(Meaning::Present(name)),
        Some(rest) if rest.starts_with(WHITEOUT_PREFIX) => Ok(Meaning::Ignored),
        Some(b"" | b"." | b"..") => Err(EntryFault::BadName),
        Some(gone) => Ok(Meaning::Whiteout(gone)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_places_below_the_root() {
        for (name, expected) in [
            (b"a/b".as_slice(), Ok(vec![b"a".as_slice(), b"b"])),
            (b"/a//./b/", Ok(vec![b"a", b"b"])),
            (b"./", Ok(vec![])),
            (b"a/../b", Ok(vec![b"b"])),
            (b"a/../../b", Err(EntryFault::Outside)),
            (b"..", Err(EntryFault::Outside)),
            (b"a\0b", Err(EntryFault::BadName)),
            (&[b'x'; 256], Err(EntryFault::TooLong)),
            (&[b'/'; 4096], Err(EntryFault::TooLong)),
            (b"\xff\xfe", Ok(vec![b"\xff\xfe"])),
        ] {
            assert_eq!(split(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn marks_are_told_from_names() {
        for (name, expected) in [
            (b"a".as_slice(), Ok(Meaning::Present(b"a"))),
            (b".wh", Ok(Meaning::Present(b".wh"))),
            (b".wh.a", Ok(Meaning::Whiteout(b"a"))),
            (b".wh..a", Ok(Meaning::Whiteout(b".a"))),
            (b".wh..wh..opq", Ok(Meaning::Opaque)),
            (b".wh..wh.plnk", Ok(Meaning::Ignored)),
            (b".wh.", Err(EntryFault::BadName)),
            (b".wh..", Err(EntryFault::BadName)),
            (b".wh...", Err(EntryFault::BadName)),
        ] {
            assert_eq!(meaning(name), expected, "{}", name.escape_ascii());
        }
    }
}
