//! dockerd, podman, skopeo and containerd, configured by the files under `config/`.

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::PROJECT;
use super::mount::{is_mounted, unmount_below};
use super::process::{Ended, Service, bound_command, run, run_ok, shell};

/// Returns the control group of what this test's clients run; `tests/run` removes it too.
pub fn control_group() -> String {
    format!("wharf-tests-{}", std::process::id())
}
/// The mirror's address in the files under `config/`.
const DOCUMENTED_ADDRESS: &str = "127.0.0.1:5000";

/// Returns a file under `config/`.
pub fn config_file(path: &str) -> String {
    let full = Path::new(PROJECT).join("config").join(path);
    fs::read_to_string(&full).unwrap_or_else(|e| panic!("read {}: {e}", full.display()))
}

/// Returns a file under `config/` for a mirror at `address`.
pub fn client_file(path: &str, address: SocketAddr) -> String {
    let text = config_file(path);
    assert!(
        text.contains(DOCUMENTED_ADDRESS),
        "config/{path} does not name {DOCUMENTED_ADDRESS}"
    );
    text.replace(DOCUMENTED_ADDRESS, &address.to_string())
}

/// Unmounts what a client left mounted, and removes its control groups.
fn clean_up(directory: &Path) {
    unmount_below(directory);
    remove_control_groups();
}

/// Removes the control groups of what has ended.
pub fn remove_control_groups() {
    let group = control_group();
    let remove = format!("find /sys/fs/cgroup -depth -type d -path '*/{group}*' -exec rmdir {{}} ';'");
    let _ = Command::new("/bin/sh")
        .args(["-c", &format!("{remove} 2>/dev/null")])
        .status();
}

/// A Docker daemon of its own.
pub struct Docker {
    // Dropped in this order: the daemon must have ended before its directory goes.
    service: Service,
    directory: TempDir,
}

impl Docker {
    /// Starts dockerd with `config/daemon.json`.
    pub fn start(mirror: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        let config = root.join("daemon.json");
        fs::write(&config, client_file("daemon.json", mirror)).expect("write daemon.json");
        let mut command = bound_command("dockerd");
        // Its containerd leaves its stacks there if it is slow to end, for dockerd makes it write them.
        command.env("TMPDIR", root);
        command.arg("--data-root").arg(root.join("data"));
        command.arg("--exec-root").arg(root.join("exec"));
        command.arg("--pidfile").arg(root.join("pid"));
        command.arg("--config-file").arg(config);
        command.arg("--host").arg(host(root));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        command.arg("--cgroup-parent").arg(control_group());
        let mut service = Service::start("dockerd", root, command);
        service.wait_ready(Duration::from_secs(30), || {
            let mut command = docker(root);
            command.arg("version");
            run(command).status.success().then_some(())
        });
        Self { service, directory }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = docker(self.directory.path());
        command.args(arguments);
        command
    }

    /// Pulls an image; returns the digest that docker tells.
    pub fn pull(&self, image: &str) -> String {
        let output = run_ok(self.command(&["pull", image]));
        let digest = output.lines().find_map(|line| line.strip_prefix("Digest: "));
        digest
            .unwrap_or_else(|| panic!("no digest in {output}"))
            .to_owned()
    }

    /// Pulls an image that may fail to come.
    pub fn try_pull(&self, image: &str) -> Ended {
        run(self.command(&["pull", image]))
    }

    /// Pulls in the background.
    pub fn start_pull(&self, image: &str) -> Service {
        Service::start("pull", self.directory.path(), self.command(&["pull", image]))
    }

    /// Runs a command in a container; returns what it prints.
    pub fn run(&self, image: &str, arguments: &[&str]) -> String {
        let mut command = self.command(&["run", "--rm", "--network", "none", "--pull", "never", image]);
        command.args(arguments);
        run_ok(command)
    }

    /// Makes an image of a file system's tar.
    pub fn import(&self, tar: &Path, image: &str) {
        run_ok(self.command(&["import", &tar.to_string_lossy(), image]));
    }

    /// Saves an image into a new directory, with a layer a tar.
    pub fn save(&self, image: &str, directory: &Path) {
        let tar = directory.with_extension("tar");
        run_ok(self.command(&["save", "--output", &tar.to_string_lossy(), image]));
        fs::create_dir(directory).expect("make a directory");
        shell(&format!("tar -C {} -xf {}", directory.display(), tar.display()));
    }

