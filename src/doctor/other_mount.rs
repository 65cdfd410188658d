//! When another mount of the file system sees that a file was replaced.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Check, DoctorError};
use crate::fs::{self, FsError, random_name};

const NAME: &str = "replaced files";
const ROUNDS: u32 = 3;
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Attributes are cached for a second by default (FUSE, GlusterFS).
const USUAL: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What a reader saw before the new content.
#[derive(Debug, Default)]
struct Seen {
    after: Option<Duration>,
    errors: Vec<String>,
}

/// Renames over a file below `scratch`, and reads it below `other`, which is `root` through another mount.
pub(super) fn check(root: &Path, scratch: &Path, other: &Path) -> Result<Check, DoctorError> {
    let name = format!(".wharf-replaced.{}", random_name());
    let here = scratch.join(&name);
    // Scratch is the store's own directory, or below it.
    let inside = scratch.strip_prefix(root).unwrap_or(Path::new(""));
    let there = other.join(inside).join(&name);
    let seen = watch_replacements(&here, &there);
    fs::remove(&here)?;
    seen?.map_or_else(
        || {
            Err(DoctorError::OtherStore {
                here: root.to_owned(),
                other: other.to_owned(),
            })
        },
        |rounds| Ok(judge(&rounds)),
    )
}

/// Replaces the file a few times; `None` if it never shows up in the other mount.
fn watch_replacements(here: &Path, there: &Path) -> Result<Option<Vec<Seen>>, FsError> {
    replace(here, "0")?;
    if watch(there, "0").after.is_none() {
        return Ok(None);
    }
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let content = round.to_string();
        replace(here, &content)?;
        rounds.push(watch(there, &content));
    }
    Ok(Some(rounds))
}

fn replace(path: &Path, content: &str) -> Result<(), FsError> {
    let next = path.with_extension(format!("{}.{content}", random_name()));
    fs::create_new(&next, content.as_bytes())?;
    std::fs::rename(&next, path).map_err(|source| FsError::new("rename", &next, source))
}

/// Reads until the content is there, or for as long as patience lasts.
fn watch(path: &Path, content: &str) -> Seen {
    let started = Instant::now();
    let mut seen = Seen::default();
    while started.elapsed() < PATIENCE {
        match std::fs::read_to_string(path) {
            Ok(found) if found == content => {
                seen.after = Some(started.elapsed());
                break;
            }
            Ok(_) => {}
            Err(error) => {
                let error = error.to_string();
                if !seen.errors.contains(&error) {
                    seen.errors.push(error);
                }
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    seen
}

fn judge(rounds: &[Seen]) -> Check {
    let mut errors: Vec<&str> = rounds
        .iter()
        .flat_map(|seen| &seen.errors)
        .map(String::as_str)
        .collect();
    errors.dedup();
    let slowest = rounds.iter().try_fold(Duration::ZERO, |slowest, seen| {
        seen.after.map(|after| after.max(slowest))
    });
    let found = match slowest {
        Some(after) => format!("seen by the other mount within {} ms", after.as_millis()),
        None => format!("not seen by the other mount within {} s", PATIENCE.as_secs()),
    };
    let is_usual = slowest.is_some_and(|after| after < USUAL);
    match (is_usual, errors.is_empty()) {
        (true, true) => Check::ok(NAME, found),
        (is_usual, is_clean) => {
            let found = if is_clean {
                found
            } else {
                format!("{found}, after: {}", errors.join("; "))
            };
            let check = Check::warning(NAME, found)
                .instead("relies on new names alone; Podman, which reads layers.json, may need a second try");
            if is_usual {
                check
            } else {
                check.remedy(
                    "mount nodes with shorter attribute caching (NFS: actimeo=1, FUSE: attribute-timeout=1)",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_seen_at_once_through_the_same_mount() {
        let dir = tempfile::tempdir().unwrap();
        let check = check(dir.path(), dir.path(), dir.path()).unwrap();
        assert!(
            check.found.starts_with("seen by the other mount within"),
            "{check:?}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_readers_saw_is_told() {
        let after = |millis| Some(Duration::from_millis(millis));
        let seen = |after, errors: &[&str]| Seen {
            after,
            errors: errors.iter().map(|error| (*error).to_owned()).collect(),
        };
        let late = judge(&[seen(after(5), &[]), seen(None, &[])]);
        assert_eq!(late.found, "not seen by the other mount within 3 s");
        assert!(late.remedy.is_some());
        let stale = judge(&[
            seen(after(9), &["Stale file handle (os error 116)"]),
            seen(after(1004), &[]),
        ]);
        assert_eq!(
            stale.found,
            "seen by the other mount within 1004 ms, after: Stale file handle (os error 116)"
        );
        assert!(stale.remedy.is_none());
    }
}
