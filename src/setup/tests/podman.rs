//! Nodes with Podman and CRI-O.

use std::os::unix::fs::symlink;

use super::*;

const STORAGE: &str = "containers/storage.conf";
const REGISTRIES: &str = "containers/registries.conf.d/50-wharf.conf";
const SHARED: &str = "/srv/dfs/wharf/layers";

/// What distributions ship, shortened.
const SHIPPED: &str = "\
# This file is the configuration file for all tools
[storage]
driver = \"overlay\"
runroot = \"/run/containers/storage\"
graphroot = \"/data/images\"

[storage.options]
# AdditionalImageStores is used to pass paths to additional Read/Only image stores
additionalimagestores = [
]

[storage.options.overlay]
mountopt = \"nodev,metacopy=on\"
";

fn node(runtime: Runtime, image_store: Option<ImageStore>) -> Node {
    let mut node = Node::new(runtime);
    node.order.image_store = image_store;
    node
}

/// The node's own image store.
fn local(node: &Node) -> String {
    node.order.podman.display().to_string()
}

fn stores(text: &str) -> Vec<String> {
    let stores = &value(text)["storage"]["options"]["additionalimagestores"];
    let stores = stores.as_array().unwrap().iter();
    stores.map(|store| store.as_str().unwrap().to_owned()).collect()
}

/// What is planned for storage.conf; nothing is written, since the store's path is the machine's.
fn storage_conf(node: &Node) -> String {
    let plan = node.plan().unwrap();
    let path = node.etc.path().join(STORAGE);
    plan.files
        .into_iter()
        .find(|file| file.path == path)
        .unwrap()
        .after
}

#[test]
fn a_node_without_files_gets_whole_ones_and_the_agent() {
    let node = node(Runtime::Podman, None);
    let plan = node.plan().unwrap();
    assert!(plan.notes[0].contains("no store is mounted"), "{:?}", plan.notes);
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("wharf-podman.service")),
        "{:?}",
        plan.notes
    );
    node.write();
    let storage = value(&node.text(STORAGE));
    assert_eq!(storage["storage"]["driver"].as_str(), Some("overlay"));
    assert_eq!(
        storage["storage"]["graphroot"].as_str(),
        Some("/var/lib/containers/storage")
    );
    assert_eq!(stores(&node.text(STORAGE)), [local(&node)]);
    let mirrors = &value(&node.text(REGISTRIES))["registry"][0]["mirror"];
    assert_eq!(mirrors[0]["location"].as_str(), Some("mirror-a:5000/docker.io"));
    // Podman fails without them, and the agent has not run yet.
    assert_eq!(node.text("image-store/overlay-layers/layers.lock"), "");
    assert_eq!(node.text("image-store/overlay-images/images.lock"), "");
    let env = node.text("wharf/podman.env");
    for line in [
        "WHARF_STORE=/srv/dfs/wharf",
        "WHARF_MIRRORS=http://mirror-a:5000,https://mirror-b",
        &format!("WHARF_PODMAN={}", local(&node)),
    ] {
        assert!(env.lines().any(|found| found == line), "{line}: {env}");
    }
    assert!(
        node.text("systemd/system/wharf-podman.service")
            .contains("ExecStart=/opt/wharf agent")
    );
}

#[test]
fn what_a_nodes_file_says_stays() {
    let ours = SHIPPED.replace("= [\n]", "= [\n  \"/usr/lib/containers/storage\", # theirs\n]");
    let node = node(Runtime::Podman, Some(ImageStore::Local)).with(STORAGE, &ours);
    node.write();
    let text = node.text(STORAGE);
    assert_eq!(stores(&text), ["/usr/lib/containers/storage", &*local(&node)]);
    assert!(text.contains("# theirs"), "{text}");
    assert_eq!(
        value(&text)["storage"]["graphroot"].as_str(),
        Some("/data/images")
    );
    assert!(text.contains("mountopt = \"nodev,metacopy=on\""), "{text}");
}

