//! `wharf doctor` as root, on file systems that differ.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::clients::{Bindfs, Tmpfs};
use crate::support::doctor::{Diagnosis, doctor};
use crate::support::mirror::{Mirror, Options, WHARF};
use crate::support::process::{bound_command, free_address, shell};

/// Lets a mirror make a store there.
fn make_store(path: &Path) {
    // Nothing is asked of upstream.
    let mut options = Options::new(free_address());
    options.store = Some(path.to_owned());
    Mirror::start(&options).stop();
}

fn facts(store: &Path) -> Value {
    let text = std::fs::read(store.join("wharf.json")).expect("wharf.json");
    serde_json::from_slice::<Value>(&text).expect("JSON")["file_system"].clone()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Mounts a directory once more, with options, until it is dropped.
struct Bound(tempfile::TempDir);

impl Bound {
    fn mount(dir: &Path, options: &str) -> Self {
        let point = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.display(), point.path().display());
        shell(&format!(
            "mount --bind {from} {to}; mount -o remount,bind,{options} {to}"
        ));
        Self(point)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args([Path::new("-l"), self.0.path()])
            .status();
    }
}

/// An ext4 file system in a file.
struct Ext4 {
    mounted: Bound,
    _image: tempfile::NamedTempFile,
}

impl Ext4 {
    fn mount() -> Self {
        let image = tempfile::NamedTempFile::new().expect("a file");
        let point = tempfile::tempdir().expect("a directory");
        let (file, to) = (image.path().display(), point.path().display());
        shell(&format!(
            "truncate -s 32M {file}; mkfs.ext4 -q {file}; mount -o loop {file} {to}"
        ));
        Self {
            mounted: Bound(point),
            _image: image,
        }
    }
}

#[test]
fn a_local_file_system_keeps_everything_and_the_store_knows() {
    let (tmpfs, ext4) = (Tmpfs::mount(16 << 20), Ext4::mount());
    for (dir, name) in [(tmpfs.path(), "tmpfs"), (ext4.mounted.path(), "ext4")] {
        let store = dir.join("store");
        make_store(&store);
        let diagnosis = Diagnosis::of_store(&store);
        assert_eq!(diagnosis.code, 0, "{diagnosis:#?}");
        assert_eq!(diagnosis.report["file_system"], name);
        assert_eq!(diagnosis.report["found"], facts(&store));
        for ability in [
            "whiteouts",
            "trusted attributes",
            "file capabilities",
            "owners",
            "rename",
        ] {
            diagnosis.assert_status(ability, "ok");
        }
        diagnosis.assert_status("other users", "ok");
        // It is small.
        diagnosis.assert_status("space", "warning");
    }
}

#[test]
fn what_a_file_system_does_not_keep_is_missing_and_mirrors_go_by_it() {
    for (option, key, check) in [
        ("--xattr-none", "trusted_xattrs", "trusted attributes"),
        ("--xattr-none", "capabilities", "file capabilities"),
        ("--chown-ignore", "ownership", "owners"),
        ("--chmod-ignore", "special_modes", "special modes"),
    ] {
        let file_system = Bindfs::mount_with(&[option]);
        let store = file_system.path().join("store");
        make_store(&store);
        assert_eq!(facts(&store)[key], false, "{option}");
        assert_eq!(facts(&store)["durability"], "fsync");
        let diagnosis = Diagnosis::of_store(&store);
        diagnosis.assert_status(check, "missing");
        let said = diagnosis.check(check);
        assert!(
            said["instead"].is_string() && said["remedy"].is_string(),
            "{said}"
        );
    }
}

#[test]
fn a_file_system_that_renames_nothing_is_refused() {
    let file_system = Bindfs::mount_with(&["--rename-deny"]);
    let diagnosis = Diagnosis::of_store(file_system.path());
    diagnosis.assert_status("rename", "problem");
    assert_eq!(diagnosis.report["verdict"], "not fit for layers as it is: rename");
}

#[test]
fn a_full_file_system_is_reported_with_its_room() {
    let tmpfs = Tmpfs::mount(1 << 20);
    let store = tmpfs.path().join("store");
    make_store(&store);
    shell(&format!("cat /dev/zero >{}/ballast || true", store.display()));
    let diagnosis = Diagnosis::of_store(&store);
    diagnosis.assert_status("space", "problem");
    diagnosis.assert_status("probe", "problem");
    assert_eq!(diagnosis.report["recorded"], facts(&store));
}

