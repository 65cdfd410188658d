//! `layers/entries/`: what layers.json of containers/storage is made of, a file a layer.
//!
//! Each file is one object of that list, appears whole under a new name and never changes. So names that are
//! listed say all, on every file system, while a list that is replaced is seen late on some.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Store;
use super::layout::Layout;
use crate::fs::{self, FsError};

/// What another compressed digest of a layer is listed under.
const ALIAS: &str = "alias-";

/// The name of an entry: a layer id, or `alias-` and an id that was made up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<str>);

impl EntryName {
    /// Reads a file's name; `None` for one that is no entry's, such as a file system's own.
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.strip_prefix(ALIAS).unwrap_or(text);
        let is_id = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Self(text.into()))
    }

    /// Returns the name; safe as a path component.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id that the entry has in the list.
    pub fn id(&self) -> &str {
        self.0.strip_prefix(ALIAS).unwrap_or(&self.0)
    }

    /// Tells whether it names another compression of a layer, which has no directory of its own.
    pub fn is_alias(&self) -> bool {
        self.0.starts_with(ALIAS)
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Store {
    /// Returns the directory that containers/storage takes for an additional image store, of the store at
    /// `root`.
    pub fn image_store_path(root: &Path) -> PathBuf {
        Layout::new(root).image_store()
    }

    /// Returns the names of the layers that are complete for containers/storage; none before there is one.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn entry_names(&self) -> Result<Vec<EntryName>, FsError> {
        let names = fs::list(&self.layout().entries())?;
        Ok(names.iter().filter_map(|name| EntryName::parse(name)).collect())
    }

    /// Returns an entry as it is; `None` if it is not there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn entry(&self, name: &EntryName) -> Result<Option<Vec<u8>>, FsError> {
        fs::read(&self.layout().entries().join(name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_and_their_aliases_are_names() {
        let id = "0123456789abcdef".repeat(4);
        let layer = EntryName::parse(&id).unwrap();
        assert_eq!((layer.id(), layer.is_alias()), (&*id, false));
        let alias = EntryName::parse(&format!("alias-{id}")).unwrap();
        assert_eq!((alias.id(), alias.is_alias()), (&*id, true));
        for other in [
            "",
            "..",
            ".nfs0001",
            "alias-",
            &id[1..],
            &format!("{id}.tmp"),
            &id.to_uppercase(),
        ] {
            assert_eq!(EntryName::parse(other), None, "{other}");
        }
    }
}
