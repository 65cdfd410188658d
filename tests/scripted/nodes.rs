//! What nodes have in use, and when images were last used: written by mirrors, listed and forgotten by commands.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::curl::Answer;
use crate::support::mirror::{Mirror, Options, wharf};
use crate::support::process::wait_until;
use crate::support::sha256;
use crate::support::upstream::{OCI_INDEX, Upstream, bytes, descriptor, index};

use super::credentials::htpasswd;
use super::{APP, SOON, assert_error, manifest_path, start};

const NODE: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "ffffffffffffffffffffffffffffffff";

fn statement(sequence: u64, host_name: &str, blobs: &[&str]) -> Value {
    json!({
        "sequence": sequence, "host_name": host_name, "version": "9.9.9",
        "layers": [sha256(b"a layer")], "blobs": blobs, "added_in_a_later_version": true,
    })
}

fn state(mirror: &Mirror, id: &str, statement: &Value) -> Answer {
    let request = mirror.ask(&format!("/wharf/v1/nodes/{id}")).method("PUT");
    request.body(statement.to_string().as_bytes()).send()
}

/// Runs a command on a store; returns what it printed, or the one line of its failure.
fn run(store: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = wharf();
    command.args(arguments).arg("--store").arg(store);
    let output = command.output().expect("run wharf");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() {
        return Ok(text(output.stdout));
    }
    Err(text(output.stderr))
}