    /// Builds the Dockerfile in a directory.
    pub fn build(&self, image: &str, directory: &Path) {
        let path = directory.to_string_lossy();
        let mut command = self.command(&["build", "--network", "none", "--tag", image, &path]);
        // BuildKit needs a plugin that Debian does not bring along.
        command.env("DOCKER_BUILDKIT", "0");
        run_ok(command);
    }

    /// The user that an image's containers run as.
    pub fn image_user(&self, image: &str) -> String {
        let output = run_ok(self.command(&["inspect", "--format", "{{.Config.User}}", image]));
        output.trim().to_owned()
    }

    /// Runs an image as it is in the background, in the host's network and with no capability.
    pub fn start_on_host_network(&self, image: &str, variables: &[String]) -> Service {
        let mut command = self.command(&["run", "--rm", "--network", "host", "--cap-drop", "ALL"]);
        command.args(["--security-opt", "no-new-privileges"]);
        for variable in variables {
            command.args(["--env", variable]);
        }
        command.arg(image);
        Service::start("container", self.directory.path(), command)
    }

    /// Removes an image, so that it can be pulled again.
    pub fn remove(&self, image: &str) {
        run_ok(self.command(&["rmi", "--force", image]));
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.service.stop();
        clean_up(self.directory.path());
    }
}

fn host(root: &Path) -> String {
    format!("unix://{}", root.join("docker.sock").display())
}

fn docker(root: &Path) -> Command {
    let mut command = bound_command("docker");
    command
        .arg("--config")
        .arg(root.join("client"))
        .arg("--host")
        .arg(host(root));
    command
}

/// Podman and skopeo with a `registries.conf` and a storage of their own.
pub struct Podman {
    directory: TempDir,
    registries: PathBuf,
}

impl Podman {
    /// Prepares `config/podman/registries.conf`.
    pub fn new(mirror: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let registries = directory.path().join("registries.conf");
        fs::write(&registries, client_file("podman/registries.conf", mirror)).expect("write registries.conf");
        Self {
            directory,
            registries,
        }
    }

    fn command(&self, program: &[&str]) -> Command {
        let path = |name: &str| self.directory.path().join(name);
        let mut command = bound_command(program[0]);
        command.args(&program[1..]);
        command
            .env("CONTAINERS_REGISTRIES_CONF", &self.registries)
            .env("HOME", self.directory.path());
        command
            .arg("--root")
            .arg(path("root"))
            .arg("--runroot")
            .arg(path("runroot"));
        command
            .arg("--tmpdir")
            .arg(path("tmp"))
            .arg("--network-config-dir")
            .arg(path("networks"));
        command.args([
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ]);
        command
    }

    /// Pulls an image.
    pub fn pull(&self, image: &str) {
        let mut command = self.command(&["podman"]);
        command.args(["pull", "--quiet", image]);
        run_ok(command);
    }

    /// Runs a command in a container; returns what it prints.
    pub fn run(&self, image: &str, arguments: &[&str]) -> String {
        // crun refuses a machine that has both versions of control groups: hide one from it.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut command = self.command(&["unshare", "--mount", "sh", "-c", script, "sh", "podman"]);
        command.args(["run", "--rm", "--network", "none", "--cgroups", "disabled"]);
        // podman would raise these, which needs CAP_SYS_RESOURCE; lowering them needs nothing.
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        command.args(["--pull", "never", image]);
        command.args(arguments);
        run_ok(command)
    }

    /// Writes an image to an archive, whose layers podman makes again from its storage.
    pub fn save(&self, image: &str) {
        let mut command = self.command(&["podman"]);
        command.args(["save", "--quiet", "--format", "oci-archive", "--output"]);
        command.arg(self.directory.path().join("saved.tar")).arg(image);
        run_ok(command);
    }

    /// Returns the tar-splits of the layers that are in its storage.
    pub fn tar_splits(&self) -> Vec<PathBuf> {
        let layers = self.directory.path().join("root/overlay-layers");
        let entries = fs::read_dir(layers).expect("list podman's layers");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.retain(|path| path.to_string_lossy().ends_with(".tar-split.gz"));
        paths
    }

    /// Copies an image, or an index with everything in it, into a directory by skopeo.
    pub fn skopeo_copy(&self, image: &str, all: bool) -> PathBuf {
        let target = self.directory.path().join("copy");
        let mut command = bound_command("skopeo");
        command
            .arg("--insecure-policy")
            .arg("--registries-conf")
            .arg(&self.registries);
        command.args(["copy", "--quiet"]).args(all.then_some("--all"));
        command
            .arg(format!("docker://{image}"))
            .arg(format!("dir:{}", target.display()));
        run_ok(command);
        target
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        clean_up(self.directory.path());
    }
}