#[test]
fn the_distributions_file_is_taken_over_since_one_below_etc_hides_it() {
    let mut node = node(Runtime::Podman, Some(ImageStore::Local));
    node.order.etc = node.etc.path().join("etc");
    let shipped = node.etc.path().join("usr/share/containers/storage.conf");
    fs::create_dir_all(shipped.parent().unwrap()).unwrap();
    fs::write(&shipped, SHIPPED).unwrap();
    node.write();
    let text = fs::read_to_string(node.order.etc.join(STORAGE)).unwrap();
    assert_eq!(stores(&text), [local(&node)]);
    assert_eq!(
        value(&text)["storage"]["graphroot"].as_str(),
        Some("/data/images")
    );
    assert_eq!(fs::read_to_string(shipped).unwrap(), SHIPPED);
}

#[test]
fn another_driver_is_refused_and_overlays_older_name_is_not() {
    for (driver, is_refused) in [
        ("vfs", true),
        ("overlay", false),
        ("overlay2", false),
        ("", false),
    ] {
        let text = format!("[storage]\ndriver = {driver:?}\ngraphroot = \"/x\"\n");
        let mut node = node(Runtime::Podman, Some(ImageStore::Local)).with(STORAGE, &text);
        if is_refused {
            let error = node.refusal();
            assert!(
                error.contains("storage.driver") && error.contains("vfs"),
                "{error}"
            );
            node.order.force = true;
        }
        node.write();
        let after = node.text(STORAGE);
        assert_eq!(stores(&after), [local(&node)], "{driver}");
        let driver = value(&after)["storage"]["driver"].as_str().unwrap().to_owned();
        assert!(driver.starts_with("overlay"), "{driver}");
        assert!(value(&after)["storage"].get("runroot").is_none(), "{after}");
    }
}

#[test]
fn a_broken_file_is_named_and_nothing_is_written() {
    let error = node(Runtime::Podman, None).with(STORAGE, "[storage\n").refusal();
    assert!(
        error.contains("storage.conf") && error.contains("TOML"),
        "{error}"
    );
}

#[test]
fn a_node_changes_from_one_form_to_the_other() {
    let text = SHIPPED.replace("= [\n]", &format!("= [\"/a\", {SHARED:?}]"));
    let mut node = node(Runtime::Podman, None).with(STORAGE, &text);
    // What is set up stays, whatever the file system.
    assert_eq!(stores(&storage_conf(&node)), ["/a", SHARED]);
    node.order.image_store = Some(ImageStore::Local);
    assert_eq!(stores(&storage_conf(&node)), ["/a", &*local(&node)]);
}

#[test]
fn an_image_store_that_is_named_with_more_slashes_is_the_same_one() {
    let name = "/srv//dfs/wharf/layers/";
    let text = SHIPPED.replace("= [\n]", &format!("= [{name:?}]"));
    let mut node = node(Runtime::Crio, None)
        .with(STORAGE, &text)
        .with(
            "crio/crio.conf",
            &format!("[crio]\nstorage_option = [\"overlay.imagestore={name}\"]\n"),
        )
        .with(
            "containers/storage.conf.d/90-a.conf",
            &format!("[storage.options]\nadditionalimagestores = [{name:?}]\n"),
        );
    assert_eq!(stores(&storage_conf(&node)), [name]);
    let plan = node.plan().unwrap();
    assert!(
        !plan.notes.iter().any(|note| note.contains("90-a.conf")),
        "{:?}",
        plan.notes
    );
    assert!(!plan.diff().contains("crio.conf"), "{}", plan.diff());
    // The other form takes its place.
    node.order.image_store = Some(ImageStore::Local);
    assert_eq!(stores(&storage_conf(&node)), [local(&node)]);
    node.write();
    let options = value(&node.text("crio/crio.conf"))["crio"]["storage_option"].clone();
    let option = format!("overlay.imagestore={}", local(&node));
    assert_eq!(options, ::toml::Value::Array(vec![option.into()]));
}

#[test]
fn the_lock_files_alone_are_made_outside_of_the_directory() {
    let mut node = node(Runtime::Podman, Some(ImageStore::Local));
    let outside = tempfile::tempdir().unwrap();
    node.order.podman = outside.path().join("image-store");
    let plan = node.plan().unwrap();
    assert!(
        plan.empty_by_hand.is_empty()
            && plan
                .files
                .iter()
                .all(|file| file.path.starts_with(node.etc.path()))
    );
    node.write();
    let made: Vec<PathBuf> = tree(outside.path()).into_iter().map(|(path, _)| path).collect();
    let locks = ["overlay-images/images.lock", "overlay-layers/layers.lock"];
    assert_eq!(made, locks.map(|lock| node.order.podman.join(lock)));
}

