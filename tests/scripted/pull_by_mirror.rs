//! `wharf pull --mirror`: a running mirror brings the images, and this machine needs nothing.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gate::Gate;
use crate::support::layers::{add, gzip, tar_of};
use crate::support::mirror::{Mirror, Options, wharf};
use crate::support::process::{Ended, Service, free_address, run, wait_until};
use crate::support::store::has_blob;
use crate::support::upstream::{Upstream, blob, bytes, then};

use super::{APP, SOON, blob_path};

const PACKED: &str = "extract = false";

fn layer(seed: u64) -> Vec<u8> {
    tar_of(&[("file", &bytes(50_000, seed))])
}

fn start(table: &str) -> (Upstream, Mirror) {
    let upstream = Upstream::start();
    let mirror = Mirror::start(&Options::new(upstream.address()).keys(PACKED).table(table));
    (upstream, mirror)
}

fn command(mirrors: &str, images: &[&str]) -> Command {
    let mut command = wharf();
    command.args(["pull", "--mirror", mirrors]).args(images);
    command
}

fn pull(mirror: &Mirror, images: &[&str]) -> Ended {
    run(command(&mirror.url(""), images))
}

/// What `POST /wharf/v1/images` answers: its status, and its lines.
fn ask(mirror: &Mirror, wish: &Value) -> (u16, Vec<Value>) {
    let body = wish.to_string().into_bytes();
    let answer = mirror.ask("/wharf/v1/images").method("POST").body(&body).send();
    let text = String::from_utf8(answer.body).expect("text");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    (answer.status, lines.collect())
}

#[test]
fn images_are_brought_to_the_mirrors_store_and_what_it_leaves_packed_is_told() {
    let (upstream, mirror) = start("");
    let (one, two) = (
        add(&upstream, APP, "v1", &[layer(1), layer(2)]),
        add(&upstream, APP, "v2", &[layer(3)]),
    );
    let ended = pull(&mirror, &["app:v1", "docker.io/library/app:v2"]);
    assert_eq!(ended.code(), 3, "{}{}", ended.stdout, ended.stderr);
    for (tag, image) in [("v1", &one), ("v2", &two)] {
        let line = format!("docker.io/library/app:{tag} {} not extracted", image.digest);
        assert!(ended.stdout.contains(&line), "{}", ended.stdout);
        for blob in &image.layers {
            assert!(has_blob(mirror.store(), blob), "{blob}");
            assert!(ended.stderr.contains(&format!("{blob} ")), "{}", ended.stderr);
        }
    }
    assert!(ended.stderr.contains("extracts no layers"), "{}", ended.stderr);
}

#[test]
fn what_is_nothing_to_be_extracted_is_complete() {
    let (upstream, mirror) = start("");
    let chart = upstream.add_image(APP, "chart", &[bytes(10_000, 1)]);
    let answer = ask(&mirror, &json!({"image": "app:chart"}));
    let end = &answer.1.last().expect("a line")["end"];
    assert!(end["missing"].is_null(), "{end}");
    assert!(has_blob(mirror.store(), &chart.layers[0]));
}

#[test]
fn how_far_the_layers_are_is_told_as_they_come_on() {
    let (upstream, mirror) = start("");
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().pause(20_000, &gate));
    let (status, lines) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&mirror, &json!({"image": "app:v1"})));
        gate.wait_for(1);
        wait_until("the line of a layer that is fetched", SOON, || {
            (mirror.metric("wharf_http_response_bytes_total", "") > 0.0).then_some(())
        });
        gate.open();
        asked.join().expect("a client")
    });
    assert_eq!(status, 200);
    let stages: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["layers"][0]["stage"].as_str())
        .collect();
    assert!(stages.len() > 1, "{stages:?}");
    assert_eq!(stages.last(), Some(&"stored"));
    let (last, earlier) = lines.split_last().expect("lines");
    assert!(last["end"].is_object(), "{last}");
    assert!(earlier.iter().all(|line| line["end"].is_null()), "{earlier:?}");
    assert_eq!(last["digest"], image.digest.as_str());
}

