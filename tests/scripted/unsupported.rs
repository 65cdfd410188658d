//! Everything else that a client may ask: an error of the specification, and never a hang.

use crate::support::client::send_raw;
use crate::support::sha256;
use crate::support::upstream::{anything, bytes};

use super::{APP, assert_error, blob_path, manifest_path, start};

#[test]
fn pushes_uploads_and_deletions_are_405_unsupported() {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "v1", &[bytes(10, 1)]);
    let uploads = format!("/v2/{APP}/blobs/uploads/");
    let table = [
        ("PUT", manifest_path("v1")),
        ("DELETE", manifest_path("v1")),
        ("DELETE", manifest_path(&image.digest)),
        ("DELETE", blob_path(&image.layers[0])),
        ("POST", uploads.clone()),
        ("POST", format!("{uploads}?digest={}", image.layers[0])),
        (
            "POST",
            format!("{uploads}?mount={}&from=library/other", image.layers[0]),
        ),
        ("PATCH", format!("{uploads}some-session")),
        ("PUT", format!("{uploads}some-session?digest={}", image.layers[0])),
        ("GET", format!("{uploads}some-session")),
        ("DELETE", format!("{uploads}some-session")),
        ("POST", "/v2/".to_owned()),
        ("POST", "/v2/_catalog".to_owned()),
        ("DELETE", format!("/v2/{APP}/tags/list")),
        ("WHATEVER", manifest_path("v1")),
    ];
    for (method, path) in table {
        println!("{method} {path}");
        let request = mirror.ask(&path).method(method).header("content-length", "0");
        assert_error(&request.send(), 405, "UNSUPPORTED");
    }
    assert_eq!(upstream.count(&anything()), 0);
}

#[test]
fn unknown_paths_are_404_with_a_body_of_the_specification() {
    let (upstream, mirror) = start();
    let paths = [
        "/v2/_nothing",
        "/v2/library/app",
        "/v2/library/app/tags/other",
        "/v2/library/app/manifests/",
        "/v2/manifests/v1",
        "/v1/search",
        "/v2//manifests/v1",
        "/token",
    ];
    for path in paths {
        let answer = mirror.ask(path).send();
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        assert!(!answer.error_code().is_empty(), "{path}");
    }
    assert_eq!(upstream.asked().len(), 0);
}

#[test]
fn the_base_says_that_this_is_a_registry() {
    let (upstream, mirror) = start();
    for path in ["/v2/", "/v2/?ns=docker.io"] {
        for method in ["GET", "HEAD"] {
            let answer = mirror.ask(path).method(method).send();
            assert_eq!(answer.status, 200, "{method} {path}");
            assert_eq!(
                answer.header("docker-distribution-api-version"),
                Some("registry/2.0")
            );
        }
    }
    assert!(matches!(mirror.ask("/v2").send().status, 200 | 301 | 308));
    assert_eq!(upstream.asked().len(), 0, "the base needs no upstream");
}

#[test]
fn garbage_is_answered_or_cut_and_hurts_nobody() {
    let (upstream, mirror) = start();
    upstream.add_image(APP, "v1", &[]);
    let long_header = format!(
        "GET /v2/ HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    let long_path = format!("GET /v2/{} HTTP/1.1\r\nhost: x\r\n\r\n", "a/".repeat(1 << 17));
    let table: [&[u8]; 9] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nbroken header\r\n\r\n",
        b"GET /v2/%ff%fe/manifests/%00 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /v2/ HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        long_header.as_bytes(),
        long_path.as_bytes(),
    ];
    for garbage in table {
        let shown = String::from_utf8_lossy(&garbage[..garbage.len().min(40)]).into_owned();
        // A connection that is reset while garbage is still being sent has ended as well.
        if let Err(error) = send_raw(mirror.address(), garbage) {
            let is_cut = matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
            );
            assert!(is_cut, "{shown:?}: {error}");
        }
        assert_eq!(
            mirror.ask(&manifest_path("v1")).send().status,
            200,
            "after {shown:?}"
        );
    }
    assert!(!mirror.log().contains("panicked"), "{}", mirror.log());
}

#[test]
fn a_request_body_that_nobody_wants_is_no_hindrance() {
    let (_upstream, mirror) = start();
    let body = "x".repeat(100_000);
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n",
        manifest_path("v1")
    );
    for framing in [
        format!("content-length: {}\r\n\r\n{body}", body.len()),
        "expect: 100-continue\r\ncontent-length: 9\r\n\r\n".to_owned(),
    ] {
        let answer = send_raw(mirror.address(), format!("{head}{framing}").as_bytes()).expect("an answer");
        assert!(
            answer.starts_with(b"HTTP/1.1 405 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[test]
fn health_and_metrics_are_there() {
    let (_upstream, mirror) = start();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = mirror.ask(path).send();
        assert_eq!(answer.status, 200, "{path}");
    }
    let metrics = mirror.ask("/metrics").send();
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    assert!(metrics.body.ends_with(b"# EOF\n"));
}

#[test]
fn every_request_is_one_line_of_the_access_log() {
    let (upstream, mut mirror) = start();
    let image = upstream.add_image(APP, "v1", &[bytes(5000, 1)]);
    mirror.ask(&manifest_path("v1")).send();
    mirror.ask(&blob_path(&image.layers[0])).send();
    let absent = sha256(b"absent");
    mirror.ask(&blob_path(&absent)).send();
    mirror.stop();
    let log = mirror.log();
    for (path, status) in [
        (manifest_path("v1"), "200"),
        (blob_path(&image.layers[0]), "200"),
        (blob_path(&absent), "404"),
    ] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&path)).collect();
        let found = lines
            .iter()
            .filter(|line| line.contains(status) && line.contains("GET"))
            .count();
        assert_eq!(found, 1, "{path}: {lines:?}");
    }
}
