//! What comes when: the last entry of a path wins, and directories are finished last.

use std::os::unix::fs::MetadataExt as _;

use tar::EntryType;

use super::build::{Tar, header};
use super::{Scratch, options};

/// Each kind of entry, with what it is listed as.
const KINDS: [&str; 5] = ["file", "directory", "symlink", "hard link", "fifo"];

fn add(tar: Tar, kind: &str, content: &str) -> Tar {
    match kind {
        "file" => tar.file("x", content),
        "directory" => tar
            .dir("x")
            .file(format!("x/{content}"), "")
            .dir("x/d")
            .file("x/d/f", ""),
        "symlink" => tar.symlink("x", content),
        "hard link" => tar.hardlink("x", "other"),
        _ => tar.fifo("x"),
    }
}

fn listed(kind: &str, content: &str) -> Vec<String> {
    match kind {
        "file" => vec![format!("f 644 x {content}")],
        "directory" => {
            let held = format!("f 644 x/{content} ");
            vec!["d 755 x".into(), held, "d 755 x/d".into(), "f 644 x/d/f ".into()]
        }
        "symlink" => vec![format!("l x {content}")],
        "hard link" => vec!["f 644 x other".into()],
        _ => vec!["p 644 x".into()],
    }
}

#[test]
fn of_two_entries_of_one_path_the_last_one_wins() {
    for first in KINDS {
        for second in KINDS {
            let tar = add(Tar::new().file("other", "other"), first, "1");
            let scratch = Scratch::new();
            let unpacked = scratch.unpack(add(tar, second, "2").end()).unwrap();
            let mut expected = vec!["f 644 other other".to_owned()];
            expected.extend(listed(second, "2"));
            if (first, second) == ("directory", "directory") {
                expected.insert(2, "f 644 x/1 ".into());
            }
            expected.sort_by_key(|line| {
                line.split(' ')
                    .nth(if line.starts_with('l') { 1 } else { 2 })
                    .map(str::to_owned)
            });
            assert_eq!(scratch.listing(), expected, "{second} over {first}");
            assert_eq!(unpacked.entries as usize, expected.len(), "{second} over {first}");
            let other = std::fs::metadata(scratch.target().join("other")).unwrap();
            assert_eq!(other.nlink(), if second == "hard link" { 2 } else { 1 });
        }
    }
}

#[test]
fn of_two_entries_of_one_directory_the_last_ones_metadata_count() {
    let scratch = Scratch::new();
    let mut first = header(EntryType::Directory, 0o700);
    first.set_mtime(1);
    let mut last = header(EntryType::Directory, 0o1750);
    last.set_mtime(2);
    let tar = Tar::new()
        .entry(first, b"d/", b"", b"")
        .file("d/f", "")
        .entry(last, b"./d", b"", b"")
        .file("d/g", "");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(scratch.listing(), ["d 1750 d", "f 644 d/f ", "f 644 d/g "]);
    let stat = std::fs::metadata(scratch.target().join("d")).unwrap();
    assert_eq!(stat.mtime(), 2);
}

#[test]
fn times_of_directories_are_right_although_files_come_later() {
    let scratch = Scratch::new();
    let mut tar = Tar::new().dir("./").dir("a").dir("a/b");
    for number in 0..200 {
        tar = tar
            .file(format!("a/b/{number}"), "x")
            .file(format!("a/{number}"), "x");
    }
    let tar = tar
        .file("a/b/1", "replaced")
        .hardlink("a/b/link", "a/2")
        .file("a/.wh.gone", "");
    scratch.unpack(tar.end()).unwrap();
    for name in ["", "a", "a/b", "a/b/1", "a/b/link"] {
        let stat = std::fs::symlink_metadata(scratch.target().join(name)).unwrap();
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1000, 0), "{name:?}");
    }
}

#[test]
fn the_roots_entry_is_the_layers_directory() {
    let scratch = Scratch::new();
    let root = header(EntryType::Directory, 0o1711);
    let unpacked = scratch
        .unpack(Tar::new().entry(root, b"./", b"", b"").end())
        .unwrap();
    let stat = std::fs::metadata(scratch.target()).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o1711, 1000));
    assert!(!unpacked.unsettled.root_is_implied);
    assert_eq!(unpacked.entries, 0);
}

#[test]
fn parents_without_entries_are_made_and_told() {
    let scratch = Scratch::new();
    let unpacked = scratch
        .unpack(Tar::new().file("a/b/f", "").dir("a").end())
        .unwrap();
    assert_eq!(scratch.listing(), ["d 755 a", "d 755 a/b", "f 644 a/b/f "]);
    assert_eq!(unpacked.unsettled.implied, [std::path::PathBuf::from("a/b")]);
    assert!(unpacked.unsettled.root_is_implied);
    assert_eq!(unpacked.entries, 3);
}

#[test]
fn modes_are_exact_whatever_the_umask_is() {
    let scratch = Scratch::new();
    let mut tar = Tar::new();
    let modes = [0o777, 0o4755, 0o2755, 0o1666, 0o6711, 0o600];
    for mode in modes {
        tar = tar.entry(
            header(EntryType::Regular, mode),
            format!("f{mode:o}").as_bytes(),
            b"",
            b"",
        );
        tar = tar.entry(
            header(EntryType::Directory, mode | 0o700),
            format!("d{mode:o}").as_bytes(),
            b"",
            b"",
        );
    }
    scratch.unpack(tar.end()).unwrap();
    for mode in modes {
        for (name, mode) in [(format!("f{mode:o}"), mode), (format!("d{mode:o}"), mode | 0o700)] {
            let stat = std::fs::metadata(scratch.target().join(&name)).unwrap();
            assert_eq!(stat.mode() & 0o7777, mode, "{name}");
        }
    }
}

#[test]
fn one_layer_has_one_digest_whatever_the_number_of_writers() {
    let mut tar = Tar::new();
    for number in 0..300 {
        tar = tar
            .file(format!("{}/{number}", number % 7), "x")
            .symlink(format!("l{number}"), "t");
    }
    let tar = tar.hardlink("h", "3/3").dir("3").end();
    let digests: Vec<_> = [1, 2, 8]
        .into_iter()
        .map(|writers| {
            let mut options = options();
            options.writers = writers;
            Scratch::new()
                .unpack_with(tar.clone(), &options)
                .unwrap()
                .tree_digest
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    let other = Scratch::new().unpack(Tar::new().file("x", "").end()).unwrap();
    assert_ne!(other.tree_digest, digests[0]);
}
