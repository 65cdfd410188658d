//! `wharf pull`, `wharf ls` and `wharf inspect`: no mirror needed, and none disturbed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::gate::Gate;
use crate::support::layers::{Layered, add, add_as, config_of, directory, gzip, published, record, tar_of};
use crate::support::mirror::{Mirror, Options, WHARF, wharf};
use crate::support::process::{Ended, Service, bound_command, run, run_ok, shell};
use crate::support::registry::Registry;
use crate::support::sha256;
use crate::support::store::{assert_nothing_staged, blob_path, has_blob};
use crate::support::upstream::{OCI_INDEX, Upstream, blob, blobs, bytes, descriptor, index, then};

const APP: &str = "library/app";

fn layer(seed: u64) -> Vec<u8> {
    tar_of(&[(&format!("file-{seed}"), &bytes(50_000, seed))])
}

fn pull(upstream: &Upstream, store: &Path, arguments: &[&str]) -> Ended {
    let mut command = wharf();
    command
        .args(["pull", "--upstream", &upstream.url(), "--store"])
        .arg(store)
        .args(arguments);
    run(command)
}

fn inspect(store: &Path, what: &str) -> Value {
    let mut command = wharf();
    command.args(["inspect", what, "--store"]).arg(store);
    serde_json::from_str(&run_ok(command)).expect("JSON")
}

fn ls(store: &Path) -> Value {
    let mut command = wharf();
    command.args(["ls", "--json", "--store"]).arg(store);
    serde_json::from_str(&run_ok(command)).expect("JSON")
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("store");
    (directory, store)
}

#[test]
fn images_are_pulled_into_a_store_and_can_be_listed_and_inspected() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let one = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    let two = add(&upstream, APP, "v2", &[layer(1), layer(3)]);
    let ended = pull(&upstream, &store, &["app:v1", "docker.io/library/app:v2"]);
    assert_eq!(ended.code(), 0, "{}{}", ended.stdout, ended.stderr);
    for (name, image) in [
        ("docker.io/library/app:v1", &one),
        ("docker.io/library/app:v2", &two),
    ] {
        assert!(
            ended
                .stdout
                .contains(&format!("{name} {} complete", image.digest)),
            "{}",
            ended.stdout
        );
        for chain_id in &image.chain_ids {
            assert!(record(&store, chain_id).is_some(), "{chain_id}");
        }
    }
    // One line a layer, and nothing that only a terminal understands.
    assert_eq!(ended.stderr.lines().count(), 4, "{}", ended.stderr);
    assert_eq!(upstream.blob_gets(&one.layers[0]), 1);

    let listed = ls(&store);
    let images = listed["images"].as_array().expect("images");
    assert_eq!(images.len(), 2);
    assert_eq!(images[0]["name"], "docker.io/library/app:v1");
    assert_eq!(images[0]["layers"][0]["images"], 2);
    assert_eq!(images[0]["layers"][1]["images"], 1);
    assert_eq!(images[0]["layers"][1]["state"], "published");

    let image = inspect(&store, "app:v2");
    assert_eq!(image["digest"], two.digest.as_str());
    assert_eq!(image["layers"][1]["chain_id"], two.chain_ids[1].as_str());
    let chain = inspect(&store, &two.chain_ids[1]);
    let expected: Vec<Value> = two
        .chain_ids
        .iter()
        .rev()
        .map(|chain_id| directory(&store, chain_id).to_str().expect("text").into())
        .collect();
    assert_eq!(chain["lowerdirs"], Value::Array(expected));
}

#[test]
fn it_runs_beside_a_mirror_of_the_same_store() {
    let upstream = Upstream::start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let mut mirror = Mirror::start(&Options::new(upstream.address()));
    let ended = pull(&upstream, mirror.store(), &["app:v1"]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(record(mirror.store(), &image.chain_ids[0]).is_some());
    let index = mirror.index();
    let locked = pull(
        &upstream,
        mirror.store(),
        &["app:v1", "--index", index.to_str().expect("text")],
    );
    assert_eq!(locked.code(), 1);
    assert!(locked.stderr.contains("--index DIR"), "{}", locked.stderr);
    mirror.stop();
}

#[test]
fn a_running_mirror_brings_images_and_says_the_same_of_them() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let image = add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    let diff_ids = vec![sha256(b"another")];
    let config = config_of(&diff_ids, "x");
    add_as(&upstream, APP, "wrong", &config, &[gzip(&layer(3))], diff_ids);
    let mut mirror = Mirror::start(&Options::new(upstream.address()));
    let by_mirror = |image: &str| {
        let mut command = wharf();
        command.args(["pull", "--mirror", &mirror.url(""), image]);
        run(command)
    };
    for (name, code) in [("app:v1", 0), ("app:v1", 0), ("app:wrong", 3)] {
        let (by_mirror, here) = (by_mirror(name), pull(&upstream, &store, &[name]));
        assert_eq!(by_mirror.code(), code, "{}", by_mirror.stderr);
        assert_eq!((here.code(), &here.stdout), (code, &by_mirror.stdout));
        // What goes wrong here is in this process's log as well.
        let is_same = here.stderr.ends_with(&by_mirror.stderr);
        assert!(is_same, "{}{}", here.stderr, by_mirror.stderr);
    }
    for chain_id in &image.chain_ids {
        assert!(record(mirror.store(), chain_id).is_some(), "{chain_id}");
    }
    mirror.stop();
}

