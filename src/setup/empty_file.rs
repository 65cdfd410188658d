//! An empty file that must be there, perhaps under what is mounted there.

use std::path::PathBuf;
use std::sync::Arc;

use super::SetupError;
use crate::fs::{self, BareDir};

/// A file that a runtime looks for also while the store is not mounted.
#[derive(Clone, Debug)]
pub struct EmptyFile {
    pub path: PathBuf,
    /// What the store is mounted on; `None` if nothing is mounted.
    under: Option<Arc<BareDir>>,
    is_there: bool,
}

impl EmptyFile {
    /// Looks whether it is there.
    pub(super) fn look(path: PathBuf, under: Option<Arc<BareDir>>) -> Result<Self, SetupError> {
        let is_there = match &under {
            Some(bare) => bare.has(&path)?,
            None => fs::stat(&path)?.is_some(),
        };
        Ok(Self {
            path,
            under,
            is_there,
        })
    }

    /// Tells whether it is missing.
    pub fn is_change(&self) -> bool {
        !self.is_there
    }

    /// Returns where it is, in words.
    pub fn place(&self) -> String {
        let under = if self.under.is_some() {
            " (under what is mounted there)"
        } else {
            ""
        };
        format!("{}{under}", self.path.display())
    }

    pub(super) fn diff(&self) -> String {
        if !self.is_change() {
            return String::new();
        }
        format!("--- /dev/null\n+++ {}: an empty file\n", self.place())
    }

    pub(super) fn write(&self) -> Result<(), SetupError> {
        if !self.is_change() {
            return Ok(());
        }
        if let Some(bare) = &self.under {
            return Ok(bare.make_empty(&self.path)?);
        }
        if let Some(dir) = self.path.parent() {
            fs::make_dirs(dir)?;
        }
        match fs::create_new(&self.path, b"") {
            Err(error) if error.kind() == fs::FsErrorKind::Exists => Ok(()),
            made => Ok(made?),
        }
    }
}
