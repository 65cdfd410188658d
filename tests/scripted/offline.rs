//! `offline`: upstream is never asked.

use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::store::has_blob;
use crate::support::upstream::{Upstream, bytes};

use super::sick_store::make_sick;
use super::{APP, SOON, assert_unavailable, blob_path, manifest_path};

#[test]
fn an_offline_mirror_serves_what_the_store_holds_and_asks_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    let absent = upstream.add_blob(APP, bytes(1000, 2));
    let mut options = Options::new(upstream.address());
    options.store = Some(directory.path().join("store"));
    options.tag_ttl = "0s";
    let mut online = Mirror::start(&options);
    online.ask(&manifest_path("v1")).send();
    wait_until("the layer to be filled", SOON, || {
        has_blob(online.store(), &image.layers[0]).then_some(())
    });
    online.stop();

    let asked = upstream.asked().len();
    let offline = Mirror::start(&options.keys("offline = true"));
    for reference in ["v1", &image.digest] {
        let answer = offline.ask(&manifest_path(reference)).send();
        assert_eq!(
            (answer.status, answer.body),
            (200, image.manifest.clone()),
            "{reference}"
        );
    }
    assert_eq!(
        offline.ask(&blob_path(&image.layers[0])).send().body,
        bytes(1000, 1)
    );
    let tags = offline.ask("/v2/library/app/tags/list").send();
    assert_eq!((tags.status, tags.json()["tags"][0].as_str()), (200, Some("v1")));
    for path in [
        manifest_path("v2"),
        blob_path(&absent),
        "/v2/library/none/tags/list".to_owned(),
    ] {
        let answer = offline.ask(&path).send();
        assert!(matches!(answer.status, 404 | 503), "{path}: {}", answer.status);
        assert!(!answer.error_code().is_empty());
    }
    assert_eq!(offline.ask(&blob_path(&absent)).method("HEAD").send().status, 404);
    assert_eq!(upstream.asked().len(), asked);
}

#[test]
fn what_a_failing_store_may_hold_is_not_called_missing() {
    let upstream = Upstream::start();
    let digest = upstream.add_blob(APP, bytes(1000, 1));
    let offline = Mirror::start(&Options::new(upstream.address()).keys("offline = true"));
    assert_eq!(offline.ask(&manifest_path("v1")).send().status, 404);
    make_sick(&offline, &digest);
    let tags = offline.store().join("tags/docker.io/library/app/_tags");
    std::fs::create_dir_all(&tags).expect("make a directory");
    std::os::unix::fs::symlink("v1", tags.join("v1")).expect("link a name to itself");
    for path in [manifest_path("v1"), manifest_path(&digest), blob_path(&digest)] {
        assert_unavailable(&offline.ask(&path).send());
    }
    assert_eq!(offline.ask(&blob_path(&digest)).method("HEAD").send().status, 503);
}