#[test]
fn of_an_index_the_image_of_one_platform_is_pulled() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let (amd, arm) = (
        add(&upstream, APP, "amd", &[layer(1)]),
        add(&upstream, APP, "arm", &[layer(2)]),
    );
    let entry = |image: &Layered, architecture: &str| {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", b"");
        entry["digest"] = image.digest.as_str().into();
        entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        entry
    };
    let index = index(&[entry(&amd, "amd64"), entry(&arm, "arm64")]);
    let digest = upstream.add_manifest(APP, OCI_INDEX, index);
    upstream.tag(APP, "all", &digest);
    let ended = pull(&upstream, &store, &["app:all", "--platform", "linux/arm64/v8"]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(record(&store, &arm.chain_ids[0]).is_some() && record(&store, &amd.chain_ids[0]).is_none());
    let mirror = Mirror::start(&Options::new(upstream.address()));
    let url = mirror.url("");
    let s390x = ["app:all", "--platform", "linux/s390x"];
    let mut by_mirror = wharf();
    by_mirror.args(["pull", "--mirror", &url]).args(s390x);
    for other in [pull(&upstream, &store, &s390x), run(by_mirror)] {
        assert_eq!(other.code(), 1);
        assert!(
            other.stderr.contains("linux/amd64, linux/arm64"),
            "{}",
            other.stderr
        );
    }
    assert_eq!(
        pull(&upstream, &store, &["app:all", "--platform", "arm"]).code(),
        2
    );
}

#[test]
fn the_exit_code_tells_a_blob_that_is_missing_from_a_layer_that_is_not_extracted() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let diff_ids = vec![sha256(b"another")];
    let config = config_of(&diff_ids, "x");
    let wrong = add_as(&upstream, APP, "wrong", &config, &[gzip(&layer(1))], diff_ids);
    let ended = pull(&upstream, &store, &["app:wrong"]);
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert!(has_blob(&store, &wrong.layers[0]), "{}", ended.stderr);
    let gone = add(&upstream, APP, "gone", &[layer(2)]);
    upstream.script(blob(&gone.layers[0]), then().status(404));
    let ended = pull(&upstream, &store, &["app:gone", "app:wrong"]);
    assert_eq!(ended.code(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(&gone.layers[0]), "{}", ended.stderr);
    assert_eq!(pull(&upstream, &store, &["app:none"]).code(), 1);
    assert_eq!(pull(&upstream, &store, &[]).code(), 2);
}

#[test]
fn an_image_whose_config_could_not_be_had_is_not_complete() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    upstream.script(blob(&image.config), then().status(500).once());
    let ended = pull(&upstream, &store, &["app:v1"]);
    assert_eq!(ended.code(), 1, "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended.stderr.contains("its config cannot be read"),
        "{}",
        ended.stderr
    );
    let ended = pull(&upstream, &store, &["app:v1"]);
    assert_eq!(ended.code(), 0, "{}{}", ended.stdout, ended.stderr);
    assert!(record(&store, &image.chain_ids[0]).is_some());
}

#[test]
fn the_blob_of_a_layer_that_could_be_shared_is_there_though_one_below_it_fails() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let good = add(&upstream, APP, "good", &[layer(1)]);
    assert_eq!(pull(&upstream, &store, &["app:good"]).code(), 0);
    std::fs::remove_file(blob_path(&store, &good.layers[0])).expect("remove a blob");
    let diff_ids = vec![sha256(b"another"), sha256(&layer(1))];
    let config = config_of(&diff_ids, "x");
    let blobs = [gzip(&layer(2)), gzip(&layer(1))];
    add_as(&upstream, APP, "wrong", &config, &blobs, diff_ids);
    let ended = pull(&upstream, &store, &["app:wrong"]);
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert!(has_blob(&store, &good.layers[0]));
}

