//! A digest over what a layer's directory holds, to compare a directory with later.

use sha2::{Digest as _, Sha256};

use super::entry::Device;
use super::tree::{DirId, Node, ROOT, Tree};

/// Counts a layer's entries, and digests names, kinds, sizes, targets and device numbers.
///
/// The SHA-256 of one record an entry, those of a directory in the order of their names' bytes, each
/// directory followed by what it holds: the kind's letter (`d f l c b p`), the name, a zero, the size, target
/// or device number in decimal or as it is, a zero; `..` and a zero after a directory's last entry. Whiteouts
/// are no entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreeDigest {
    pub(super) entries: u64,
    pub(super) digest: String,
}

impl TreeDigest {
    /// Digests a tree that is complete.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut hasher = Sha256::new();
        let mut entries = 0;
        let mut stack = vec![tree.sorted(ROOT)];
        while let Some(siblings) = stack.last_mut() {
            let Some((name, node)) = siblings.next() else {
                hasher.update(b"..\0");
                stack.pop();
                continue;
            };
            entries += 1;
            if let Some(dir) = record(&mut hasher, name, node) {
                stack.push(tree.sorted(dir));
            }
        }
        Self {
            entries,
            digest: format!("sha256:{}", crate::oci::digest::lower_hex(&hasher.finalize())),
        }
    }
}

/// Adds an entry's record; returns the directory that it is.
fn record(hasher: &mut Sha256, name: &[u8], node: &Node) -> Option<DirId> {
    let (kind, value) = match node {
        Node::Directory(_) => (b'd', Vec::new()),
        Node::File(file) => (b'f', file.size.to_string().into_bytes()),
        Node::Symlink(target) => (b'l', target.to_vec()),
        Node::Device(Device::Character { major, minor }) => (b'c', format!("{major}:{minor}").into_bytes()),
        Node::Device(Device::Block { major, minor }) => (b'b', format!("{major}:{minor}").into_bytes()),
        Node::Device(Device::Fifo) => (b'p', Vec::new()),
    };
    hasher.update([kind]);
    hasher.update(name);
    hasher.update([0]);
    hasher.update(value);
    hasher.update([0]);
    match node {
        Node::Directory(dir) => Some(*dir),
        Node::File(_) | Node::Symlink(_) | Node::Device(_) => None,
    }
}
