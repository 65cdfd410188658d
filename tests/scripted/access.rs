//! Who may see what: what the mirror fetched with its own credentials is not open to everyone.

use std::path::Path;

use crate::support::client::Request;
use crate::support::gate::Gate;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::proxy::Proxy;
use crate::support::store::has_blob;
use crate::support::tls::Authority;
use crate::support::upstream::{
    Image, OCI_INDEX, OCI_MANIFEST, Upstream, blob, blobs, bytes, descriptor, index, then,
};

use super::credentials::htpasswd;
use super::{APP, SOON, ask_until, assert_error, blob_path, manifest_path, start};

const USERS: [(&str, &str); 2] = [("alice", "a"), ("bob", "b")];

fn as_user(request: Request, user: &str) -> Request {
    let (_, password) = USERS.iter().find(|(name, _)| *name == user).expect("a user");
    request.basic(user, password)
}

/// An upstream with the image `team/secret:v1` on private.test, and a mirror with `keys` for it.
fn start_private(directory: &Path, upstream_keys: &str, table: &str) -> (Upstream, Mirror, Image) {
    let upstream = Upstream::start();
    let image = upstream.add_image("team/secret", "v1", &[bytes(1000, 1)]);
    let options = Options::new(upstream.address())
        .keys(&htpasswd(directory, &USERS))
        .upstream("private.test", &[&upstream.url()])
        .upstream_keys(upstream_keys)
        .table(table);
    let mirror = Mirror::start(&options);
    (upstream, mirror, image)
}

#[test]
fn clients_of_an_upstream_or_a_repository_alone_get_what_is_cached_too() {
    let table = [
        ("clients = [\"user:alice\"]", ""),
        (
            "",
            "[[access]]\nrepositories = [\"private.test/team/*\"]\nclients = [\"alice\"]",
        ),
    ];
    for (keys, rule) in table {
        let directory = tempfile::tempdir().expect("a directory");
        let (upstream, mirror, image) = start_private(directory.path(), keys, rule);
        let path = |rest: &str| format!("/v2/private.test/team/secret/{rest}");
        let paths = [
            path("manifests/v1"),
            path(&format!("manifests/{}", image.digest)),
            path(&format!("blobs/{}", image.layers[0])),
            path("tags/list"),
            path(&format!("referrers/{}", image.digest)),
        ];
        // First nothing is cached, then everything.
        for _ in 0..2 {
            let asked = upstream.asked().len();
            for path in &paths {
                for method in ["GET", "HEAD"] {
                    let answer = as_user(mirror.ask(path), "bob").method(method).send();
                    assert_eq!(answer.status, 403, "{method} {path} as bob");
                }
                assert_error(&as_user(mirror.ask(path), "bob").send(), 403, "DENIED");
                assert_eq!(mirror.ask(path).send().status, 401, "{path} as nobody");
            }
            assert_eq!(
                upstream.asked().len(),
                asked,
                "upstream is not asked for those who may not"
            );
            for path in &paths {
                assert_eq!(
                    as_user(mirror.ask(path), "alice").send().status,
                    200,
                    "{path} as alice"
                );
            }
        }
        let names = |user: &str| {
            let answer = as_user(mirror.ask("/v2/_catalog"), user).send();
            answer.json()["repositories"].to_string()
        };
        assert!(names("alice").contains("team/secret"), "{}", names("alice"));
        assert!(!names("bob").contains("team/secret"), "{}", names("bob"));
    }
}

