//! Keeps hosts that nobody configured from leading wharf to its own machine.
//!
//! A client chooses such a host, and the host chooses what its name resolves to
//! and where it redirects. What is at a loopback or link-local address trusts
//! whoever can reach it (a node's metadata service, its kubelet), so these are
//! never asked: neither when a URL names one ([`is_public_host`]) nor when a name
//! resolves to one ([`PublicResolver`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use globset::GlobSet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// The variables that name a proxy, as reqwest reads them.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// A name has no address that a host nobody configured may have.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("resolves to no public address")]
pub(super) struct NotPublic;

/// Resolves names as the system does, and leaves out addresses of this machine and its link and those
/// that `deny` names.
pub(super) struct PublicResolver {
    /// The administrator's proxies, which may be on this machine.
    proxies: Vec<String>,
    deny: Arc<GlobSet>,
}

impl PublicResolver {
    /// Makes a resolver that trusts the proxies that the environment names.
    pub(super) fn from_env(deny: Arc<GlobSet>) -> Self {
        let values = PROXY_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
        Self {
            proxies: values.filter_map(|value| proxy_host(&value)).collect(),
            deny,
        }
    }
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_proxy = self
            .proxies
            .iter()
            .any(|proxy| proxy.eq_ignore_ascii_case(name.as_str()));
        let deny = Arc::clone(&self.deny);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.is_empty() {
                return Err(io::Error::from(io::ErrorKind::NotFound).into());
            }
            let allowed: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| is_proxy || (is_public(address.ip()) && !is_named(address.ip(), &deny)))
                .collect();
            if allowed.is_empty() {
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

/// Tells whether a URL's host may be asked as far as can be known without resolving it.
pub(super) fn is_public_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => is_public(address.into()),
        Some(Host::Ipv6(address)) => is_public(address.into()),
        // The resolver lets it pass where a proxy has this name.
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name != "localhost" && !name.ends_with(".localhost")
        }
        None => false,
    }
}

fn is_named(address: IpAddr, globs: &GlobSet) -> bool {
    globs.is_match(address.to_canonical().to_string())
}

fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(is_link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// A proxy is written as a URL, or without its scheme.
fn proxy_host(value: &str) -> Option<String> {
    let with_host = |text: &str| Url::parse(text).ok().filter(Url::has_host);
    let url = with_host(value).or_else(|| with_host(&format!("http://{value}")))?;
    url.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_and_its_link_are_not_public() {
        for bad in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[ff02::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:169.254.169.254]",
            "2130706433",
            "0x7f.1",
            "localhost",
            "a.localhost",
            "LOCALHOST.",
        ] {
            let url = Url::parse(&format!("https://{bad}:5000/v2/")).unwrap();
            assert!(!is_public_host(&url), "{bad}");
        }
        for good in [
            "ghcr.io",
            "10.0.0.1",
            "1.1.1.1",
            "[2606:4700::1111]",
            "localhost.example",
        ] {
            let url = Url::parse(&format!("https://{good}")).unwrap();
            assert!(is_public_host(&url), "{good}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_does_not_resolve_unless_it_is_the_proxy() {
        let resolve = async |proxies: &[&str]| {
            let proxies = proxies.iter().map(|proxy| (*proxy).to_owned()).collect();
            let deny = Arc::default();
            let resolver = PublicResolver { proxies, deny };
            resolver.resolve("localhost".parse().unwrap()).await
        };
        assert!(resolve(&["proxy.example"]).await.err().unwrap().is::<NotPublic>());
        assert!(resolve(&["localhost"]).await.is_ok());
    }

    #[test]
    fn an_address_is_denied_as_it_is_and_as_ipv6_writes_it() {
        let glob = globset::Glob::new("10.*").unwrap();
        let globs = GlobSet::builder().add(glob).build().unwrap();
        for (address, expected) in [("10.0.0.1", true), ("::ffff:10.0.0.1", true), ("1.0.0.1", false)] {
            assert_eq!(is_named(address.parse().unwrap(), &globs), expected, "{address}");
        }
    }

    #[test]
    fn a_proxy_is_known_by_its_host() {
        for text in [
            "http://user:word@proxy.example:3128/",
            "proxy.example:3128",
            "proxy.example",
        ] {
            assert_eq!(proxy_host(text).as_deref(), Some("proxy.example"), "{text}");
        }
    }
}