#[test]
fn an_unprivileged_process_records_nothing_and_the_next_root_does() {
    let tmpfs = Tmpfs::mount(16 << 20);
    let store = tmpfs.path().join("store");
    std::fs::create_dir(&store).expect("a directory");
    set_mode(&store, 0o777);
    for (capability, names) in [("-all", "CAP_MKNOD"), ("-setfcap", "CAP_SETFCAP")] {
        let mut command = bound_command("setpriv");
        command.args(["--bounding-set", capability, "--", WHARF, "doctor", "--json"]);
        let diagnosis = Diagnosis::by({
            command.arg(&store);
            command
        });
        diagnosis.assert_status("privileges", "problem");
        let found = diagnosis.check("privileges")["found"].as_str().expect("text");
        assert!(found.contains(names), "{found}");
    }
    let file = store.join("wharf.json");
    std::fs::write(&file, "{\"format\":1,\"store_id\":\"old\"}").expect("write");
    std::os::unix::fs::chown(&file, Some(4321), Some(4321)).expect("chown");
    make_store(&store);
    assert_eq!(std::fs::metadata(&file).expect("stat").uid(), 4321);
    assert_eq!(facts(&store)["whiteouts"], true);
    assert!(store.join("reference/whiteout").symlink_metadata().is_ok());
    assert!(
        std::fs::read_to_string(store.join("wharf.json"))
            .expect("text")
            .contains("\"old\"")
    );
}

#[test]
fn a_nodes_mount_is_checked_by_what_it_shows() {
    let tmpfs = Tmpfs::mount(16 << 20);
    let store = tmpfs.path().join("store");
    make_store(&store);
    let plain = Bound::mount(&store, "ro,nosuid,nodev,noexec");
    let diagnosis = Diagnosis::of_node(plain.path());
    assert_eq!(diagnosis.code, 0, "{diagnosis:#?}");
    for check in [
        "read-only",
        "mount options",
        "whiteouts",
        "file capabilities",
        "ACLs",
        "special modes",
    ] {
        diagnosis.assert_status(check, "ok");
    }
    let found = diagnosis.check("mount options")["found"].as_str().expect("text");
    assert!(found.starts_with("nosuid,nodev,noexec: "), "{found}");

    let ended = doctor(&[plain.path()]);
    assert_eq!(ended.code(), 1);
    assert!(ended.stderr.contains("check this mount with --node"), "{ended:?}");

    let without = Bindfs::over(&store, &["--xattr-none"]);
    let diagnosis = Diagnosis::of_node(without.path());
    diagnosis.assert_status("read-only", "warning");
    for check in ["trusted attributes", "file capabilities"] {
        diagnosis.assert_status(check, "problem");
    }
    diagnosis.assert_status("whiteouts", "ok");
}

#[test]
fn containers_on_overlayfs_do_not_feel_the_options_of_the_store() {
    let tmpfs = Tmpfs::mount(16 << 20);
    let (lower, merged) = (
        tmpfs.path().join("lower"),
        tempfile::tempdir().expect("a directory"),
    );
    std::fs::create_dir(&lower).expect("a directory");
    shell(&format!(
        "cd {}; cp /usr/bin/id id; chmod 4755 id; mknod null c 1 3; chmod 666 null",
        lower.display()
    ));
    let bound = Bound::mount(&lower, "ro,nosuid,nodev,noexec");
    let (empty, to) = (tmpfs.path().join("empty"), merged.path().display());
    std::fs::create_dir(&empty).expect("a directory");
    shell(&format!(
        "mount -t overlay -o lowerdir={}:{} overlay {to}",
        bound.path().display(),
        empty.display()
    ));
    let merged = Bound(merged);
    let said = shell(&format!(
        "cd {}; setpriv --reuid 1000 --regid 1000 --clear-groups sh -c './id -u; echo x >null && echo written'",
        merged.path().display()
    ));
    assert_eq!(said, "0\nwritten\n");
}

#[test]
fn layers_that_others_reach_are_safe_only_without_setuid_and_devices() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("store");
    make_store(&store);
    set_mode(&store, 0o711);
    set_mode(directory.path(), 0o700);
    let statuses = |dir: &Path| {
        let [as_store, as_node] = [Diagnosis::of_store(dir), Diagnosis::of_node(dir)];
        let status = as_store.check("other users")["status"].clone();
        assert_eq!(status, as_node.check("other users")["status"]);
        status
    };
    assert_eq!(statuses(&store), "warning");
    set_mode(directory.path(), 0o755);
    assert_eq!(statuses(&store), "problem");
    let bound = Bound::mount(&store, "nosuid,nodev");
    set_mode(bound.path(), 0o711);
    assert_eq!(statuses(bound.path()), "ok");
    set_mode(&store, 0o700);
    assert_eq!(statuses(&store), "ok");
}
