//! A user of a node who is not root, and their Podman.

use std::process::Command;

use super::podman::Output;
use super::{Node, STORE};
use crate::support::process::{Ended, run, run_ok};

const NAME: &str = "alice";
const ID: u32 = 4321;
/// The first of the ids that are theirs to give.
const FIRST: u32 = 900_000;
/// A container's ids 1 to this are theirs.
const COUNT: u32 = 65_535;
/// The store as the user's containers must see it: root's files are the user's, and so on.
const MAPPED: &str = "/mnt/wharf-alice";
const STORAGE_CONF: &str = ".config/containers/storage.conf";

/// The user.
pub struct Rootless<'n> {
    node: &'n Node,
}

impl Node {
    /// Gives a node that is configured for Podman a user, who pulls to a storage of their own.
    pub fn rootless(&self) -> Rootless<'_> {
        self.write_subordinate_ids(&format!("{NAME}:{FIRST}:{}\n", COUNT + 1));
        self.write(
            &format!("/home/{NAME}/{STORAGE_CONF}"),
            "[storage]\ndriver = \"overlay\"\n",
        );
        self.shell(&format!(
            "echo {NAME}:x:{ID}:{ID}::/home/{NAME}:/bin/sh >>/etc/passwd; echo {NAME}:x:{ID}: >>/etc/group
             mkdir -p /run/user/{ID}; chmod 700 /run/user/{ID}; chown -R {ID}:{ID} /home/{NAME} /run/user/{ID}"
        ));
        Rootless { node: self }
    }
}

impl Rootless<'_> {
    /// Mounts the store once more, with root's files as the user's and all others as those that are theirs to give,
    /// and has the user's Podman read it.
    pub fn map_store(&self) {
        self.node.shell(&format!(
            "mkdir -p {MAPPED}
             mount --bind -o ro,X-mount.idmap='b:0:{ID}:1 b:1:{FIRST}:{COUNT}' {STORE} {MAPPED}
             echo '[storage.options]\nadditionalimagestores = [\"{MAPPED}/layers\"]' >>/home/{NAME}/{STORAGE_CONF}"
        ));
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = self.node.command("setpriv");
        let id = ID.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "env"]);
        command.args([&format!("HOME=/home/{NAME}"), &format!("USER={NAME}")]);
        command.arg(format!("XDG_RUNTIME_DIR=/run/user/{ID}"));
        // Podman's directory must be one that the user may enter.
        command.args(["sh", "-c", &format!("cd; {script}"), "sh"]);
        command.args(arguments);
        command
    }

    /// Runs a shell script of the user's, which may fail.
    pub fn try_shell(&self, script: &str) -> Ended {
        run(self.command(script, &[]))
    }

    /// Runs a shell line in a new container of the user's; returns what it prints.
    pub fn podman_run(&self, image: &str, script: &str) -> String {
        let output = Output::new();
        let [volume, script] = [Output::volume(), output.script(script)];
        let arguments = ["run", "--rm", "--volume", &volume, image, "sh", "-euc", &script];
        run_ok(self.command("exec podman \"$@\"", &arguments));
        self.node.taken(&output)
    }

    /// Bytes of the node's own disk that the user's Podman uses, once it has pulled.
    pub fn disk_bytes(&self) -> u64 {
        self.node
            .disk_used(&format!("/home/{NAME}/.local/share/containers/storage"))
    }
}