#[test]
fn an_image_store_in_the_directory_that_is_a_link_out_of_it_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let node = node(Runtime::Podman, Some(ImageStore::Local));
    symlink(outside.path(), node.etc.path().join("image-store")).unwrap();
    let error = node.refusal();
    assert!(
        error.contains("outside") && error.contains("images.lock"),
        "{error}"
    );
    assert!(tree(outside.path()).is_empty());
}

#[test]
fn a_login_that_podmans_agent_has_stays_and_is_not_shown() {
    let env = "wharf/podman.env";
    let mirrors = "WHARF_MIRRORS=http://robot:secret@mirror-a:5000,https://robot:s2@mirror-b";
    let other = node(Runtime::Podman, Some(ImageStore::Local))
        .with(env, "WHARF_MIRRORS=http://robot:secret@mirror-c:5000\n");
    let error = other.refusal();
    assert!(error.contains("login") && !error.contains("secret"), "{error}");
    for force in [false, true] {
        let mut node = node(Runtime::Podman, Some(ImageStore::Local)).with(env, &format!("{mirrors}\n"));
        node.order.force = force;
        assert!(!node.plan().unwrap().notes.concat().contains("secret"));
        node.write();
        let text = node.text(env);
        assert!(
            text.starts_with(mirrors) && text.contains("WHARF_PODMAN="),
            "{text}"
        );
        assert!(!node.text(REGISTRIES).contains("secret"));
    }
}

#[test]
fn a_file_that_wins_over_storage_conf_is_told() {
    for name in ["storage.conf.d/90-a.conf", "storage.rootful.conf.d/90-a.conf"] {
        let told = |text: &str| {
            let node = node(Runtime::Podman, Some(ImageStore::Local));
            let text = text.replace("LOCAL", &local(&node));
            let node = node.with(&format!("containers/{name}"), &text);
            let notes = node.plan().unwrap().notes;
            notes
                .iter()
                .any(|note| note.contains("90-a.conf") && note.contains(&local(&node)))
        };
        assert!(told("[storage.options]\nadditionalimagestores = [\"/a\"]\n"));
        assert!(!told(
            "[storage.options]\nadditionalimagestores = [\"/a\", \"LOCAL\"]\n"
        ));
        assert!(!told("[storage.options]\npull_options = {}\n"));
    }
}

#[test]
fn the_store_of_a_local_disk_is_read_itself_and_gets_its_lock_files() {
    let mut node = node(Runtime::Podman, Some(ImageStore::Shared));
    // Not mounted: what would be under the mount is what is there.
    let store = tempfile::tempdir().unwrap();
    node.order.store = store.path().to_owned();
    let plan = node.plan().unwrap();
    assert!(
        plan.diff()
            .contains("layers/overlay-layers/layers.lock: an empty file"),
        "{}",
        plan.diff()
    );
    node.write();
    let locks = ["overlay-images/images.lock", "overlay-layers/layers.lock"];
    for lock in locks {
        assert_eq!(fs::read(store.path().join("layers").join(lock)).unwrap(), b"");
    }
    let image_store = store.path().join("layers").display().to_string();
    assert_eq!(stores(&node.text(STORAGE)), [image_store]);
    assert!(!node.etc.path().join("wharf").exists());
    assert!(node.plan().unwrap().is_done());
}

#[test]
fn crio_reads_podmans_files_unless_its_own_say_otherwise() {
    let node = node(Runtime::Crio, Some(ImageStore::Local))
        .with(
            "crio/crio.conf",
            "[crio]\nstorage_driver = \"overlay\"\n# storage_option = []\n",
        )
        .with(
            "crio/crio.conf.d/10-crun.conf",
            "[crio.runtime]\ndefault_runtime = \"crun\"\n",
        );
    let plan = node.plan().unwrap();
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("systemctl restart crio")),
        "{:?}",
        plan.notes
    );
    assert!(
        plan.files
            .iter()
            .all(|file| !file.path.starts_with(node.etc.path().join("crio")))
    );
    node.write();
    assert_eq!(stores(&node.text(STORAGE)), [local(&node)]);
}

