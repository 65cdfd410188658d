//! Nodes as they are found, set up in a directory of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const DEBIAN: &str = include_str!("fixtures/containerd-debian.toml");
const DEFAULT_1_6: &str = include_str!("fixtures/containerd-1.6-default.toml");
const DEFAULT_2_1: &str = include_str!("fixtures/containerd-2.1-default.toml");
const CONFIG: &str = "containerd/config.toml";
const DAEMON: &str = "docker/daemon.json";

const NEW: Installed = Installed {
    containerd: Some(Version(2, 1)),
    docker: Some(Version(28, 5)),
};

/// A node's `/etc`.
struct Node {
    etc: TempDir,
    order: Order,
    installed: Installed,
}

impl Node {
    fn new(runtime: Runtime) -> Self {
        let etc = tempfile::tempdir().unwrap();
        let order = Order {
            runtime,
            mirrors: vec![
                "http://mirror-a:5000".parse().unwrap(),
                "https://mirror-b".parse().unwrap(),
            ],
            store: PathBuf::from("/srv/dfs/wharf"),
            root: PathBuf::from("/data/agent"),
            socket: PathBuf::from("/run/agent.sock"),
            program: PathBuf::from("/opt/wharf"),
            etc: etc.path().to_owned(),
            config_version: None,
            force: false,
        };
        Self {
            etc,
            order,
            installed: NEW,
        }
    }

    fn with(self, name: &str, text: &str) -> Self {
        let path = self.etc.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn plan(&self) -> Result<Plan, SetupError> {
        Plan::make(&self.order, &self.installed)
    }

    fn write(&self) {
        self.plan().unwrap().write().unwrap();
        let again = self.plan().unwrap();
        assert_eq!(again.diff(), "", "a second run changes nothing");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.etc.path().join(name)).unwrap()
    }

    fn refusal(&self) -> String {
        let before = tree(self.etc.path());
        let error = self.plan().unwrap_err().to_string();
        assert_eq!(tree(self.etc.path()), before, "nothing is written");
        error
    }
}

fn tree(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.push((path.clone(), fs::read(&path).ok()));
        }
    }
    all.sort();
    all
}

