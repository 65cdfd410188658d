//! Each fact of a file system turned round: the other way is taken, and what is lost is counted.

use std::os::unix::fs::MetadataExt as _;

use tar::EntryType;

use super::build::{Tar, header};
use super::{Scratch, options, options_with};
use crate::fs::{Abilities, Durability};
use crate::unpack::{Compromises, Options};

/// Unpacks, and returns what was lost.
fn lost(scratch: &Scratch, tar: Tar, options: &Options) -> Compromises {
    scratch.unpack_with(tar.end(), options).unwrap().compromises
}

fn attribute(scratch: &Scratch, name: &str, attribute: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(scratch.target().join(name), attribute, &mut value[..]);
    length.ok().map(|length| value[..length].to_vec())
}

#[test]
fn attributes_that_cannot_be_kept_are_not_tried_and_counted() {
    let tar = || {
        Tar::new()
            .dir("./")
            .pax(&[
                ("SCHILY.xattr.user.x", "v"),
                ("SCHILY.xattr.trusted.x", "v"),
                ("SCHILY.xattr.security.capability", "not one"),
                ("SCHILY.xattr.system.posix_acl_access", "not one"),
            ])
            .file("f", "")
            .pax(&[("SCHILY.xattr.user.x", "v")])
            .dir("d")
    };
    let none = options_with(|abilities| {
        abilities.user_xattrs = false;
        abilities.trusted_xattrs = false;
        abilities.capabilities = false;
        abilities.acls = false;
    });
    let scratch = Scratch::new();
    let expected = Compromises {
        lost_xattrs: 3,
        lost_capabilities: 1,
        lost_acls: 1,
        ..Compromises::default()
    };
    assert_eq!(lost(&scratch, tar(), &none), expected);
    assert_eq!(attribute(&scratch, "f", "user.x"), None);
}

#[test]
fn attributes_of_users_are_kept_on_files_and_directories() {
    let scratch = Scratch::new();
    let value = b"a\nb\0=c";
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.user.x", value)])
        .file("f", "")
        .pax(&[("SCHILY.xattr.user.x", value)])
        .dir("d");
    let lost = lost(&scratch, tar, &options());
    // The temporary directory may be of a file system that has none.
    if lost.lost_xattrs == 0 {
        assert_eq!(
            attribute(&scratch, "f", "user.x").as_deref(),
            Some(value.as_slice())
        );
        assert_eq!(
            attribute(&scratch, "d", "user.x").as_deref(),
            Some(value.as_slice())
        );
    }
}

#[test]
fn attributes_that_no_file_can_have_are_counted() {
    let long = format!("SCHILY.xattr.user.{}", "x".repeat(300));
    for key in ["SCHILY.xattr.user.", &*long] {
        let lost = lost(
            &Scratch::new(),
            Tar::new().pax(&[(key, "v")]).file("f", ""),
            &options(),
        );
        assert_eq!(lost.lost_xattrs, 1, "{key}");
    }
    // Only symbolic links of attributes of users.
    let link = Tar::new().pax(&[("SCHILY.xattr.user.x", "v")]).symlink("l", "t");
    assert_eq!(lost(&Scratch::new(), link, &options()).lost_xattrs, 1);
}

#[test]
fn owners_that_cannot_be_kept_are_counted() {
    let other = |kind| {
        let mut header = header(kind, 0o755);
        header.set_uid(4_000_000);
        header
    };
    let tar = Tar::new()
        .entry(other(EntryType::Directory), b"d", b"", b"")
        .entry(other(EntryType::Regular), b"d/f", b"", b"")
        .entry(other(EntryType::Symlink), b"l", b"t", b"")
        .dir("./");
    let scratch = Scratch::new();
    let options = options_with(|abilities| abilities.ownership = false);
    assert_eq!(lost(&scratch, tar, &options).lost_owners, 3);
    let stat = std::fs::metadata(scratch.target().join("d/f")).unwrap();
    assert_eq!(stat.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn special_modes_that_cannot_be_kept_are_counted() {
    let tar = || {
        Tar::new()
            .dir("./")
            .entry(header(EntryType::Regular, 0o4755), b"f", b"", b"")
            .entry(header(EntryType::Directory, 0o1777), b"d", b"", b"")
    };
    let scratch = Scratch::new();
    let options = options_with(|abilities| abilities.special_modes = false);
    assert_eq!(lost(&scratch, tar(), &options).lost_modes, 2);
    assert_eq!(scratch.listing(), ["d 777 d", "f 755 f "]);
    let scratch = Scratch::new();
    assert_eq!(lost(&scratch, tar(), &super::options()), Compromises::default());
    assert_eq!(scratch.listing(), ["d 1777 d", "f 4755 f "]);
}

#[test]
fn devices_that_cannot_be_kept_are_counted() {
    let scratch = Scratch::new();
    let options = options_with(|abilities| abilities.devices = false);
    let tar = Tar::new().device("null", 1, 3).fifo("p");
    assert_eq!(lost(&scratch, tar, &options).lost_devices, 2);
    assert!(scratch.listing().is_empty());
}

#[test]
fn every_way_to_be_durable_comes_to_the_same() {
    let tar = || {
        Tar::new()
            .dir("d")
            .file("d/f", "x")
            .symlink("l", "t")
            .hardlink("h", "d/f")
    };
    let mut listings = Vec::new();
    for durability in [Durability::Syncfs, Durability::Close, Durability::Fsync] {
        let scratch = Scratch::new();
        lost(
            &scratch,
            tar(),
            &options_with(|abilities| abilities.durability = durability),
        );
        listings.push(scratch.listing());
    }
    assert!(listings.iter().all(|listing| *listing == listings[0]));
}

#[test]
fn nothing_is_assumed_of_a_file_system_that_nobody_has_tried() {
    let scratch = Scratch::new();
    let options = options_with(|abilities| *abilities = Abilities::default());
    let tar = Tar::new().dir("./").file("f", "x").hardlink("h", "f").entry(
        header(EntryType::Regular, 0o6755),
        b"s",
        b"",
        b"",
    );
    let lost = lost(&scratch, tar, &options);
    assert_eq!(scratch.listing(), ["f 644 f x", "f 644 h x", "f 755 s "]);
    assert_eq!((lost.copied_links, lost.lost_modes), (1, 1));
}
