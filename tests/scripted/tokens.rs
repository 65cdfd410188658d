//! Logging in to an upstream: the whole Bearer flow, Basic, and credentials from every source.

use std::time::Duration;

use crate::support::client::basic;
use crate::support::mirror::{Mirror, Options};
use crate::support::process::wait_until;
use crate::support::upstream::{Auth, Image, Upstream, anything, bytes, then, token};

use super::{APP, SOON, at_once, blob_path, manifest_path};

const LONG: Duration = Duration::from_secs(3600);
const ALICE: Auth = Auth::Token {
    user: "alice",
    password: "secret-of-alice",
    lifetime: LONG,
};
const USERNAME: &str = "username = \"alice\"\n";

fn start(auth: Auth, keys: &str) -> (Upstream, Mirror, Image) {
    let upstream = Upstream::start();
    let layers: Vec<Vec<u8>> = (0..4).map(|seed| bytes(10_000, seed)).collect();
    let image = upstream.add_image(APP, "v1", &layers);
    upstream.demand(auth);
    let options = Options::new(upstream.address()).upstream("docker.io", &[&upstream.url()]);
    let mirror = Mirror::start(&options.upstream_keys(keys));
    (upstream, mirror, image)
}

fn assert_serves_everything(mirror: &Mirror, image: &Image) {
    assert_eq!(mirror.ask(&manifest_path("v1")).send().body, image.manifest);
    for (seed, layer) in image.layers.iter().enumerate() {
        assert_eq!(
            mirror.ask(&blob_path(layer)).send().body,
            bytes(10_000, seed as u64)
        );
    }
}

/// Every user that the upstream was told of, where a token was asked for and elsewhere.
fn users(upstream: &Upstream) -> (Vec<Option<String>>, Vec<String>) {
    let authorization =
        |asked: &crate::support::upstream::Asked| asked.header("authorization").map(str::to_owned);
    let tokens = upstream.asked_for(&token()).iter().map(authorization).collect();
    let all = upstream.asked_for(&anything().of(APP));
    let elsewhere = all
        .iter()
        .filter_map(authorization)
        .filter(|sent| sent.starts_with("Basic"))
        .collect();
    (tokens, elsewhere)
}

#[test]
fn a_token_is_asked_for_once_and_serves_a_whole_image() {
    let (upstream, mirror, image) = start(Auth::AnonymousToken { lifetime: LONG }, "");
    assert_serves_everything(&mirror, &image);
    let asked = upstream.asked_for(&token());
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].reference, "repository:library/app:pull");
    assert!(
        asked[0].target.contains("service=scripted"),
        "{}",
        asked[0].target
    );
    assert_eq!(mirror.metric("wharf_upstream_requests_total", "token"), 1.0);
}

#[test]
fn clients_that_come_at_once_share_a_token() {
    let (upstream, mirror, image) = start(Auth::AnonymousToken { lifetime: LONG }, "");
    at_once(image.layers.len(), |client| {
        let answer = mirror.ask(&blob_path(&image.layers[client])).send();
        assert_eq!(answer.body, bytes(10_000, client as u64));
    });
    assert_eq!(upstream.count(&token()), 1);
}

#[test]
fn another_repository_needs_another_token() {
    let (upstream, mirror, image) = start(Auth::AnonymousToken { lifetime: LONG }, "");
    upstream.add_image("library/other", "v1", &[]);
    assert_serves_everything(&mirror, &image);
    assert_eq!(mirror.ask("/v2/library/other/manifests/v1").send().status, 200);
    let scopes: Vec<String> = upstream
        .asked_for(&token())
        .into_iter()
        .map(|asked| asked.reference)
        .collect();
    assert_eq!(
        scopes,
        ["repository:library/app:pull", "repository:library/other:pull"]
    );
}

#[test]
fn a_token_that_was_revoked_is_replaced() {
    let (upstream, mirror, image) = start(Auth::AnonymousToken { lifetime: LONG }, "");
    assert_eq!(mirror.ask(&blob_path(&image.layers[0])).send().status, 200);
    upstream.revoke_tokens();
    assert_eq!(mirror.ask(&blob_path(&image.layers[1])).send().status, 200);
    assert_eq!(upstream.count(&token()), 2);
}

#[test]
fn a_token_that_has_expired_is_replaced() {
    let lifetime = Duration::from_secs(1);
    let (upstream, mirror, image) = start(Auth::AnonymousToken { lifetime }, "");
    wait_until("the token to expire", SOON, || {
        assert_eq!(mirror.ask(&manifest_path("absent")).send().status, 404);
        assert_eq!(mirror.ask(&format!("/v2/{APP}/tags/list")).send().status, 200);
        (upstream.count(&token()) > 1).then_some(())
    });
    assert_serves_everything(&mirror, &image);
}