#[test]
fn crios_own_options_get_the_image_store_where_they_are_set_last() {
    let node = node(Runtime::Crio, Some(ImageStore::Local))
        .with("crio/crio.conf", "[crio]\nstorage_option = [\"overlay.mountopt=nodev\"]\n")
        .with(
            "crio/crio.conf.d/50-a.conf",
            "[crio]\nstorage_option = [\n  \"overlay.mountopt=nodev\", # keep\n  \"overlay.imagestore=/srv/dfs/wharf/layers\",\n]\n",
        )
        .with("crio/crio.conf.d/60-b.conf", "[crio]\nstorage_option = []\n");
    node.write();
    let text = node.text("crio/crio.conf.d/50-a.conf");
    let options = value(&text)["crio"]["storage_option"].clone();
    let options: Vec<&str> = options
        .as_array()
        .unwrap()
        .iter()
        .map(|option| option.as_str().unwrap())
        .collect();
    assert_eq!(
        options,
        [
            "overlay.mountopt=nodev",
            &*format!("overlay.imagestore={}", local(&node))
        ]
    );
    assert!(text.contains("# keep"), "{text}");
    assert!(!node.text("crio/crio.conf").contains("imagestore"));
    // CRI-O reads whatever lies in crio.conf.d, the last one last.
    let mut names = crate::fs::list(&node.etc.path().join("crio/crio.conf.d")).unwrap();
    names.sort();
    assert_eq!(names, ["50-a.conf", "60-b.conf"]);
    assert!(
        node.text("crio/crio.conf.d.wharf-backup/50-a.conf")
            .contains("/srv/dfs")
    );
}

#[test]
fn crio_with_another_driver_is_refused() {
    let node = node(Runtime::Crio, None).with("crio/crio.conf", "[crio]\nstorage_driver = \"btrfs\"\n");
    let error = node.refusal();
    assert!(
        error.contains("crio.storage_driver") && error.contains("btrfs"),
        "{error}"
    );
}

/// Makes a directory a store, as far as one is looked at here.
fn make_store(dir: &Path) {
    fs::write(
        dir.join("wharf.json"),
        r#"{"format": 1, "store_id": "0123456789abcdef"}"#,
    )
    .unwrap();
}

#[test]
fn a_store_that_this_node_could_write_is_warned_of_by_its_name_also_when_all_is_written() {
    let mut node = node(Runtime::Podman, Some(ImageStore::Shared));
    let store = tempfile::tempdir().unwrap();
    make_store(store.path());
    node.order.store = store.path().to_owned();
    let warned = |node: &Node, runtime, form| {
        let mut order = node.order.clone();
        (order.runtime, order.image_store) = (runtime, Some(form));
        Plan::make(&order, &NEW).unwrap().warnings
    };
    for runtime in [Runtime::Podman, Runtime::Crio] {
        let warnings = warned(&node, runtime, ImageStore::Shared);
        let [warning] = &*warnings else {
            panic!("{warnings:?}")
        };
        for said in [
            &*store.path().display().to_string(),
            "podman rmi",
            "ro,nosuid,nodev",
            "--store",
        ] {
            assert!(warning.contains(said), "{said}: {warning}");
        }
        assert_eq!(warned(&node, runtime, ImageStore::Local), Vec::<String>::new());
    }
    // The files are written all the same.
    let name = node.etc.path().join(STORAGE);
    node.plan()
        .unwrap()
        .files
        .iter()
        .for_each(|file| file.write().unwrap());
    assert!(name.exists());
    assert_eq!(node.plan().unwrap().warnings.len(), 1);
    assert!(names_image_store(node.etc.path(), store.path()));
    assert!(!names_image_store(node.etc.path(), node.etc.path()));
}

#[test]
fn a_directory_that_is_no_store_is_warned_of_where_podman_is_to_read_it() {
    let mut node = node(Runtime::Podman, Some(ImageStore::Shared));
    let store = tempfile::tempdir().unwrap();
    node.order.store = store.path().to_owned();
    let warnings = node.plan().unwrap().warnings;
    let [warning] = &*warnings else {
        panic!("{warnings:?}")
    };
    let path = store.path().display().to_string();
    assert!(
        warning.contains(&path) && warning.contains("wharf.json") && warning.contains("--store"),
        "{warning}"
    );
}

