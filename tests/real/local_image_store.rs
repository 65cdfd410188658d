//! Podman with an image store that `wharf agent --podman` keeps, over a store that is made by hand.
//!
//! The files that Podman reads are those of `wharf setup podman`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::curl::Curl;
use crate::support::mirror::{Mirror, Options, wharf};
use crate::support::mount::unmount_below;
use crate::support::process::{Ended, Service, bound_command, run, run_ok, shell, wait_until};
use crate::support::registry::Registry;

const IMAGE: &str = "docker.io/library/busybox:latest";

/// A store, and a node whose Podman is set up for it.
struct Node {
    directory: TempDir,
    registry: Registry,
    store: PathBuf,
}

impl Node {
    /// Sets Podman up; the store is empty and the image store not kept yet.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = directory.path().join("store");
        let registry = Registry::filled();
        let location = registry.address().to_string();
        let node = Self::with(directory, registry, store, &location);
        for name in ["store/layers/entries", "store/layers/overlay/l"] {
            fs::create_dir_all(node.path(name)).expect("make a directory");
        }
        let format = r#"{"format": 1, "store_id": "0123456789abcdef"}"#;
        fs::write(node.path("store/wharf.json"), format).expect("write wharf.json");
        node
    }

    /// Sets Podman up for a store, and for images of Docker Hub from `location`.
    fn with(directory: TempDir, registry: Registry, store: PathBuf, location: &str) -> Self {
        let node = Self {
            directory,
            registry,
            store,
        };
        fs::create_dir_all(node.path("etc/containers")).expect("make a directory");
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            node.path("root"),
            node.path("runroot")
        );
        fs::write(node.path("etc/containers/storage.conf"), storage).expect("write storage.conf");
        let registries =
            format!("[[registry]]\nprefix = \"docker.io\"\nlocation = \"{location}\"\ninsecure = true\n");
        fs::write(node.path("registries.conf"), registries).expect("write registries.conf");
        run_ok(node.setup());
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn setup(&self) -> Command {
        let mut command = wharf();
        command.args(["setup", "podman", "--write", "--image-store", "local"]);
        command.arg("--etc").arg(self.path("etc"));
        command.arg("--store").arg(&self.store);
        command.arg("--podman").arg(self.path("node"));
        command
    }

    fn agent(&self, more: &[&str]) -> Command {
        let mut command = wharf();
        command.arg("agent").arg("--podman").arg(self.path("node"));
        command.arg("--store").arg(&self.store).args(more);
        command
    }

    fn keep(&self, mirror: Option<SocketAddr>) -> Service {
        let url = mirror.map(|mirror| format!("http://{mirror}"));
        let more: Vec<&str> = url.iter().flat_map(|url| ["--mirror", url]).collect();
        Service::start("agent", self.directory.path(), self.agent(&more))
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        // crun refuses a machine that has both versions of control groups: hide one from it.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut command = bound_command("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", "podman"]);
        command
            .env(
                "CONTAINERS_STORAGE_CONF",
                self.path("etc/containers/storage.conf"),
            )
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .env("HOME", self.directory.path())
            .arg("--tmpdir")
            .arg(self.path("tmp"))
            .arg("--network-config-dir")
            .arg(self.path("networks"))
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut all = vec!["run", "--rm", "--network", "none", "--cgroups", "disabled"];
        // podman would raise these, which needs CAP_SYS_RESOURCE; lowering them needs nothing.
        all.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        all.extend(arguments);
        run(self.podman(&all))
    }

    /// Publishes the image's one layer as a mirror does: the directory, its short name, then its entry.
    fn publish(&self) -> String {
        let name = "library/busybox";
        let layers = self.registry.layers(name, "latest");
        let [blob] = layers.as_slice() else {
            panic!("{layers:?}")
        };
        let config = &self.registry.blobs(name, "latest")[0];
        let config = Curl::new(&self.registry.url(&format!("{name}/blobs/{config}"))).send();
        let config: Value = serde_json::from_slice(&config.body).expect("a config");
        let diff_id = config["rootfs"]["diff_ids"][0].as_str().expect("a DiffID");
        let id = diff_id.trim_start_matches("sha256:");
        let layer = self.path("store/layers/overlay").join(id);
        for part in ["diff", "merged", "work", "empty"] {
            fs::create_dir_all(layer.join(part)).expect("make a directory");
        }
        let tar = self.path("layer.tar");
        shell(&format!(
            "curl -sf {} | gzip -dc > {tar:?}; tar -C {:?} -xf {tar:?}",
            self.registry.url(&format!("{name}/blobs/{blob}")),
            layer.join("diff")
        ));
        fs::write(layer.join("link"), "ABCDEFGH").expect("write link");
        let link = self.path("store/layers/overlay/l/ABCDEFGH");
        symlink(format!("../{id}/diff"), link).expect("link the layer");
        let entry = json!({
            "id": id, "created": "2026-11-24T00:00:00Z", "diff-digest": diff_id,
            "diff-size": fs::metadata(&tar).expect("a tar").len(),
            "compressed-diff-digest": blob, "compressed-size": 1, "compression": 2,
        });
        let staged = self.path("store/staged");
        fs::write(&staged, entry.to_string()).expect("write an entry");
        fs::rename(staged, self.path("store/layers/entries").join(id)).expect("publish an entry");
        blob.clone()
    }

    fn listed(&self) -> usize {
        let list = fs::read(self.path("node/overlay-layers/layers.json")).unwrap_or_default();
        let list: Vec<Value> = serde_json::from_slice(&list).unwrap_or_default();
        list.len()
    }

    fn wait_until_listed(&self, count: usize) {
        wait_until("the list", Duration::from_secs(20), || {
            (self.listed() == count).then_some(())
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        unmount_below(self.directory.path());
    }
}

#[test]
fn podman_runs_an_image_whose_layer_the_agent_has_listed_and_fetches_none() {
    let node = Node::new();
    let mut agent = node.keep(None);
    node.wait_until_listed(0);
    let blob = node.publish();
    node.wait_until_listed(1);
    let before = node.registry.blob_gets();
    let ended = node.run(&[IMAGE, "echo", "from the store"]);
    assert_eq!(
        (ended.code(), &*ended.stdout),
        (0, "from the store\n"),
        "{ended:?}"
    );
    assert_eq!(node.registry.blob_gets().get(&blob), before.get(&blob));
    // Nothing of the layer is on this node.
    let layers = shell(&format!("ls {:?}", node.path("root/overlay")));
    assert_eq!(
        layers.trim(),
        "l",
        "a container's layer is gone, and there is no other"
    );

    // A store that is not there neither stops nor hangs a command that does not need its layers.
    fs::rename(node.path("store"), node.path("elsewhere")).expect("take the store away");
    for command in [&["images", "--quiet"][..], &["info"], &["ps"]] {
        let start = Instant::now();
        let ended = run(node.podman(command));
        assert_eq!(ended.code(), 0, "{command:?}: {ended:?}");
        assert!(start.elapsed() < Duration::from_secs(20), "{command:?}");
    }
    assert_ne!(node.run(&[IMAGE, "true"]).code(), 0, "there is nothing to run");
    wait_until("a warning", Duration::from_secs(20), || {
        agent
            .stderr()
            .contains("the layers that were listed stay listed")
            .then_some(())
    });
    assert_eq!(node.listed(), 1);
    fs::rename(node.path("elsewhere"), node.path("store")).expect("bring the store back");
    let ended = node.run(&[IMAGE, "echo", "again"]);
    assert_eq!(ended.stdout, "again\n", "{ended:?}");
    wait_until("the log", Duration::from_secs(20), || {
        agent
            .stderr()
            .contains("the store can be read again")
            .then_some(())
    });
    agent.signal(rustix::process::Signal::TERM);
    assert!(agent.wait(Duration::from_secs(10)).success());
    assert_eq!(agent.stderr().matches("WARN").count(), 1, "{}", agent.stderr());
}

#[test]
fn an_image_store_is_brought_up_to_date_once_by_a_timer() {
    let node = Node::new();
    node.publish();
    let ended = run(node.agent(&["--once"]));
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(node.listed(), 1);
    let info = run(node.podman(&["info"]));
    assert_eq!(info.code(), 0, "{info:?}");

    // Beside an agent there is nothing to do.
    let mut agent = node.keep(None);
    agent.wait_ready(Duration::from_secs(20), || {
        let ended = run(node.agent(&["--once"]));
        assert_eq!(ended.code(), 0, "{ended:?}");
        ended.stderr.contains("another process keeps").then_some(())
    });
    agent.kill();

    fs::rename(node.path("store"), node.path("elsewhere")).expect("take the store away");
    let ended = run(node.agent(&["--once"]));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("is its file system mounted"), "{ended:?}");
    assert_eq!(node.listed(), 1);
}

