//! What README.md says is so: its files are those under `config/`, and its metrics exist.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use wharf::oci::RegistryHost;
use wharf::telemetry::Metrics;
use wharf::telemetry::labels::{
    FillOutcome, HoldOutcome, LayerOutcome, ManifestResult, StoreErrorKind, UpstreamKind, UpstreamOutcome,
};

fn project(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// Returns the code blocks whose fence names a file, by that name.
fn files_shown(text: &str) -> BTreeMap<String, String> {
    let mut blocks = text.split("```");
    let mut shown = BTreeMap::new();
    // Every second piece is within a fence.
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        let (fence, content) = block.split_once('\n').expect("a fence with content");
        let (_, file) = fence.split_once(' ').expect("a fence that names a file");
        shown.insert(file.to_owned(), content.to_owned());
    }
    shown
}

#[test]
fn the_files_that_the_readme_shows_are_those_under_config() {
    let shown = files_shown(&project("README.md"));
    let expected = [
        "config/containerd/_default/hosts.toml",
        "config/containerd/docker.io/hosts.toml",
        "config/curl.sh",
        "config/daemon.json",
        "config/podman/registries.conf",
        "config/podman/storage.conf",
    ];
    assert_eq!(shown.keys().collect::<Vec<_>>(), expected);
    for (file, content) in shown {
        assert_eq!(content, project(&file), "{file}");
    }
}

#[test]
fn the_metrics_that_the_readme_names_exist() {
    let hub = RegistryHost::docker_hub();
    let metrics = Metrics::new([hub.clone()]);
    // A family is rendered once it has counted something.
    metrics.http_request(&http::Method::GET, "blob", http::StatusCode::BAD_GATEWAY);
    metrics.manifest(ManifestResult::Stale);
    metrics.upstream_request(&hub, UpstreamKind::Other, UpstreamOutcome::Limited);
    metrics.rate_limit(&hub, Some(100), Some(0));
    metrics.fill(FillOutcome::Failed);
    metrics.layer(LayerOutcome::Failed);
    metrics.held(HoldOutcome::TimedOut, Duration::ZERO);
    metrics.store_error("write", StoreErrorKind::Full);
    let rendered = metrics.render();
    let known: Vec<&str> = rendered
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let readme = project("README.md");
    let named: Vec<&str> = readme
        .split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .filter(|word| word.starts_with("wharf_"))
        .collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        assert!(
            known.contains(&name.trim_end_matches("_total")),
            "{name} in {known:?}"
        );
    }
}

#[test]
fn the_paths_that_the_readme_links_to_exist() {
    let readme = project("README.md");
    for target in readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        match target.strip_prefix('#') {
            Some(anchor) => {
                let has_heading = readme.lines().any(|line| {
                    let heading = line.trim_start_matches('#').trim();
                    line.starts_with('#') && heading.to_lowercase().replace(' ', "-") == anchor
                });
                assert!(has_heading, "#{anchor}");
            }
            None => drop(project(target)),
        }
    }
}

/// containerd's configurations for nodes, and the version of their format.
const NODES: [(&str, i64); 5] = [
    ("containerd-1.toml", 2),
    ("containerd-2.toml", 3),
    ("kubernetes-1.toml", 2),
    ("kubernetes-2.toml", 3),
    ("kubernetes-2-local-pull.toml", 3),
];

#[test]
fn the_files_of_a_node_agree_where_everything_is() {
    let unit = project("config/systemd/wharf-agent.socket");
    let socket = unit
        .lines()
        .find_map(|line| line.strip_prefix("ListenStream="))
        .expect("a socket");
    let env = project("config/systemd/wharf-agent.env");
    let variable = |name: &str| {
        env.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {name}"))
    };
    for (file, version) in NODES {
        let text = project(&format!("config/agent/{file}"));
        let node: toml::Table = text.parse().unwrap_or_else(|e| panic!("{file}: {e}"));
        let proxy = &node["proxy_plugins"]["wharf"];
        assert_eq!(node["version"].as_integer(), Some(version), "{file}");
        assert_eq!(proxy["address"].as_str(), Some(socket), "{file}");
        let root = proxy["exports"]["root"].as_str();
        assert_eq!(root, Some(variable("WHARF_AGENT_ROOT")), "{file}");
    }
    let daemon: serde_json::Value =
        serde_json::from_str(&project("config/agent/daemon.json")).expect("daemon.json");
    assert_eq!(daemon["registry-mirrors"][0], variable("WHARF_MIRRORS"));
    let hosts: toml::Table = project("config/agent/hosts.toml").parse().expect("hosts.toml");
    let host = &hosts["host"][variable("WHARF_MIRRORS")];
    assert_eq!(host["header"]["Wharf-Reads-Store"].as_str(), Some("true"));
}

#[test]
fn the_files_of_a_podman_node_agree_where_everything_is() {
    let (env, agent_env) = (
        project("config/systemd/wharf-podman.env"),
        project("config/systemd/wharf-agent.env"),
    );
    let variable = |env: &str, name: &str| {
        let value = env
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    for name in ["WHARF_STORE", "WHARF_MIRRORS"] {
        assert_eq!(variable(&env, name), variable(&agent_env, name));
    }
    let storage: toml::Table = project("config/podman/storage.conf")
        .parse()
        .expect("storage.conf");
    let image_store = format!("{}/layers", variable(&env, "WHARF_STORE"));
    assert_eq!(
        storage["storage"]["options"]["additionalimagestores"][0].as_str(),
        Some(&*image_store)
    );
    for unit in ["wharf-podman.service", "wharf-podman-refresh.service"] {
        let text = project(&format!("config/systemd/{unit}"));
        assert!(text.contains("EnvironmentFile=/etc/wharf/podman.env"), "{unit}");
        assert!(text.contains("ExecStart=/usr/local/bin/wharf agent"), "{unit}");
    }
    let readme = project("README.md");
    assert!(readme.contains(&variable(&env, "WHARF_PODMAN")));
}
