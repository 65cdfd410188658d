//! Podman, Buildah and skopeo on a node, whose layers lie on the store.
//!
//! What this machine forbids a node is written into Podman's own files: control groups, networks and higher limits.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::{Node, STORE};
use crate::support::clients::client_file;
use crate::support::process::{Ended, Service, bound_command, run, run_ok};
use crate::support::suite::Suite;

/// What is a node's own of Podman's files.
const GRAPH_ROOT: &str = "/var/lib/containers/storage";
/// The additional image store that the agent keeps on the node: short, since Podman 4.3 has one page of mount(2)'s
/// options for the paths of all layers of an image.
const LOCAL_IMAGE_STORE: &str = "/wharf";
/// Where containers' scripts print to, for everybody.
const OUTPUTS: &str = "/var/outputs";
const OUTPUTS_INSIDE: &str = "/outputs";
/// The socket of Podman's service.
const SERVICE_SOCKET: &str = "/run/podman.sock";

/// Where Podman finds what it needs to know of the store's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageStore {
    /// On the store itself.
    Shared,
    /// In a directory of the node's, which an agent keeps up to date.
    Local,
}

impl ImageStore {
    /// The directory that storage.conf names.
    pub fn path(self) -> String {
        match self {
            Self::Shared => format!("{STORE}/layers"),
            Self::Local => LOCAL_IMAGE_STORE.to_owned(),
        }
    }
}

/// The files of a Podman node, but for what only the machine of the tests needs: path and text.
fn files(mirror: SocketAddr, image_store: ImageStore) -> [(&'static str, String); 2] {
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = {GRAPH_ROOT:?}\nrunroot = \"/run/containers/storage\"\n\
         [storage.options]\nadditionalimagestores = [{:?}]\n",
        image_store.path()
    );
    [
        (
            "/etc/containers/registries.conf.d/50-wharf.conf",
            client_file("podman/registries.conf", mirror),
        ),
        ("/etc/containers/storage.conf", storage),
    ]
}

/// The file that a container's script prints to: Podman 4.3 loses a short container's output on a busy machine.
pub(super) struct Output {
    name: String,
}

impl Output {
    pub(super) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self {
            name: NEXT.fetch_add(1, Ordering::Relaxed).to_string(),
        }
    }

    /// The volume that a container must have for it.
    pub(super) fn volume() -> String {
        format!("{OUTPUTS}:{OUTPUTS_INSIDE}")
    }

    /// The script, printing to it.
    pub(super) fn script(&self, script: &str) -> String {
        format!("exec >{OUTPUTS_INSIDE}/{}\n{script}", self.name)
    }
}

/// What the machine of the tests needs besides.
const MACHINE: [(&str, &str); 3] = [
    (
        "/etc/containers/containers.conf",
        // It has no CAP_SYS_RESOURCE, with which podman would raise limits, and no network that containers may have.
        "[containers]\ncgroups = \"disabled\"\nnetns = \"none\"\n\
         default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
    ),
    (
        "/etc/containers/policy.json",
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    ),
    (
        "/etc/containers/registries.conf",
        "unqualified-search-registries = [\"docker.io\"]\n",
    ),
];

impl Node {
    /// Starts a node of Podman that pulls from one mirror, with an agent where `image_store` needs one.
    pub fn start_podman(suite: Suite, shared: &Path, mirror: SocketAddr, image_store: ImageStore) -> Self {
        let mut node = Self::start(suite, shared);
        node.configure_podman(mirror, image_store);
        if image_store == ImageStore::Local {
            node.start_podman_agent(mirror);
        }
        let version = node.podman(&["--version"]);
        println!("{suite:?}: {}", version.trim());
        node
    }

    /// Writes the files of a Podman node.
    pub fn configure_podman(&self, mirror: SocketAddr, image_store: ImageStore) {
        for (path, text) in files(mirror, image_store) {
            self.write(path, &text);
        }
        self.prepare_podman();
    }

