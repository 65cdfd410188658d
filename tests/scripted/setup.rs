//! `wharf setup`, as an operator runs it; what it merges is tested in `src/setup/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::mirror::wharf;
use crate::support::process::run;

/// A machine with a containerd and a Docker that say their versions.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let machine = Self(tempfile::tempdir().expect("a directory"));
        for (name, says) in [
            (
                "containerd",
                "containerd github.com/containerd/containerd 1.7.24~ds1",
            ),
            ("dockerd", "Docker version 26.1.5+dfsg1, build 411e817"),
        ] {
            let path = machine.write(&format!("bin/{name}"), &format!("#!/bin/sh\necho '{says}'\n"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("change a mode");
        }
        machine
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        fs::write(&path, text).expect("write a file");
        path
    }

    fn etc(&self) -> PathBuf {
        self.0.path().join("etc")
    }

    fn setup(&self, arguments: &[&str]) -> Command {
        let mut command = wharf();
        command.arg("setup").args(arguments).arg("--etc").arg(self.etc());
        let bin = self.0.path().join("bin");
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        command
    }
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[test]
fn setup_prints_what_it_would_change_and_changes_it_when_told() {
    let machine = Machine::new();
    let daemon = machine.write("etc/docker/daemon.json", "{\n  \"debug\": true\n}\n");
    let printed = run(machine.setup(&["docker"]));
    assert_eq!(printed.code(), 0, "{printed:?}");
    assert!(
        printed.stdout.contains("+  \"storage-driver\": \"wharf\""),
        "{printed:?}"
    );
    assert!(printed.stdout.contains("+version = 2"), "{printed:?}");
    assert!(
        printed.stderr.contains("systemctl restart containerd docker"),
        "{printed:?}"
    );
    assert!(printed.stderr.contains("hidden"), "{printed:?}");
    assert!(
        !exists(&machine.etc().join("containerd")),
        "nothing is written yet"
    );
    assert_eq!(
        fs::read_to_string(&daemon).expect("read a file"),
        "{\n  \"debug\": true\n}\n"
    );

    let written = run(machine.setup(&["docker", "--write"]));
    assert_eq!(written.code(), 0, "{written:?}");
    assert!(written.stdout.contains("daemon.json.wharf-backup"), "{written:?}");
    for name in [
        "containerd/config.toml",
        "wharf/agent.env",
        "systemd/system/wharf-agent.socket",
    ] {
        assert!(exists(&machine.etc().join(name)), "{name}");
    }

    for arguments in [&["docker"][..], &["docker", "--write"]] {
        let again = run(machine.setup(arguments));
        assert_eq!(again.code(), 0, "{again:?}");
        assert!(again.stderr.contains("nothing is to change"), "{again:?}");
        assert!(
            !again.stdout.contains("+++") && !again.stdout.contains("made "),
            "{again:?}"
        );
    }
}

#[test]
fn a_setting_that_contradicts_ends_setup_with_its_name() {
    let machine = Machine::new();
    let daemon = machine.write("etc/docker/daemon.json", "{\"storage-driver\": \"zfs\"}\n");
    let refused = run(machine.setup(&["docker", "--write"]));
    assert_eq!(refused.code(), 1, "{refused:?}");
    for said in ["daemon.json", "storage-driver", "zfs", "--force"] {
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
    }
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    assert!(!exists(&machine.etc().join("containerd")), "nothing is written");
    let forced = run(machine.setup(&["docker", "--write", "--force"]));
    assert_eq!(forced.code(), 0, "{forced:?}");
    assert!(
        fs::read_to_string(daemon)
            .expect("read a file")
            .contains("\"storage-driver\": \"wharf\"")
    );
}

#[test]
fn kubernetes_is_another_word_for_containerd() {
    let machine = Machine::new();
    let printed = run(machine.setup(&[
        "kubernetes",
        "--mirror",
        "http://a:1,https://b",
        "--store",
        "/dfs",
    ]));
    assert_eq!(printed.code(), 0, "{printed:?}");
    for said in [
        "+WHARF_MIRRORS=http://a:1,https://b",
        "+WHARF_STORE=/dfs",
        "+    Wharf-Reads-Store = \"true\"",
    ] {
        assert!(printed.stdout.contains(said), "{said}: {printed:?}");
    }
}

#[test]
fn a_warning_is_printed_and_is_no_error() {
    let machine = Machine::new();
    machine.write(
        "store/wharf.json",
        "{\"format\": 1, \"store_id\": \"0123456789abcdef\"}",
    );
    let store = machine.0.path().join("store").display().to_string();
    let ended = run(machine.setup(&["podman", "--image-store", "shared", "--store", &store]));
    assert_eq!(ended.code(), 0, "{ended:?}");
    let warning = format!("warning: {store} is writable here");
    assert!(ended.stderr.contains(&warning), "{ended:?}");
}
