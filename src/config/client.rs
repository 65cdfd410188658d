//! Who asks: a user of the htpasswd file, or a network.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// An entry of a `clients` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// A user of the htpasswd file: `user:alice`, or `alice`.
    User(String),
    /// A network or a single address: `10.0.0.0/8`, `192.0.2.7`.
    Network(IpNet),
}

/// Why a text is no [`Client`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is neither a network (\"10.0.0.0/8\"), an address (\"192.0.2.7\") nor a user (\"user:alice\")"
)]
pub struct ParseClientError(String);

impl Client {
    /// Tells whether a request by `user`, if it has proved to be one, from `address` is meant.
    ///
    /// An IPv4 address that arrives mapped into IPv6 (`::ffff:192.0.2.7`) is taken as IPv4.
    pub fn matches(&self, user: Option<&str>, address: IpAddr) -> bool {
        match self {
            Self::User(name) => user == Some(name),
            Self::Network(network) => network.contains(&address.to_canonical()),
        }
    }
}

impl FromStr for Client {
    type Err = ParseClientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let user = match text.strip_prefix("user:") {
            Some(name) => name,
            None => {
                if let Ok(network) = text.parse::<IpNet>() {
                    return Ok(Self::Network(network.trunc()));
                }
                if let Ok(address) = text.parse::<IpAddr>() {
                    return Ok(Self::Network(address.to_canonical().into()));
                }
                // A mistyped address must not become a user that never comes.
                if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') || text.contains('/') {
                    return Err(ParseClientError(text.to_owned()));
                }
                text
            }
        };
        // A colon ends the name in an htpasswd file and in Basic authentication.
        if user.is_empty() || user.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
            return Err(ParseClientError(text.to_owned()));
        }
        Ok(Self::User(user.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_networks_addresses_or_users() {
        let network = |text: &str| Client::Network(text.parse().unwrap());
        let user = |name: &str| Client::User(name.to_owned());
        for (text, expected) in [
            ("10.0.0.0/8", network("10.0.0.0/8")),
            ("10.1.2.3/8", network("10.0.0.0/8")),
            ("192.0.2.7", network("192.0.2.7/32")),
            ("2001:db8::/32", network("2001:db8::/32")),
            ("::1", network("::1/128")),
            ("alice", user("alice")),
            ("user:alice", user("alice")),
            ("user:10.0.0.1", user("10.0.0.1")),
        ] {
            assert_eq!(text.parse::<Client>().unwrap(), expected, "{text}");
        }
        for bad in ["", "user:", "10.0.0", "10.0.0.0/33", "a:b", "a b", "10.0.0.256"] {
            assert!(bad.parse::<Client>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let client: Client = "192.0.2.0/24".parse().unwrap();
        assert!(client.matches(None, "::ffff:192.0.2.9".parse().unwrap()));
        assert!(!client.matches(Some("alice"), "192.0.3.1".parse().unwrap()));
        let alice: Client = "alice".parse().unwrap();
        assert!(alice.matches(Some("alice"), "192.0.3.1".parse().unwrap()));
        assert!(!alice.matches(None, "192.0.3.1".parse().unwrap()));
    }
}
