//! Names of snapshots: containerd's keys, and the names that are given to layers of the store.
//!
//! containerd names a snapshot `<namespace>/<number>/<client's key>`. It does not name a layer of the store,
//! and takes whatever name `List` tells: so that name says all that is needed to make the record again
//! when this node's state is lost (facts: containerd knows the name for as long as it knows the layer).

use std::fmt;
use std::str::FromStr;

use crate::oci::ChainId;

/// The name of a layer of the store: `<ChainID>`, or `<ChainID>@<name>` above a local snapshot.
///
/// With layers of the store alone below it, the ChainID says what they are. Where one below is
/// local (it could not be had from the store then), the name says which is the nearest of those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SharedName {
    pub(super) chain_id: ChainId,
    /// The nearest local snapshot below.
    pub(super) base: Option<String>,
}

/// A name is none of a layer of the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotShared;

impl FromStr for SharedName {
    type Err = NotShared;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (chain_id, base) = match text.split_once('@') {
            Some((chain_id, base)) if !base.is_empty() => (chain_id, Some(base.to_owned())),
            Some(_) => return Err(NotShared),
            None => (text, None),
        };
        Ok(Self {
            chain_id: chain_id.parse().map_err(|_| NotShared)?,
            base,
        })
    }
}

impl fmt::Display for SharedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chain_id.fmt(f)?;
        match &self.base {
            Some(base) => write!(f, "@{base}"),
            None => Ok(()),
        }
    }
}

/// Returns containerd's namespace of a key, such as `moby` or `k8s.io`.
pub(super) fn namespace_of(key: &str) -> Option<&str> {
    let mut parts = key.splitn(3, '/');
    let (namespace, number) = (parts.next()?, parts.next()?);
    let is_key = !namespace.is_empty() && number.parse::<u64>().is_ok() && parts.next().is_some();
    is_key.then_some(namespace)
}

/// Returns the stack that a snapshot was unpacked for, of a name that containerd's unpacker gave.
pub(super) fn chain_of(name: &str) -> Option<ChainId> {
    let (_, key) = name.rsplit_once('/')?;
    key.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_name_of_a_shared_layer_says_what_lies_below() {
        let above_local = format!("{CHAIN}@moby/3/{CHAIN}");
        for (text, base) in [(CHAIN, None), (&above_local, Some(format!("moby/3/{CHAIN}")))] {
            let name: SharedName = text.parse().unwrap();
            assert_eq!(name.base, base);
            assert_eq!(name.chain_id.to_string(), CHAIN);
            assert_eq!(name.to_string(), text);
        }
        for other in [
            "",
            "x",
            "moby/3/x",
            &format!("moby/3/{CHAIN}"),
            &format!("{CHAIN}@"),
        ] {
            assert_eq!(other.parse::<SharedName>(), Err(NotShared), "{other}");
        }
    }

    #[test]
    fn a_key_has_a_namespace_and_perhaps_a_stack() {
        for (key, namespace, has_chain) in [
            ("moby/1/extract-769769258-9VXl sha256:61b1", Some("moby"), false),
            (&format!("k8s.io/12/{CHAIN}"), Some("k8s.io"), true),
            ("moby/1/a/b", Some("moby"), false),
            (CHAIN, None, false),
            ("moby/x/y", None, false),
            ("moby/1", None, false),
        ] {
            assert_eq!(namespace_of(key), namespace, "{key}");
            assert_eq!(chain_of(key).is_some(), has_chain, "{key}");
        }
    }
}
