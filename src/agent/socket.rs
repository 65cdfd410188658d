//! The agent's unix socket: systemd's, or one of its own.
//!
//! systemd's stays while the agent is started anew, so that containerd waits a moment and is not refused: Docker
//! forgets containers whose snapshotter refuses it when it starts (facts of Docker 28). Source: sd_listen_fds(3).

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Context as _;
use listenfd::ListenFd;

use crate::fs::{make_dirs, random_name};

/// Returns the socket that systemd has passed, or binds `path`.
///
/// # Errors
/// Fails if another agent listens there, if something else than a socket is there, or the directory cannot be written.
pub(super) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 0 {
        let listener = passed
            .take_unix_listener(0)
            .context("what systemd has passed is no unix socket")?;
        return listener.context("systemd has passed no socket that listens");
    }
    bind_own(path)
}

fn bind_own(path: &Path) -> anyhow::Result<UnixListener> {
    let cannot = || format!("cannot listen on {} (--socket PATH)", path.display());
    check_free(path)?;
    if let Some(dir) = path.parent() {
        make_dirs(dir).with_context(cannot)?;
    }
    // The name appears once there is somebody to answer, for root alone; what was left behind is replaced.
    let staged = path.with_file_name(format!(".{}", random_name()));
    let listener = UnixListener::bind(&staged).with_context(cannot)?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&staged, path))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&staged);
        })
        .with_context(cannot)?;
    Ok(listener)
}

/// Fails if there is something at a path that is not a socket which was left behind.
fn check_free(path: &Path) -> anyhow::Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => anyhow::bail!(
            "another process listens on {}; stop it, or choose another socket (--socket PATH)",
            path.display()
        ),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(()),
            // Nobody listens; this is also what a plain file answers.
            ErrorKind::ConnectionRefused if is_socket(path) => Ok(()),
            ErrorKind::ConnectionRefused => anyhow::bail!(
                "{} is no socket; remove it, or choose another (--socket PATH)",
                path.display()
            ),
            _ => Err(error)
                .with_context(|| format!("cannot look whether somebody listens on {}", path.display())),
        },
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_bound_where_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let first = bind_own(&path).unwrap();
        let taken = bind_own(&path).unwrap_err().to_string();
        assert!(taken.contains("another process listens"), "{taken}");
        drop(first);
        // What it left is no hindrance.
        let second = bind_own(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
        drop(second);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "kept").unwrap();
        let error = bind_own(&path).unwrap_err().to_string();
        assert!(error.contains("is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }
}
