//! `tags/list` and `_catalog`, page by page.

use crate::support::mirror::{Mirror, Options};
use crate::support::upstream::{Upstream, anything, tags, then};

use super::{APP, assert_unavailable, manifest_path, start};

/// Reads all pages along the Link header, each at most `limit` long.
fn pages(mirror: &Mirror, first: &str, key: &str, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut path = first.to_owned();
    for _ in 0..20 {
        let answer = mirror.ask(&path).send();
        assert_eq!(answer.status, 200, "{path}");
        let page = answer.json();
        let page = page[key].as_array().expect("a list");
        assert!(page.len() <= limit, "{path}: {page:?}");
        all.extend(page.iter().map(|name| name.as_str().expect("a name").to_owned()));
        let Some(link) = answer.header("link") else {
            return all;
        };
        let (target, relation) = link
            .strip_prefix('<')
            .and_then(|link| link.split_once('>'))
            .expect("a link");
        assert_eq!(relation, "; rel=\"next\"");
        assert!(target.starts_with("/v2/"), "{target}");
        target.clone_into(&mut path);
    }
    panic!("no end of {first}: {all:?}");
}

fn with_tags() -> (Upstream, Mirror, Vec<String>) {
    let (upstream, mirror) = start();
    let image = upstream.add_image(APP, "t0", &[]);
    let names: Vec<String> = (0..7).map(|number| format!("t{number}")).collect();
    for name in &names {
        upstream.tag(APP, name, &image.digest);
    }
    (upstream, mirror, names)
}

#[test]
fn tags_are_listed_as_upstream_has_them_whatever_the_page() {
    let (upstream, mirror, names) = with_tags();
    let list = format!("/v2/{APP}/tags/list");
    let whole = mirror.ask(&list).send().json();
    assert_eq!(
        (whole["name"].as_str(), whole["tags"].as_array().map(Vec::len)),
        (Some(APP), Some(7))
    );
    for n in [1, 2, 7, 100] {
        assert_eq!(
            pages(&mirror, &format!("{list}?n={n}"), "tags", n),
            names,
            "n={n}"
        );
    }
    assert_eq!(
        pages(&mirror, &format!("{list}?n=2&last=t3"), "tags", 2),
        names[4..]
    );
    assert_eq!(
        pages(&mirror, &format!("{list}?last=t6"), "tags", 7),
        Vec::<String>::new()
    );
    // A registry that gives fewer than are asked for.
    upstream.limit_pages(3);
    assert_eq!(pages(&mirror, &format!("{list}?n=5"), "tags", 5), names);
}

#[test]
fn the_next_page_stays_with_the_upstream_that_was_asked() {
    let (_upstream, mirror, names) = with_tags();
    for first in [
        format!("/v2/{APP}/tags/list?n=3&ns=example.test"),
        format!("/v2/example.test/{APP}/tags/list?n=3"),
    ] {
        let link = mirror
            .ask(&first)
            .send()
            .header("link")
            .expect("a link")
            .to_owned();
        assert!(link.contains("example.test"), "{link}");
        assert_eq!(pages(&mirror, &first, "tags", 3), names);
    }
}

#[test]
fn wrong_pages_are_refused() {
    let (_upstream, mirror, _) = with_tags();
    for n in ["-1", "x"] {
        let answer = mirror.ask(&format!("/v2/{APP}/tags/list?n={n}")).send();
        assert_eq!(answer.status, 400, "n={n}");
        assert!(!answer.error_code().is_empty());
    }
    let none = mirror.ask(&format!("/v2/{APP}/tags/list?n=0")).send();
    assert_eq!(
        (none.status, none.json()["tags"].as_array().map(Vec::len)),
        (200, Some(0))
    );
}

#[test]
fn tags_that_were_pulled_are_listed_when_upstream_fails() {
    let (upstream, mirror, _) = with_tags();
    for tag in ["t2", "t5"] {
        mirror.ask(&manifest_path(tag)).send();
    }
    upstream.script(tags(), then().status(500));
    let answer = mirror.ask(&format!("/v2/{APP}/tags/list")).send();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["tags"], serde_json::json!(["t2", "t5"]));
    upstream.script(anything(), then().status(500));
    assert_unavailable(&mirror.ask("/v2/library/other/tags/list").send());
}

#[test]
fn the_catalog_names_what_the_store_holds_page_by_page() {
    let (hub, other) = (Upstream::start(), Upstream::start());
    let options = Options::new(hub.address()).upstream("other.test", &[&other.url()]);
    let mirror = Mirror::start(&options);
    assert_eq!(
        mirror.ask("/v2/_catalog").send().json()["repositories"],
        serde_json::json!([])
    );
    for name in ["library/a", "library/b", "team/c", "team/unasked"] {
        hub.add_image(name, "v1", &[]);
    }
    other.add_image("d", "v1", &[]);
    for path in ["library/b", "team/c", "a", "other.test/d"] {
        assert_eq!(
            mirror.ask(&format!("/v2/{path}/manifests/v1")).send().status,
            200,
            "{path}"
        );
    }
    let all = pages(&mirror, "/v2/_catalog", "repositories", 100);
    assert_eq!(
        all,
        [
            "docker.io/library/a",
            "docker.io/library/b",
            "docker.io/team/c",
            "other.test/d"
        ]
    );
    for n in [1, 2, 4] {
        assert_eq!(
            pages(&mirror, &format!("/v2/_catalog?n={n}"), "repositories", n),
            all
        );
    }
    // What the catalog says can be pulled by that name.
    for name in all {
        assert_eq!(
            mirror.ask(&format!("/v2/{name}/manifests/v1")).send().status,
            200,
            "{name}"
        );
    }
}
