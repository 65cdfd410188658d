//! Hard links: to what was there when they came, and copies where there may be no more.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use tar::EntryType;

use super::build::{Tar, header};
use super::{Scratch, UnpackError, options_with};

fn inode(scratch: &Scratch, name: &str) -> u64 {
    std::fs::symlink_metadata(scratch.target().join(name))
        .unwrap()
        .ino()
}

#[test]
fn a_link_keeps_what_its_target_was_when_it_came() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .file("a", "first")
        .hardlink("b", "a")
        .file("a", "second")
        .hardlink("c", "a")
        .hardlink("d", "b");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(
        scratch.listing(),
        [
            "f 644 a second",
            "f 644 b first",
            "f 644 c second",
            "f 644 d first"
        ]
    );
    assert_eq!(inode(&scratch, "a"), inode(&scratch, "c"));
    assert_eq!(inode(&scratch, "b"), inode(&scratch, "d"));
}

#[test]
fn links_to_links_are_one_file() {
    let scratch = Scratch::new();
    let mut tar = Tar::new().file("0", "x");
    for number in 1..50 {
        tar = tar.hardlink(number.to_string(), (number - 1).to_string());
    }
    let unpacked = scratch.unpack(tar.end()).unwrap();
    let stat = std::fs::metadata(scratch.target().join("25")).unwrap();
    assert_eq!(stat.nlink(), 50);
    assert_eq!(unpacked.compromises.copied_links, 0);
}

#[test]
fn links_to_links_of_what_is_no_file_are_made_one_after_the_other() {
    let scratch = Scratch::new();
    let mut tar = Tar::new().symlink("0", "x");
    for number in 1..200 {
        tar = tar.hardlink(number.to_string(), (number - 1).to_string());
    }
    scratch.unpack(tar.end()).unwrap();
    let stat = std::fs::symlink_metadata(scratch.target().join("100")).unwrap();
    assert_eq!(stat.nlink(), 200);
}

#[test]
fn links_go_through_the_layers_symlinks() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .file("usr/bin/x", "x")
        .symlink("bin", "usr/bin")
        .hardlink("bin/y", "/bin/x");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(inode(&scratch, "usr/bin/x"), inode(&scratch, "usr/bin/y"));
}

#[test]
fn symlinks_and_fifos_can_have_several_names() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .symlink("l", "t")
        .hardlink("m", "l")
        .fifo("p")
        .hardlink("q", "p");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(scratch.listing(), ["l l t", "l m t", "p 644 p", "p 644 q"]);
    assert_eq!(inode(&scratch, "l"), inode(&scratch, "m"));
    assert_eq!(inode(&scratch, "p"), inode(&scratch, "q"));
}

#[test]
fn a_link_to_a_device_that_cannot_be_kept_is_as_lost_as_the_device() {
    let scratch = Scratch::new();
    let options = options_with(|abilities| abilities.devices = false);
    let tar = Tar::new().fifo("p").hardlink("q", "p").file("q", "now a file");
    let unpacked = scratch.unpack_with(tar.end(), &options).unwrap();
    assert_eq!(scratch.listing(), ["f 644 q now a file"]);
    assert_eq!(unpacked.compromises.lost_devices, 2);
}

#[test]
fn four_hundred_links_become_copies_in_groups_where_47_are_the_most() {
    for writers in [1, 8] {
        let scratch = Scratch::new();
        let mut tar = Tar::new().entry(header(EntryType::Regular, 0o4755), b"busybox", b"", b"");
        let link = header(EntryType::Link, 0o4755);
        for number in 0..400 {
            tar = tar.entry(link.clone(), format!("bin/{number}").as_bytes(), b"busybox", b"");
        }
        let mut options = options_with(|abilities| abilities.hard_link_limit = Some(47));
        options.writers = writers;
        let unpacked = scratch.unpack_with(tar.end(), &options).unwrap();
        let mut groups = BTreeMap::new();
        for line in scratch.listing().iter().filter(|line| line.starts_with("f ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(line.starts_with("f 4755 "), "{line}");
            let stat = std::fs::metadata(scratch.target().join(name)).unwrap();
            assert_eq!(stat.mtime(), 1000);
            *groups.entry(stat.ino()).or_insert(0) += 1;
        }
        let mut sizes: Vec<_> = groups.into_values().collect();
        sizes.sort_unstable();
        // 401 names.
        assert_eq!(sizes, [25, 47, 47, 47, 47, 47, 47, 47, 47]);
        assert_eq!(unpacked.compromises.copied_links, 8);
    }
}

#[test]
fn where_no_links_are_possible_each_is_a_copy() {
    let scratch = Scratch::new();
    let content = vec![b'c'; 300_000];
    let tar = Tar::new()
        .file("a", &content)
        .hardlink("b", "a")
        .hardlink("c", "b")
        .symlink("l", "t")
        .hardlink("m", "l")
        .fifo("p")
        .hardlink("q", "p");
    let options = options_with(|abilities| abilities.hard_link_limit = Some(1));
    let unpacked = scratch.unpack_with(tar.end(), &options).unwrap();
    for name in ["a", "b", "c"] {
        let path = scratch.target().join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().nlink(), 1);
        assert!(std::fs::read(&path).unwrap() == content);
    }
    for name in ["l", "m", "p", "q"] {
        assert_eq!(
            std::fs::symlink_metadata(scratch.target().join(name))
                .unwrap()
                .nlink(),
            1
        );
    }
    assert_eq!(unpacked.compromises.copied_links, 4);
}

#[test]
fn copies_count_as_the_layers_bytes() {
    let mut tar = Tar::new().file("a", vec![b'c'; 200_000]);
    for number in 0..20 {
        tar = tar.hardlink(format!("link-{number}"), "a");
    }
    let mut options = options_with(|abilities| abilities.hard_link_limit = Some(1));
    options.limits.max_layer_bytes = 1_000_000;
    let refused = Scratch::new().unpack_with(tar.end(), &options).unwrap_err();
    assert!(
        matches!(
            refused,
            UnpackError::Limit {
                key: "max_layer_size",
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn the_last_links_metadata_are_the_files_whatever_the_number_of_writers() {
    for writers in [1, 8] {
        let scratch = Scratch::new();
        let mut tar = Tar::new().file("f", "x");
        for number in 0..64 {
            let mut link = header(EntryType::Link, 0o600 | (number & 0o77));
            link.set_mtime(2000 + u64::from(number));
            tar = tar.entry(link, format!("l{number}").as_bytes(), b"f", b"");
        }
        let mut options = super::options();
        options.writers = writers;
        scratch.unpack_with(tar.end(), &options).unwrap();
        let stat = std::fs::metadata(scratch.target().join("f")).unwrap();
        assert_eq!(
            (stat.mode() & 0o7777, stat.mtime()),
            (0o677, 2063),
            "{writers} writers"
        );
    }
}

#[test]
fn links_whose_first_name_is_replaced_are_linked_further() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("d")
        .file("d/a", "x")
        .hardlink("b", "d/a")
        .file("d", "flat")
        .hardlink("c", "b")
        .symlink("b", "c");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(scratch.listing(), ["l b c", "f 644 c x", "f 644 d flat"]);
}
