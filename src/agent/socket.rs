//! The agent's socket: the one that systemd listens on already, or one of our own.
//!
//! systemd's keeps callers waiting while the agent starts again, so that containerd sees no refused connection.
//! One of our own appears under its name when it listens and only root may connect, never before.

use std::fs::{Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;

use crate::fs::{make_private_dir, random_name, remove};

/// What the kernel has room for (`sun_path`), less the byte that ends it.
const MAX_PATH_BYTES: usize = 107;

/// Returns the listener that systemd has handed over, or else binds one at `path`.
///
/// # Errors
/// Fails, with the path and the remedy, if systemd's is no unix socket or more than one, if another process
/// listens at `path`, if something there is no socket, or if one cannot be made.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match from_systemd(&mut ListenFd::from_env())? {
        Some(listener) => Ok(listener),
        None => bind_own(path).with_context(|| format!("cannot listen on {}", path.display())),
    }
}

/// Takes the one listener that the service manager has handed over, if it has.
fn from_systemd(handed: &mut ListenFd) -> anyhow::Result<Option<UnixListener>> {
    match handed.len() {
        0 => return Ok(None),
        1 => {}
        several => {
            bail!("systemd hands over {several} sockets; name one ListenStream= in wharf-agent.socket")
        }
    }
    handed.take_unix_listener(0).context(
        "what systemd hands over is no unix socket; name a path in ListenStream= of wharf-agent.socket",
    )
}

fn bind_own(path: &Path) -> anyhow::Result<UnixListener> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    let unready = dir.join(format!(".{}", random_name()));
    if path.as_os_str().len().max(unready.as_os_str().len()) > MAX_PATH_BYTES {
        bail!("its path is too long for a socket; choose a shorter one (--socket PATH)");
    }
    make_private_dir(dir)?;
    refuse_used(path)?;
    let listener = UnixListener::bind(&unready).context("cannot make a socket in its directory")?;
    let shown = std::fs::set_permissions(&unready, Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&unready, path));
    if let Err(error) = shown {
        // The rename's failure is what matters.
        let _ = remove(&unready);
        return Err(error).context("cannot give the socket its name");
    }
    Ok(listener)
}

/// Refuses a name that is another process's, or no socket's.
fn refuse_used(path: &Path) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if is_socket(&metadata) => {}
        Ok(_) => bail!("it is there and is no socket; remove it or choose another path (--socket PATH)"),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("cannot look at it"),
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!(
            "another process, perhaps an agent, serves it; stop that one or choose another path (--socket PATH)"
        ),
        // Nobody listens, or its owner has gone since: the name is free to be replaced.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error).context("cannot tell whether another process serves it"),
    }
}

fn is_socket(metadata: &Metadata) -> bool {
    metadata.file_type().is_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        crate::fs::list(dir).unwrap()
    }

    #[test]
    fn a_socket_is_made_for_root_alone_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wharf/agent.sock");
        let listener = bind_own(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(names(path.parent().unwrap()), ["agent.sock"]);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(bind_own(&path).unwrap());
        assert!(path.exists());
        let listener = bind_own(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_socket_that_another_process_serves_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let first = bind_own(&path).unwrap();
        let error = format!("{:#}", bind(&path).unwrap_err());
        assert!(
            error.contains("another process") && error.contains("agent.sock"),
            "{error}"
        );
        // The attempt was a connection; the next one is ours.
        first.accept().unwrap();
        UnixStream::connect(&path).unwrap();
        first.accept().unwrap();
        assert_eq!(names(dir.path()), ["agent.sock"]);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = format!("{:#}", bind(&path).unwrap_err());
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(120));
        let error = format!("{:#}", bind(&path).unwrap_err());
        assert!(error.contains("too long"), "{error}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn without_systemd_nothing_is_handed_over() {
        assert!(from_systemd(&mut ListenFd::empty()).unwrap().is_none());
    }
}