#[test]
fn a_blob_that_a_guarded_registry_sent_is_extracted_for_an_image_of_another_one() {
    let (upstream, (directory, store)) = (Upstream::start(), fresh());
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let config = directory.path().join("wharf.toml");
    let pull = |host: &str, keys: &str| {
        let text = format!(
            "{keys}\n[upstream.\"private.test\"]\nendpoints = [{url:?}]\nusername = \"u\"\npassword_file = {password:?}\n\
             [upstream.\"open.test\"]\nendpoints = [{url:?}]\n",
            url = upstream.url(),
            password = directory.path().join("password"),
        );
        std::fs::write(&config, text).expect("write");
        let mut command = wharf();
        command.args(["pull", &format!("{host}/{APP}:v1"), "--config"]);
        command.arg(&config).arg("--store").arg(&store);
        run(command)
    };
    std::fs::write(directory.path().join("password"), "secret").expect("write");
    let ended = pull("private.test", "extract = false");
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let ended = pull("open.test", "");
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(record(&store, &image.chain_ids[0]).is_some());
}

#[test]
fn what_is_no_image_is_pulled_too() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let content = bytes(10_000, 1);
    let chart = upstream.add_image(APP, "chart", &[content]);
    let ended = pull(&upstream, &store, &["app:chart"]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(has_blob(&store, &chart.config) && has_blob(&store, &chart.layers[0]));
    let before = upstream.count(&blobs());
    assert_eq!(pull(&upstream, &store, &["app:chart"]).code(), 0);
    assert_eq!(upstream.count(&blobs()), before);
    assert_eq!(ls(&store)["images"][0]["layers"][0]["state"], "stored");
}

#[test]
fn a_manifest_whose_blobs_are_not_known_is_not_complete() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let manifest = br#"{"schemaVersion":1,"name":"app","fsLayers":[]}"#;
    let digest = upstream.add_manifest(APP, old, manifest.to_vec());
    upstream.tag(APP, "old", &digest);
    let ended = pull(&upstream, &store, &["app:old"]);
    assert_eq!(ended.code(), 1, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains(old), "{}", ended.stderr);
}

#[test]
fn without_a_privilege_blobs_are_pulled_and_the_missing_one_is_named() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let mut command = bound_command("setpriv");
    command
        .args([
            "--inh-caps=-mknod",
            "--bounding-set=-mknod",
            WHARF,
            "pull",
            "app:v1",
        ])
        .args(["--upstream", &upstream.url(), "--store"])
        .arg(&store);
    let ended = run(command);
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("CAP_MKNOD"), "{}", ended.stderr);
    assert!(has_blob(&store, &image.layers[0]));
    assert_eq!(record(&store, &image.chain_ids[0]), None);
}

#[test]
fn an_interrupt_ends_it_at_once_and_leaves_nothing_half_done() {
    let (upstream, (directory, store)) = (Upstream::start(), fresh());
    let large = tar_of(&[("first", b"x"), ("rest", &bytes(3_000_000, 1))]);
    let image = add(&upstream, APP, "v1", &[large]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().pause(2_000_000, &gate));
    let mut command = wharf();
    command
        .args(["pull", "app:v1", "--upstream", &upstream.url(), "--store"])
        .arg(&store);
    let mut pull = Service::start("pull", directory.path(), command);
    gate.wait_for(1);
    pull.signal(Signal::INT);
    let status = pull.wait(Duration::from_secs(20));
    gate.open();
    assert_eq!(status.code(), Some(130), "{}", pull.stderr());
    assert!(pull.stderr().contains("interrupted"), "{}", pull.stderr());
    assert_eq!(published(&store), Vec::<String>::new());
    assert_nothing_staged(&store);
}

#[test]
fn a_store_that_is_not_there_is_named() {
    let (_directory, store) = fresh();
    for command in [vec!["ls"], vec!["inspect", "app"]] {
        let mut wharf = wharf();
        wharf.args(command).arg("--store").arg(&store);
        let ended = run(wharf);
        assert_eq!(ended.code(), 1);
        assert!(
            ended.stderr.contains(store.to_str().expect("text")),
            "{}",
            ended.stderr
        );
        assert!(!store.exists());
    }
}