    /// Prepares the machine of the tests for Podman, whose own files are another's to write.
    pub fn prepare_podman(&self) {
        for (path, text) in MACHINE {
            self.write(path, text);
        }
        self.write_subordinate_ids("");
        // Newer shadow gives ids to users alone that there are.
        self.shell("echo containers:x:990:990::/nonexistent:/bin/false >>/etc/passwd");
        self.shell(&format!("mkdir -m 1777 {OUTPUTS}"));
        // crun refuses a machine that has both versions of control groups.
        self.shell("umount --recursive --lazy /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    }

    /// Writes which ids containers and users may have besides their own: those of `--userns=auto`, and more.
    pub(super) fn write_subordinate_ids(&self, more: &str) {
        let ids = format!("containers:200000:655360\n{more}");
        self.write("/etc/subuid", &ids);
        self.write("/etc/subgid", &ids);
    }

    /// Starts the agent that keeps the node's image store, and waits until it has made it.
    pub fn start_podman_agent(&mut self, mirror: SocketAddr) {
        let mut command = self.podman_agent();
        command.args(["--mirror", &format!("http://{mirror}")]);
        self.agent.launch(command);
        let layers = self.path(LOCAL_IMAGE_STORE).join("overlay-layers/layers.json");
        self.agent.wait_ready(|| layers.exists().then_some(()));
    }

    /// Brings the node's image store up to date, as a timer of systemd does.
    pub fn run_podman_agent_once(&self) {
        let mut command = self.podman_agent();
        command.arg("--once");
        run_ok(command);
    }

    fn podman_agent(&self) -> Command {
        let mut command = self.command("/opt/wharf");
        command.args(["agent", "--podman", LOCAL_IMAGE_STORE, "--store", STORE]);
        command
    }

    /// Runs `podman`, which must succeed; returns what it prints.
    pub fn podman(&self, arguments: &[&str]) -> String {
        run_ok(self.podman_command(arguments))
    }

    /// Runs `podman`, which may fail.
    pub fn try_podman(&self, arguments: &[&str]) -> Ended {
        run(self.podman_command(arguments))
    }

    /// Starts `podman` in the background.
    pub fn start_podman_command(&self, name: &str, arguments: &[&str]) -> Service {
        Service::start(name, self.first.directory.path(), self.podman_command(arguments))
    }

    fn podman_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("podman");
        command.args(arguments);
        command
    }

    /// Runs a shell line in a new container of an image, which is pulled if it is not there; returns what it prints.
    pub fn podman_run(&self, image: &str, script: &str) -> String {
        self.podman_run_with(&[], image, script)
    }

    /// Does so with more options.
    pub fn podman_run_with(&self, options: &[&str], image: &str, script: &str) -> String {
        let output = Output::new();
        let [volume, script] = [Output::volume(), output.script(script)];
        let run = ["run", "--rm", "--volume", &volume];
        self.podman(&[&run, options, &[image, "sh", "-euc", &script]].concat());
        self.taken(&output)
    }

    /// Runs a container in the background until it is removed.
    pub fn podman_run_detached(&self, name: &str, image: &str) {
        let volume = Output::volume();
        // The program would not end at SIGTERM, and podman wait ten seconds for it.
        let run = [
            "run",
            "--detach",
            "--stop-signal=KILL",
            "--name",
            name,
            "--volume",
            &volume,
        ];
        self.podman(&[&run[..], &[image, "sleep", "1000000"]].concat());
    }

    /// Runs a shell line in a container that was started so; returns what it prints.
    pub fn podman_exec(&self, name: &str, script: &str) -> String {
        let output = Output::new();
        self.podman(&["exec", name, "sh", "-euc", &output.script(script)]);
        self.taken(&output)
    }

    /// What a script has printed.
    pub(super) fn taken(&self, output: &Output) -> String {
        let path = self.path(OUTPUTS).join(&output.name);
        fs::read_to_string(path).expect("read a script's output")
    }

    /// What `podman image inspect` tells of an image.
    pub fn podman_inspect(&self, image: &str) -> Value {
        let text = self.podman(&["image", "inspect", image]);
        let mut images: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        images.pop().expect("an image")
    }

    /// Bytes of the node's own disk that Podman uses, as `du` has them.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_used(GRAPH_ROOT)
    }

    /// The layers that lie on the node's own disk, by their ids.
    pub fn own_layers(&self) -> Vec<String> {
        let list = self.shell(&format!("ls {GRAPH_ROOT}/overlay"));
        let ids = list.lines().filter(|name| name.len() == 64);
        ids.map(str::to_owned).collect()
    }

    /// Starts Podman's service, a process that lives long, and waits until it answers.
    pub fn start_podman_service(&mut self) {
        let url = format!("unix://{SERVICE_SOCKET}");
        let command = self.podman_command(&["system", "service", "--time=0", &url]);
        self.podman_service.launch(command);
        let socket = self.path_below_mounts(SERVICE_SOCKET);
        self.podman_service
            .wait_ready(|| UnixStream::connect(&socket).ok().map(drop));
    }

    /// Asks Podman's service; returns the last JSON object of its answer.
    pub fn ask_podman_service(&self, method: &str, path: &str) -> Value {
        let socket = self.path_below_mounts(SERVICE_SOCKET);
        let mut command = bound_command("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "120"]);
        command.args(["--request", method, "--unix-socket"]).arg(socket);
        command.arg(format!("http://podman/v4.0.0/libpod/{path}"));
        let text = run_ok(command);
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        let last = last.unwrap_or_else(|| panic!("nothing from {path}"));
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{path}: {e}: {text}"))
    }
}