fn value(text: &str) -> ::toml::Value {
    ::toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

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
fn a_new_docker_node_gets_the_files_of_config() {
    let node = Node::new(Runtime::Docker);
    node.write();
    let config = value(&node.text(CONFIG));
    assert_eq!(config["version"].as_integer(), Some(3));
    let plugin = &config["proxy_plugins"]["wharf"];
    assert_eq!(plugin["address"].as_str(), Some("/run/agent.sock"));
    assert_eq!(plugin["exports"]["root"].as_str(), Some("/data/agent"));
    let daemon: serde_json::Value = serde_json::from_str(&node.text(DAEMON)).unwrap();
    let wanted = serde_json::json!({
        "features": {"containerd-snapshotter": true},
        "storage-driver": "wharf",
        "registry-mirrors": ["http://mirror-a:5000", "https://mirror-b"],
    });
    assert_eq!(daemon, wanted);
    let variables = node.text("wharf/agent.env");
    for line in [
        "WHARF_STORE=/srv/dfs/wharf",
        "WHARF_MIRRORS=http://mirror-a:5000,https://mirror-b",
        "WHARF_AGENT_ROOT=/data/agent",
    ] {
        assert!(variables.lines().any(|other| other == line), "{variables}");
    }
    assert!(
        node.text("systemd/system/wharf-agent.socket")
            .contains("ListenStream=/run/agent.sock\n")
    );
    assert!(
        node.text("systemd/system/wharf-agent.service")
            .contains("ExecStart=/opt/wharf agent\n")
    );
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
    let replaced = ["snapshotter", "disable_snapshot_annotations", "config_path"];
    for before in [
        DEBIAN,
        DEFAULT_1_6,
        DEFAULT_2_1,
        "# mine\nversion = 3 # three\n[debug]\nlevel = 'info'\n",
    ] {
        for (runtime, changed) in [(Runtime::Docker, &[][..]), (Runtime::Containerd, &replaced[..])] {
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
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{}:/other'\n",
        dir.path().display()
    );
    let node = Node::new(Runtime::Containerd).with(CONFIG, &config);
    fs::create_dir(dir.path().join("ghcr.io")).unwrap();
    fs::write(dir.path().join("ghcr.io/hosts.toml"), "[host.\"http://else\"]\n").unwrap();
    let notes = node.plan().unwrap().notes;
    assert!(
        notes.iter().any(|note| note.contains("ghcr.io/hosts.toml")),
        "{notes:?}"
    );
    node.write();
    assert!(dir.path().join("_default/hosts.toml").exists());
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
fn what_daemon_json_has_stays() {
    let before = "{\n    \"log-opts\": {\"max-size\": \"10m\",   \"max-file\": \"3\"},\n    \"features\": {\"buildkit\": true},\n    \
                  \"registry-mirrors\": [\"https://other\"],\n    \"zzz\": 1.50,\n    \"aaa\": null\n}\n";
    let node = Node::new(Runtime::Docker).with(DAEMON, before);
    node.write();
    let after = node.text(DAEMON);
    let expected = "{\n    \"log-opts\": {\"max-size\": \"10m\",   \"max-file\": \"3\"},\n    \"features\": {\n        \
                    \"buildkit\": true,\n        \"containerd-snapshotter\": true\n    },\n    \"registry-mirrors\": \
                    [\"http://mirror-a:5000\", \"https://mirror-b\", \"https://other\"],\n    \"zzz\": 1.50,\n    \
                    \"aaa\": null,\n    \"storage-driver\": \"wharf\"\n}\n";
    assert_eq!(after, expected);
}

#[test]
fn what_contradicts_is_refused_and_named_before_anything_is_written() {
    let cri = "plugins.'io.containerd.grpc.v1.cri'";
    let cases = [
        (
            Runtime::Docker,
            DAEMON,
            "{\"storage-driver\": \"overlay2\"}".to_owned(),
            "storage-driver to \"overlay2\"",
        ),
        (
            Runtime::Docker,
            DAEMON,
            "{\"features\": {\"containerd-snapshotter\": false}}".to_owned(),
            "features.containerd-snapshotter to false",
        ),
        (
            Runtime::Docker,
            DAEMON,
            "{\"a\": 1,}".to_owned(),
            "daemon.json cannot be read as a JSON object",
        ),
        (Runtime::Docker, DAEMON, "[]".to_owned(), "JSON object"),
        (
            Runtime::Docker,
            DAEMON,
            "{\"a\": 1, \"a\": 2}".to_owned(),
            "twice",
        ),
        (
            Runtime::Docker,
            CONFIG,
            "version = ".to_owned(),
            "config.toml cannot be read as TOML",
        ),
        (
            Runtime::Docker,
            CONFIG,
            "version = 2\n[proxy_plugins.wharf]\ntype = 'snapshot'\naddress = '/other'\n".to_owned(),
            "proxy_plugins.wharf.address to \"/other\"",
        ),
        (
            Runtime::Containerd,
            CONFIG,
            format!("version = 2\n[{cri}.containerd]\nsnapshotter = 'stargz'\n"),
            "snapshotter to \"stargz\"",
        ),
        (
            Runtime::Containerd,
            CONFIG,
            format!("version = 2\n[{cri}.registry.mirrors.'docker.io']\nendpoint = []\n"),
            "hosts.toml",
        ),
        (
            Runtime::Containerd,
            CONFIG,
            "disabled_plugins = ['cri']\nversion = 2\n".to_owned(),
            "switches CRI off",
        ),
        (
            Runtime::Containerd,
            CONFIG,
            "[debug]\nlevel = 'info'\n".to_owned(),
            "containerd config migrate",
        ),
        (
            Runtime::Docker,
            "wharf/agent.env",
            "WHARF_STORE=/elsewhere\n".to_owned(),
            "WHARF_STORE to /elsewhere",
        ),
        (
            Runtime::Docker,
            "systemd/system/wharf-agent.socket",
            "[Socket]\nListenStream=/x\n".to_owned(),
            "ListenStream to /x",
        ),
        (
            Runtime::Podman,
            "containers/registries.conf.d/50-wharf.conf",
            "# mine\n".to_owned(),
            "something else",
        ),
    ];
    for (runtime, name, text, said) in cases {
        let error = Node::new(runtime).with(name, &text).refusal();
        assert!(error.contains(said) && error.contains(name), "{said}: {error}");
    }
}

#[test]
fn what_contradicts_is_replaced_by_force() {
    let mut node = Node::new(Runtime::Docker)
        .with(DAEMON, "{\"storage-driver\": \"overlay2\"}")
        .with(
            CONFIG,
            "version = 2\n[proxy_plugins.wharf]\ntype = 'snapshot'\naddress = '/other' # mine\n",
        )
        .with("wharf/agent.env", "WHARF_STORE=/elsewhere\n");
    node.order.force = true;
    node.write();
    assert!(node.text(CONFIG).contains("address = \"/run/agent.sock\" # mine"));
    assert!(node.text(DAEMON).contains("\"storage-driver\": \"wharf\""));
    assert!(
        node.text("wharf/agent.env")
            .starts_with("WHARF_STORE=/srv/dfs/wharf\n")
    );
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

#[test]
fn dockers_that_cannot_are_told_so() {
    let mut node = Node::new(Runtime::Docker);
    node.installed.docker = Some(Version(20, 10));
    let error = node.refusal();
    assert!(error.contains("20.10") && error.contains("25"), "{error}");
}

#[test]
fn who_switches_dockers_store_is_warned_once() {
    let node = Node::new(Runtime::Docker).with(DAEMON, "{\"debug\": true}");
    let hidden = |plan: Plan| plan.notes.iter().any(|note| note.contains("hidden"));
    assert!(hidden(node.plan().unwrap()));
    node.write();
    assert!(!hidden(node.plan().unwrap()));
}

#[test]
fn podman_gets_a_file_of_its_own() {
    let node = Node::new(Runtime::Podman);
    node.write();
    let text = node.text("containers/registries.conf.d/50-wharf.conf");
    let registries = value(&text);
    for registry in registries["registry"].as_array().unwrap() {
        let host = registry["prefix"].as_str().unwrap();
        let mirrors: Vec<_> = registry["mirror"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mirror| {
                (
                    mirror["location"].as_str().unwrap(),
                    mirror.get("insecure").is_some(),
                )
            })
            .collect();
        let (first, second) = (format!("mirror-a:5000/{host}"), format!("mirror-b/{host}"));
        assert_eq!(mirrors, [(&*first, true), (&*second, false)]);
    }
}

#[test]
fn files_keep_their_mode_and_their_links_and_the_first_backup() {
    let node = Node::new(Runtime::Docker).with("elsewhere/daemon.json", "{\"first\": 1}");
    let real = node.etc.path().join("elsewhere/daemon.json");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    let link = node.etc.path().join(DAEMON);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(&real, &link).unwrap();
    node.write();
    assert!(link.is_symlink());
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let backup = node.etc.path().join(format!("{DAEMON}.wharf-backup"));
    assert_eq!(backup.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&real, "{\"second\": 2}").unwrap();
    node.write();
    assert_eq!(fs::read_to_string(backup).unwrap(), "{\"first\": 1}");
    assert!(node.text(DAEMON).contains("second"));
}

#[test]
fn logins_are_neither_written_nor_shown() {
    let mut node = Node::new(Runtime::Docker);
    node.order.mirrors = vec!["http://robot:secret@mirror:5000".parse().unwrap()];
    let error = node.refusal();
    assert!(!error.contains("secret") && error.contains("mirror"), "{error}");
    let node = Node::new(Runtime::Docker).with(
        "wharf/agent.env",
        "WHARF_MIRRORS=http://robot:secret@mirror:5000\n",
    );
    assert!(!node.refusal().contains("secret"));
}

/// Any object, with the keys that matter among others.
fn object() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
    ];
    let key = prop_oneof![
        Just("features".to_owned()),
        Just("registry-mirrors".to_owned()),
        Just("containerd-snapshotter".to_owned()),
        "[a-z-]{1,6}",
    ];
    let any_value = leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(key.clone(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::hash_map("[a-z-]{1,8}|features|registry-mirrors", any_value, 0..6)
        .prop_map(|map| serde_json::Value::Object(map.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_json_twice_is_merging_once_and_loses_nothing(value in object(), pretty in any::<bool>()) {
        let before = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        if let Ok(once) = json::merge(&before, template::DAEMON_JSON, false) {
            prop_assert_eq!(json::merge(&once, template::DAEMON_JSON, false), Ok(once.clone()));
            let after: serde_json::Value = serde_json::from_str(&once).unwrap();
            for (key, old) in value.as_object().unwrap() {
                let new = &after[key];
                prop_assert!(
                    new == old
                        || old.as_array().is_some_and(|old| new.as_array().unwrap().ends_with(old))
                        || old.as_object().is_some_and(|old| old.iter().all(|(key, old)| new[key] == *old)),
                    "{} was {}, is {}", key, old, new
                );
            }
        }
    }
}
