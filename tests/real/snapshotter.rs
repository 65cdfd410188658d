//! The agent's calls, as containerd makes them, on a store that a real mirror has filled.
//!
//! Needs root, to extract and to mount; containerd and Docker themselves are elsewhere.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tonic::Code;
use wharf::snapshotter::proto::snapshots::Kind;

use crate::support::agent::{Agent, CHAIN, Client, lowerdirs, option};
use crate::support::layers::{Layered, add, directory, record, tar_of, tar_with};
use crate::support::mirror::{Mirror, Options};
use crate::support::mount::SmallExt4;
use crate::support::process::{free_address, shell, wait_until};
use crate::support::upstream::{Upstream, bytes};

const APP: &str = "library/app";
const SOON: Duration = Duration::from_secs(20);

/// A store with an image, the mirror that filled it, and its upstream.
struct Cluster {
    upstream: Upstream,
    mirror: Mirror,
}

impl Cluster {
    fn start() -> Self {
        let upstream = Upstream::start();
        let mirror = Mirror::start(&Options::new(upstream.address()));
        Self { upstream, mirror }
    }

    fn store(&self) -> &Path {
        self.mirror.store()
    }

    /// Adds an image of these layers, and waits until all are published.
    fn publish(&self, tag: &str, tars: &[Vec<u8>]) -> Layered {
        let image = add(&self.upstream, APP, tag, tars);
        let path = format!("/v2/{APP}/manifests/{tag}");
        assert_eq!(self.mirror.ask(&path).send().status, 200);
        for chain_id in &image.chain_ids {
            wait_until("the layers", SOON, || record(self.store(), chain_id));
        }
        image
    }

    fn agent(&self) -> Agent {
        Agent::start(self.store(), &[self.mirror.address()])
    }
}

fn layer(seed: u64) -> Vec<u8> {
    tar_of(&[
        (&format!("file-{seed}"), &bytes(20_000, seed)),
        ("same", &[seed as u8]),
    ])
}

fn layers(seeds: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    seeds.map(layer).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Code {
    result.expect_err("a failure").code()
}

/// An overlay that goes away with it.
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts as containerd does: mount(2) cuts options beyond a page without a word, so that it names lower
    /// directories from the one that they lie in.
    fn new(at: &Path, mounts: &[wharf::snapshotter::proto::types::Mount]) -> Self {
        let [mount] = mounts else { panic!("{mounts:?}") };
        std::fs::create_dir_all(at).expect("a mount point");
        let mut options = mount.options.join(",");
        let mut kind = "--bind".to_owned();
        let mut from = PathBuf::from("/");
        if mount.r#type != "bind" {
            kind = format!("-t {}", mount.r#type);
            let lower = option(mounts, "lowerdir");
            let first = Path::new(lower.split(':').next().expect("a lower directory"));
            from = first.parent().expect("a directory").to_owned();
            let short = lower.replace(&format!("{}/", from.display()), "");
            options = options.replace(lower, &short);
        }
        assert!(options.len() < 4096, "options that mount(2) would cut: {options}");
        shell(&format!(
            "cd '{}' && mount {kind} -o '{options}' '{}' '{}'",
            from.display(),
            mount.source,
            at.display()
        ));
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        shell(&format!("umount '{}'", self.0.display()));
    }
}

