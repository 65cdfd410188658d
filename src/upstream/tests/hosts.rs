//! Which hosts are asked at all.

use std::sync::Arc;
use std::time::Duration;

use super::server::{Reply, Server, config, host, name, tag, url_of};
use crate::config::{Config, Upstream as UpstreamConfig};
use crate::oci::RegistryHost;
use crate::telemetry::Metrics;
use crate::upstream::client::{ClientFactory, Trust};
use crate::upstream::{Refusal, Upstream, UpstreamError, UpstreamErrorClass, Upstreams};

fn upstreams(allow: &[&str], deny: &[&str]) -> Upstreams {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let config = Config {
        allow: owned(allow),
        deny: owned(deny),
        ..Config::default()
    };
    Upstreams::new(&config, Metrics::new([])).unwrap()
}

fn refusal(upstreams: &Upstreams, host: &str) -> Option<Refusal> {
    let host: RegistryHost = host.parse().unwrap();
    match upstreams.get(&host) {
        Ok(_) => None,
        Err(UpstreamError::Refused { reason, .. }) => Some(reason),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_host_must_be_configured_or_allowed_and_not_denied() {
    let upstreams = upstreams(&["*.example", "quay.io"], &["evil.*"]);
    for (host, expected) in [
        ("docker.io", None),
        ("index.docker.io", None),
        ("quay.io", None),
        ("a.example", None),
        ("evil.example", Some(Refusal::Denied)),
        ("ghcr.io", Some(Refusal::NotAllowed)),
        ("quay.io:5000", Some(Refusal::NotAllowed)),
    ] {
        assert_eq!(refusal(&upstreams, host), expected, "{host}");
    }
}

#[test]
fn a_denied_host_is_denied_however_it_is_written_and_whoever_leads_there() {
    let upstreams = upstreams(&["*"], &["10.*", "*.internal", "Evil.example"]);
    for host in [
        "10.0.0.1",
        "0xa000001",
        "167772161",
        "012.1",
        "db.internal:5432",
        "evil.example:443",
        "evil.example:5000",
    ] {
        assert_eq!(refusal(&upstreams, host), Some(Refusal::Denied), "{host}");
    }
    let upstream = upstreams.get(&"ghcr.io".parse().unwrap()).unwrap();
    let way = |to: &str| upstream.check_way(&"https://ghcr.io".parse().unwrap(), &to.parse().unwrap());
    way("https://cdn.example").unwrap();
    for bad in [
        "https://10.0.0.1/",
        "https://167772161:8443",
        "https://DB.internal.:5432/x",
    ] {
        assert_eq!(
            way(bad).unwrap_err().class(),
            UpstreamErrorClass::Refused,
            "{bad}"
        );
    }
}

#[test]
fn this_machine_is_refused_by_default_and_also_where_deny_forgets_it() {
    let default = Config::default();
    let default = Upstreams::new(&default, Metrics::new([])).unwrap();
    let forgetful = upstreams(&["*"], &[]);
    for host in [
        "localhost",
        "localhost:5000",
        "127.0.0.1:5000",
        "169.254.169.254",
        "[::1]:80",
    ] {
        assert_eq!(refusal(&default, host), Some(Refusal::Denied), "{host}");
        assert_eq!(refusal(&forgetful, host), Some(Refusal::NotPublic), "{host}");
    }
    for host in ["0.0.0.0", "2130706433", "0x7f000001", "x.localhost", "1.2.3.4.5"] {
        assert_eq!(refusal(&forgetful, host), Some(Refusal::NotPublic), "{host}");
    }
    assert_eq!(refusal(&forgetful, "ghcr.io"), None);
}

#[test]
fn the_state_of_a_host_is_kept_and_that_of_many_hosts_is_bounded() {
    let upstreams = upstreams(&["*"], &[]);
    let host: RegistryHost = "ghcr.io".parse().unwrap();
    let (one, other) = (upstreams.get(&host).unwrap(), upstreams.get(&host).unwrap());
    assert!(std::sync::Arc::ptr_eq(&one.0, &other.0));
    for number in 0..2000 {
        upstreams
            .get(&format!("h{number}.example").parse().unwrap())
            .unwrap();
    }
    assert!(upstreams.0.others.len() <= 2 * super::super::MAX_OTHERS);
}

#[test]
fn a_host_that_nobody_configured_cannot_lead_to_this_machine() {
    let upstreams = upstreams(&["*"], &[]);
    let upstream = upstreams.get(&"ghcr.io".parse().unwrap()).unwrap();
    let way = |to: &str| upstream.check_way(&"https://ghcr.io".parse().unwrap(), &to.parse().unwrap());
    way("https://cdn.example/blob").unwrap();
    for bad in [
        "https://127.0.0.1:6443",
        "https://[::1]",
        "https://169.254.169.254/latest",
        "https://localhost",
    ] {
        assert_eq!(
            way(bad).unwrap_err().class(),
            UpstreamErrorClass::Refused,
            "{bad}"
        );
    }
    assert_eq!(
        way("http://cdn.example").unwrap_err().class(),
        UpstreamErrorClass::Invalid
    );
}

#[tokio::test]
async fn a_name_that_resolves_to_this_machine_is_refused_and_not_paused() {
    let server = Server::start(|_| Reply::ok("{}")).await;
    let mut endpoint = url_of(server.address());
    endpoint.set_host(Some("localhost")).unwrap();
    let config = UpstreamConfig {
        answer_timeout: Duration::from_secs(3),
        ..config([endpoint])
    };
    let clients = ClientFactory::new().public(&config, &Arc::default()).unwrap();
    // The resolver alone stands in the way.
    let parts = (clients, Trust::Configured, Metrics::new([]));
    let upstream = Upstream::new(host(), &config, parts);
    for _ in 0..2 {
        let got = upstream.get_manifest(&name("acme/app"), &tag("v1")).await;
        let refused = matches!(
            got,
            Err(UpstreamError::Refused {
                reason: Refusal::NotPublic,
                ..
            })
        );
        assert!(refused, "{got:?}");
    }
    assert!(server.seen().is_empty());
}
