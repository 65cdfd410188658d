//! containerd's file, and the hosts beside it.

use proptest::prelude::*;

use super::*;

const DEBIAN: &str = include_str!("../fixtures/containerd-debian.toml");
const DEFAULT_1_6: &str = include_str!("../fixtures/containerd-1.6-default.toml");
const DEFAULT_2_1: &str = include_str!("../fixtures/containerd-2.1-default.toml");

/// What is replaced for Kubernetes where it is containerd's default.
const REPLACED: [&str; 4] = [
    "snapshotter",
    "disable_snapshot_annotations",
    "config_path",
    "unpack_config",
];

/// Asserts that all of `part` is in `whole`; lists of tables may have more.
fn assert_within(part: &::toml::Value, whole: &::toml::Value, except: &[&str]) {
    let ::toml::Value::Table(table) = part else {
        return assert_eq!(part, whole);
    };
    for (key, part) in table {
        let found = whole.get(key).unwrap_or_else(|| panic!("{key} is gone"));
        if !except.contains(&&**key) {
            assert_within(part, found, except);
        }
    }
}

/// Asserts that the lines of `before` are in `after`, in that order, but those that set one of `changed`.
fn assert_lines_kept(before: &str, after: &str, changed: &[&str]) {
    let mut left = after.lines();
    for line in before.lines().filter(|line| !line.trim().is_empty()) {
        let sets = line.split('=').next().unwrap_or_default().trim();
        if !changed.contains(&sets) {
            assert!(
                left.any(|other| other == line),
                "{line:?} is gone, or moved, in\n{after}"
            );
        }
    }
}

#[test]
fn a_new_node_of_an_old_containerd_gets_its_version_of_the_file() {
    let mut node = Node::new(Runtime::Docker);
    node.installed.containerd = Some(Version(1, 7));
    node.write();
    assert_eq!(value(&node.text(CONFIG))["version"].as_integer(), Some(2));

    let mut node = Node::new(Runtime::Docker);
    node.installed.containerd = None;
    assert!(node.refusal().contains("--config-version"));
    node.order.config_version = Some(2);
    node.write();
    assert_eq!(value(&node.text(CONFIG))["version"].as_integer(), Some(2));
}

#[test]
fn what_containerds_file_has_stays() {
    for before in [
        DEBIAN,
        DEFAULT_1_6,
        DEFAULT_2_1,
        "# mine\nversion = 3 # three\n[debug]\nlevel = 'info'\n",
    ] {
        for (runtime, changed) in [(Runtime::Docker, &[][..]), (Runtime::Containerd, &REPLACED[..])] {
            let node = Node::new(runtime).with(CONFIG, before);
            node.write();
            let after = node.text(CONFIG);
            assert_lines_kept(before, &after, changed);
            assert_within(&value(before), &value(&after), changed);
            assert_eq!(
                value(&after)["proxy_plugins"]["wharf"]["address"].as_str(),
                Some("/run/agent.sock")
            );
            assert_eq!(node.text(&format!("{CONFIG}.wharf-backup")), before);
        }
    }
}

#[test]
fn kubernetes_pulls_with_the_agents_layers() {
    let node = Node::new(Runtime::Containerd).with(CONFIG, DEFAULT_2_1);
    node.write();
    let after = value(&node.text(CONFIG));
    let images = &after["plugins"]["io.containerd.cri.v1.images"];
    assert_eq!(images["snapshotter"].as_str(), Some("wharf"));
    assert_eq!(
        images["registry"]["config_path"].as_str(),
        Some("/etc/containerd/certs.d")
    );
    let unpack = &after["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"];
    let snapshotters: Vec<_> = unpack
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["snapshotter"].as_str().unwrap())
        .collect();
    assert_eq!(snapshotters, ["overlayfs", "wharf"]);
    let hosts = node.text("containerd/certs.d/_default/hosts.toml");
    let header =
        |mirror| value(&hosts)["host"][mirror]["header"]["Wharf-Reads-Store"].as_str() == Some("true");
    assert!(
        header("http://mirror-a:5000") && header("https://mirror-b"),
        "{hosts}"
    );
    assert!(hosts.find("mirror-a") < hosts.find("mirror-b"));

    let node = Node::new(Runtime::Containerd).with(CONFIG, DEFAULT_1_6);
    node.write();
    let after = value(&node.text(CONFIG));
    let cri = &after["plugins"]["io.containerd.grpc.v1.cri"];
    assert_eq!(cri["containerd"]["snapshotter"].as_str(), Some("wharf"));
    assert_eq!(
        cri["containerd"]["disable_snapshot_annotations"].as_bool(),
        Some(false)
    );
}