#[test]
fn real_images_are_pulled_and_run_from_their_layers() {
    let registry = Registry::filled();
    let (folder, store) = fresh();
    let url = format!("http://{}", registry.address());
    let mut command = wharf();
    command
        .args([
            "pull",
            "layers",
            "debian:bookworm",
            "debian-zstd:bookworm",
            "multi",
        ])
        .args(["--platform", "linux/amd64", "--upstream", &url, "--store"])
        .arg(&store);
    let ended = run(command);
    assert_eq!(ended.code(), 0, "{}{}", ended.stdout, ended.stderr);
    for (image, script) in [
        ("layers", "busybox true && echo works"),
        (
            "debian:bookworm",
            "test -u /usr/bin/su && dpkg --version >/dev/null && echo works",
        ),
        ("debian-zstd:bookworm", "dpkg --audit && echo works"),
    ] {
        let layers = inspect(&store, image)["layers"]
            .as_array()
            .expect("layers")
            .clone();
        let top = layers.last().expect("a layer")["chain_id"]
            .as_str()
            .expect("extracted")
            .to_owned();
        let chain = inspect(&store, &top);
        let dirs = chain["lowerdirs"].as_array().expect("directories");
        let lower: Vec<&str> = dirs.iter().map(|dir| dir.as_str().expect("text")).collect();
        let lower = lower.join(":");
        let place = folder.path().join(image.replace(':', "-")).display().to_string();
        let output = shell(&format!(
            "mkdir -p {place}/upper {place}/work {place}/root
             mount -t overlay overlay -o lowerdir={lower},upperdir={place}/upper,workdir={place}/work {place}/root
             trap 'umount {place}/root' EXIT
             chroot {place}/root /bin/sh -c '{script}'"
        ));
        assert_eq!(output.trim(), "works", "{image}");
    }
}

#[test]
fn a_tag_that_has_moved_is_pulled_anew_and_one_that_cannot_be_asked_for_is_told() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    add(&upstream, APP, "v1", &[layer(1)]);
    assert_eq!(pull(&upstream, &store, &["app:v1"]).code(), 0);
    let moved = add(&upstream, APP, "v1", &[layer(2)]);
    let ended = pull(&upstream, &store, &["app:v1"]);
    assert!(ended.stdout.contains(&moved.digest), "{}", ended.stdout);
    upstream.go_down();
    let ended = pull(&upstream, &store, &["app:v1"]);
    assert_eq!(ended.code(), 1, "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended.stderr.contains("upstream could not be asked"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_image_of_another_platform_without_an_index_is_told() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    add(&upstream, APP, "v1", &[layer(1)]);
    let ended = pull(&upstream, &store, &["app:v1", "--platform", "linux/s390x"]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("linux/s390x was asked for"),
        "{}",
        ended.stderr
    );
    let ended = pull(&upstream, &store, &["app:v1", "--platform", "linux/amd64"]);
    assert!(!ended.stderr.contains("asked for"), "{}", ended.stderr);
}

#[test]
fn pulls_that_end_and_those_that_were_killed_leave_nothing_staged() {
    let (upstream, (_directory, store)) = (Upstream::start(), fresh());
    // Found by two pulls at once, of which one loses.
    add(&upstream, APP, "v1", &[layer(1), layer(2)]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(pull(&upstream, &store, &["app:v1"]).code(), 0));
        }
    });
    assert_nothing_staged(&store);
    let image = add(&upstream, APP, "v2", &[layer(3)]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]).get(), then().pause(20_000, &gate).once());
    let mut command = wharf();
    command
        .args(["pull", "app:v2", "--upstream", &upstream.url(), "--store"])
        .arg(&store);
    let directory = tempfile::tempdir().expect("a directory");
    let mut killed = Service::start("pull", directory.path(), command);
    gate.wait_for(1);
    killed.kill();
    gate.open();
    assert_eq!(pull(&upstream, &store, &["app:v1"]).code(), 0);
    assert_nothing_staged(&store);
}

#[test]
fn a_store_that_other_users_reach_gets_no_layers_and_is_told_how_to_close_it() {
    let upstream = Upstream::start();
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let mut builder = tempfile::Builder::new();
    let outside = builder.permissions(PermissionsExt::from_mode(0o755)).tempdir();
    let reached = outside.as_ref().expect("a directory").path().join("store");
    std::fs::create_dir(&reached).expect("make a directory");
    std::fs::set_permissions(&reached, PermissionsExt::from_mode(0o755)).expect("change the mode");
    let ended = pull(&upstream, &reached, &["app:v1"]);
    assert_eq!(ended.code(), 3, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("chmod 0700"), "{}", ended.stderr);
    assert!(record(&reached, &image.chain_ids[0]).is_none() && has_blob(&reached, &image.layers[0]));
    std::fs::set_permissions(&reached, PermissionsExt::from_mode(0o700)).expect("change the mode");
    assert_eq!(pull(&upstream, &reached, &["app:v1"]).code(), 0);
    assert!(record(&reached, &image.chain_ids[0]).is_some());
}
