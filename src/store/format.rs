//! `wharf.json`: the store's format version and id, and what its file system can keep and do.
//!
//! ```json
//! {
//!   "format": 1,
//!   "store_id": "6c1f2ab09d3e4457",
//!   "file_system": { "whiteouts": true, "hard_link_limit": 47, "…": "every field of Abilities" }
//! }
//! ```
//! The facts are probed once: by who makes the store, or by the first with the privileges that opens one that
//! misses some. An operator may change them, and is believed. The file is only ever replaced as a whole.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fs::{self, Abilities, FsError, FsErrorKind};

use super::layout::Layout;

/// The format that this version reads and writes.
const FORMAT_VERSION: u32 = 1;
/// Where the facts are in the file.
const FACTS_KEY: &str = "file_system";
/// A reader whom another host's rename overtakes may see ESTALE; then the new file is there.
const READ_ATTEMPTS: u32 = 3;

/// Why a store cannot be opened. Each text says the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error("store {} cannot be written; give wharf a directory that its user may write (--store DIR)", path.display())]
    Unwritable { path: PathBuf, source: FsError },
    #[error("there is no store at {}; name the directory of one (--store DIR)", path.display())]
    Missing { path: PathBuf },
    #[error("store {} cannot be read; give wharf the directory of a store that its user may read", path.display())]
    Unreadable { path: PathBuf, source: FsError },
    #[error("{} is not wharf's; give wharf an empty directory (--store DIR), or restore the file", path.display())]
    Foreign {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("store {} has format {found}, and this wharf knows {FORMAT_VERSION}; use the wharf that made it, or another directory", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("{}: {key}: {source}; correct it, or remove the key and wharf probes the file system again", path.display())]
    Fact {
        path: PathBuf,
        key: String,
        source: serde_json::Error,
    },
}

/// The file. What this version does not know is kept when it is written again.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FormatFile {
    format: u32,
    store_id: String,
    #[serde(default, rename = "file_system", skip_serializing_if = "Map::is_empty")]
    facts: Map<String, Value>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl FormatFile {
    fn new(facts: Map<String, Value>) -> Self {
        Self {
            format: FORMAT_VERSION,
            store_id: fs::random_name(),
            facts,
            unknown: Map::new(),
        }
    }

    /// Reads the file and checks its version; `None` if it is not there.
    pub(super) fn read(layout: &Layout) -> Result<Option<Self>, OpenStoreError> {
        let path = layout.format_file();
        let text = read(&path).map_err(|source| OpenStoreError::Unreadable {
            path: layout.root().to_owned(),
            source,
        })?;
        let Some(text) = text else { return Ok(None) };
        let file: Self =
            serde_json::from_slice(&text).map_err(|source| OpenStoreError::Foreign { path, source })?;
        if file.format != FORMAT_VERSION {
            return Err(OpenStoreError::Version {
                path: layout.root().to_owned(),
                found: file.format,
            });
        }
        Ok(Some(file))
    }

    pub(super) fn store_id(&self) -> &str {
        &self.store_id
    }

    /// Returns the facts; `None` if one is missing.
    pub(super) fn abilities(&self, path: &Path) -> Result<Option<Abilities>, OpenStoreError> {
        let known = facts_of(&Abilities::default());
        if !known.keys().all(|key| self.facts.contains_key(key)) {
            self.check_given(known, path)?;
            return Ok(None);
        }
        parse(&self.facts, path).map(Some)
    }

    /// Returns the facts that this version does not know: a later one's, or misspelt.
    pub(super) fn unknown_facts(&self) -> Vec<String> {
        let known = facts_of(&Abilities::default());
        let keys = self.facts.keys();
        keys.filter(|key| !known.contains_key(*key)).cloned().collect()
    }

    /// Checks those facts that are there.
    fn check_given(&self, mut defaults: Map<String, Value>, path: &Path) -> Result<(), OpenStoreError> {
        defaults.extend(self.facts.clone());
        parse(&defaults, path).map(|_| ())
    }
}

fn parse(facts: &Map<String, Value>, path: &Path) -> Result<Abilities, OpenStoreError> {
    serde_path_to_error::deserialize(Value::Object(facts.clone())).map_err(|error| OpenStoreError::Fact {
        path: path.to_owned(),
        key: format!("{FACTS_KEY}.{}", error.path()),
        source: error.into_inner(),
    })
}

fn facts_of(abilities: &Abilities) -> Map<String, Value> {
    match serde_json::to_value(abilities) {
        Ok(Value::Object(facts)) => facts,
        // A struct of plain fields is an object.
        _ => Map::new(),
    }
}

/// Returns the id of the store whose file this is; `None` if there is none.
pub(super) fn id_of(path: &Path) -> Result<Option<String>, FsError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let file: FormatFile =
        serde_json::from_slice(&text).map_err(|error| FsError::new("decode", path, error.into()))?;
    Ok(Some(file.store_id))
}

