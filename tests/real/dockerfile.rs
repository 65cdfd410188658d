//! The Dockerfile, built by docker and run with no privilege at all.
//!
//! Its base images cannot be pulled where the tests run. Stand-ins take their names: this machine's
//! C library, busybox, and a `cargo` that puts the binary under test where the real one would.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::clients::Docker;
use crate::support::curl::{Curl, MANIFEST_TYPES};
use crate::support::mirror::{WHARF, wait_ready};
use crate::support::process::{free_address, shell};
use crate::support::registry::Registry;
use crate::support::sha256;

/// Returns the images that the Dockerfile is built from.
fn base_images() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    let froms = text.lines().filter_map(|line| line.strip_prefix("FROM "));
    froms
        .filter_map(|from| from.split(' ').next().map(str::to_owned))
        .collect()
}

/// Imports the stand-in under the names of the base images.
fn import_stand_ins(docker: &Docker) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().display();
    shell(&format!(
        "cd {root}; mkdir -p root/bin root/usr/local/bin root/tmp; \
         cp -L \"$(command -v busybox)\" root/bin/busybox; \
         for name in sh mkdir cp; do ln -s busybox root/bin/$name; done; \
         cp {WHARF} root/built; \
         for library in $(ldd {WHARF} | grep -o '/[^ ]*'); do cp -L --parents \"$library\" root; done; \
         printf '#!/bin/sh\\nmkdir -p target/release && cp /built target/release/wharf\\n' \
           > root/usr/local/bin/cargo; \
         chmod 755 root/usr/local/bin/cargo; tar -C root -cf root.tar ."
    ));
    for name in base_images() {
        docker.import(&directory.path().join("root.tar"), &name);
    }
}

#[test]
fn the_image_serves_blobs_as_a_user_without_privileges() {
    let registry = Registry::filled();
    let docker = Docker::start(registry.address());
    import_stand_ins(&docker);
    docker.build("wharf", Path::new(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(docker.image_user("wharf"), "65532:65532");

    let address = free_address();
    let variables = [
        format!("WHARF_LISTEN={address}"),
        format!("WHARF_UPSTREAM=http://{}", registry.address()),
    ];
    let mut container = docker.start_on_host_network("wharf", &variables);
    wait_ready(&mut container, address);

    let get = |path: &str| {
        Curl::new(&format!("http://{address}/v2/{path}"))
            .accept(MANIFEST_TYPES)
            .send()
    };
    assert_eq!(get("library/layers/manifests/latest").status, 200);
    for blob in registry.blobs("library/layers", "latest") {
        assert_eq!(sha256(&get(&format!("library/layers/blobs/{blob}")).body), blob);
    }
    registry.assert_fetched_once(&registry.blobs("library/layers", "latest"));
    // docker passes the signal on to the container.
    container.signal(rustix::process::Signal::TERM);
    assert_eq!(container.wait(Duration::from_secs(20)).code(), Some(0));
}