#[test]
fn a_private_blob_is_not_to_be_had_through_a_repository_that_is_open() {
    let directory = tempfile::tempdir().expect("a directory");
    let rule = "[[access]]\nrepositories = [\"private.test/team/secret\"]\nclients = [\"alice\"]";
    let (upstream, mirror, image) = start_private(directory.path(), "", rule);
    upstream.add_image("team/open", "v1", &[]);
    let layer = &image.layers[0];
    let secret = format!("/v2/private.test/team/secret/blobs/{layer}");
    assert_eq!(as_user(mirror.ask(&secret), "alice").send().status, 200);
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), layer).then_some(())
    });
    for kind in ["blobs", "manifests"] {
        let digest = if kind == "blobs" { layer } else { &image.digest };
        for method in ["GET", "HEAD"] {
            let path = format!("/v2/private.test/team/open/{kind}/{digest}");
            let answer = as_user(mirror.ask(&path), "bob").method(method).send();
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
}

#[test]
fn a_host_that_only_claims_to_have_a_blob_gives_nobody_what_another_host_sent() {
    let directory = tempfile::tempdir().expect("a directory");
    let (private, claiming) = (Upstream::start(), Upstream::start());
    let secret = bytes(100_000, 6);
    let layer = private.add_blob("team/secret", secret.clone());
    claiming.script(blob(&layer).head(), then().status(200));
    let options = Options::new(private.address())
        .keys(&htpasswd(directory.path(), &USERS))
        .upstream("claiming.test", &[&claiming.url()])
        .upstream("private.test", &[&private.url()])
        .upstream_keys("clients = [\"alice\"]");
    let mirror = Mirror::start(&options);
    let path = |host: &str, name: &str| format!("/v2/{host}/{name}/blobs/{layer}");
    let of_alice = as_user(mirror.ask(&path("private.test", "team/secret")), "alice").send();
    assert!(of_alice.body == secret, "other bytes");
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &layer).then_some(())
    });
    for name in ["team/secret", "team/open"] {
        for _ in 0..2 {
            let request = as_user(mirror.ask(&path("claiming.test", name)), "bob");
            let answer = request.method("HEAD").send();
            assert_ne!(answer.header("content-length"), Some("100000"), "{answer:?}");
        }
        let outcome = as_user(mirror.ask(&path("claiming.test", name)), "bob").try_send();
        let is_served = outcome.is_ok_and(|answer| answer.status == 200);
        assert!(!is_served, "claiming.test/{name}");
    }
}

#[test]
fn a_cached_blob_is_served_to_another_repository_only_if_upstream_has_it_there() {
    let (upstream, mirror) = start();
    let whole = bytes(100_000, 2);
    let digest = upstream.add_blob(APP, whole.clone());
    upstream.add_image("library/other", "v1", &[]);
    assert!(
        mirror.ask(&blob_path(&digest)).send().body == whole,
        "other bytes"
    );
    wait_until("the blob to be published", SOON, || {
        has_blob(mirror.store(), &digest).then_some(())
    });
    let other = format!("/v2/library/other/blobs/{digest}");
    assert_error(&mirror.ask(&other).send(), 404, "BLOB_UNKNOWN");
    assert!(
        upstream.count(&blob(&digest).of("library/other")) >= 1,
        "upstream is asked"
    );

    upstream.add_blob("library/third", whole.clone());
    let third = format!("/v2/library/third/blobs/{digest}");
    for _ in 0..2 {
        assert!(mirror.ask(&third).send().body == whole, "other bytes");
    }
    assert_eq!(upstream.count(&blob(&digest).of("library/third").head()), 1);
    assert_eq!(upstream.blob_gets(&digest), 1, "the bytes are there already");
    assert_eq!(upstream.bytes_sent(&digest), whole.len());
}

#[test]
fn a_blob_that_a_cached_manifest_of_the_repository_names_needs_no_question() {
    let (upstream, mirror) = start();
    let layer = bytes(1000, 3);
    upstream.add_image(APP, "v1", std::slice::from_ref(&layer));
    let image = upstream.add_image("library/other", "v1", std::slice::from_ref(&layer));
    for name in [APP, "library/other"] {
        assert_eq!(mirror.ask(&format!("/v2/{name}/manifests/v1")).send().status, 200);
    }
    for name in [APP, "library/other"] {
        let answer = mirror
            .ask(&format!("/v2/{name}/blobs/{}", image.layers[0]))
            .send();
        assert_eq!((answer.status, answer.body), (200, layer.clone()), "{name}");
    }
    assert_eq!(upstream.blob_gets(&image.layers[0]), 1);
    assert_eq!(upstream.count(&blob(&image.layers[0]).head()), 0);
}

