//! The mirrors of a store, for `wharf ls --mirrors`.

use std::fmt;

use serde::Serialize;

use super::age::{Age, rfc3339};
use super::counted;
use crate::fs::FsError;
use crate::store::{SeenMirror, Store};

/// The mirrors that show themselves.
#[derive(Debug, Serialize)]
pub struct Mirrors {
    pub mirrors: Vec<ListedMirror>,
}

/// One mirror, dead or alive: by when it gave a sign last.
#[derive(Debug, Serialize)]
pub struct ListedMirror {
    pub id: String,
    pub host_name: String,
    pub process: u32,
    /// The version of wharf that it runs.
    pub version: String,
    /// By the file system's clock (RFC 3339), as `seen_at`.
    pub started_at: String,
    pub seen_at: String,
    /// What it does at the moment, for all mirrors.
    pub fills: usize,
    pub extractions: usize,
    #[serde(skip)]
    started: Age,
    #[serde(skip)]
    seen: Age,
}

impl Mirrors {
    /// Reads which mirrors a store has.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn read(store: &Store) -> Result<Self, FsError> {
        let mirrors = store.mirrors()?.into_iter().map(ListedMirror::new).collect();
        Ok(Self { mirrors })
    }

    /// Writes it as JSON.
    pub fn to_json(&self) -> String {
        // Plain fields with text keys can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl ListedMirror {
    fn new(mirror: SeenMirror) -> Self {
        Self {
            started_at: rfc3339(mirror.started_at),
            seen_at: rfc3339(mirror.seen_at),
            started: Age::of(mirror.started_at),
            seen: Age::of(mirror.seen_at),
            id: mirror.id,
            host_name: mirror.host_name,
            process: mirror.process,
            version: mirror.version,
            fills: mirror.fills,
            extractions: mirror.extractions,
        }
    }
}

impl fmt::Display for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mirrors.is_empty() {
            return writeln!(f, "no mirror uses this store");
        }
        self.mirrors.iter().try_for_each(|mirror| writeln!(f, "{mirror}"))
    }
}

impl fmt::Display for ListedMirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} process {} wharf {}, fetches {} and extracts {}, started {}, seen {}",
            self.id,
            self.host_name,
            self.process,
            self.version,
            counted(self.fills, "blob"),
            counted(self.extractions, "layer"),
            self.started,
            self.seen
        )
    }
}