#[test]
fn a_snapshotter_of_an_old_file_is_beside_a_runtime() {
    // Or containerd 2.1 leaves it out when it reads the file.
    let runtime = |text: &str| {
        let cri = &value(text)["plugins"]["io.containerd.grpc.v1.cri"];
        let runtime = &cri["containerd"]["runtimes"]["runc"]["runtime_type"];
        runtime.as_str().map(str::to_owned)
    };
    let node = Node::new(Runtime::Containerd).with(CONFIG, DEBIAN);
    node.write();
    assert_eq!(
        runtime(&node.text(CONFIG)).as_deref(),
        Some("io.containerd.runc.v2")
    );
    let own = "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\nruntime_type = 'mine'\n";
    let node = Node::new(Runtime::Containerd).with(CONFIG, &format!("version = 2\n{own}"));
    node.write();
    assert_eq!(runtime(&node.text(CONFIG)).as_deref(), Some("mine"));
}

#[test]
fn kubernetes_that_pulls_by_itself_goes_on_to() {
    let before = "version = 3\n[plugins.'io.containerd.cri.v1.images']\nuse_local_image_pull = true\n";
    let node = Node::new(Runtime::Containerd).with(CONFIG, before);
    node.write();
    let images = &value(&node.text(CONFIG))["plugins"]["io.containerd.cri.v1.images"];
    assert_eq!(images["disable_snapshot_annotations"].as_bool(), Some(false));
    let mut node = Node::new(Runtime::Containerd);
    node.installed.containerd = Some(Version(2, 0));
    node.write();
    let images = &value(&node.text(CONFIG))["plugins"]["io.containerd.cri.v1.images"];
    assert_eq!(images["use_local_image_pull"].as_bool(), Some(true));
}

#[test]
fn a_comment_behind_a_value_contradicts_nothing() {
    let before = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'wharf' # mine\n\
                  disable_snapshot_annotations = false # mine too\n";
    let node = Node::new(Runtime::Containerd).with(CONFIG, before);
    node.write();
    assert_lines_kept(before, &node.text(CONFIG), &[]);
}

