//! An agent that gets its socket from systemd, as `config/systemd/wharf-agent.socket` has it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::mirror::wharf;
use crate::support::process::{Service, bound_command};

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
        .arg(directory.join("root"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    Service::start("agent", directory, command)
}