/// Makes the store's directory if it is not there.
pub(super) fn make_root(layout: &Layout) -> Result<(), OpenStoreError> {
    // A shared file system has users who may not have what wharf's credentials fetched.
    fs::make_private_dir(layout.root())
        .and_then(|()| fs::make_dirs(&layout.work()))
        .and_then(|()| fs::make_dirs(&layout.claims()))
        .and_then(|()| fs::make_dirs(&layout.mirrors()))
        .map_err(|source| unwritable(layout, source))
}

/// Reads the file, or makes it; `probe` finds the facts that it misses, if it can.
pub(super) fn open_or_make(
    layout: &Layout,
    mut probe: impl FnMut() -> Option<Abilities>,
) -> Result<Option<Abilities>, OpenStoreError> {
    let path = layout.format_file();
    let file = match FormatFile::read(layout)? {
        Some(file) => file,
        None => {
            let facts = probe().map(|found| facts_of(&found)).unwrap_or_default();
            make(&path, &FormatFile::new(facts)).map_err(|source| unwritable(layout, source))?;
            read_made(layout)?
        }
    };
    for key in file.unknown_facts() {
        tracing::warn!(path = %path.display(), key, "unknown fact of the file system is left alone");
    }
    if let Some(abilities) = file.abilities(&path)? {
        return Ok(Some(abilities));
    }
    let Some(found) = probe() else { return Ok(None) };
    complete(layout, &found).map(Some)
}

/// Adds the facts that the file misses to those that it has.
///
/// Of several mirrors that do so the last one wins; each goes by a whole file.
fn complete(layout: &Layout, found: &Abilities) -> Result<Abilities, OpenStoreError> {
    let path = layout.format_file();
    // Read again: a probe takes a while, and another mirror or the operator may have been quicker.
    let mut file = read_made(layout)?;
    let mut facts = facts_of(found);
    facts.extend(std::mem::take(&mut file.facts));
    file.facts = facts;
    let abilities = parse(&file.facts, &path)?;
    if let Err(error) = replace(&path, &file) {
        let error = error.full_text();
        tracing::warn!(
            error,
            "cannot record what the file system can do; probed again next time"
        );
    }
    Ok(abilities)
}

fn read_made(layout: &Layout) -> Result<FormatFile, OpenStoreError> {
    let gone = || FsError::new("read", &layout.format_file(), std::io::ErrorKind::NotFound.into());
    FormatFile::read(layout)?.ok_or_else(|| unwritable(layout, gone()))
}

fn unwritable(layout: &Layout, source: FsError) -> OpenStoreError {
    OpenStoreError::Unwritable {
        path: layout.root().to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, FsError> {
    let mut attempts = 1..READ_ATTEMPTS;
    loop {
        match std::fs::read(path) {
            Ok(text) => return Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error)
                if error.kind() == std::io::ErrorKind::StaleNetworkFileHandle
                    && attempts.next().is_some() => {}
            Err(source) => return Err(FsError::new("read", path, source)),
        }
    }
}

/// Writes the file under a name of its own and links it, so that of several starting mirrors one makes it, whole.
fn make(path: &Path, file: &FormatFile) -> Result<(), FsError> {
    let own = write_beside(path, file)?;
    let linked = match std::fs::hard_link(&own, path).map_err(|source| FsError::new("link", path, source)) {
        Err(error) if error.kind() == FsErrorKind::Exists => Ok(()),
        // A file system without hard links: the last of several starters wins, and all read its file.
        Err(_) => std::fs::rename(&own, path).map_err(|source| FsError::new("rename", path, source)),
        Ok(()) => Ok(()),
    };
    fs::remove(&own)?;
    linked
}

/// Puts another version of the file in its place.
fn replace(path: &Path, file: &FormatFile) -> Result<(), FsError> {
    let own = write_beside(path, file)?;
    let replaced = give_to_owner_of(path, &own)
        .and_then(|()| std::fs::rename(&own, path).map_err(|source| FsError::new("rename", path, source)));
    if replaced.is_err() {
        // It may be there no more, if the rename was done and only its answer got lost.
        let _ = fs::remove(&own);
    }
    replaced
}

/// Lets those who could read the old file read the new one: root completes what another user's mirror made.
fn give_to_owner_of(old: &Path, new: &Path) -> Result<(), FsError> {
    let stat = |path: &Path| std::fs::metadata(path).map_err(|source| FsError::new("stat", path, source));
    let (before, after) = (stat(old)?, stat(new)?);
    if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
        std::os::unix::fs::chown(new, Some(before.uid()), Some(before.gid()))
            .map_err(|source| FsError::new("change owner of", new, source))?;
    }
    std::fs::set_permissions(new, before.permissions())
        .map_err(|source| FsError::new("change mode of", new, source))
}

fn write_beside(path: &Path, file: &FormatFile) -> Result<PathBuf, FsError> {
    let mut text = serde_json::to_vec_pretty(file)
        .map_err(|error| FsError::new("encode", path, std::io::Error::other(error)))?;
    text.push(b'\n');
    let own = path.with_extension(fs::random_name());
    fs::create_new(&own, &text)?;
    Ok(own)
}

#[cfg(test)]
mod tests;
