//! What depends on the layers below: how implied directories look, and what opaque ones hide.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::build::{Tar, header};
use super::{Scratch, bounded, message, options, options_with};
use crate::unpack::{Options, UnpackError, Unsettled, settle, suits};

/// Unpacks a layer, and nothing more.
fn layer(tar: Tar) -> (Scratch, Unsettled) {
    let scratch = Scratch::new();
    let unpacked = scratch.unpack(tar.end()).unwrap();
    (scratch, unpacked.unsettled)
}

/// Unpacks layers, the lowest first, settles the last one, and returns it and whether it is bound.
fn settled(layers: Vec<Tar>) -> (Scratch, bool) {
    let (scratch, bound) = try_settled(layers, &options());
    (scratch, bound.unwrap())
}

fn try_settled(layers: Vec<Tar>, options: &Options) -> (Scratch, Result<bool, UnpackError>) {
    let mut below: Vec<Scratch> = Vec::new();
    let mut paths: Vec<PathBuf> = Vec::new();
    let count = layers.len();
    for (number, tar) in layers.into_iter().enumerate() {
        let (scratch, unsettled) = layer(tar);
        let (target, topmost_first) = (scratch.target(), paths.iter().rev().cloned().collect::<Vec<_>>());
        let is_last = number + 1 == count;
        let with = if is_last {
            options.clone()
        } else {
            super::options()
        };
        let result = bounded(move || settle(&target, &unsettled, &topmost_first, &with));
        if is_last {
            return (scratch, result);
        }
        result.unwrap();
        paths.push(scratch.target());
        below.push(scratch);
    }
    unreachable!("there is a last layer")
}

fn dir_of(mode: u32, mtime: u64) -> tar::Header {
    let mut dir = header(tar::EntryType::Directory, mode);
    dir.set_mtime(mtime);
    dir
}

fn looks(path: &Path) -> (u32, i64) {
    let stat = fs::metadata(path).unwrap();
    (stat.mode() & 0o7777, stat.mtime())
}

#[test]
fn an_implied_directory_looks_as_below() {
    let below =
        Tar::new()
            .entry(dir_of(0o1777, 5), b"tmp", b"", b"")
            .entry(dir_of(0o750, 6), b"tmp/a", b"", b"");
    let above = Tar::new().entry(dir_of(0o700, 7), b"tmp/a", b"", b"");
    let (top, is_bound) = settled(vec![below, above, Tar::new().file("tmp/a/b/f", "")]);
    assert!(is_bound);
    // Implied in the middle layer too, which took its looks from the lowest.
    assert_eq!(looks(&top.target().join("tmp")), (0o1777, 5));
    assert_eq!(looks(&top.target().join("tmp/a")), (0o700, 7));
    assert_eq!(
        looks(&top.target().join("tmp/a/b")),
        (0o755, 0),
        "nothing below has it"
    );
}

#[test]
fn what_is_hidden_below_is_not_looked_at() {
    let lowest = || {
        Tar::new()
            .entry(dir_of(0o700, 5), b"d", b"", b"")
            .entry(dir_of(0o710, 5), b"d/e", b"", b"")
    };
    for middle in [
        Tar::new().dir("./").file(".wh.d", ""),
        Tar::new().dir("./").file("d", "a file"),
        Tar::new().dir("./").dir("d").file("d/.wh.e", ""),
        Tar::new().dir("./").symlink("d", "/e"),
        // Opaque, by a whiteout of d/e.
        Tar::new().dir("./").dir("d").file("d/.wh..wh..opq", ""),
    ] {
        let (top, _) = settled(vec![lowest(), middle, Tar::new().file("d/e/f", "")]);
        assert_eq!(looks(&top.target().join("d/e")), (0o755, 0));
    }
}

