//! `wharf doctor`: what a store's file system can keep, in words for who runs it.
//!
//! Of a store it probes the file system anew, says what wharf does about each lack and what would mend it, and
//! compares with what `wharf.json` says. Of a node it checks the mount, by the reference that the store's maker
//! left. Leaves the trying to [`crate::fs`] and the files to [`crate::store`].

mod abilities;
mod mount;
mod node;
mod other_mount;
mod reach;
mod remedy;
mod report;

use std::path::{Path, PathBuf};

pub use report::{Check, Report, Status};

use rustix::fs::StatVfsMountFlags;
use serde_json::Value;

use crate::fs::{Abilities, FsError, Mount, missing_privileges, probe};
use crate::store::{OpenStoreError, Store};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("{} is not a directory; name the store's, or an existing one where it could be", path.display())]
    NoDirectory { path: PathBuf },
    #[error("{} is mounted read-only here; run this where a mirror writes, or check this mount with --node", path.display())]
    ReadOnly { path: PathBuf },
    #[error("no store at {}: wharf.json is not there; mount the file system, or name the store's directory in it", path.display())]
    NoStore { path: PathBuf },
    #[error("{} and {} do not show the same file system; name the same directory in both mounts", here.display(), other.display())]
    OtherStore { here: PathBuf, other: PathBuf },
}

pub use node::examine_node;

/// Examines the file system of a store, or of a directory where one could be.
///
/// Writes into scratch only; a store that misses its facts gets them, as at any opening.
///
/// # Errors
/// Fails if the directory cannot be written, or answers what no healthy file system answers.
pub fn examine_store(root: &Path, other_mount: Option<&Path>) -> Result<Report, DoctorError> {
    if !root.is_dir() {
        return Err(DoctorError::NoDirectory {
            path: root.to_owned(),
        });
    }
    let mount = Mount::of(root)?;
    if mount.flags.contains(StatVfsMountFlags::RDONLY) {
        return Err(DoctorError::ReadOnly {
            path: root.to_owned(),
        });
    }
    let store = Store::is_at(root)?.then(|| Store::open(root)).transpose()?;
    let scratch = store
        .as_ref()
        .and_then(|store| store.work_dir().ok())
        .unwrap_or(root);
    let mut report = Report::new(root, &mount);
    report.checks.push(mount::place(&mount));
    report.checks.extend(mount::room(&mount));
    report.checks.push(reach::check(root, &mount)?);
    try_abilities(scratch, &mount, &mut report);
    if let Some(seen) = Store::look(root)? {
        report.checks.extend(unknown(&seen.unknown_facts));
        report.recorded = seen.abilities;
    }
    report.checks.extend(compare(&report));
    if let Some(other) = other_mount {
        report.checks.push(other_mount::check(root, scratch, other)?);
    }
    Ok(report)
}

fn try_abilities(scratch: &Path, mount: &Mount, report: &mut Report) {
    let missing = missing_privileges();
    if !missing.is_empty() {
        report.checks.push(unprivileged(&missing));
        return;
    }
    match probe(scratch) {
        Ok(found) => {
            report.checks.extend(abilities::checks(&found, &mount.kind));
            report.found = Some(found);
        }
        Err(error) => report.checks.push(failed(&error)),
    }
}

fn unprivileged(missing: &[&str]) -> Check {
    Check::problem("privileges", format!("not there: {}", missing.join(", ")))
        .instead("started like this, wharf serves blobs and extracts no layer; nothing was probed")
        .remedy("run this as root, and the mirrors that shall extract layers too")
}

fn unknown(facts: &[String]) -> Option<Check> {
    let found = || format!("unknown in wharf.json: {}", facts.join(", "));
    (!facts.is_empty()).then(|| {
        Check::warning("recorded facts", found())
            .instead("leaves them alone")
            .remedy("correct the spelling, unless a later wharf wrote them")
    })
}

fn failed(error: &FsError) -> Check {
    Check::problem("probe", error.full_text())
        .instead("goes by wharf.json; without facts there it extracts no layer")
        .remedy("mend the file system or make room, then run this again")
}

/// Says where wharf.json, by which wharf goes, is not as the file system is.
fn compare(report: &Report) -> Vec<Check> {
    let Some(recorded) = &report.recorded else {
        return Vec::new();
    };
    let refusal = recorded.refusal().map(|why| {
        Check::problem("recorded facts", format!("wharf.json says that {why}"))
            .instead("serves blobs and extracts no layer")
            .remedy("if that is so no more, correct wharf.json and start the mirrors again")
    });
    let differences = report
        .found
        .as_ref()
        .and_then(|found| differences(recorded, found));
    refusal.into_iter().chain(differences).collect()
}

fn differences(recorded: &Abilities, found: &Abilities) -> Option<Check> {
    let name = "recorded facts";
    let [recorded, found] = [recorded, found].map(|facts| serde_json::to_value(facts).unwrap_or_default());
    let differing: Vec<(&String, &Value)> = recorded
        .as_object()?
        .iter()
        .filter(|(key, value)| found.get(key) != Some(value))
        .collect();
    let texts: Vec<String> = differing
        .iter()
        .map(|(key, value)| format!("{key}: {value} there, {} now", found[*key]))
        .collect();
    let text = format!("wharf.json differs: {}", texts.join("; "));
    if differing.is_empty() {
        None
    } else if differing.iter().any(|(_, value)| **value == Value::Bool(true)) {
        Some(
            Check::problem(name, text)
                .instead("goes by wharf.json, and fails to extract layers that need what is not there")
                .remedy(
                    "mount as the machine that probed first, or remove these keys and start a mirror as root",
                ),
        )
    } else {
        Some(Check::warning(name, text).instead("goes by wharf.json").remedy(
            "leave it if it was changed on purpose; else remove these keys and start a mirror as root",
        ))
    }
}

#[cfg(test)]
mod tests;
