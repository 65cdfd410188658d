//! The socket that containerd calls: systemd's, or one that this process makes.
//!
//! A socket of systemd is there before the agent and while it starts again: containerd then waits instead of failing
//! for seconds, and dockerd does not lose its containers at boot. One of our own is listened on from the moment
//! that it has its name. It stays when the agent ends, and the next one replaces it.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use listenfd::ListenFd;

use crate::fs::{make_private_dir, random_name};

/// Takes the listener that systemd passed, or binds one at `path` that its owner alone can connect to.
///
/// # Errors
/// Fails if what systemd passed is no unix socket, if another process listens at `path`, or something else than a
/// socket is there, and if it cannot be made.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let passed = ListenFd::from_env().take_unix_listener(0);
    if let Some(listener) = passed.context("systemd passes no unix socket (ListenStream=/PATH)")? {
        tracing::info!("the socket is systemd's, wherever it is");
        return Ok(listener);
    }
    let path = std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_private_dir(parent)
        .with_context(|| format!("cannot make the directory of {} (--socket PATH)", path.display()))?;
    check_free(&path)?;
    make(parent, &path).with_context(|| format!("cannot make the socket {} (--socket PATH)", path.display()))
}

/// Makes the socket under another name first, so that nobody finds one without a listener.
fn make(parent: &Path, path: &Path) -> std::io::Result<UnixListener> {
    // Nobody could connect to a name that is too long.
    SocketAddr::from_pathname(path)?;
    let unnamed = Unnamed(parent.join(format!(".{}", random_name())));
    let listener = UnixListener::bind(&unnamed.0)?;
    std::fs::set_permissions(&unnamed.0, Permissions::from_mode(0o600))?;
    std::fs::rename(&unnamed.0, path)?;
    Ok(listener)
}

/// A socket that goes again unless it got its name.
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Refuses a name that is taken by more than a socket that was left behind.
fn check_free(path: &Path) -> anyhow::Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        there => there.with_context(|| format!("cannot look at {}", path.display()))?,
    };
    if !there.file_type().is_socket() {
        bail!(
            "{} is there and no socket; choose another path (--socket PATH)",
            path.display()
        );
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!(
            "another process serves {}; stop it, or choose another path (--socket PATH)",
            path.display()
        ),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot tell whether {} is served", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn it_is_its_owners_alone_in_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wharf/agent.sock");
        let _listener = bind(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        UnixStream::connect(&path).unwrap();
        assert_eq!(names(path.parent().unwrap()), ["agent.sock"]);
    }

    #[test]
    fn one_that_nobody_listens_on_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err());
        let _listener = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn one_that_is_served_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = bind(&path).unwrap();
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.starts_with("another process serves"), "{error}");
        UnixStream::connect(&path).unwrap();
        assert_eq!(names(dir.path()), ["agent.sock"]);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("is there and no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_is_too_long_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", bind(&dir.path().join("a".repeat(120))).unwrap_err());
        assert!(error.contains("--socket PATH"), "{error}");
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}