#[test]
fn an_image_store_is_never_made_of_podmans_own_storage() {
    let node = Node::new();
    run_ok(node.podman(&["info"]));
    let mut command = wharf();
    command
        .args(["agent", "--once", "--podman"])
        .arg(node.path("root"));
    command.arg("--store").arg(node.path("store"));
    let ended = run(command);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("is not wharf's"), "{ended:?}");
    run_ok(node.podman(&["info"]));
}

#[test]
fn a_cold_image_is_listed_on_the_node_before_podman_looks_for_its_layers() {
    let registry = Registry::filled();
    let mirror = Mirror::start(&Options::new(registry.address()));
    let location = format!("{}/docker.io", mirror.address());
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::with(directory, registry, mirror.store().to_owned(), &location);
    let agent = node.keep(Some(mirror.address()));
    wait_until("the agent", Duration::from_secs(20), || {
        agent.stderr().contains("keeping an image store").then_some(())
    });
    for image in [IMAGE, "docker.io/library/busybox-schema2:latest"] {
        let start = Instant::now();
        let ended = node.run(&[image, "echo", "from the store"]);
        assert_eq!(
            ended.stdout,
            "from the store\n",
            "{ended:?}\n{}\n{}",
            agent.stderr(),
            mirror.log()
        );
        println!("{image}: {:?}", start.elapsed());
    }
    let layers = shell(&format!("ls {:?}", node.path("root/overlay")));
    assert_eq!(layers.trim(), "l", "{}", mirror.log());
    for blob in node.registry.layers("library/busybox", "latest") {
        let asked = mirror
            .log()
            .lines()
            .filter(|line| line.contains(&format!("/blobs/{blob}")))
            .count();
        assert_eq!(asked, 0, "{}", mirror.log());
    }
    assert!(
        mirror.log().contains("/manifests/latest"),
        "the access log tells: {}",
        mirror.log()
    );
}