#[test]
fn a_container_runs_on_layers_of_the_store_and_writes_to_this_node_alone() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let mut agent = cluster.agent();
    let mut client = agent.client();
    let names = client.share_all(&image.chain_ids);
    assert_eq!(
        names, image.chain_ids,
        "a layer of the store is named by its stack"
    );
    let top = names.last().expect("a layer");
    // docker run.
    client.prepare("moby/7/abc-init-key", top).expect("an init layer");
    client
        .commit("moby/8/abc-init", "moby/7/abc-init-key")
        .expect("commit");
    let mounts = client
        .prepare("moby/9/abc", "moby/8/abc-init")
        .expect("a container");
    assert_eq!(client.mounts("moby/9/abc").expect("mounts"), mounts);
    let lower = lowerdirs(&mounts);
    assert_eq!(lower.len(), 4);
    for (chain_id, lower) in image.chain_ids.iter().rev().zip(&lower[1..]) {
        assert_eq!(lower, &directory(cluster.store(), chain_id));
    }
    assert!(mounts[0].options.contains(&"index=off".to_owned()), "{mounts:?}");
    let at = agent.root().with_file_name("mnt");
    {
        let _mounted = Mounted::new(&at, &mounts);
        assert_eq!(std::fs::read(at.join("same")).expect("read"), [3]);
        assert_eq!(std::fs::read(at.join("file-1")).expect("read"), bytes(20_000, 1));
        std::fs::write(at.join("new"), vec![1; 100_000]).expect("write");
        std::fs::remove_file(at.join("file-2")).expect("remove");
    }
    let usage = client.usage("moby/9/abc").expect("usage");
    assert!((100_000..200_000).contains(&usage.size), "{usage:?}");
    assert_eq!(
        client.usage(top).expect("usage").size,
        0,
        "nothing of it is on this node"
    );
    assert!(
        directory(cluster.store(), &image.chain_ids[1])
            .join("file-2")
            .exists()
    );
    // docker rm, docker rmi and the garbage collector.
    for key in ["moby/9/abc", "moby/8/abc-init"] {
        client.remove(key).expect("remove");
    }
    assert_eq!(code(client.remove(&names[0])), Code::FailedPrecondition);
    for name in names.iter().rev() {
        client.remove(name).expect("remove");
    }
    client.cleanup();
    assert!(client.list(&[]).is_empty());
    for dir in ["snapshots", "l", "removing"] {
        let left = std::fs::read_dir(agent.root().join(dir)).expect("list").count();
        assert_eq!(left, 0, "{dir}");
    }
    for chain_id in &image.chain_ids {
        directory(cluster.store(), chain_id);
    }
    agent.stop();
}

#[test]
fn an_image_that_is_not_on_the_store_is_unpacked_here_and_runs() {
    let cluster = Cluster::start();
    cluster.publish("v1", &layers(1..2));
    let agent = cluster.agent();
    let mut client = agent.client();
    let unknown = format!("sha256:{}", "ab".repeat(32));
    let key = format!("moby/1/extract-1-abcd {unknown}");
    let mounts = client
        .prepare_with(&key, "", &[(CHAIN, &unknown)])
        .expect("mounts to unpack to");
    assert_eq!(mounts[0].r#type, "bind");
    std::fs::write(Path::new(&mounts[0].source).join("file"), b"x").expect("unpack");
    let name = format!("moby/2/{unknown}");
    client.commit(&name, &key).expect("commit");
    assert_eq!(code(client.mounts(&name)), Code::FailedPrecondition);
    assert_eq!(code(client.prepare("moby/3/x", "nothing")), Code::NotFound);
    let mounts = client.prepare("moby/3/x", &name).expect("a container");
    assert_eq!(code(client.prepare("moby/3/x", &name)), Code::AlreadyExists);
    assert_eq!(
        code(client.prepare("moby/4/y", "moby/3/x")),
        Code::FailedPrecondition
    );
    let _mounted = Mounted::new(&agent.root().with_file_name("mnt"), &mounts);
    let usage = client.usage(&name).expect("usage");
    assert!(usage.size >= 4096 && usage.inodes == 2, "{usage:?}");
}

#[test]
fn a_layer_of_the_store_lies_on_a_local_one_if_that_is_its_stack() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let agent = cluster.agent();
    let mut client = agent.client();
    // Its lowest layer was unpacked here, when the store was away.
    let base = &image.chain_ids[0];
    client.prepare("moby/1/unpacked", "").expect("prepare");
    let local = format!("moby/2/{base}");
    client.commit(&local, "moby/1/unpacked").expect("commit");
    let second = client
        .share(&image.chain_ids[1], &local, &[])
        .expect("the second layer");
    let third = client
        .share(&image.chain_ids[2], &second, &[])
        .expect("the third layer");
    assert_eq!(second, format!("{}@{local}", image.chain_ids[1]));
    assert_eq!(third, format!("{}@{local}", image.chain_ids[2]));
    let lower = lowerdirs(&client.prepare("moby/5/c", &third).expect("a container"));
    assert_eq!(lower.len(), 3);
    assert!(lower[2].starts_with(agent.root()), "{lower:?}");
    // On another stack it is not the same layer.
    client.prepare("moby/6/other", "").expect("prepare");
    client.commit("moby/7/other", "moby/6/other").expect("commit");
    let status = client
        .share(&image.chain_ids[1], "moby/7/other", &[])
        .expect_err("it is unpacked");
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

#[test]
fn two_namespaces_share_one_record() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..2));
    let agent = cluster.agent();
    let mut client = agent.client();
    let name = client.share(&image.chain_ids[0], "", &[]).expect("moby's");
    let labels = [(CHAIN, image.chain_ids[0].as_str())];
    let key = format!("k8s.io/5/extract-2-efgh {}", image.chain_ids[0]);
    assert_eq!(code(client.prepare_with(&key, "", &labels)), Code::AlreadyExists);
    let names: Vec<String> = client.list(&[]).into_iter().map(|info| info.name).collect();
    assert_eq!(names, [name]);
}

