//! An agent that gets its socket from systemd, as `config/systemd/wharf-agent.socket` has it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::mirror::wharf;
use crate::support::process::{Service, bound_command, run};

/// Moves the listener from where `Command` can put it to where systemd puts it.
const AS_SYSTEMD: &str = r#"exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" "$@""#;

#[test]
fn a_socket_of_systemd_is_served_and_no_other_made() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("systemd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    // A client that comes before the agent waits for it.
    let early = UnixStream::connect(&socket).unwrap();
    let mut agent = start(directory.path(), listener);
    let log = directory.path().join("agent.err");
    agent.wait_ready(Duration::from_secs(20), || {
        let log = std::fs::read_to_string(&log).ok()?;
        log.contains("serving snapshots").then_some(())
    });
    assert!(!directory.path().join("own.sock").exists());
    drop(early);
    agent.signal(rustix::process::Signal::TERM);
    assert!(agent.wait(Duration::from_secs(10)).success());
    assert!(socket.exists(), "it is systemd's");
}

fn start(directory: &Path, listener: UnixListener) -> Service {
    start_with(directory, listener, |_| {})
}

fn start_with(directory: &Path, listener: UnixListener, more: impl FnOnce(&mut Command)) -> Service {
    let wharf = wharf();
    let mut command = bound_command("sh");
    command
        .args(["-c", AS_SYSTEMD])
        .arg(wharf.get_program())
        .args(wharf.get_args())
        .args(["agent", "--mirror", "http://127.0.0.1:9", "--content-links=false"])
        .arg("--socket")
        .arg(directory.join("own.sock"))
        .arg("--store")
        .arg(directory.join("store"))
        .arg("--root")
        .arg(directory.join("root"));
    more(&mut command);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    Service::start("agent", directory, command)
}

#[test]
fn an_agent_with_a_socket_keeps_an_image_store_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let listener = UnixListener::bind(path("systemd.sock")).unwrap();
    let mut agent = start_with(directory.path(), listener, |command| {
        command.arg("--podman").arg(path("image-store"));
    });
    agent.wait_ready(Duration::from_secs(20), || {
        let log = std::fs::read_to_string(path("agent.err")).ok()?;
        let is_both = log.contains("serving snapshots") && log.contains("keeping an image store");
        is_both.then_some(())
    });
    let list = std::fs::read_to_string(path("image-store/overlay-layers/layers.json")).unwrap();
    assert_eq!(list, "[]\n");
    agent.signal(rustix::process::Signal::TERM);
    assert!(agent.wait(Duration::from_secs(10)).success());
}

#[test]
fn an_image_store_needs_no_mirror_and_snapshots_do() {
    let directory = tempfile::tempdir().unwrap();
    let agent = |arguments: &[&str]| {
        let mut command = wharf();
        command
            .arg("agent")
            .args(arguments)
            .arg("--store")
            .arg(directory.path());
        run(command)
    };
    let image_store = directory.path().join("image-store").display().to_string();
    let refused = agent(&[]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    let refused = agent(&["--podman", &image_store, "--socket", "/nonexistent/agent.sock"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("--mirror"), "{refused:?}");
    let refused = agent(&["--once", "--mirror", "http://127.0.0.1:9"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    // Served nothing, and asked no mirror: there is no store.
    let away = agent(&["--once", "--podman", &image_store]);
    assert_eq!(away.code(), 1, "{away:?}");
    assert!(away.stderr.contains("is no store"), "{away:?}");
}
