//! Who owns which work in progress, and which of it is nobody's any more.
//!
//! Each process works in a directory of its own, `staging/work/<owner>`, where
//! the owner's name says host, boot, pid namespace, pid, start time and a
//! random part. A starting process clears the directories of processes of its
//! own host and boot and pid namespace that are gone: their pid does not run,
//! or started at another time. What another pid namespace or an earlier boot
//! of a host of this name left cannot be told from the work of a live process
//! (host names are not unique), so it goes only when nothing in it has changed
//! for [`ABANDONED_AFTER`], by the file system's own clock.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::fs::{self, FsError, FsErrorKind, StagedFile, random_name};

use super::format::OpenStoreError;
use super::layer::StagedLayer;
use super::layout::Layout;

/// A fill writes at least every few minutes, or fails; a day is far beyond that.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The directory in which this process works.
pub(super) struct WorkDir {
    path: PathBuf,
}

/// Where a process runs: pids compare only within one place.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    host: String,
    boot: String,
    pid_namespace: String,
}

/// An owner's name, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owner {
    place: Place,
    pid: u32,
    start_time: String,
    random: String,
}

impl WorkDir {
    pub(super) fn open(layout: &Layout) -> Result<Self, OpenStoreError> {
        let pid = std::process::id();
        let start_time = start_time_of(pid).unwrap_or_else(|| "0".to_owned());
        let owner = Owner {
            place: Place::current(),
            pid,
            start_time,
            random: random_name(),
        };
        let path = layout.work().join(owner.to_name());
        fs::make_dirs(&path).map_err(|source| OpenStoreError::Unwritable {
            path: layout.root().to_owned(),
            source,
        })?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a staged file.
    pub(super) fn stage(&self) -> Result<StagedFile, FsError> {
        self.make(StagedFile::create)
    }

    /// Makes the directory of a staged layer.
    pub(super) fn stage_layer(&self) -> Result<StagedLayer, FsError> {
        self.make(StagedLayer::create)
    }

    /// Creates a staged file at a path in this directory that others know.
    pub(super) fn stage_at(&self, path: PathBuf) -> Result<StagedFile, FsError> {
        match StagedFile::create(path.clone()) {
            Err(error) if error.kind() == FsErrorKind::Missing => {
                fs::make_dirs(&self.path)?;
                StagedFile::create(path)
            }
            made => made,
        }
    }

    /// Makes something under a name of its own; the directory too if somebody removed it.
    fn make<T>(&self, make: impl Fn(PathBuf) -> Result<T, FsError>) -> Result<T, FsError> {
        let path = self.path.join(random_name());
        match make(path.clone()) {
            Err(error) if error.kind() == FsErrorKind::Missing => {
                fs::make_dirs(&self.path)?;
                make(path)
            }
            made => made,
        }
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Only if it is empty: a late blocking write may still hold a file, which the next start clears.
        if let Err(source) = std::fs::remove_dir(&self.path) {
            tracing::debug!(path = %self.path.display(), %source, "work directory stays");
        }
    }
}

/// Returns what is claimed, and the owners of the highest generation.
pub(super) fn claims(layout: &Layout) -> Result<Vec<(String, Vec<String>)>, FsError> {
    let mut claims = Vec::new();
    for key in fs::list(&layout.claims())? {
        let dir = layout.claims().join(&key);
        if let Some(top) = fs::list(&dir)?.into_iter().max() {
            claims.push((key, crate::flight::owners(&fs::list(&dir.join(top))?)));
        }
    }
    Ok(claims)
}

/// Lets other mirrors know at once which of this host's processes are dead, and clears what they claimed and nobody waits for.
/// Failing to is logged, and no more than that.
pub(super) fn clear_dead_claims(layout: &Layout, work: &WorkDir) {
    let here = Place::current();
    let is_dead = |name: &str| {
        Owner::from_name(name).is_some_and(|owner| owner.place == here && owner.is_dead(&here, Path::new("")))
    };
    let clear = || {
        for name in fs::list(&layout.mirrors())?.iter().filter(|name| is_dead(name)) {
            fs::remove_tree(&layout.mirrors().join(name))?;
        }
        for (key, owners) in claims(layout)? {
            let dir = layout.claims().join(key);
            if !owners.is_empty() && owners.iter().all(|owner| is_dead(owner)) {
                // As a whole: somebody may be about to take it over.
                let away = work.path.join(random_name());
                if std::fs::rename(&dir, &away).is_ok() {
                    fs::remove_tree(&away)?;
                }
            }
        }
        Ok::<_, FsError>(())
    };
    if start_time_of(std::process::id()).is_some()
        && let Err(error) = clear()
    {
        tracing::warn!(
            error = error.full_text(),
            "claims of dead processes stay for a while"
        );
    }
}

/// Removes the work of this host's dead processes. Failing to is logged, and no more than that.
///
/// Returns the thread that removes layers, if there are any.
pub(super) fn clear_dead(layout: &Layout) -> Option<JoinHandle<()>> {
    if start_time_of(std::process::id()).is_none() {
        tracing::warn!("no /proc: abandoned staging cannot be told from that of live processes, and stays");
        return None;
    }
    let work = layout.work();
    let names = match fs::list(&work) {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(error = error.full_text(), "cannot look for abandoned staging");
            return None;
        }
    };
    let here = Place::current();
    let is_dead =
        |name: &str, path: &Path| Owner::from_name(name).is_some_and(|owner| owner.is_dead(&here, path));
    let dead = names
        .iter()
        .map(|name| (name, work.join(name)))
        .filter(|(name, path)| is_dead(name, path))
        .map(|(_, path)| path);
    let (with_layers, files_alone): (Vec<_>, Vec<_>) = dead.partition(|path| has_directories(path));
    files_alone.iter().for_each(|path| clear(path));
    // Layers can have millions of files: serving does not wait until they are gone.
    (!with_layers.is_empty())
        .then(|| std::thread::spawn(move || with_layers.iter().for_each(|path| clear(path))))
}