#[test]
fn credentials_of_every_source_get_a_token_and_go_nowhere_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("password"), "secret-of-alice\n").expect("write a password");
    let encoded = basic("alice", "secret-of-alice").replace("Basic ", "");
    let docker = |host: &str| format!(r#"{{"auths": {{"{host}": {{"auth": "{encoded}"}}}}}}"#);
    std::fs::write(path("config.json"), docker("https://index.docker.io/v1/")).expect("write a config.json");
    let table = [
        format!("{USERNAME}password = \"secret-of-alice\""),
        format!("{USERNAME}password_file = {:?}", path("password")),
        format!("docker_config = {:?}", path("config.json")),
    ];
    for keys in table {
        let (upstream, mirror, image) = start(ALICE, &keys);
        assert_serves_everything(&mirror, &image);
        let alice = Some(basic("alice", "secret-of-alice"));
        assert_eq!(users(&upstream), (vec![alice], Vec::new()), "{keys}");
    }
}

#[test]
fn a_credential_helper_of_dockers_configuration_is_asked() {
    let directory = tempfile::tempdir().expect("a directory");
    let helper = directory.path().join("docker-credential-scripted");
    let script = r#"#!/bin/sh
read host
[ "$1" = get ] || exit 1
printf '{"ServerURL": "%s", "Username": "alice", "Secret": "secret-of-alice"}\n' "$host"
"#;
    std::fs::write(&helper, script).expect("write a helper");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&helper, mode).expect("make it a program");
    let config = r#"{"credsStore": "scripted"}"#;
    std::fs::write(directory.path().join("config.json"), config).expect("write a config.json");

    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[]);
    upstream.demand(ALICE);
    let path = std::env::var("PATH").expect("a PATH");
    let directory = directory.path().to_str().expect("text");
    let options = Options::new(upstream.address())
        .upstream("docker.io", &[&upstream.url()])
        .upstream_keys("docker_config = true")
        .variable("DOCKER_CONFIG", directory)
        .variable("PATH", &format!("{directory}:{path}"));
    let mirror = Mirror::start(&options);
    assert_serves_everything(&mirror, &image);
    assert_eq!(users(&upstream).0, [Some(basic("alice", "secret-of-alice"))]);
}

#[test]
fn a_docker_config_of_other_hosts_is_not_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    let encoded = basic("alice", "secret-of-alice").replace("Basic ", "");
    let config = format!(r#"{{"auths": {{"elsewhere.test": {{"auth": "{encoded}"}}}}}}"#);
    std::fs::write(&path, config).expect("write a config.json");
    let auth = Auth::AnonymousToken { lifetime: LONG };
    let (upstream, mirror, image) = start(auth, &format!("docker_config = {path:?}"));
    assert_serves_everything(&mirror, &image);
    assert_eq!(users(&upstream), (vec![None], Vec::new()));
}

#[test]
fn wrong_credentials_are_not_tried_again_and_again() {
    let (upstream, mirror, image) = start(ALICE, &format!("{USERNAME}password = \"wrong\""));
    for path in [manifest_path("v1"), blob_path(&image.layers[0])] {
        let answer = mirror.ask(&path).send();
        assert!(matches!(answer.status, 404 | 503), "{path}: {}", answer.status);
    }
    assert!(upstream.count(&token()) <= 4, "{}", upstream.count(&token()));
    assert!(!mirror.log().contains("wrong\""), "{}", mirror.log());
}

#[test]
fn basic_credentials_are_sent_to_an_upstream_that_demands_them() {
    let keys = format!("{USERNAME}password = \"secret-of-alice\"");
    let (_upstream, mirror, image) = start(Auth::Basic("alice", "secret-of-alice"), &keys);
    assert_serves_everything(&mirror, &image);
}

#[test]
fn a_token_endpoint_that_fails_is_an_upstream_that_fails() {
    let (upstream, mirror, image) = start(Auth::AnonymousToken { lifetime: LONG }, "");
    upstream.script(token(), then().status(500));
    super::assert_unavailable(&mirror.ask(&blob_path(&image.layers[0])).send());
    upstream.clear_script();
    super::ask_until(&mirror, &blob_path(&image.layers[0]), "the blob", |answer| {
        answer.status == 200
    });
}
