//! Docker's file, the agent's and Podman's, and what is refused.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use proptest::prelude::*;

use super::*;

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
            "containerd/config.toml config dump`",
        ),
        (
            Runtime::Containerd,
            CONFIG,
            "version = 4 # new\n".to_owned(),
            "version = 4, and",
        ),
        (
            Runtime::Docker,
            CONFIG,
            "version = \"2\"\n".to_owned(),
            "version = \"2\", and",
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
            "listens on /x",
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
fn sockets_that_are_elsewhere_are_told_the_agent() {
    let grpc = |address: &str| format!("version = 2\n[grpc]\naddress = '{address}'\n");
    for runtime in [Runtime::Docker, Runtime::Containerd] {
        let node = Node::new(runtime).with(CONFIG, &grpc("/run/other/containerd.sock"));
        node.write();
        let variables = node.text("wharf/agent.env");
        for line in [
            "WHARF_AGENT_SOCKET=/run/agent.sock",
            "CONTAINERD_ADDRESS=/run/other/containerd.sock",
        ] {
            assert!(variables.lines().any(|other| other == line), "{variables}");
        }
    }
    for address in ["/run/containerd/containerd.sock", ""] {
        let mut node = Node::new(Runtime::Docker).with(CONFIG, &grpc(address));
        node.order.socket = PathBuf::from("/run/wharf/agent.sock");
        node.write();
        let variables = node.text("wharf/agent.env");
        assert!(
            !variables.contains("SOCKET=") && !variables.contains("ADDRESS="),
            "{variables}"
        );
    }
    let node = Node::new(Runtime::Docker)
        .with(CONFIG, &grpc("/run/a.sock"))
        .with("wharf/agent.env", "CONTAINERD_ADDRESS=/run/b.sock\n");
    assert!(node.refusal().contains("CONTAINERD_ADDRESS to /run/b.sock"));
}

#[test]
fn a_path_that_is_written_in_another_way_contradicts_nothing() {
    let env = "WHARF_STORE=/srv/dfs//wharf/\nWHARF_AGENT_ROOT=/data/agent/\n";
    let plugin = "version = 2\n[proxy_plugins.wharf]\ntype = 'snapshot'\naddress = '/run/./agent.sock'\n\
                  exports = { root = '/data/agent/' }\n";
    let mut node = Node::new(Runtime::Docker)
        .with("wharf/agent.env", env)
        .with(
            "systemd/system/wharf-agent.socket",
            "[Socket]\nListenStream=/run//agent.sock\n",
        )
        .with(CONFIG, plugin);
    node.order.store = PathBuf::from("/srv/dfs/wharf///");
    node.write();
    assert!(node.text("wharf/agent.env").starts_with(env));
    assert_eq!(node.text(CONFIG), plugin);
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
fn a_link_that_leads_out_of_the_directory_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("daemon.json"), "{}").unwrap();
    for (target, link) in [("daemon.json", DAEMON), ("", "docker")] {
        let node = Node::new(Runtime::Docker).with("docker/.keep", "");
        if link == "docker" {
            fs::remove_dir_all(node.etc.path().join(link)).unwrap();
        }
        symlink(outside.path().join(target), node.etc.path().join(link)).unwrap();
        let error = node.refusal();
        assert!(
            error.contains("outside") && error.contains("daemon.json"),
            "{error}"
        );
    }
    assert_eq!(
        fs::read_to_string(outside.path().join("daemon.json")).unwrap(),
        "{}"
    );
}

#[test]
fn logins_are_neither_written_nor_shown() {
    let mut node = Node::new(Runtime::Docker);
    node.order.mirrors = vec!["http://robot:secret@mirror:5000".parse().unwrap()];
    let error = node.refusal();
    assert!(
        !error.contains("secret") && error.contains("http://mirror:5000") && error.contains("login"),
        "{error}"
    );
    let node = Node::new(Runtime::Docker).with(
        "wharf/agent.env",
        "WHARF_MIRRORS=http://robot:secret@mirror:5000\n",
    );
    assert!(!node.refusal().contains("secret"));
}

#[test]
fn a_login_that_the_agent_has_stays() {
    let mirrors = "WHARF_MIRRORS=http://robot:secret@mirror-a:5000/, https://robot:s2@mirror-b";
    for force in [false, true] {
        let mut node = Node::new(Runtime::Docker).with("wharf/agent.env", &format!("{mirrors}\n"));
        node.order.force = force;
        node.write();
        assert!(node.text("wharf/agent.env").starts_with(mirrors));
        assert!(!node.text(DAEMON).contains("secret"));
    }
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
