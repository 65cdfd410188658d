//! A node of a cluster: its own root, mounts, processes and /run, with the programs of a Debian suite.
//!
//! containerd, Docker, Podman and the agent find everything where it is on a real node, so that they run with the files
//! under `config/`. The network is the host's. All processes are of one process namespace, which ends with the
//! test, also when that is killed, and with it what they have mounted.

mod cri;
mod daemon;
mod docker;
mod files;
mod podman;
mod rootless;
mod start;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use daemon::Daemon;
pub use files::CriMode;
pub use podman::ImageStore;
pub use start::AGENT_ROOT;

use super::clients::{control_group, remove_control_groups};
use super::mirror::WHARF;
use super::process::{Service, bound_command, run_ok};
use super::suite::Suite;

const SETUP: &str = include_str!("node/setup.sh");
/// How long a daemon may take to answer, on a machine that is busy.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Where a node has the store.
pub const STORE: &str = "/mnt/wharf";

/// A node. Daemons that it runs are its fields' [`Daemon`]s, each of which a test may stop and start.
pub struct Node {
    suite: Suite,
    pub agent: Daemon,
    pub containerd: Daemon,
    pub docker: Daemon,
    pub podman_service: Daemon,
    agent_variables: Vec<String>,
    agent_socket: Option<UnixListener>,
    // Dropped last: the first process, then its directory.
    first: First,
}

/// Where a node's processes are: in the namespaces of its first.
#[derive(Clone, Copy)]
struct Place(Pid);

impl Place {
    fn command(self, program: &str) -> Command {
        let mut command = bound_command("nsenter");
        command.arg(format!("--target={}", self.0.as_raw_nonzero()));
        command.args(["--mount", "--pid", "--", "env", "-i", "LC_ALL=C", "HOME=/root"]);
        command.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.arg(program);
        command
    }
}

/// The first process of a node.
struct First {
    holder: Service,
    place: Place,
    directory: TempDir,
}

impl Node {
    /// Starts a node without daemons; `shared` is where the host has the file system whose `store` is the store.
    pub fn start(suite: Suite, shared: &Path) -> Self {
        let tree = suite.tree();
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        fs::create_dir(&root).expect("make a directory");
        let mut command = bound_command("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
        ]);
        command.args(["--", "/bin/sh", "-c", SETUP, "setup.sh"]);
        command.arg(tree).arg(&root).arg(WHARF).arg(shared);
        let mut holder = Service::start("node", directory.path(), command);
        let ready = root.join("ready");
        holder.wait_ready(START_TIMEOUT, || ready.exists().then_some(()));
        let pid = children(holder.id()).pop().expect("the node's first process");
        let node = Self {
            suite,
            agent: Daemon::new("agent", directory.path()),
            containerd: Daemon::new("containerd", directory.path()),
            docker: Daemon::new("dockerd", directory.path()),
            podman_service: Daemon::new("podman", directory.path()),
            agent_variables: Vec::new(),
            agent_socket: None,
            first: First {
                holder,
                place: Place(pid),
                directory,
            },
        };
        node.mount_store();
        node
    }

    /// Returns where this process finds a path of the node that is on no mount of its own.
    pub fn path(&self, inside: &str) -> PathBuf {
        let relative = inside.strip_prefix('/').expect("an absolute path");
        self.first.directory.path().join("root").join(relative)
    }

    /// Returns where this process finds any path of the node, also below what it has mounted.
    pub fn path_below_mounts(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/root{inside}",
            self.first.place.0.as_raw_nonzero()
        ))
    }

    /// Writes a file of the node.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        fs::write(path, text).expect("write a node's file");
    }

    /// Returns a command that runs on the node.
    pub fn command(&self, program: &str) -> Command {
        self.first.place.command(program)
    }

    /// Runs a shell script on the node, which must succeed.
    pub fn shell(&self, script: &str) -> String {
        let mut command = self.command("/bin/sh");
        command.args(["-euc", script]);
        run_ok(command)
    }

    /// Mounts the store, read-only.
    pub fn mount_store(&self) {
        self.shell(&format!(
            "mkdir -p {STORE} /shared/store; mount --bind /shared/store {STORE}; mount -o remount,bind,ro {STORE}"
        ));
    }

    /// Unmounts the store; running containers keep what they have mounted of it.
    pub fn unmount_store(&self) {
        self.shell(&format!("umount {STORE}"));
    }

    /// Bytes on the node's own disk below a directory, as `du` has them.
    pub fn disk_used(&self, inside: &str) -> u64 {
        let text = self.shell(&format!("du -sxB1 {inside} | cut -f1"));
        text.trim().parse().expect("a number")
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = kill_process(self.place.0, Signal::KILL);
        self.holder.wait(Duration::from_secs(20));
        remove_control_groups();
    }
}

/// Returns the children of a process.
pub fn children(pid: u32) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pid = |word: &str| Pid::from_raw(word.parse().ok()?);
    list.split_whitespace().filter_map(pid).collect()
}

/// Returns the control group that containers of this test belong to.
fn cgroup_parent() -> String {
    format!("/{}", control_group())
}
