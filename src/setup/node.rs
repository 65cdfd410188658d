//! The files that a node of each runtime needs, merged into those that it has.

mod agent;
mod containerd;
mod docker;
mod hosts;
mod podman;

use std::path::Path;

use super::template::Filling;
use super::{FileChange, Installed, Order, Plan, Runtime, SetupError};
use crate::fs;

pub(super) fn plan(order: &Order, installed: &Installed) -> Result<Plan, SetupError> {
    let filling = Filling::new(order)?;
    let plan = match order.runtime {
        Runtime::Docker => docker::plan(order, &filling, installed),
        Runtime::Containerd => containerd::plan(order, &filling, installed),
        Runtime::Podman => podman::plan(order, &filling),
    }?;
    // On the node itself links are its operator's; those of another node's directory lead into this one.
    if order.etc != Path::new("/etc") {
        plan.files
            .iter()
            .try_for_each(|file| refuse_outside(file, &order.etc))?;
    }
    Ok(plan)
}

/// Refuses a file that links lead out of the directory of configurations.
fn refuse_outside(file: &FileChange, etc: &Path) -> Result<(), SetupError> {
    let Ok(etc) = etc.canonicalize() else {
        return Ok(());
    };
    match file.path.ancestors().find_map(|path| path.canonicalize().ok()) {
        Some(real) if file.is_change() && !real.starts_with(&etc) => Err(SetupError::Outside {
            path: file.path.clone(),
            real,
            etc,
        }),
        Some(_) | None => Ok(()),
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
