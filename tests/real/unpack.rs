//! What of a layer only root can make: owners, devices, capabilities, and overlayfs' marks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use tar::{EntryType, Header};
use wharf::unpack::{Limits, Options, Progress, Unpacked, settle, unpack};

use crate::support::dfs::able;

/// `security.capability` as `setcap cap_net_raw+ep` makes it (linux/capability.h, revision 2).
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn options() -> Options {
    Options {
        abilities: Arc::new(able()),
        writers: 4,
        user_opaque: true,
        limits: Limits {
            max_layer_bytes: 1 << 30,
            max_entries: 1000,
            max_zstd_window_bytes: 128 << 20,
        },
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, mode: u32, name: &str, target: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(4_000_000);
    header.set_gid(1234);
    header.set_mtime(1000);
    header.set_size(0);
    if kind == EntryType::Char {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    if target.is_empty() {
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    } else {
        tar.append_link(&mut header, name, target).unwrap();
    }
}

fn unpacked(tar: tar::Builder<Vec<u8>>, target: &Path) -> Unpacked {
    let bytes = tar.into_inner().unwrap();
    let beside = tempfile::tempdir().unwrap();
    let tar_split = beside.path().join("tar-split.gz");
    unpack(&*bytes, target, &tar_split, &options(), &Progress::default()).unwrap()
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]);
    length.ok().map(|length| value[..length].to_vec())
}

#[test]
fn owners_modes_devices_and_capabilities_come_out_exact() {
    let target = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, EntryType::Directory, 0o3770, "d", "");
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", CAPABILITY)])
        .unwrap();
    append(&mut tar, EntryType::Regular, 0o6755, "d/f", "");
    append(&mut tar, EntryType::Link, 0o6755, "d/g", "d/f");
    append(&mut tar, EntryType::Symlink, 0o777, "d/l", "/nowhere");
    append(&mut tar, EntryType::Char, 0o666, "null", "");
    let unpacked = unpacked(tar, target.path());
    for (name, mode) in [
        ("d", 0o3770),
        ("d/f", 0o6755),
        ("d/g", 0o6755),
        ("d/l", 0o777),
        ("null", 0o666),
    ] {
        let stat = fs::symlink_metadata(target.path().join(name)).unwrap();
        let found = (stat.uid(), stat.gid(), stat.mode() & 0o7777, stat.mtime());
        assert_eq!(found, (4_000_000, 1234, mode, 1000), "{name}");
    }
    let null = fs::metadata(target.path().join("null")).unwrap();
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    let capability = attribute(&target.path().join("d/g"), "security.capability");
    assert_eq!(capability.as_deref(), Some(CAPABILITY));
    assert_eq!(unpacked.compromises, wharf::unpack::Compromises::default());
}

#[test]
fn opaque_directories_are_marked_where_attributes_are_kept() {
    let (target, below) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(below.path().join("d")).unwrap();
    fs::write(below.path().join("d/hidden"), "").unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, EntryType::Directory, 0o755, "./", "");
    append(&mut tar, EntryType::Directory, 0o755, "d", "");
    append(&mut tar, EntryType::Regular, 0o644, "d/.wh..wh..opq", "");
    append(&mut tar, EntryType::Regular, 0o644, ".wh.remade", "");
    append(&mut tar, EntryType::Directory, 0o755, "remade", "");
    let unpacked = unpacked(tar, target.path());
    let is_bound = settle(
        target.path(),
        &unpacked.unsettled,
        &[below.path().to_owned()],
        &options(),
    )
    .unwrap();
    assert!(!is_bound, "its marks hide whatever is below");
    for name in ["d", "remade"] {
        let path = target.path().join(name);
        for mark in ["trusted.overlay.opaque", "user.overlay.opaque"] {
            assert_eq!(
                attribute(&path, mark).as_deref(),
                Some(b"y".as_slice()),
                "{mark} of {name}"
            );
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 1000);
    }
    assert_eq!(attribute(target.path(), "trusted.overlay.opaque"), None);
}

#[test]
fn what_is_hidden_by_a_mark_is_not_looked_at() {
    let [lowest, middle, top] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, EntryType::Directory, 0o700, "d/e", "");
    unpacked(tar, lowest.path());
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, EntryType::Directory, 0o711, "d", "");
    append(&mut tar, EntryType::Regular, 0o644, "d/.wh..wh..opq", "");
    unpacked(tar, middle.path());
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, EntryType::Regular, 0o644, "d/e/f", "");
    let unpacked = unpacked(tar, top.path());
    let below = [middle.path().to_owned(), lowest.path().to_owned()];
    assert!(settle(top.path(), &unpacked.unsettled, &below, &options()).unwrap());
    let mode = |name: &str| fs::metadata(top.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("d"), mode("d/e")), (0o711, 0o755));
}