#[test]
fn an_opaque_directory_gets_a_whiteout_for_each_name_below() {
    let lowest = Tar::new()
        .dir("d")
        .file("d/kept", "old")
        .file("d/gone", "")
        .file("d/deleted", "")
        .dir("d/sub")
        .file("d/sub/x", "")
        .dir("d/sub/deep")
        .file("d/sub/deep/y", "")
        .dir("d/whole")
        .file("d/whole/z", "");
    let middle = Tar::new()
        .dir("d")
        .file("d/.wh.deleted", "")
        .symlink("d/link", "x")
        .dir("other");
    let top = Tar::new()
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/kept", "new")
        .dir("d/sub")
        .dir("d/sub/deep")
        .file("d/sub/own", "")
        .file("d/own", "");
    let (scratch, is_bound) = settled(vec![lowest, middle, top]);
    assert!(is_bound);
    assert_eq!(
        scratch.listing(),
        [
            "d 755 d",
            "w d/gone",
            "f 644 d/kept new",
            "w d/link",
            "f 644 d/own ",
            "d 755 d/sub",
            "d 755 d/sub/deep",
            "w d/sub/deep/y",
            "f 644 d/sub/own ",
            "w d/sub/x",
            "w d/whole"
        ]
    );
    for name in ["d", "d/sub", "d/sub/deep"] {
        assert_eq!(looks(&scratch.target().join(name)), (0o755, 1000), "{name}");
    }
}

#[test]
fn an_opaque_root_hides_everything_below() {
    let lowest = Tar::new().file("a", "").dir("d").file("d/f", "");
    let top = Tar::new().dir("./").file(".wh..wh..opq", "").file("b", "");
    let (scratch, is_bound) = settled(vec![lowest, top]);
    assert!(is_bound);
    assert_eq!(scratch.listing(), ["w a", "f 644 b ", "w d"]);
}

#[test]
fn a_layer_that_needs_nothing_of_those_below_is_not_bound() {
    let lowest = Tar::new().dir("./").dir("d").file("d/f", "");
    let top = Tar::new().dir("./").dir("d").file("d/g", "").file("d/.wh.f", "");
    let (scratch, is_bound) = settled(vec![lowest, top]);
    assert!(!is_bound);
    assert_eq!(scratch.listing(), ["d 755 d", "w d/f", "f 644 d/g "]);
}

#[test]
fn an_implied_root_looks_as_below_and_binds_only_if_that_is_special() {
    let (top, is_bound) = settled(vec![Tar::new().dir("./"), Tar::new().file("f", "")]);
    let root_is_plain = rustix::process::geteuid().is_root();
    assert_eq!(is_bound, !root_is_plain);
    assert_eq!(looks(&top.target()).0, 0o755);
    let special = Tar::new().entry(dir_of(0o1700, 9), b"./", b"", b"");
    let (top, is_bound) = settled(vec![special, Tar::new().file("f", "")]);
    assert!(is_bound);
    assert_eq!(looks(&top.target()), (0o1700, 0));
}

#[test]
fn a_root_that_is_plain_suits_and_another_does_not() {
    assert!(suits(&[]).unwrap());
    let below = tempfile::tempdir().unwrap();
    let mode = |mode| fs::set_permissions(below.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    assert!(!suits(&[below.path().to_owned()]).unwrap());
    mode(0o755);
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(suits(&[below.path().to_owned()]).unwrap(), is_root);
    assert!(suits(&[below.path().join("missing")]).is_err());
}

#[test]
fn where_whiteouts_are_impossible_an_opaque_directory_over_names_is_refused() {
    let options = options_with(|abilities| abilities.whiteouts = false);
    let top = || Tar::new().dir("./").dir("d").file("d/.wh..wh..opq", "");
    let (_scratch, over_names) = try_settled(vec![Tar::new().dir("d").file("d/f", ""), top()], &options);
    assert!(message(&over_names.unwrap_err()).contains("this file system cannot express"));
    let (_scratch, over_nothing) = try_settled(vec![Tar::new().dir("d"), top()], &options);
    assert!(over_nothing.unwrap());
}