fn list(store: &Path, arguments: &[&str]) -> Value {
    let text = run(store, &[&["ls", "--json"], arguments].concat()).expect("a list");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn what_a_node_states_is_listed_until_it_is_forgotten() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    mirror.ask(&manifest_path("v1")).send();
    wait_until("the layer to be stored", SOON, || {
        crate::support::store::has_blob(mirror.store(), &image.layers[0]).then_some(())
    });
    let none = "no agent has told of a node that uses this store\n";
    assert_eq!(run(mirror.store(), &["ls", "--nodes"]).as_deref(), Ok(none));
    assert_eq!(list(mirror.store(), &["--nodes"]), json!({"nodes": []}));
    let answer = state(&mirror, NODE, &statement(7, "red", &[&image.layers[0]]));
    assert_eq!((answer.status, answer.json()), (200, json!({"sequence": 7})));
    // A late one of a slow mirror.
    let answer = state(&mirror, NODE, &statement(6, "late", &[]));
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"sequence": 7, "previous": 7}))
    );
    state(&mirror, OTHER, &statement(1, "blue\u{1b}[2J", &[]));

    let listed = list(mirror.store(), &["--nodes"]);
    let nodes = listed["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 2);
    let node = &nodes[0];
    assert_eq!((&node["id"], &node["host_name"]), (&json!(NODE), &json!("red")));
    assert_eq!(node["layers"], json!([sha256(b"a layer")]));
    assert_eq!(node["blobs"], json!([image.layers[0]]));
    assert_eq!(
        (&node["version"], &node["kept_bytes"]),
        (&json!("9.9.9"), &json!(1000))
    );
    assert!(node["stated_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    let lines = run(mirror.store(), &["ls", "--nodes"]).expect("a list");
    assert!(!lines.contains('\u{1b}'), "{lines:?}");
    let told = "red wharf 9.9.9, keeps 1 layer and 1 blob, 1000 B, stated less than a minute ago";
    assert_eq!(lines.lines().next(), Some(&*format!("{NODE} {told}")));

    let unknown = "00000000000000000000000000000000";
    let error = run(mirror.store(), &["nodes", "rm", NODE, unknown]).expect_err("an unknown node");
    assert!(
        error.contains(unknown) && error.contains("wharf ls --nodes"),
        "{error}"
    );
    assert_eq!(
        list(mirror.store(), &["--nodes"])["nodes"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    let forgot = run(mirror.store(), &["nodes", "rm", NODE]).expect("forget a node");
    assert_eq!(forgot, format!("forgot {NODE} {told}\n"));
    let listed = list(mirror.store(), &["--nodes"]);
    assert_eq!(listed["nodes"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["nodes"][0]["id"], OTHER);
    // It was not gone after all.
    assert_eq!(state(&mirror, NODE, &statement(8, "red", &[])).status, 200);
    assert_eq!(list(mirror.store(), &["--nodes"])["nodes"][0]["id"], NODE);
}

#[test]
fn an_unreadable_statement_can_be_forgotten() {
    let (_upstream, mirror) = start();
    let node = mirror.store().join("nodes").join(NODE);
    std::fs::create_dir_all(&node).expect("make a directory");
    std::fs::write(node.join("1"), "{").expect("write");
    let error = run(mirror.store(), &["ls", "--nodes"]).expect_err("nonsense");
    assert!(error.contains(NODE), "{error}");
    // Under the name that a sequence has.
    std::fs::rename(node.join("1"), node.join(format!("{:020}", 1))).expect("rename");
    let forgot = run(mirror.store(), &["nodes", "rm", NODE]).expect("forget a node");
    assert!(forgot.contains("unreadable"), "{forgot}");
    assert!(!node.exists());
}

#[test]
fn a_statement_that_makes_no_sense_is_refused() {
    let (_upstream, mirror) = start();
    assert_error(
        &state(&mirror, NODE, &json!({"sequence": "high"})),
        400,
        "UNSUPPORTED",
    );
    for id in ["..", "%2e%2e", "ABCDEF", "", &NODE[1..]] {
        let answer = state(&mirror, id, &statement(1, "red", &[]));
        assert_error(&answer, 404, "UNSUPPORTED");
    }
    let read = mirror.ask(&format!("/wharf/v1/nodes/{NODE}")).send();
    assert_error(&read, 405, "UNSUPPORTED");
    assert_eq!(list(mirror.store(), &["--nodes"]), json!({"nodes": []}));
}

#[test]
fn nodes_state_with_a_password_where_the_mirror_asks_for_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let options = Options::new(upstream.address()).keys(&htpasswd(directory.path(), &[("node", "n")]));
    let mirror = Mirror::start(&options);
    assert_error(
        &state(&mirror, NODE, &statement(1, "red", &[])),
        401,
        "UNAUTHORIZED",
    );
    let request = mirror.ask(&format!("/wharf/v1/nodes/{NODE}")).method("PUT");
    let body = statement(1, "red", &[]).to_string();
    let answer = request.basic("node", "n").body(body.as_bytes()).send();
    assert_eq!(answer.status, 200);
}

#[test]
fn an_image_is_used_when_a_client_gets_its_manifest() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    let of_index = descriptor("application/vnd.oci.image.manifest.v1+json", &image.manifest);
    let index = upstream.add_manifest(APP, OCI_INDEX, index(&[of_index]));
    upstream.tag(APP, "multi", &index);
    for reference in ["v1", "multi"] {
        assert_eq!(
            mirror.ask(&manifest_path(reference)).method("HEAD").send().status,
            200
        );
    }
    let used = |digest: &str| {
        let name = digest.replace(':', "-");
        let dir = mirror
            .store()
            .join("tags/docker.io")
            .join(APP)
            .join("_used")
            .join(name);
        std::fs::read_dir(dir).map_or(0, Iterator::count)
    };
    let listed = list(mirror.store(), &[]);
    assert_eq!(listed["images"][0].get("last_used_at"), None, "a HEAD is no use");
    // The index is used, and none of its images yet.
    for _ in 0..3 {
        mirror.ask(&manifest_path("multi")).send();
    }
    wait_until("the use to be noted", SOON, || (used(&index) == 1).then_some(()));
    assert_eq!(used(&image.digest), 0);
    for _ in 0..3 {
        mirror.ask(&manifest_path(&image.digest)).send();
    }
    wait_until("the use to be noted", SOON, || {
        (used(&image.digest) == 1).then_some(())
    });
    let listed = list(mirror.store(), &[]);
    for image in listed["images"].as_array().expect("images") {
        assert!(image["last_used_at"].is_string(), "{image}");
    }
    let lines = run(mirror.store(), &["ls"]).expect("a list");
    assert!(lines.contains(", used less than a minute ago\n"), "{lines}");
}