#[test]
fn lists_of_unpackers_get_the_agent_alone() {
    let plugin = "plugins.'io.containerd.transfer.v1.local'";
    for list in [
        format!("[[{plugin}.unpack_config]]\nplatform = 'linux/arm64'\nsnapshotter = 'zfs'\n"),
        format!("[{plugin}]\nunpack_config = [{{ platform = 'linux/arm64', snapshotter = 'zfs' }}]\n"),
    ] {
        let node = Node::new(Runtime::Containerd).with(CONFIG, &format!("version = 3\n{list}"));
        node.write();
        let after = value(&node.text(CONFIG));
        let list = after["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"]
            .as_array()
            .unwrap();
        let names: Vec<_> = list
            .iter()
            .map(|entry| entry["snapshotter"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["zfs", "wharf"]);
    }
}

#[test]
fn a_folder_of_hosts_that_is_configured_is_used() {
    let config = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/hosts.d:/other'\n";
    let node = Node::new(Runtime::Containerd)
        .with(CONFIG, config)
        .with("hosts.d/ghcr.io/hosts.toml", "[host.\"http://else\"]\n");
    let notes = node.plan().unwrap().notes;
    assert!(
        notes.iter().any(|note| note.contains("ghcr.io/hosts.toml")),
        "{notes:?}"
    );
    node.write();
    assert!(node.text("hosts.d/_default/hosts.toml").contains("mirror-a"));
}

#[test]
fn a_folder_of_hosts_outside_etc_is_left_to_the_operator() {
    let outside = tempfile::tempdir().unwrap();
    for dir in [outside.path().display().to_string(), "/etc/../hosts.d".to_owned()] {
        let config =
            format!("version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{dir}'\n");
        let node = Node::new(Runtime::Containerd).with(CONFIG, &config);
        node.write();
        let plan = node.plan().unwrap();
        assert!(!plan.is_done());
        let [hosts] = &plan.by_hand[..] else {
            panic!("{:?}", plan.by_hand);
        };
        assert_eq!(hosts.path, Path::new(&dir).join("_default/hosts.toml"));
        assert!(hosts.after.contains("mirror-a"), "{}", hosts.after);
    }
    assert_eq!(tree(outside.path()), []);
}

#[test]
fn mirrors_come_before_the_hosts_that_are_there() {
    let before = "# mine\nserver = \"https://s\"\n\n# the old one\n[host.\"https://old\"]\n  capabilities = [\"pull\"]\n";
    let name = "containerd/certs.d/_default/hosts.toml";
    let node = Node::new(Runtime::Containerd).with(name, before);
    node.write();
    let after = node.text(name);
    assert_lines_kept(before, &after, &[]);
    assert!(after.find("mirror-b") < after.find("https://old"), "{after}");

    let plain = "[host.\"http://mirror-a:5000\"]\n  capabilities = [\"pull\"]\n";
    let node = Node::new(Runtime::Containerd).with(name, plain);
    node.write();
    let after = value(&node.text(name));
    let host = &after["host"]["http://mirror-a:5000"];
    assert_eq!(host["header"]["Wharf-Reads-Store"].as_str(), Some("true"));
    assert_eq!(host["capabilities"].as_array().map(Vec::len), Some(1));
}

#[test]
fn an_imported_file_that_contradicts_is_named() {
    let node = Node::new(Runtime::Docker)
        .with(CONFIG, "version = 2\nimports = ['conf.d/*.toml']\n")
        .with(
            "containerd/conf.d/a.toml",
            "[proxy_plugins.wharf]\naddress = '/other'\n",
        );
    let error = node.refusal();
    assert!(
        error.contains("conf.d/a.toml") && error.contains("/other"),
        "{error}"
    );
    let node = node.with(
        "containerd/conf.d/a.toml",
        "[proxy_plugins.other]\naddress = '/other'\n",
    );
    node.write();
}

#[test]
fn a_file_without_a_version_serves_docker_and_keeps_none() {
    let before = "disabled_plugins = [\"cri\"]\n\n#root = \"/var/lib/containerd\"\n";
    let node = Node::new(Runtime::Docker).with(CONFIG, before);
    node.write();
    let after = node.text(CONFIG);
    assert!(after.starts_with(before), "{after}");
    assert!(value(&after).get("version").is_none());
}

/// Parts of files as nodes have them, each whole by itself.
const PARTS: [&str; 12] = [
    "# about debugging\n[debug]\n  level = 'info' # loud\n",
    "[proxy_plugins]\n",
    "[proxy_plugins.other]\n  type = \"snapshot\"\n  address = \"/other\"\n",
    "[plugins.\"io.containerd.internal.v1.opt\"]\npath = '/opt'\n",
    "[plugins.\"io.containerd.cri.v1.images\"]\n    snapshotter = 'overlayfs' # usual\n    discard = true\n",
    "[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n\tsandbox = 'pause:3'\n",
    "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"\"\n",
    "[plugins.'io.containerd.transfer.v1.local']\nunpack_config = []\n",
    "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  disable_snapshot_annotations = true\n",
    "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = 'mine'\n",
    "[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n",
    "[timeouts]\n'a.b' = '2s'\n\n\n# the last words\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_toml_twice_is_merging_once_and_loses_nothing(
        parts in Just(PARTS.to_vec()).prop_shuffle(),
        count in 0..=PARTS.len(),
        version in 2..=3,
        is_docker in any::<bool>(),
    ) {
        let before = format!("# mine\nversion = {version}\n\n{}", parts[..count].join("\n"));
        let runtime = if is_docker { Runtime::Docker } else { Runtime::Containerd };
        let node = Node::new(runtime).with(CONFIG, &before);
        node.write();
        let after = node.text(CONFIG);
        let changed: &[&str] = if is_docker { &[] } else { &REPLACED };
        assert_within(&value(&before), &value(&after), changed);
        for comment in ["# mine", "# about debugging", "# loud", "# usual", "# the last words"] {
            prop_assert_eq!(before.matches(comment).count(), after.matches(comment).count(), "{}", comment);
        }
    }
}