/// A containerd of its own.
pub struct Containerd {
    service: Service,
    directory: TempDir,
}

impl Containerd {
    /// Starts containerd, and prepares `config/containerd/`.
    pub fn start(mirror: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        for host in ["docker.io", "_default"] {
            let hosts = root.join("hosts").join(host);
            fs::create_dir_all(&hosts).expect("make a directory");
            let text = client_file(&format!("containerd/{host}/hosts.toml"), mirror);
            fs::write(hosts.join("hosts.toml"), text).expect("write hosts.toml");
        }
        let path = |name: &str| root.join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            path("root"),
            path("state"),
            path("containerd.sock"),
            path("opt"),
        );
        fs::write(path("config.toml"), config).expect("write containerd's configuration");
        let mut command = bound_command("containerd");
        command.env("TMPDIR", root);
        command.arg("--config").arg(path("config.toml"));
        let mut service = Service::start("containerd", root, command);
        service.wait_ready(Duration::from_secs(20), || {
            let mut command = ctr(root);
            command.arg("version");
            run(command).status.success().then_some(())
        });
        Self { service, directory }
    }

    /// Pulls an image for this platform, and unpacks it.
    pub fn pull(&self, image: &str) {
        self.ctr_fetch(&["images", "pull"], &[image]);
    }

    /// Fetches an index with all that is in it, and unpacks nothing: attestations have no layers.
    pub fn fetch_all(&self, image: &str) {
        self.ctr_fetch(&["content", "fetch"], &["--all-platforms", image]);
    }

    fn ctr_fetch(&self, subcommand: &[&str], arguments: &[&str]) {
        let mut command = ctr(self.directory.path());
        command.args(subcommand).arg("--hosts-dir");
        command.arg(self.directory.path().join("hosts")).args(arguments);
        run_ok(command);
    }

    /// The digests in containerd's content store.
    pub fn content(&self) -> Vec<String> {
        let mut command = ctr(self.directory.path());
        command.args(["content", "ls", "--quiet"]);
        run_ok(command).lines().map(str::to_owned).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.service.stop();
        clean_up(self.directory.path());
    }
}

fn ctr(root: &Path) -> Command {
    let mut command = bound_command("ctr");
    command.arg("--address").arg(root.join("containerd.sock"));
    command
}

/// A small tmpfs, for a store that fills up.
pub struct Tmpfs {
    directory: TempDir,
}

impl Tmpfs {
    /// Mounts a tmpfs of that many bytes.
    pub fn mount(bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        shell(&format!(
            "mount -t tmpfs -o size={bytes},mode=755 wharf {}",
            directory.path().display()
        ));
        Self { directory }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        clean_up(self.directory.path());
    }
}

/// A file system in user space that can be made to hang, as a distributed one does whose servers are gone.
pub struct Bindfs {
    // Dropped in this order: the process must have ended before its directories go.
    service: RefCell<Service>,
    mounted: TempDir,
    backing: Option<TempDir>,
    _log: TempDir,
}

impl Bindfs {
    /// Mounts one that keeps its files in a directory of its own.
    pub fn mount() -> Self {
        Self::mount_with(&[])
    }

    /// Mounts one with such options, which take abilities away.
    pub fn mount_with(options: &[&str]) -> Self {
        let backing = tempfile::tempdir().expect("a directory");
        let mut mount = Self::over(backing.path(), options);
        mount.backing = Some(backing);
        mount
    }

    /// Shows a directory that is somebody else's.
    pub fn over(backing: &Path, options: &[&str]) -> Self {
        let (mounted, log) = (tempfile::tempdir(), tempfile::tempdir());
        let (mounted, log) = (mounted.expect("a directory"), log.expect("a directory"));
        let mut command = bound_command("bindfs");
        command.arg("-f").args(options).arg(backing).arg(mounted.path());
        let mut service = Service::start("bindfs", log.path(), command);
        service.wait_ready(Duration::from_secs(10), || {
            is_mounted(mounted.path()).then_some(())
        });
        Self {
            service: RefCell::new(service),
            mounted,
            backing: None,
            _log: log,
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Lets every call hang from now on.
    pub fn hang(&self) {
        self.service.borrow_mut().signal(Signal::STOP);
    }

    /// Lets the calls go on.
    pub fn go_on(&self) {
        self.service.borrow_mut().signal(Signal::CONT);
    }
}

impl Drop for Bindfs {
    fn drop(&mut self) {
        // Killed and not asked: calls that hang fail then, and nobody waits for them.
        self.service.borrow_mut().kill();
        clean_up(self.mounted.path());
    }
}
