//! Secrets: those of clients go no further than the mirror, and none is written anywhere.

use std::path::Path;
use std::time::Duration;

use crate::support::client::basic;
use crate::support::mirror::{Mirror, Options};
use crate::support::upstream::{Auth, Upstream, bytes};

use super::{APP, assert_error, blob_path, manifest_path};

/// bcrypt's cheapest cost: the tests measure nothing.
const COST: u32 = 4;

/// Writes an htpasswd file, and returns the key for it.
pub(super) fn htpasswd(directory: &Path, users: &[(&str, &str)]) -> String {
    let hash = |password: &str| bcrypt::hash(password, COST).expect("a hash");
    let lines: Vec<String> = users
        .iter()
        .map(|(user, password)| format!("{user}:{}\n", hash(password)))
        .collect();
    let path = directory.join("htpasswd");
    std::fs::write(&path, lines.concat()).expect("write an htpasswd file");
    format!("htpasswd = {path:?}")
}

#[test]
fn credentials_of_clients_never_reach_upstream_and_are_ignored() {
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
    let mirror = Mirror::start(&Options::new(upstream.address()));
    let paths = [
        "/v2/".to_owned(),
        manifest_path("v1"),
        blob_path(&image.layers[0]),
        format!("/v2/{APP}/tags/list"),
        format!("/v2/{APP}/referrers/{}", image.digest),
    ];
    for path in &paths {
        for sent in [basic("bob", "secret-of-bob"), "Bearer secret-of-bob".to_owned()] {
            let request = mirror
                .ask(path)
                .header("authorization", &sent)
                .header("cookie", "secret-of-bob");
            assert_eq!(request.send().status, 200, "{path}");
        }
    }
    for asked in upstream.asked() {
        assert_eq!(asked.header("authorization"), None, "{asked:?}");
        assert_eq!(asked.header("cookie"), None, "{asked:?}");
    }
}

#[test]
fn with_htpasswd_only_its_users_are_let_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    upstream.add_image(APP, "v1", &[]);
    let users = [("alice", "secret-of-alice"), ("bob", "secret-of-bob")];
    let options = Options::new(upstream.address()).keys(&htpasswd(directory.path(), &users));
    let mirror = Mirror::start(&options);
    for path in ["/v2/".to_owned(), manifest_path("v1")] {
        let stranger = mirror.ask(&path).send();
        assert_error(&stranger, 401, "UNAUTHORIZED");
        let challenge = stranger.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Basic realm=\""), "{challenge}");
        for (user, password, status) in [
            ("alice", "secret-of-alice", 200),
            ("bob", "secret-of-bob", 200),
            ("alice", "secret-of-bob", 401),
            ("alice", "", 401),
            ("mallory", "secret-of-alice", 401),
        ] {
            let answer = mirror.ask(&path).basic(user, password).send();
            assert_eq!(answer.status, status, "{path} as {user}:{password}");
        }
        for sent in ["Basic", "Basic ?", "Basic YWxpY2U=", "Bearer x", ""] {
            let answer = mirror.ask(&path).header("authorization", sent).send();
            assert_eq!(answer.status, 401, "{path} with {sent:?}");
        }
    }
    for asked in upstream.asked() {
        assert_eq!(asked.header("authorization"), None, "{asked:?}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            mirror.ask(path).send().status,
            200,
            "{path} is for those who have no password"
        );
    }
}

#[test]
fn no_secret_is_in_the_logs_the_metrics_or_the_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[bytes(1000, 2)]);
    upstream.redirect_blobs();
    upstream.demand(Auth::Token {
        user: "wharf",
        password: "secret-of-wharf",
        lifetime: Duration::from_secs(3600),
    });
    let options = Options::new(upstream.address())
        .keys(&htpasswd(directory.path(), &[("alice", "secret-of-alice")]))
        .upstream("docker.io", &[&upstream.url()])
        .upstream_keys("username = \"wharf\"\npassword = \"secret-of-wharf\"")
        .table("[log]\nlevel = \"info,wharf=trace\"");
    let mut mirror = Mirror::start(&options);
    for path in [
        manifest_path("v1"),
        blob_path(&image.layers[0]),
        blob_path(&image.layers[0]),
    ] {
        assert_eq!(
            mirror.ask(&path).basic("alice", "secret-of-alice").send().status,
            200,
            "{path}"
        );
        assert_eq!(
            mirror.ask(&path).basic("alice", "secret-mistyped").send().status,
            401,
            "{path}"
        );
    }
    let metrics = mirror.ask("/metrics").basic("alice", "secret-of-alice").send();
    mirror.stop();
    let log = mirror.log();
    assert!(log.contains(&image.layers[0]), "the log tells of requests: {log}");
    for (what, text) in [
        ("log", log),
        ("metrics", String::from_utf8_lossy(&metrics.body).into_owned()),
    ] {
        for secret in ["secret", "wharf:", &basic("alice", "secret-of-alice")[6..]] {
            assert!(
                !text.contains(secret) || secret == "wharf:",
                "{secret} in the {what}:\n{text}"
            );
        }
    }
}
