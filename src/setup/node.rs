//! The files that a node of each runtime needs, merged into those that it has.

mod agent;
mod containerd;
mod docker;
mod hosts;
mod podman;

pub use podman::names_image_store;

use std::path::{Component, Path};

use toml_edit::{DocumentMut, Item, TableLike};

use super::template::Filling;
use super::{EmptyFile, FileChange, Installed, Order, Plan, Runtime, SetupError};
use crate::fs;

pub(super) fn plan(order: &Order, installed: &Installed) -> Result<Plan, SetupError> {
    let filling = Filling::new(order)?;
    let plan = match order.runtime {
        Runtime::Docker => docker::plan(order, &filling, installed),
        Runtime::Containerd => containerd::plan(order, &filling, installed),
        Runtime::Podman | Runtime::Crio => podman::plan(order, &filling),
    }?;
    if order.etc == Path::new("/etc") {
        Ok(plan)
    } else {
        elsewhere(plan, order)
    }
}

/// Keeps a plan within a directory that is not this node's `/etc`.
///
/// But for the lock files in the image stores that are named, without which no podman command works here.
fn elsewhere(plan: Plan, order: &Order) -> Result<Plan, SetupError> {
    let etc = &order.etc;
    let is_ours = |file: &EmptyFile| {
        [etc, &order.store, &order.podman]
            .iter()
            .any(|dir| is_below(&file.path, dir))
    };
    let (empty_files, empty_by_hand) = plan.empty_files.into_iter().partition(is_ours);
    let plan = Plan {
        empty_files,
        empty_by_hand,
        ..plan
    };
    // On the node itself links are its operator's; those of another node's directory lead into this one.
    let files = plan
        .files
        .iter()
        .filter(|file| file.is_change())
        .map(|file| &file.path);
    let empty_files = plan
        .empty_files
        .iter()
        .filter(|file| file.is_change())
        .map(|file| &file.path);
    files
        .chain(empty_files.filter(|path| is_below(path, etc)))
        .try_for_each(|path| refuse_outside(path, etc))?;
    Ok(plan)
}

/// Refuses a file that links lead out of the directory of configurations.
fn refuse_outside(path: &Path, etc: &Path) -> Result<(), SetupError> {
    let Ok(etc) = etc.canonicalize() else {
        return Ok(());
    };
    match path.ancestors().find_map(|path| path.canonicalize().ok()) {
        Some(real) if !real.starts_with(&etc) => Err(SetupError::Outside {
            path: path.to_owned(),
            real,
            etc,
        }),
        Some(_) | None => Ok(()),
    }
}

fn is_below(path: &Path, dir: &Path) -> bool {
    let goes_up = |below: &Path| below.components().any(|part| part == Component::ParentDir);
    path.strip_prefix(dir).is_ok_and(|below| !goes_up(below))
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