#[test]
fn the_root_of_a_container_looks_as_that_of_its_topmost_layer() {
    let cluster = Cluster::start();
    let root = tar_with(&[("./", 0o1770, b""), ("file", 0o644, b"x")]);
    let image = cluster.publish("v1", &[layer(1), root]);
    let agent = cluster.agent();
    let mut client = agent.client();
    let names = client.share_all(&image.chain_ids);
    let dir = directory(cluster.store(), &image.chain_ids[1]);
    std::os::unix::fs::chown(&dir, Some(1234), Some(4321)).expect("chown");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o1770)).expect("chmod");
    let mounts = client.prepare("moby/5/c", &names[1]).expect("a container");
    client.commit("moby/6/i", "moby/5/c").expect("commit");
    let upper = option(&mounts, "upperdir");
    let above = client.prepare("moby/7/d", "moby/6/i").expect("a container");
    for upper in [upper, option(&above, "upperdir")] {
        let metadata = std::fs::metadata(upper).expect("stat");
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
            (0o1770, 1234, 4321),
            "{upper}"
        );
    }
}

#[test]
fn a_hundred_layers_mount() {
    let cluster = Cluster::start();
    let tars: Vec<_> = (0..100)
        .map(|n| tar_of(&[(&format!("f{n}"), b"x"), ("last", &[n])]))
        .collect();
    let image = cluster.publish("v1", &tars);
    let agent = cluster.agent();
    let mut client = agent.client();
    let names = client.share_all(&image.chain_ids);
    let mounts = client.prepare("moby/500/c", &names[99]).expect("a container");
    assert_eq!(lowerdirs(&mounts).len(), 100);
    let at = agent.root().with_file_name("mnt");
    let _mounted = Mounted::new(&at, &mounts);
    assert_eq!(std::fs::read(at.join("last")).expect("read"), [99]);
    for n in 0..100 {
        assert!(at.join(format!("f{n}")).exists(), "f{n}");
    }
}

#[test]
fn views_show_a_stack_and_take_no_writes() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..3));
    let agent = cluster.agent();
    let mut client = agent.client();
    let names = client.share_all(&image.chain_ids);
    for (name, expected) in [(&names[0], 1), (&names[1], 2)] {
        let key = format!("moby/9/view-{expected}");
        let mounts = client.view(&key, name).expect("a view");
        assert_eq!(client.stat(&key).expect("stat").kind(), Kind::View);
        let at = agent.root().with_file_name(format!("mnt-{expected}"));
        let _mounted = Mounted::new(&at, &mounts);
        assert_eq!(std::fs::read(at.join("same")).expect("read"), [expected]);
        std::fs::write(at.join("new"), b"x").expect_err("a view is read-only");
        assert_eq!(code(client.commit("moby/10/x", &key)), Code::FailedPrecondition);
    }
}

#[test]
fn labels_are_changed_one_by_one_or_all_at_once() {
    let cluster = Cluster::start();
    let agent = cluster.agent();
    let mut client = agent.client();
    let labels = [("a", "1"), ("b", "2")];
    client.prepare_with("moby/1/x", "", &labels).expect("prepare");
    let one = client
        .update("moby/1/x", &[("a", "3")], &["labels.a", "labels.b"])
        .expect("update");
    assert_eq!(one.labels, [("a".to_owned(), "3".to_owned())].into());
    let all = client
        .update("moby/1/x", &[("c", "4")], &["labels"])
        .expect("update");
    assert_eq!(all.labels, [("c".to_owned(), "4".to_owned())].into());
    assert_eq!(client.stat("moby/1/x").expect("stat").labels, all.labels);
    assert_eq!(
        code(client.update("moby/1/x", &[], &["kind"])),
        Code::InvalidArgument
    );
    assert_eq!(code(client.update("moby/1/y", &[], &["labels"])), Code::NotFound);
}

