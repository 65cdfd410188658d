//! TLS for clients, with a certificate that may change.

use std::path::Path;

use crate::support::client::Request;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::tls::Authority;
use crate::support::upstream::{Upstream, bytes};

use super::{APP, SOON, blob_path, manifest_path};

fn write_identity(authority: &Authority, directory: &Path) {
    // As a renewal does it: the new files take the places of the old ones.
    let path = |name: &str| directory.join(name);
    authority.identity().write(&path("new.pem"), &path("new.key"));
    for (new, name) in [("new.key", "mirror.key"), ("new.pem", "mirror.pem")] {
        std::fs::rename(path(new), path(name)).expect("replace a file");
    }
}

fn start(authority: &Authority, directory: &Path) -> (Upstream, Mirror) {
    write_identity(authority, directory);
    let (certificate, key) = (directory.join("mirror.pem"), directory.join("mirror.key"));
    let upstream = Upstream::start();
    let options = Options::new(upstream.address())
        .table(&format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}"))
        .trust(authority.client());
    let mirror = Mirror::start(&options);
    (upstream, mirror)
}

#[test]
fn clients_pull_over_tls() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let (upstream, mirror) = start(&authority, directory.path());
    let image = upstream.add_image(APP, "v1", &[bytes(300_000, 1)]);
    assert_eq!(mirror.ask(&manifest_path("v1")).send().body, image.manifest);
    for _ in 0..2 {
        assert!(
            mirror.ask(&blob_path(&image.layers[0])).send().body == bytes(300_000, 1),
            "other bytes"
        );
    }
    let part = mirror.ask(&blob_path(&image.layers[0])).range("10-19").send();
    assert_eq!(part.body, bytes(300_000, 1)[10..20]);
    assert!(
        Request::get(mirror.address(), "/v2/")
            .try_send()
            .map_or(true, |answer| answer.status >= 400)
    );
}

#[test]
fn a_certificate_that_changes_is_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let (_upstream, mirror) = start(&old, directory.path());
    let is_trusted_by = |authority: &Authority| {
        let request = Request::get(mirror.address(), "/v2/").tls(&authority.client());
        request.try_send().is_ok_and(|answer| answer.status == 200)
    };
    assert!(is_trusted_by(&old) && !is_trusted_by(&new));
    write_identity(&new, directory.path());
    wait_until("the new certificate to be shown", SOON, || {
        is_trusted_by(&new).then_some(())
    });
    assert!(!is_trusted_by(&old));
}

#[test]
fn a_certificate_that_cannot_be_read_leaves_the_old_one_in_place() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let (_upstream, mirror) = start(&old, directory.path());
    std::fs::write(directory.path().join("mirror.pem"), "no certificate").expect("write a file");
    wait_until("the mirror to say so", SOON, || {
        mirror.log().contains("certificate").then_some(())
    });
    assert_eq!(mirror.ask("/v2/").send().status, 200);
    write_identity(&new, directory.path());
    wait_until("the new certificate to be shown", SOON, || {
        let request = Request::get(mirror.address(), "/v2/").tls(&new.client());
        request.try_send().ok()
    });
}
