//! What a layer deletes of the layers below.

use super::build::Tar;
use super::{Scratch, message, options_with};
use std::path::PathBuf;

#[test]
fn a_whiteout_is_a_character_device_0_0() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("d")
        .file("d/.wh.gone", "")
        .file(".wh.too", "")
        .file("new/.wh.x", "content that means nothing")
        .dir(".wh.dir");
    let unpacked = scratch.unpack(tar.end()).unwrap();
    assert_eq!(
        scratch.listing(),
        ["d 755 d", "w d/gone", "w dir", "d 755 new", "w new/x", "w too"]
    );
    assert_eq!(unpacked.entries, 2, "whiteouts are no entries of the tree");
    assert!(unpacked.unsettled.opaque.is_empty());
}

#[test]
fn a_name_that_the_layer_has_itself_needs_no_whiteout() {
    for (first, second) in [(".wh.f", "f"), ("f", ".wh.f")] {
        let scratch = Scratch::new();
        scratch
            .unpack(Tar::new().file(first, "").file(second, "").end())
            .unwrap();
        assert_eq!(scratch.listing(), ["f 644 f "]);
    }
}

#[test]
fn a_directory_deleted_and_made_anew_is_opaque() {
    let before = Tar::new().file(".wh.d", "").dir("d").file("d/f", "");
    let after = Tar::new().dir("d").file("d/f", "").file(".wh.d", "");
    let implied = Tar::new().file(".wh.d", "").file("d/f", "");
    for tar in [before, after, implied] {
        let scratch = Scratch::new();
        let unpacked = scratch.unpack(tar.end()).unwrap();
        assert_eq!(scratch.listing(), ["d 755 d", "f 644 d/f "]);
        assert_eq!(unpacked.unsettled.opaque, [PathBuf::from("d")]);
    }
}

#[test]
fn an_opaque_mark_makes_its_directory_opaque_and_no_file() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("d")
        .file("d/f", "")
        .file("d/.wh..wh..opq", "")
        .file(".wh..wh.plnk", "");
    let unpacked = scratch.unpack(tar.end()).unwrap();
    assert_eq!(scratch.listing(), ["d 755 d", "f 644 d/f "]);
    assert_eq!(unpacked.unsettled.opaque, [PathBuf::from("d")]);
}

#[test]
fn what_replaces_an_opaque_directory_is_not_opaque() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/.wh.x", "")
        .file("d", "flat")
        .dir("d");
    let unpacked = scratch.unpack(tar.end()).unwrap();
    assert_eq!(scratch.listing(), ["d 755 d"]);
    assert!(unpacked.unsettled.opaque.is_empty());
}

#[test]
fn where_whiteouts_are_impossible_a_layer_that_needs_one_is_refused() {
    let options = options_with(|abilities| abilities.whiteouts = false);
    let needs = Tar::new().file(".wh.gone", "").end();
    let refused = Scratch::new().unpack_with(needs, &options).unwrap_err();
    assert!(
        message(&refused).contains("this file system cannot express"),
        "{refused}"
    );
    let needs_none = Tar::new().file(".wh.f", "").file("f", "").end();
    Scratch::new().unpack_with(needs_none, &options).unwrap();
}

#[test]
fn whiteouts_below_what_is_no_directory_any_more_hide_nothing() {
    for (kind, expected) in [
        (
            Tar::new().dir("real").file("d", ""),
            vec!["f 644 d ", "d 755 real"],
        ),
        (
            Tar::new().dir("real").symlink("d", "real"),
            vec!["l d real", "d 755 real"],
        ),
    ] {
        let scratch = Scratch::new();
        let tar = kind.file("d/.wh.x", "").file("d/e/.wh..wh..opq", "");
        let unpacked = scratch.unpack(tar.end()).unwrap();
        assert_eq!(scratch.listing(), expected);
        assert!(unpacked.unsettled.opaque.is_empty());
    }
}

#[test]
fn an_opaque_root_is_settled_and_not_marked() {
    // overlayfs does not look for the mark there.
    let tar = Tar::new().dir("./").file(".wh..wh..opq", "").file("f", "");
    let unpacked = Scratch::new().unpack_with(
        tar.end(),
        &options_with(|abilities| abilities.trusted_xattrs = true),
    );
    assert_eq!(unpacked.unwrap().unsettled.opaque, [PathBuf::new()]);
}
