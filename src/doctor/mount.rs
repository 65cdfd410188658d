//! Which file system it is, and how much room it has.

use bytesize::ByteSize;

use super::Check;
use crate::fs::{Mount, Place};

/// An image of a distribution has tens of thousands of files.
const FEW_INODES: u64 = 100_000;
/// A few large images.
const LITTLE_BYTES: u64 = 10 << 30;

/// Says where the file system is.
pub(super) fn place(mount: &Mount) -> Check {
    let mut at = format!("{}, mounted at {}", mount.kind.as_str(), mount.point);
    let options = mount.options();
    if !options.is_empty() {
        at += &format!(" ({})", options.join(","));
    }
    match mount.kind.place() {
        Place::Network => Check::ok("file system", format!("on the network: {at}")),
        Place::Local => Check::ok(
            "file system",
            format!("local: {at}; nodes other than this machine cannot read it"),
        ),
        Place::Unknown => Check::warning("file system", format!("of a kind that wharf does not know: {at}"))
            .instead("makes every file durable by itself, which is slow")
            .remedy("if you know better, set `durability` in wharf.json"),
    }
}

/// Says how much room there is.
pub(super) fn room(mount: &Mount) -> [Check; 2] {
    let bytes = format!(
        "{} of {} free",
        ByteSize(mount.free_bytes),
        ByteSize(mount.size_bytes)
    );
    let inodes = format!("{} of {} can still be made", mount.free_inodes, mount.inodes);
    [
        judge("space", bytes, mount.free_bytes, LITTLE_BYTES),
        if mount.inodes == 0 {
            Check::ok("files", "not limited in number")
        } else {
            judge("files", inodes, mount.free_inodes, FEW_INODES)
        },
    ]
}

fn judge(name: &'static str, found: String, free: u64, little: u64) -> Check {
    match free {
        0 => Check::problem(name, found)
            .instead("streams blobs to clients and keeps nothing")
            .remedy("make room"),
        _ if free < little => Check::warning(name, found).remedy("make room before it is needed"),
        _ => Check::ok(name, found),
    }
}
