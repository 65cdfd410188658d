//! The ways to name a repository: `?ns=`, a path prefix, or neither.

use crate::support::mirror::{Mirror, Options};
use crate::support::sha256;
use crate::support::upstream::Upstream;

use super::{assert_error, start};

#[test]
fn a_repository_is_named_by_ns_by_a_prefix_or_by_default() {
    let (hub, other) = (Upstream::start(), Upstream::start());
    let app = hub.add_image("library/app", "v1", &[]);
    let team = hub.add_image("team/app", "v1", &[]);
    let elsewhere = other.add_image("app", "v1", &[]);
    let options = Options::new(hub.address()).upstream("other.test:5000", &[&other.url()]);
    let mirror = Mirror::start(&options);
    let table = [
        ("/v2/app/manifests/v1", &app, None),
        ("/v2/library/app/manifests/v1", &app, None),
        ("/v2/app/manifests/v1?ns=docker.io", &app, Some("docker.io")),
        (
            "/v2/library/app/manifests/v1?ns=docker.io",
            &app,
            Some("docker.io"),
        ),
        ("/v2/library/app/manifests/v1?ns=registry-1.docker.io", &app, None),
        ("/v2/docker.io/app/manifests/v1", &app, None),
        ("/v2/docker.io/library/app/manifests/v1", &app, None),
        ("/v2/index.docker.io/library/app/manifests/v1", &app, None),
        ("/v2/team/app/manifests/v1", &team, None),
        (
            "/v2/app/manifests/v1?ns=other.test:5000",
            &elsewhere,
            Some("other.test:5000"),
        ),
        (
            "/v2/app/manifests/v1?ns=other.test%3A5000",
            &elsewhere,
            Some("other.test:5000"),
        ),
        ("/v2/other.test:5000/app/manifests/v1", &elsewhere, None),
    ];
    for (path, image, namespace) in table {
        let answer = mirror.ask(path).send();
        assert_eq!((answer.status, &answer.body), (200, &image.manifest), "{path}");
        if namespace.is_some() {
            assert_eq!(answer.header("oci-namespace"), namespace, "{path}");
        }
    }
    assert!(hub.asked().iter().all(|asked| asked.repository.contains('/')));
    assert!(other.asked().iter().all(|asked| asked.repository == "app"));
}

#[test]
fn what_is_no_name_is_an_error_of_the_specification() {
    let (upstream, mirror) = start();
    let digest = sha256(b"x");
    let table = [
        ("/v2/UPPER/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a..b/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/_tags/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/%2e%2e/b/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        (
            format!("/v2/{}/manifests/v1", "a/".repeat(200) + "a"),
            400,
            "NAME_INVALID",
        ),
        (
            "/v2/app/manifests/v1?ns=not a host".replace(' ', "%20"),
            400,
            "NAME_INVALID",
        ),
        ("/v2/app/manifests/v1?ns=..".to_owned(), 400, "NAME_INVALID"),
        ("/v2/app/blobs/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
        (
            "/v2/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            format!("/v2/app/blobs/{}", digest.to_uppercase()),
            400,
            "DIGEST_INVALID",
        ),
        ("/v2/app/blobs/v1".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/app/referrers/v1".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/app/manifests/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
    ];
    for (path, status, code) in table {
        println!("{path}");
        assert_error(&mirror.ask(&path).send(), status, code);
    }
    for tag in ["-v1", ".v1", "v%201", &"v".repeat(129)] {
        let answer = mirror.ask(&format!("/v2/app/manifests/{tag}")).send();
        assert!(matches!(answer.status, 400 | 404), "{tag}: {}", answer.status);
        assert!(!answer.error_code().is_empty(), "{tag}");
    }
    assert_eq!(
        upstream.asked().len(),
        0,
        "upstream is not asked for what cannot be"
    );
}
