//! Reads files again when they change: certificates and passwords are renewed while wharf runs.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often the files are looked at. A poll, since a mounted secret changes without telling (inotify).
const INTERVAL: Duration = Duration::from_secs(2);

/// What tells one version of a file from the next.
type Version = Option<(u64, i64, i64, u64)>;

/// Calls `reload` whenever one of `paths` has changed; what fails is logged, and tried again at the next change.
pub(super) async fn when_changed(paths: Vec<PathBuf>, reload: impl Fn() -> anyhow::Result<()>) {
    let mut seen = versions(&paths).await;
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        let now = versions(&paths).await;
        if now == seen {
            continue;
        }
        seen = now;
        match reload() {
            Ok(()) => tracing::info!(?paths, "read again"),
            Err(error) => tracing::error!(error = format!("{error:#}"), "what was read before stays in use"),
        }
    }
}

async fn versions(paths: &[PathBuf]) -> Vec<Version> {
    let mut versions = Vec::with_capacity(paths.len());
    for path in paths {
        let metadata = tokio::fs::metadata(path).await.ok();
        versions.push(metadata.map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.len())));
    }
    versions
}