#[test]
fn a_cached_manifest_is_served_to_another_repository_only_if_upstream_has_it_there() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[]);
    upstream.add_image("library/other", "v1", &[bytes(10, 4)]);
    assert_eq!(mirror.ask(&manifest_path(&image.digest)).send().status, 200);
    let other = format!("/v2/library/other/manifests/{}", image.digest);
    assert_error(&mirror.ask(&other).send(), 404, "MANIFEST_UNKNOWN");
}

#[test]
fn networks_may_be_let_in_and_kept_out() {
    for (network, status) in [
        ("127.0.0.0/8", 200),
        ("127.0.0.1", 200),
        ("10.0.0.0/8", 403),
        ("::1", 403),
    ] {
        let upstream = Upstream::start();
        upstream.add_image(APP, "v1", &[]);
        let options = Options::new(upstream.address())
            .upstream("docker.io", &[&upstream.url()])
            .upstream_keys(&format!("clients = [\"{network}\"]"));
        let mirror = Mirror::start(&options);
        assert_eq!(
            mirror.ask(&manifest_path("v1")).send().status,
            status,
            "{network}"
        );
    }
}

#[test]
fn what_clients_say_of_their_address_is_not_believed() {
    let upstream = Upstream::start();
    upstream.add_image(APP, "v1", &[]);
    let options = Options::new(upstream.address())
        .upstream("docker.io", &[&upstream.url()])
        .upstream_keys("clients = [\"10.0.0.0/8\"]");
    let mirror = Mirror::start(&options);
    for name in ["x-forwarded-for", "forwarded", "x-real-ip"] {
        let request = mirror.ask(&manifest_path("v1")).header(name, "10.0.0.1");
        assert_eq!(request.send().status, 403, "{name}");
    }
}

#[test]
fn hosts_that_are_not_configured_are_mirrored_only_as_allow_and_deny_say() {
    let upstream = Upstream::start();
    upstream.add_image(APP, "v1", &[]);
    let own = upstream.address().to_string();
    let local = format!("localhost:{}", upstream.address().port());
    let table = [
        (
            "",
            vec![own.as_str(), &local, "localhost", "169.254.169.254", "[::1]"],
        ),
        ("allow = []", vec!["ghcr.test"]),
        (
            "allow = [\"*.good.test\"]",
            vec!["ghcr.test", "good.test.evil.test"],
        ),
        ("deny = [\"*.test\"]", vec!["ghcr.test"]),
    ];
    for (keys, hosts) in table {
        let mirror = Mirror::start(&Options::new(upstream.address()).keys(keys));
        for host in hosts {
            for path in [
                format!("/v2/{APP}/manifests/v1?ns={host}"),
                format!("/v2/{host}/{APP}/manifests/v1"),
            ] {
                let answer = mirror.ask(&path).send();
                assert_error(&answer, 403, "DENIED");
            }
        }
        // A host that is configured needs no leave.
        assert_eq!(
            mirror
                .ask(&format!("/v2/example.test/{APP}/manifests/v1"))
                .send()
                .status,
            200
        );
    }
    assert!(upstream.asked().iter().all(|asked| asked.repository == APP));
}

/// Starts a registry that every host leads to which is not configured.
fn with_stranger(directory: &Path, options: Options) -> (Upstream, Options) {
    let ca = directory.join("ca.pem");
    let authority = Authority::new();
    authority.write(&ca);
    let stranger = Upstream::start_tls(authority.server());
    let proxy = Proxy::start_to(stranger.address());
    let options = options
        .variable("HTTPS_PROXY", &proxy.url())
        .variable("NO_PROXY", "127.0.0.1")
        .variable("SSL_CERT_FILE", ca.to_str().expect("text"));
    (stranger, options)
}