/// What a node has after a pull and a run: layers of the store, an init layer and a container.
fn run(client: &mut Client, image: &Layered) -> Vec<String> {
    let names = client.share_all(&image.chain_ids);
    client
        .prepare("moby/7/c-init-key", names.last().expect("a layer"))
        .expect("prepare");
    client
        .commit("moby/8/c-init", "moby/7/c-init-key")
        .expect("commit");
    client.prepare("moby/9/c", "moby/8/c-init").expect("prepare");
    names
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let mut agent = cluster.agent();
    let mut client = agent.client();
    run(&mut client, &image);
    let before = client.list(&[]);
    let mounts = client.mounts("moby/9/c").expect("mounts");
    agent.kill();
    agent.start_again();
    let mut client = agent.client();
    assert_eq!(client.list(&[]), before);
    assert_eq!(client.mounts("moby/9/c").expect("mounts"), mounts);
    client
        .prepare("moby/10/d", "moby/8/c-init")
        .expect("another container");
}

#[test]
fn snapshots_are_known_again_after_the_records_are_lost() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let mut agent = cluster.agent();
    let mut client = agent.client();
    let names = run(&mut client, &image);
    let mounts = client.mounts("moby/9/c").expect("mounts");
    agent.stop();
    std::fs::remove_dir_all(agent.root().join("records")).expect("lose the records");
    agent.start_again();
    let mut client = agent.client();
    // The local ones are known at once, those of the store by what a mirror has written down.
    let mut all = names.clone();
    all.extend(["moby/8/c-init".to_owned(), "moby/9/c".to_owned()]);
    all.sort();
    wait_until("all to be known again", SOON, || {
        let known: Vec<String> = client.list(&[]).into_iter().map(|info| info.name).collect();
        (known == all).then_some(())
    });
    let stated = stated(cluster.store()).expect("a statement")["layers"].clone();
    assert_eq!(stated.as_array().map(Vec::len), Some(3), "{stated}");
    let again = client.mounts("moby/9/c").expect("mounts");
    assert_eq!(lowerdirs(&again), lowerdirs(&mounts));
    for name in &names {
        let info = client.stat(name).expect("stat");
        assert_eq!(info.kind(), Kind::Committed);
    }
    // The next pull of the same layers finds them.
    assert_eq!(client.share_all(&image.chain_ids), names);
    let unknown = format!("sha256:{}", "ab".repeat(32));
    let status = client.stat(&unknown).expect_err("no layer");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[test]
fn a_store_that_is_not_mounted_is_no_store_without_layers() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let agent = cluster.agent();
    let mut client = agent.client();
    let names = run(&mut client, &image);
    let away = cluster.store().with_file_name("away");
    std::fs::rename(cluster.store(), &away).expect("unmount");
    std::fs::create_dir(cluster.store()).expect("a mount point");
    // What has layers of the store below cannot be, and says why.
    for status in [
        client.mounts("moby/9/c").expect_err("mounts"),
        client.prepare("moby/10/d", &names[2]).expect_err("a container"),
        client
            .share(&image.chain_ids[2], &names[1], &[])
            .expect_err("a layer"),
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(
            status.message().contains(&cluster.store().display().to_string()),
            "{status:?}"
        );
    }
    // What has none is as without wharf, and what touches no layer goes on.
    let status = client
        .share(&image.chain_ids[0], "", &[])
        .expect_err("it is unpacked here");
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    client.stat(&names[2]).expect("stat");
    client.usage(&names[2]).expect("usage");
    client.commit("moby/11/e", "moby/9/c").expect("commit");
    assert_eq!(
        agent.log().matches("layers cannot be had").count(),
        1,
        "{}",
        agent.log()
    );
    std::fs::remove_dir(cluster.store()).expect("the mount point");
    std::fs::rename(&away, cluster.store()).expect("mount");
    client.prepare("moby/12/f", &names[2]).expect("a container");
    assert!(agent.log().contains("the store is back"), "{}", agent.log());
}

