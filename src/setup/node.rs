//! The files that a node of each runtime needs, merged into those that it has.

mod agent;
mod containerd;
mod docker;
mod hosts;
mod podman;

use std::path::Path;

use toml_edit::{DocumentMut, Item, TableLike};

use super::template::Filling;
use super::{FileChange, Installed, Order, Plan, Runtime, SetupError};
use crate::fs;

pub(super) fn plan(order: &Order, installed: &Installed) -> Result<Plan, SetupError> {
    let filling = Filling::new(order)?;
    match order.runtime {
        Runtime::Docker => docker::plan(order, &filling, installed),
        Runtime::Containerd => containerd::plan(order, &filling, installed),
        Runtime::Podman | Runtime::Crio => podman::plan(order, &filling),
    }
}

/// Reads a file that may be missing.
fn read(path: &Path) -> Result<Option<String>, SetupError> {
    let invalid = |_| SetupError::Invalid {
        path: path.to_owned(),
        format: "text",
        reason: "it is not UTF-8".to_owned(),
    };
    fs::read(path)?
        .map(|bytes| String::from_utf8(bytes).map_err(invalid))
        .transpose()
}

/// Makes a file that is not there; one that is there and differs is refused, or replaced if that is forced.
fn whole(path: &Path, wanted: String, force: bool) -> Result<FileChange, SetupError> {
    let before = read(path)?;
    if !force && before.as_ref().is_some_and(|before| *before != wanted) {
        return Err(SetupError::Occupied {
            path: path.to_owned(),
        });
    }
    Ok(FileChange {
        path: path.to_owned(),
        before,
        after: wanted,
    })
}

/// Reads TOML.
fn parse(path: &Path, text: &str) -> Result<DocumentMut, SetupError> {
    text.parse()
        .map_err(|error: toml_edit::TomlError| SetupError::Invalid {
            path: path.to_owned(),
            format: "TOML",
            reason: error.to_string(),
        })
}

/// Finds what a chain of keys leads to.
fn lookup<'a>(document: &'a DocumentMut, keys: &[&str]) -> Option<&'a Item> {
    let (last, tables) = keys.split_last()?;
    let mut table: &dyn TableLike = document.as_table();
    for key in tables {
        table = table.get(key)?.as_table_like()?;
    }
    table.get(last)
}
