//! Mounts that end with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Service, bound_command, run_ok, shell};

/// Returns whether something is mounted there.
pub fn is_mounted(path: &Path) -> bool {
    mounts().iter().any(|mounted| mounted == path)
}

/// Unmounts everything at and below a directory, the last mounted first; waits for no server.
pub fn unmount_below(directory: &Path) {
    for path in mounts().iter().rev().filter(|path| path.starts_with(directory)) {
        let _ = Command::new("umount").arg("--lazy").arg(path).status();
    }
}

fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .collect()
}

/// A file system in user space, in a process of its own that is not asked to end but killed.
///
/// Calls that hang fail then, and nobody waits for a server that is gone.
#[derive(Debug)]
pub struct FuseMount {
    service: Service,
    path: PathBuf,
}

impl FuseMount {
    /// Starts a client that stays in the foreground and mounts `path`, which is made.
    pub fn start(name: &str, logs: &Path, path: &Path, command: Command) -> Self {
        fs::create_dir_all(path).expect("make a mount point");
        let mut mount = Self {
            service: Service::start(name, logs, command),
            path: path.to_owned(),
        };
        mount
            .service
            .wait_ready(Duration::from_secs(20), || is_mounted(path).then_some(()));
        mount
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        self.service.kill();
        unmount_below(&self.path);
    }
}

/// An ext4 of its own on a loop device, for a volume that fills up.
#[derive(Debug)]
pub struct SmallExt4 {
    directory: TempDir,
}

impl SmallExt4 {
    /// Makes and mounts one on a device of that many bytes, about nine tenths of which are free.
    pub fn mount(bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let small = Self { directory };
        let root = small.directory.path().display();
        shell(&format!(
            "mkdir {root}/mounted; truncate -s {bytes} {root}/image; \
             mkfs.ext4 -q -m 0 -O ^has_journal {root}/image; mount -o loop {root}/image {root}/mounted"
        ));
        small
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }
}

impl Drop for SmallExt4 {
    fn drop(&mut self) {
        unmount_below(self.directory.path());
    }
}

/// Directories on top of each other, as a container sees them; upper and work are local.
#[derive(Debug)]
pub struct Overlay {
    directory: TempDir,
}

impl Overlay {
    /// Mounts layers, the bottom one first.
    pub fn mount(layers: &[PathBuf]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let overlay = Self { directory };
        let root = overlay.directory.path();
        for name in ["l", "upper", "work", "merged"] {
            fs::create_dir(root.join(name)).expect("make a directory");
        }
        // mount(2) takes a page of options: short names hold a hundred layers.
        let mut names = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let name = format!("l/{number}");
            std::os::unix::fs::symlink(layer, root.join(&name)).expect("link a layer");
            names.insert(0, name);
        }
        let mut command = bound_command("mount");
        command.current_dir(root).args(["-t", "overlay", "wharf", "-o"]);
        command.arg(format!(
            "lowerdir={},upperdir=upper,workdir=work",
            names.join(":")
        ));
        command.arg(root.join("merged"));
        run_ok(command);
        overlay
    }

    /// Where the merged directory is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("merged")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        unmount_below(self.directory.path());
    }
}
