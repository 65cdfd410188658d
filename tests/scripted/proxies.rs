//! Upstreams behind a proxy, as the environment says it.

use crate::support::mirror::{Mirror, Options};
use crate::support::proxy::Proxy;
use crate::support::tls::Authority;
use crate::support::upstream::{Upstream, bytes};

use super::{APP, blob_path, manifest_path};

#[test]
fn https_proxy_and_no_proxy_say_which_upstreams_are_reached_through_a_proxy() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    let ca = directory.path().join("ca.pem");
    authority.write(&ca);
    for (no_proxy, is_proxied) in [("", true), ("elsewhere.test", true), ("127.0.0.1", false)] {
        let (upstream, proxy) = (Upstream::start_tls(authority.server()), Proxy::start());
        let image = upstream.add_image(APP, "v1", &[bytes(1000, 1)]);
        let options = Options::new(upstream.address())
            .upstream("docker.io", &[&upstream.url()])
            .upstream_keys(&format!("ca = {ca:?}"))
            .variable("HTTPS_PROXY", &proxy.url())
            .variable("NO_PROXY", no_proxy);
        let mirror = Mirror::start(&options);
        assert_eq!(
            mirror.ask(&manifest_path("v1")).send().body,
            image.manifest,
            "NO_PROXY={no_proxy}"
        );
        assert_eq!(
            mirror.ask(&blob_path(&image.layers[0])).send().body,
            bytes(1000, 1)
        );
        let targets = proxy.targets();
        assert_eq!(
            !targets.is_empty(),
            is_proxied,
            "NO_PROXY={no_proxy}: {targets:?}"
        );
        assert!(
            targets
                .iter()
                .all(|target| *target == upstream.address().to_string()),
            "{targets:?}"
        );
    }
}