#[test]
fn what_cannot_be_had_is_told_with_the_reason() {
    let rule = "[[access]]\nrepositories = [\"docker.io/library/secret\"]\nclients = [\"10.9.9.9\"]";
    let (upstream, mirror) = start(rule);
    let gone = add(&upstream, APP, "gone", &[layer(1)]);
    upstream.script(blob(&gone.layers[0]), then().status(404));
    let ended = pull(&mirror, &["app:gone"]);
    assert_eq!(ended.code(), 1, "{}{}", ended.stdout, ended.stderr);
    let missing = format!("{} is not in the store", gone.layers[0]);
    assert!(ended.stderr.contains(&missing), "{}", ended.stderr);
    let ended = pull(&mirror, &["app:absent"]);
    assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""));
    assert!(ended.stderr.contains("404"), "{}", ended.stderr);
    let before = upstream.asked().len();
    let ended = pull(&mirror, &["secret"]);
    assert_eq!(ended.code(), 1);
    assert!(ended.stderr.contains("does not give"), "{}", ended.stderr);
    assert_eq!(upstream.asked().len(), before, "a forbidden image was asked for");
}

#[test]
fn another_mirror_is_asked_if_one_does_not_answer_and_no_password_is_shown() {
    let (upstream, mirror) = start("");
    add(&upstream, APP, "v1", &[layer(1)]);
    let dead = format!("http://user:hunter2@{}", free_address());
    let both = format!("{dead},{}", mirror.url(""));
    assert_eq!(run(command(&both, &["app:v1"])).code(), 3);
    let ended = run(command(&dead, &["app:v1"]));
    assert_eq!(ended.code(), 1);
    assert!(ended.stderr.contains("no mirror answers"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[test]
fn a_store_of_this_machine_does_not_go_with_a_mirror() {
    let ended = run(command("http://mirror", &["app", "--store", "/x"]));
    assert_eq!(ended.code(), 2, "{}", ended.stderr);
}

#[test]
fn a_pull_that_is_interrupted_leaves_the_mirror_at_it() {
    let (upstream, mirror) = start("");
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().hold(&gate));
    let directory = tempfile::tempdir().expect("a directory");
    let mut pull = Service::start("pull", directory.path(), command(&mirror.url(""), &["app:v1"]));
    gate.wait_for(1);
    pull.signal(Signal::INT);
    assert_eq!(pull.wait(SOON).code(), Some(130), "{}", pull.stderr());
    assert!(pull.stderr().contains("the mirror goes on"), "{}", pull.stderr());
    gate.open();
    wait_until("the layer", SOON, || {
        has_blob(mirror.store(), &image.layers[0]).then_some(())
    });
    assert!(mirror.ask(&blob_path(&image.layers[0])).send().body == gzip(&layer(1)));
}

#[test]
fn a_mirror_that_ends_meanwhile_is_no_success() {
    let upstream = Upstream::start();
    let options = Options::new(upstream.address()).keys(PACKED);
    let mut mirror = Mirror::start(&options.keys("drain_timeout = \"5s\""));
    let image = add(&upstream, APP, "v1", &[layer(1)]);
    let gate = Gate::new();
    upstream.script(blob(&image.layers[0]), then().hold(&gate));
    let directory = tempfile::tempdir().expect("a directory");
    let mut pull = Service::start("pull", directory.path(), command(&mirror.url(""), &["app:v1"]));
    gate.wait_for(1);
    mirror.terminate();
    assert_eq!(pull.wait(SOON).code(), Some(1), "{}", pull.stderr());
    assert!(pull.stderr().contains("ended its answer"), "{}", pull.stderr());
    gate.open();
    mirror.wait(Duration::from_secs(20));
}