#[test]
fn another_store_in_the_same_place_is_not_taken_for_it() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..3));
    let other = Cluster::start();
    let agent = cluster.agent();
    let mut client = agent.client();
    let names = client.share_all(&image.chain_ids);
    let away = cluster.store().with_file_name("away");
    // Between two calls: the agent has not seen that nothing was there.
    std::fs::rename(cluster.store(), &away).expect("unmount");
    std::os::unix::fs::symlink(other.store(), cluster.store()).expect("mount another");
    let status = client.prepare("moby/4/c", &names[1]).expect_err("a container");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("is the store"), "{status:?}");
    std::fs::remove_file(cluster.store()).expect("unmount the other");
    std::fs::rename(&away, cluster.store()).expect("mount");
    client.prepare("moby/5/c", &names[1]).expect("a container");
}

#[test]
fn without_a_mirror_published_layers_serve_all_the_same() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let agent = Agent::start(cluster.store(), &[free_address()]);
    let mut client = agent.client();
    let started = Instant::now();
    run(&mut client, &image);
    let unknown = format!("sha256:{}", "ab".repeat(32));
    let status = client.share(&unknown, "", &[]).expect_err("it is unpacked here");
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn one_root_has_one_agent() {
    let cluster = Cluster::start();
    let agent = cluster.agent();
    let store = cluster.store().display().to_string();
    let root = agent.root().display().to_string();
    let mut second = crate::support::mirror::wharf();
    second.args([
        "agent",
        "--store",
        &store,
        "--root",
        &root,
        "--mirror",
        "http://127.0.0.1:1",
    ]);
    second.args(["--socket", &format!("{root}/other.sock")]);
    let ended = crate::support::process::run(second);
    assert_eq!(ended.code(), 1);
    assert!(ended.stderr.contains("another agent uses"), "{}", ended.stderr);
}

#[test]
fn a_full_disk_fails_what_needs_room_and_nothing_is_lost() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let disk = SmallExt4::mount(32 << 20);
    let root = disk.path().join("root");
    let mut agent = Agent::start_at(&root, cluster.store(), &[cluster.mirror.address()]);
    let mut client = agent.client();
    let names = run(&mut client, &image);
    let filler = disk.path().join("filler");
    shell(&format!(
        "cat /dev/zero > '{}' 2>/dev/null || true",
        filler.display()
    ));
    let mut keys = (100..10_000).map(|n| format!("moby/{n}/x"));
    let full = keys
        .find_map(|key| client.prepare(&key, &names[2]).err())
        .expect("a full disk");
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    client.mounts("moby/9/c").expect("mounts");
    std::fs::remove_file(&filler).expect("make room");
    client.prepare("moby/21/y", &names[2]).expect("a container");
    client.remove("moby/21/y").expect("remove");
    let before: Vec<String> = client.list(&[]).into_iter().map(|info| info.name).collect();
    agent.kill();
    agent.start_again();
    let mut client = agent.client();
    let after: Vec<String> = client.list(&[]).into_iter().map(|info| info.name).collect();
    assert_eq!(after, before);
    client.mounts("moby/9/c").expect("mounts");
    agent.stop();
}

#[test]
fn a_root_that_overlayfs_cannot_use_is_refused() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("a directory");
    let overlay = dir.path().join("overlay");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| dir.path().join(name));
    for dir in [&lower, &upper, &work] {
        std::fs::create_dir(dir).expect("a directory");
    }
    let mount = wharf::snapshotter::proto::types::Mount {
        r#type: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: vec![
            format!("lowerdir={}", lower.display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ],
    };
    let _mounted = Mounted::new(&overlay, &[mount]);
    for (root, expected) in [
        (overlay, "local disk"),
        (dir.path().join("a:b"), "choose another directory"),
    ] {
        let mut agent = crate::support::mirror::wharf();
        agent
            .arg("agent")
            .arg("--store")
            .arg(cluster.store())
            .arg("--root")
            .arg(&root);
        agent
            .args(["--mirror", "http://127.0.0.1:1", "--socket"])
            .arg(dir.path().join("agent.sock"));
        let ended = crate::support::process::run(agent);
        assert_eq!(ended.code(), 1, "{}", root.display());
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
}