/// Anyone can set up a registry that says it has what he wants to see.
#[test]
fn a_host_that_is_not_configured_gives_nothing_that_it_has_not_sent_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let private = Upstream::start();
    let options = Options::new(private.address())
        .keys("negative_ttl = \"100ms\"")
        .upstream("private.test", &[&private.url()])
        .upstream_keys("username = \"u\"\npassword = \"p\"");
    let (liar, options) = with_stranger(directory.path(), options);
    let secret = private.add_image("team/secret", "v1", &[bytes(1000, 1)]);
    // It names the secret's manifest and blobs, and answers HEAD as if it had them.
    liar.add_manifest("x/y", OCI_MANIFEST, secret.manifest.clone());
    let listed = liar.add_manifest(
        "x/y",
        OCI_INDEX,
        index(&[descriptor(OCI_MANIFEST, &secret.manifest)]),
    );
    liar.tag("x/y", "v1", &listed);
    liar.tag("x/y", "direct", &secret.digest);
    liar.script(
        blob(&secret.layers[0]).head(),
        then().status(200).header("Content-Length", "1000"),
    );
    let mut mirror = Mirror::start(&options);
    let secret_blob = format!("/v2/private.test/team/secret/blobs/{}", secret.layers[0]);
    assert_eq!(mirror.ask(&secret_blob).send().body, bytes(1000, 1));
    wait_until("the secret to be cached", SOON, || {
        has_blob(mirror.store(), &secret.layers[0]).then_some(())
    });

    let path = |rest: &str| format!("/v2/registry.test/x/y/{rest}");
    assert_eq!(mirror.ask(&path("manifests/direct")).send().status, 200);
    let stolen = path(&format!("blobs/{}", secret.layers[0]));
    assert_error(&mirror.ask(&stolen).send(), 404, "BLOB_UNKNOWN");
    assert_eq!(liar.blob_gets(&secret.layers[0]), 1, "it was asked for the bytes");

    // Once it has sent them, they are its own.
    liar.add_blob("x/y", bytes(1000, 1));
    let asked = || {
        ask_until(&mirror, &stolen, "the 404 to be forgotten", |answer| {
            answer.status == 200
        })
    };
    assert_eq!(asked().body, bytes(1000, 1));
    let gets = liar.blob_gets(&secret.layers[0]);
    assert_eq!(asked().body, bytes(1000, 1));
    assert_eq!(liar.blob_gets(&secret.layers[0]), gets);

    // The index knew that, and so does the store.
    mirror.stop();
    std::fs::remove_dir_all(mirror.index()).expect("delete the index");
    mirror.start_again();
    assert_eq!(mirror.ask(&stolen).send().body, bytes(1000, 1));
    assert_eq!(liar.blob_gets(&secret.layers[0]), gets);
}

#[test]
fn nobody_waits_for_a_host_that_is_not_configured_but_who_asked_for_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let (stranger, options) = with_stranger(directory.path(), Options::new(upstream.address()));
    let whole = bytes(300_000, 7);
    let digest = upstream.add_blob(APP, whole.clone());
    stranger.add_blob("x/y", whole.clone());
    let gate = Gate::new();
    stranger.script(blob(&digest).get(), then().corrupt(10).pause(100, &gate));
    let mirror = Mirror::start(&options);
    let mut victim = mirror
        .ask(&format!("/v2/registry.test/x/y/blobs/{digest}"))
        .open();
    victim.read(50);
    for range in ["0-", "5-20", "0-"] {
        let answer = mirror.ask(&blob_path(&digest)).range(range).send();
        let end = if range == "0-" { whole.len() } else { 21 };
        let start = if range == "0-" { 0 } else { 5 };
        assert!(answer.body == whole[start..end], "other bytes for {range}");
    }
    assert_eq!(upstream.blob_gets(&digest), 1);
    gate.open();
    assert!(victim.end().is_err(), "its bytes were wrong");
}

#[test]
fn images_of_a_host_that_is_not_configured_hold_up_no_others_in_the_background() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    let options = Options::new(upstream.address()).keys("background_fills = 1");
    let (stranger, options) = with_stranger(directory.path(), options);
    stranger.add_image("x/y", "v1", &[bytes(1000, 2)]);
    let gate = Gate::new();
    stranger.script(blobs(), then().hold(&gate));
    let mirror = Mirror::start(&options);
    let slow = mirror.ask("/v2/registry.test/x/y/manifests/v1").send();
    assert_eq!(slow.status, 200);
    gate.wait_for(1);
    assert_eq!(mirror.ask(&manifest_path("v1")).send().status, 200);
    wait_until("the layer to be published", SOON, || {
        has_blob(mirror.store(), &image.layers[0]).then_some(())
    });
    gate.open();
}
