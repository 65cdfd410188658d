//! `wharf serve` without a file: by flags, by variables.

use std::path::Path;
use std::process::Command;

use crate::support::client::Request;
use crate::support::mirror::{wait_ready, wharf};
use crate::support::process::{Service, free_address, run};
use crate::support::upstream::{Upstream, manifests};

use super::{APP, manifest_path};

/// Sets every everyday key.
type Set = fn(&mut Command, &str, &str);

#[test]
fn the_everyday_keys_are_flags_and_variables() {
    let table: [(&str, Set); 2] = [
        ("flags", |command, key, value| {
            command.arg(format!("--{key}")).arg(value);
        }),
        ("variables", |command, key, value| {
            command.env(format!("WHARF_{}", key.to_uppercase().replace('-', "_")), value);
        }),
    ];
    for (what, set) in table {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
        let upstream = Upstream::start();
        let image = upstream.add_image(APP, "v1", &[]);
        let address = free_address();
        let mut command = wharf();
        command.arg("serve").current_dir(directory.path());
        set(&mut command, "listen", &address.to_string());
        set(&mut command, "store", &path("a-store"));
        set(&mut command, "index", &path("an-index"));
        set(&mut command, "upstream", &upstream.url());
        set(&mut command, "tag-ttl", "0s");
        let mut service = Service::start("wharf", directory.path(), command);
        wait_ready(&mut service, address);
        for _ in 0..2 {
            assert_eq!(
                Request::get(address, &manifest_path("v1")).send().body,
                image.manifest,
                "{what}"
            );
        }
        assert!(upstream.count(&manifests()) >= 2, "{what}: tag-ttl");
        assert!(Path::new(&path("a-store/wharf.json")).exists(), "{what}: store");
        assert!(Path::new(&path("an-index")).exists(), "{what}: index");
    }
}

#[test]
fn a_run_of_the_agent_that_cannot_read_the_store_says_so_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = wharf();
    command
        .args(["agent", "--once", "--podman"])
        .arg(directory.path().join("node"));
    command.arg("--store").arg(directory.path());
    let ended = run(command);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert_eq!(ended.stderr.matches("wharf.json").count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("--store DIR"), "{ended:?}");
}
