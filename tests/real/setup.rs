//! What `wharf setup` writes, as every containerd reads it: also the files that Debian and containerd itself make.

use std::fs;
use std::path::Path;

use crate::support::mirror::wharf;
use crate::support::mount::unmount_below;
use crate::support::process::{bound_command, run, run_ok, shell};
use crate::support::suite::Suite;

/// Runs a suite's containerd where `dir` is `/mnt`, and returns what it prints.
fn containerd(suite: Suite, dir: &Path, arguments: &str) -> String {
    let tree = suite.tree();
    let script = format!("mount --bind \"$2\" \"$1/mnt\" && exec chroot \"$1\" containerd {arguments} 2>&1");
    let mut command = bound_command("unshare");
    command.args(["--mount", "--", "/bin/sh", "-euc", &script, "sh"]);
    command.arg(tree).arg(dir);
    run_ok(command)
}

/// Puts programs that say they are the suite's before those of this machine.
fn say_versions(bin: &Path, containerd: &str) {
    fs::create_dir(bin).expect("make a directory");
    for (name, version) in [
        ("containerd", containerd),
        ("dockerd", "Docker version 28.5.2, build 1"),
    ] {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{version}'\n")).expect("write a script");
        let mut command = bound_command("chmod");
        command.arg("755").arg(&path);
        run_ok(command);
    }
}

fn assert_read(suite: Suite, before: &str, runtime: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let etc = directory.path().join("etc");
    let config = etc.join("containerd/config.toml");
    fs::create_dir_all(etc.join("containerd")).expect("make a directory");
    fs::write(&config, before).expect("write a file");
    let bin = directory.path().join("bin");
    say_versions(&bin, &containerd(suite, directory.path(), "--version"));
    let mut command = wharf();
    command
        .arg("setup")
        .arg(runtime)
        .arg("--write")
        .arg("--etc")
        .arg(&etc);
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
    let ended = run(command);
    assert!(ended.status.success(), "{ended:?}");

    let read = containerd(suite, &etc, "--config /mnt/containerd/config.toml config dump");
    let what = format!("{suite:?}, {runtime}, from:\n{before}\nread:\n{read}");
    // Also what it does not know: it warns of that, and goes on without.
    let has = |key: &str, value: &str| {
        read.lines()
            .filter_map(|line| line.trim().split_once(" = "))
            .any(|(name, found)| name == key && found.trim_matches(['"', '\'']) == value)
    };
    assert!(has("address", "/run/wharf/agent.sock"), "{what}");
    if runtime == "containerd" {
        assert!(has("snapshotter", "wharf"), "{what}");
        assert!(has("config_path", "/etc/containerd/certs.d"), "{what}");
    }
}

#[test]
fn every_containerd_reads_what_setup_wrote() {
    let debian = include_str!("../../src/setup/fixtures/containerd-debian.toml");
    for suite in [Suite::Host, Suite::Trixie, Suite::Forky] {
        let directory = tempfile::tempdir().expect("a directory");
        let default = containerd(suite, directory.path(), "config default");
        for before in ["", debian, &default] {
            for runtime in ["docker", "containerd"] {
                assert_read(suite, before, runtime);
            }
        }
    }
}

/// A store's mount that ends with the test.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}

#[test]
fn podmans_lock_files_are_made_under_the_mount_of_a_store_and_keep_podman_working_without_it() {
    let directory = Mounted(tempfile::tempdir().expect("a directory"));
    let path = |name: &str| directory.0.path().join(name);
    let store = path("mnt/wharf");
    fs::create_dir_all(&store).expect("make a mount point");
    shell(&format!("mount -t tmpfs tmpfs {store:?}"));
    fs::write(
        store.join("wharf.json"),
        r#"{"format": 1, "store_id": "0123456789abcdef"}"#,
    )
    .expect("write a file");
    let setup = |more: &[&str]| {
        let mut command = wharf();
        command.args(["setup", "podman"]).args(more);
        command.arg("--store").arg(&store).arg("--etc").arg(path("etc"));
        run(command)
    };
    let printed = setup(&[]);
    assert_eq!(printed.code(), 0, "{printed:?}");
    assert!(
        printed.stderr.contains("--image-store shared"),
        "a local file system: {printed:?}"
    );
    assert!(
        printed
            .stdout
            .contains("layers.lock (under what is mounted there): an empty file"),
        "{printed:?}"
    );
    let written = setup(&["--write"]);
    assert_eq!(written.code(), 0, "{written:?}");
    assert!(!store.join("layers").exists(), "the mounted store is left alone");
    let again = setup(&[]);
    assert!(again.stderr.contains("nothing is to change"), "{again:?}");
    let warning = format!("warning: {} is writable here", store.display());
    for ended in [&printed, &written, &again] {
        assert!(ended.stderr.contains(&warning), "{ended:?}");
    }
    shell(&format!("mount -o remount,bind,ro {store:?}"));
    let read_only = setup(&[]);
    assert!(!read_only.stderr.contains("warning"), "{read_only:?}");

    let podman = |conf: &Path| {
        let mut command = bound_command("podman");
        command.env("CONTAINERS_STORAGE_CONF", conf);
        command
            .arg("--tmpdir")
            .arg(path("tmp"))
            .args(["--events-backend", "none", "info"]);
        run(command)
    };
    let conf = path("etc/containers/storage.conf");
    let text = fs::read_to_string(&conf).expect("read storage.conf");
    let text = text.replace("/var/lib/containers", &path("root").display().to_string());
    fs::write(
        &conf,
        text.replace("/run/containers", &path("run").display().to_string()),
    )
    .expect("write a file");
    shell(&format!("umount {store:?}"));
    let unmounted = podman(&conf);
    assert_eq!(unmounted.code(), 0, "{unmounted:?}");
    fs::remove_dir_all(store.join("layers")).expect("remove the lock files");
    assert_ne!(podman(&conf).code(), 0, "it is they that keep it working");
}