#[test]
fn an_image_store_in_the_store_or_in_podmans_own_storage_is_refused_and_nothing_is_written() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir_all(path("store/layers")).unwrap();
    symlink(path("store"), path("link")).unwrap();
    let storage = format!("[storage]\ngraphroot = {:?}\n", path("images"));
    for (dir, other) in [
        ("store", "store"),
        ("store/layers", "store"),
        ("link/new/below", "store"),
        ("", "store"),
        ("images", "images"),
        ("images/new", "images"),
    ] {
        let mut node = node(Runtime::Podman, Some(ImageStore::Local)).with(STORAGE, &storage);
        (node.order.store, node.order.podman) = (path("store"), path(dir));
        let before = tree(root.path());
        let error = node.refusal();
        for said in [&path(other).display().to_string(), "--podman DIR"] {
            assert!(error.contains(said), "{dir}: {error}");
        }
        assert_eq!(tree(root.path()), before, "{dir}");
        // The other form has no such directory.
        node.order.image_store = Some(ImageStore::Shared);
        node.plan().unwrap();
    }
    let mut node = node(Runtime::Podman, Some(ImageStore::Local));
    node.order.podman = PathBuf::from("/var/lib/containers/storage/wharf");
    assert!(node.refusal().contains("graphroot"));
}

#[test]
fn an_image_store_that_cannot_be_made_leaves_all_files_as_they_were() {
    let mut node = node(Runtime::Podman, Some(ImageStore::Local)).with(STORAGE, SHIPPED);
    // Nobody makes a directory there, root neither.
    node.order.podman = PathBuf::from("/proc/wharf");
    let plan = node.plan().unwrap();
    assert_eq!(plan.empty_by_hand.len(), 0);
    let before = tree(node.etc.path());
    let error = plan.write().unwrap_err().to_string();
    assert!(error.contains("/proc/wharf"), "{error}");
    assert_eq!(tree(node.etc.path()), before);
}

#[test]
fn a_registry_that_another_file_blocks_is_refused_by_name_and_neither_opened_nor_lost() {
    const BLOCK: &str = "[[registry]]\nlocation = \"docker.io\"\nblocked = true\n";
    for (file, can_be_replaced, text) in [
        ("containers/registries.conf", true, BLOCK),
        (
            "containers/registries.conf",
            true,
            "[registries.block]\nregistries = [\"docker.io\"]\n",
        ),
        ("containers/registries.conf.d/10-a.conf", true, BLOCK),
        ("containers/registries.conf.d/90-b.conf", false, BLOCK),
        (
            "containers/registries.conf.d/90-b.conf",
            false,
            "registry = [{ prefix = \"ghcr.io\", location = \"x\", blocked = true }]\n",
        ),
    ] {
        let mut node = node(Runtime::Podman, Some(ImageStore::Local)).with(file, text);
        let error = node.refusal();
        assert!(error.contains(file) && error.contains("blocked"), "{error}");
        assert_eq!(error.contains("--force"), can_be_replaced, "{error}");
        node.order.force = true;
        let plan = node.plan().unwrap();
        let said = if can_be_replaced {
            plan.notes
        } else {
            plan.warnings
        };
        assert!(said.iter().any(|said| said.contains(file)), "{said:?}");
    }
}

#[test]
fn a_file_of_registries_that_is_read_later_is_told_to_have_the_last_word() {
    let block = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"other.example\"\n";
    let told = |name: &str, text: &str| {
        let name = format!("containers/registries.conf.d/{name}");
        let plan = node(Runtime::Podman, Some(ImageStore::Local))
            .with(&name, text)
            .plan()
            .unwrap();
        let names = |said: &[String]| {
            said.iter()
                .any(|said| said.contains(&name) && said.contains("docker.io"))
        };
        (names(&plan.warnings), names(&plan.notes))
    };
    assert_eq!(told("90-b.conf", block), (true, false));
    assert_eq!(told("10-a.conf", block), (false, true));
    assert_eq!(
        told("90-b.conf", &block.replace("docker.io", "quay.io")),
        (false, false)
    );
    // Podman reads no such file.
    assert_eq!(told("90-b.conf.old", block), (false, false));
}
