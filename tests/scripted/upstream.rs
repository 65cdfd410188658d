//! The scripted upstream itself: what the other tests take for granted of it.

use std::time::Duration;

use crate::support::client::{Request, basic};
use crate::support::gate::Gate;
use crate::support::sha256;
use crate::support::tls::Authority;
use crate::support::upstream::{Auth, Dead, Upstream, blob, bytes, cdn, tags, then, token};

use super::{APP, blob_path, manifest_path};

fn ask(upstream: &Upstream, path: &str) -> Request {
    Request::get(upstream.address(), path)
}

#[test]
fn it_serves_what_it_has_and_counts_requests_and_bytes() {
    let upstream = Upstream::start();
    let image = upstream.add_image(APP, "v1", &[bytes(100_000, 1)]);
    let answer = ask(&upstream, &manifest_path("v1")).send();
    assert_eq!(sha256(&answer.body), image.digest);
    let layer = &image.layers[0];
    let part = ask(&upstream, &blob_path(layer)).range("90000-").send();
    assert_eq!(
        (part.status, part.body),
        (206, bytes(100_000, 1)[90_000..].to_vec())
    );
    assert_eq!(
        ask(&upstream, &blob_path(layer)).method("HEAD").send().status,
        200
    );
    assert_eq!(
        ask(&upstream, "/v2/library/none/manifests/v1")
            .send()
            .error_code(),
        "NAME_UNKNOWN"
    );
    assert_eq!(
        ask(&upstream, "/v2/library/app/tags/list").send().json()["tags"][0],
        "v1"
    );
    assert_eq!(upstream.blob_gets(layer), 1);
    assert_eq!(upstream.count(&blob(layer)), 2);
    assert_eq!(upstream.count(&tags().of(APP)), 1);
    assert_eq!(upstream.bytes_sent(layer), 10_000);
}

#[test]
fn the_script_adds_up_and_ends() {
    let upstream = Upstream::start();
    let whole = bytes(50_000, 2);
    let digest = upstream.add_blob(APP, whole.clone());
    upstream.script(blob(&digest), then().corrupt(7).times(2));
    upstream.script(blob(&digest), then().truncate(1000).once());
    let cut = ask(&upstream, &blob_path(&digest))
        .try_send()
        .expect_err("a cut body");
    let received = cut.answer.expect("a head").body;
    assert_eq!((received.len(), received[7]), (1000, whole[7] ^ 0xff));
    assert_ne!(ask(&upstream, &blob_path(&digest)).send().body, whole);
    assert_eq!(ask(&upstream, &blob_path(&digest)).send().body, whole);
    upstream.script(blob(&digest), then().without_length());
    let chunked = ask(&upstream, &blob_path(&digest)).send();
    assert_eq!(
        (chunked.header("content-length"), chunked.body == whole),
        (None, true)
    );
    upstream.script(blob(&digest), then().status(429).header("retry-after", "7"));
    let limited = ask(&upstream, &blob_path(&digest)).send();
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("7")));
}

#[test]
fn a_gate_holds_a_body_where_it_is_told() {
    let upstream = Upstream::start();
    let whole = bytes(100_000, 3);
    let digest = upstream.add_blob(APP, whole.clone());
    let gate = Gate::new();
    upstream.script(blob(&digest), then().pause(40_000, &gate));
    let mut response = ask(&upstream, &blob_path(&digest)).open();
    assert_eq!(response.read(40_000), whole[..40_000]);
    gate.wait_for(1);
    assert_eq!(upstream.bytes_sent(&digest), 40_000);
    gate.open();
    assert_eq!(response.end().expect("the rest").body, whole[40_000..]);
}

#[test]
fn tokens_open_the_repository_that_they_were_given_for() {
    let upstream = Upstream::start();
    upstream.add_image(APP, "v1", &[]);
    upstream.demand(Auth::Token {
        user: "alice",
        password: "secret",
        lifetime: Duration::from_secs(300),
    });
    let refused = ask(&upstream, &manifest_path("v1")).send();
    let challenge = refused
        .header("www-authenticate")
        .expect("a challenge")
        .to_owned();
    assert_eq!(refused.status, 401);
    assert!(
        challenge.contains("scope=\"repository:library/app:pull\""),
        "{challenge}"
    );
    let path = "/token?service=scripted&scope=repository:library/app:pull";
    assert_eq!(ask(&upstream, path).send().status, 401);
    let given = ask(&upstream, path)
        .header("authorization", &basic("alice", "secret"))
        .send();
    let bearer = format!("Bearer {}", given.json()["token"].as_str().expect("a token"));
    let with_token = |path: &str| {
        ask(&upstream, path)
            .header("authorization", &bearer)
            .send()
            .status
    };
    assert_eq!(with_token(&manifest_path("v1")), 200);
    assert_eq!(with_token("/v2/library/other/manifests/v1"), 401);
    upstream.revoke_tokens();
    assert_eq!(with_token(&manifest_path("v1")), 401);
    assert_eq!(upstream.count(&token()), 2);
}

#[test]
fn redirected_blobs_come_from_the_cdn_which_takes_no_credentials_and_forgets() {
    let upstream = Upstream::start();
    let digest = upstream.add_blob(APP, bytes(1000, 4));
    upstream.redirect_blobs();
    let redirect = ask(&upstream, &blob_path(&digest)).send();
    let location = redirect.header("location").expect("a location");
    let (address, path) = location
        .trim_start_matches("http://")
        .split_once('/')
        .expect("a path");
    let request = Request::get(address.parse().expect("an address"), &format!("/{path}"));
    assert_eq!(request.clone().send().body, bytes(1000, 4));
    assert_eq!(
        request.clone().header("authorization", "Basic x").send().status,
        400
    );
    upstream.expire_urls();
    assert_eq!(request.send().status, 403);
    assert_eq!(upstream.count(&cdn(&digest)), 3);
}

#[test]
fn it_speaks_tls_and_can_demand_a_certificate() {
    let authority = Authority::new();
    let upstream = Upstream::start_tls(authority.server());
    assert_eq!(ask(&upstream, "/v2/").tls(&authority.client()).send().status, 200);
    let stranger = Authority::new().client();
    assert!(ask(&upstream, "/v2/").tls(&stranger).try_send().is_err());
    let upstream = Upstream::start_tls(authority.server_for_certified_clients());
    assert!(
        ask(&upstream, "/v2/")
            .tls(&authority.client())
            .try_send()
            .is_err()
    );
    assert_eq!(upstream.asked().len(), 0);
}

#[test]
fn a_dead_host_is_dead() {
    let patience = Duration::from_millis(100);
    let dead = Dead::unreachable();
    let error = std::net::TcpStream::connect_timeout(&dead.address(), patience).expect_err("no connection");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let silent = Dead::silent();
    assert!(std::net::TcpStream::connect_timeout(&silent.address(), patience).is_ok());
}

#[test]
fn it_goes_down_and_comes_back() {
    let upstream = Upstream::start();
    upstream.go_down();
    assert!(ask(&upstream, "/v2/").try_send().is_err());
    upstream.come_back();
    assert_eq!(ask(&upstream, "/v2/").send().status, 200);
}