/// What a mirror has written down of the only node.
fn stated(store: &Path) -> Option<serde_json::Value> {
    let nodes: Vec<_> = std::fs::read_dir(store.join("nodes")).ok()?.collect();
    let node = match nodes.as_slice() {
        [] => return None,
        [Ok(node)] => node,
        _ => panic!("{nodes:?}"),
    };
    let statements = std::fs::read_dir(node.path()).expect("list");
    let newest = statements.map(|entry| entry.expect("an entry").path()).max()?;
    // Another may have come between.
    serde_json::from_slice(&std::fs::read(newest).ok()?).expect("a statement")
}

#[test]
fn what_a_node_uses_is_written_down_before_it_is_answered_and_until_it_is_removed() {
    let cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let mut agent = cluster.agent();
    let mut client = agent.client();
    let mut names: Vec<String> = Vec::new();
    for chain_id in &image.chain_ids {
        let parent = names.last().cloned().unwrap_or_default();
        names.push(client.share(chain_id, &parent, &[]).expect("a layer"));
        let layers = stated(cluster.store()).expect("a statement")["layers"].clone();
        assert!(
            layers
                .as_array()
                .expect("layers")
                .iter()
                .any(|id| id == chain_id.as_str()),
            "{layers}"
        );
    }
    let node = stated(cluster.store()).expect("a statement");
    assert_eq!(node["layers"].as_array().map(Vec::len), Some(3));
    agent.kill();
    std::fs::remove_dir_all(cluster.store().join("nodes")).expect("lose what nodes use");
    agent.start_again();
    wait_until("everything to be stated again", SOON, || {
        let layers = stated(cluster.store())?["layers"].as_array()?.len();
        (layers == 3).then_some(())
    });
    let mut client = agent.client();
    for name in names.iter().rev() {
        client.remove(name).expect("remove");
    }
    wait_until("nothing to be in use", SOON, || {
        let layers = stated(cluster.store())?["layers"].as_array()?.len();
        (layers == 0).then_some(())
    });
}

#[test]
fn a_layer_that_is_not_there_yet_is_brought_by_a_mirror() {
    let cluster = Cluster::start();
    let image = add(&cluster.upstream, APP, "v1", &layers(1..4));
    let agent = cluster.agent();
    let mut client = agent.client();
    let manifest = image.digest.as_str();
    let labels = [
        ("containerd.io/snapshot/cri.image-ref", "docker.io/library/app:v1"),
        ("containerd.io/snapshot/cri.manifest-digest", manifest),
    ];
    let mut parent = String::new();
    for chain_id in &image.chain_ids {
        parent = client.share(chain_id, &parent, &labels).expect("a layer");
    }
    for layer in &image.layers {
        assert_eq!(cluster.upstream.blob_gets(layer), 1);
    }
}

#[test]
fn a_removed_layer_is_brought_back_when_a_container_needs_it() {
    let mut cluster = Cluster::start();
    let image = cluster.publish("v1", &layers(1..4));
    let agent = cluster.agent();
    let mut client = agent.client();
    let names = run(&mut client, &image);
    let remove = |chain_id: &str| {
        let layer = directory(cluster.mirror.store(), chain_id);
        std::fs::remove_dir_all(layer.parent().expect("a layer")).expect("remove a layer");
    };
    remove(&image.chain_ids[1]);
    let mounts = client.mounts("moby/9/c").expect("mounts");
    assert_eq!(lowerdirs(&mounts).len(), 4);
    remove(&image.chain_ids[2]);
    client.prepare("moby/20/d", &names[2]).expect("a container");
    // Nobody there who could bring it back.
    remove(&image.chain_ids[0]);
    cluster.mirror.stop();
    let status = client.mounts("moby/9/c").expect_err("a layer is missing");
    assert_eq!(status.code(), Code::Unavailable);
    for told in [image.chain_ids[0].as_str(), "wharf pull", "layers/overlay"] {
        assert!(status.message().contains(told), "{told}: {status:?}");
    }
    cluster.mirror.start_again();
    wait_until("the layer to come back", SOON, || client.mounts("moby/9/c").ok());
}
