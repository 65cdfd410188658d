//! layers.json: made of entries, and of nothing else.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::{Entry, EntryName};
use crate::fs::{self, FileIdentity, FsError, random_name};
use crate::oci::{Digest, LayerId};
use crate::store::Store;

/// What entries say, by their names.
pub type EntryTexts = BTreeMap<EntryName, Arc<str>>;

/// Bytes of the token in a lock file (containers/storage `pkg/lockfile`).
const TOKEN_BYTES: usize = 64;

/// What reading an entry fails with that is damaged.
const DECODE: &str = "decode";

#[derive(Deserialize)]
struct Listed {
    id: LayerId,
}

impl Store {
    /// Returns the names of all entries.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn entry_names(&self) -> Result<HashSet<EntryName>, FsError> {
        let names = fs::list(&self.layout().entries())?;
        Ok(names.iter().filter_map(|name| EntryName::parse(name)).collect())
    }

    /// Reads an entry; `None` if it is not there.
    ///
    /// # Errors
    /// Any errno but ENOENT, and that it is damaged: it would spoil the whole list.
    pub fn read_entry(&self, name: &EntryName) -> Result<Option<Arc<str>>, FsError> {
        let path = self.layout().entry(name);
        let Some(bytes) = fs::read(&path)? else {
            return Ok(None);
        };
        let damaged = |error: std::io::Error| FsError::new(DECODE, &path, error);
        let text = String::from_utf8(bytes).map_err(|error| damaged(std::io::Error::other(error)))?;
        let entry: Entry = serde_json::from_str(&text).map_err(|error| damaged(error.into()))?;
        if entry.id() != name.id() {
            return Err(damaged(std::io::Error::other(format!(
                "it is about the layer {}",
                entry.id()
            ))));
        }
        Ok(Some(text.into()))
    }

    /// Reads an entry, and removes it if it is damaged: it is written anew when somebody needs it.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn read_or_remove_entry(&self, name: &EntryName) -> Result<Option<Arc<str>>, FsError> {
        match self.read_entry(name) {
            Err(error) if error.operation() == DECODE => {
                tracing::warn!(
                    error = error.full_text(),
                    "a damaged entry of layers.json is removed"
                );
                fs::remove(&self.layout().entry(name))?;
                Ok(None)
            }
            read => read,
        }
    }

    /// Returns the blob by whose digest an entry is found; `None` if it is not there, or was damaged and is removed.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn blob_of_entry(&self, name: &EntryName) -> Result<Option<Digest>, FsError> {
        let Some(text) = self.read_or_remove_entry(name)? else {
            return Ok(None);
        };
        let entry: Entry = serde_json::from_str(&text)
            .map_err(|error| FsError::new(DECODE, &self.layout().entry(name), error.into()))?;
        Ok(Some(entry.blob().clone()))
    }

    /// Writes layers.json anew, and the token by which readers see that; returns which file was written.
    ///
    /// # Errors
    /// Any errno.
    pub fn write_layer_list(&self, entries: &EntryTexts) -> Result<FileIdentity, FsError> {
        let path = self.layout().layer_list();
        let mut staged = self.stage()?;
        staged.write(&[layer_list(entries)])?;
        let written = staged.replace(&path)?;
        fs::overwrite(&self.layout().layer_list_lock(), token().as_bytes())?;
        Ok(written)
    }

    /// Returns which file layers.json is; `None` if it is not there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn layer_list_identity(&self) -> Result<Option<FileIdentity>, FsError> {
        fs::identity(&self.layout().layer_list())
    }

    /// Tells whether layers.json lists just these entries; not if it is not there, or makes no sense.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn lists(&self, entries: &EntryTexts) -> Result<bool, FsError> {
        let Some(text) = fs::read(&self.layout().layer_list())? else {
            return Ok(false);
        };
        let Ok(listed) = serde_json::from_slice::<Vec<Listed>>(&text) else {
            return Ok(false);
        };
        let listed: HashSet<LayerId> = listed.into_iter().map(|entry| entry.id).collect();
        let is_listed = |name: &EntryName| listed.contains(name.id());
        Ok(listed.len() == entries.len() && entries.keys().all(is_listed))
    }

    /// Makes a lock file that has a token, unless it is there.
    pub(super) fn make_token(&self, path: &Path) -> Result<(), FsError> {
        if fs::stat(path)?.is_some_and(|length| length == TOKEN_BYTES as u64) {
            return Ok(());
        }
        let mut staged = self.stage()?;
        staged.write(&[token()])?;
        staged.replace(path)?;
        Ok(())
    }
}

/// Makes the text of a list.
pub fn layer_list(entries: &EntryTexts) -> String {
    let length: usize = entries.values().map(|entry| entry.len() + 2).sum();
    let mut text = String::with_capacity(length + 3);
    text.push('[');
    for (number, entry) in entries.values().enumerate() {
        if number > 0 {
            text.push_str(",\n");
        }
        text.push_str(entry);
    }
    text.push_str("]\n");
    text
}

/// Makes a token that no lock file had: readers compare it, and nothing else.
fn token() -> String {
    let mut token: String = (0..TOKEN_BYTES / 16).map(|_| random_name()).collect();
    token.truncate(TOKEN_BYTES);
    token
}