fn clear(path: &Path) {
    match fs::remove_tree(path) {
        Ok(()) => tracing::info!(path = %path.display(), "cleared staging of a dead process"),
        Err(error) => tracing::warn!(error = error.full_text(), "cannot clear abandoned staging"),
    }
}

/// Tells whether there are staged layers among what a process left.
fn has_directories(path: &Path) -> bool {
    let is_dir = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    };
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.any(is_dir))
}

impl Place {
    fn current() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let machine = read("/etc/machine-id");
        let machine: String = machine.trim().chars().take(8).collect();
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let boot: String = read("/proc/sys/kernel/random/boot_id").chars().take(8).collect();
        let pid_namespace = std::fs::read_link("/proc/self/ns/pid")
            .map(|link| {
                link.to_string_lossy()
                    .chars()
                    .filter(char::is_ascii_digit)
                    .collect()
            })
            .unwrap_or_default();
        Self {
            host: format!("{}+{machine}", plain(&node)),
            boot: plain(&boot),
            pid_namespace,
        }
    }
}

/// Keeps what cannot be mistaken for the separators of an owner's name.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .take(64)
        .collect()
}

impl Owner {
    fn to_name(&self) -> String {
        let Place {
            host,
            boot,
            pid_namespace,
        } = &self.place;
        format!(
            "{host},{boot},{pid_namespace},{},{},{}",
            self.pid, self.start_time, self.random
        )
    }

    /// Returns the part of its name that no other owner has.
    pub(super) fn id(&self) -> &str {
        &self.random
    }

    pub(super) fn process(&self) -> u32 {
        self.pid
    }

    /// Returns the name of its host, without what tells hosts of one name apart.
    pub(super) fn host_name(&self) -> &str {
        let host = &self.place.host;
        host.rsplit_once('+').map_or(host.as_str(), |(name, _)| name)
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split(',').collect();
        let [host, boot, pid_namespace, pid, start_time, random] = parts.as_slice() else {
            return None;
        };
        Some(Self {
            place: Place {
                host: (*host).to_owned(),
                boot: (*boot).to_owned(),
                pid_namespace: (*pid_namespace).to_owned(),
            },
            pid: pid.parse().ok()?,
            start_time: (*start_time).to_owned(),
            random: (*random).to_owned(),
        })
    }

    fn is_dead(&self, here: &Place, path: &Path) -> bool {
        if self.place == *here {
            return start_time_of(self.pid).as_deref() != Some(&self.start_time);
        }
        self.place.host == here.host && is_unchanged_for(path, ABANDONED_AFTER).unwrap_or(false)
    }
}

/// Returns when a process of this pid namespace started, in clock ticks since boot; `None` if there is none.
///
/// Source: proc(5), field 22 of `/proc/<pid>/stat`; the command's name before it may hold anything.
fn start_time_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_whitespace().nth(19).map(str::to_owned)
}

/// Compares with the time stamp of a new file, for the clocks of hosts and file server differ.
fn is_unchanged_for(path: &Path, age: Duration) -> std::io::Result<bool> {
    let probe = path.with_file_name(random_name());
    std::fs::write(&probe, b"")?;
    let now = std::fs::metadata(&probe).and_then(|metadata| metadata.modified());
    std::fs::remove_file(&probe)?;
    let mut newest: SystemTime = std::fs::metadata(path)?.modified()?;
    for entry in std::fs::read_dir(path)? {
        newest = newest.max(entry?.metadata()?.modified()?);
    }
    Ok(now?.duration_since(newest).is_ok_and(|unchanged| unchanged > age))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &Path) -> Layout {
        let layout = Layout::new(dir);
        std::fs::create_dir_all(layout.work()).unwrap();
        layout
    }

    fn owned(layout: &Layout, place: Place, pid: u32, start_time: &str) -> PathBuf {
        let owner = Owner {
            place,
            pid,
            start_time: start_time.to_owned(),
            random: random_name(),
        };
        let path = layout.work().join(owner.to_name());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("half"), b"x").unwrap();
        path
    }

    #[test]
    fn only_the_work_of_dead_processes_of_this_host_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let pid = std::process::id();
        let alive = owned(&layout, Place::current(), pid, &start_time_of(pid).unwrap());
        let pid_reused = owned(&layout, Place::current(), pid, "1");
        let other_host = owned(
            &layout,
            Place {
                host: "other+1".into(),
                ..Place::current()
            },
            999_999_999,
            "1",
        );
        let other_namespace = owned(
            &layout,
            Place {
                pid_namespace: "1".into(),
                ..Place::current()
            },
            999_999_999,
            "1",
        );
        let unknown = layout.work().join("something else");
        std::fs::create_dir(&unknown).unwrap();
        clear_dead(&layout);
        assert!(!pid_reused.exists());
        for kept in [alive, other_host, other_namespace, unknown] {
            assert!(kept.exists(), "{}", kept.display());
        }
    }
}
