//! Layers that want out, or that want what cannot be: refused by name, or kept inside.

use super::Scratch;
use super::build::Tar;

#[test]
fn an_absolute_path_lies_below_the_root() {
    let scratch = Scratch::new();
    let name = scratch.outside("kept");
    scratch.unpack(Tar::new().file(&name, "new").end()).unwrap();
    let inside = scratch.target().join(name.trim_start_matches('/'));
    assert_eq!(std::fs::read(inside).unwrap(), b"new");
}

#[test]
fn a_path_that_climbs_out_is_refused() {
    for name in [
        "../outside/kept",
        "a/../../outside/kept",
        "/../outside/kept",
        "..",
        "./..",
    ] {
        let scratch = Scratch::new();
        let refused = scratch.refused(Tar::new().file(name, "new").end());
        assert_eq!(
            refused,
            format!("entry \"{name}\" has a name that leads out of the layer")
        );
        assert!(scratch.listing().is_empty());
    }
}

#[test]
fn a_path_through_an_absolute_symlink_stays_inside() {
    let scratch = Scratch::new();
    let target = scratch.outside("");
    let tar = Tar::new().symlink("link", &target).file("link/kept", "new");
    scratch.unpack(tar.end()).unwrap();
    let inside = scratch.target().join(target.trim_start_matches('/')).join("kept");
    assert_eq!(std::fs::read(inside).unwrap(), b"new");
}

#[test]
fn a_path_through_a_climbing_symlink_stays_inside() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .symlink("link", "../../../outside")
        .file("link/kept", "new");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(
        scratch.listing(),
        [
            "l link ../../../outside",
            "d 755 outside",
            "f 644 outside/kept new"
        ]
    );
}

#[test]
fn a_path_through_a_symlink_to_a_symlink_stays_inside() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .dir("d")
        .symlink("d/a", "../b")
        .symlink("b", "../../outside")
        .file("d/a/kept", "new");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(
        scratch.listing(),
        [
            "l b ../../outside",
            "d 755 d",
            "l d/a ../b",
            "d 755 outside",
            "f 644 outside/kept new"
        ]
    );
}

#[test]
fn symlinks_in_a_ring_are_refused() {
    let scratch = Scratch::new();
    let tar = Tar::new().symlink("a", "b").symlink("b", "a").file("a/f", "");
    assert_eq!(
        scratch.refused(tar.end()),
        "entry \"a/f\" goes through too many symbolic links"
    );
}

#[test]
fn a_directory_that_becomes_a_symlink_and_back_is_never_followed() {
    let scratch = Scratch::new();
    let mut tar = Tar::new();
    for round in 0..20 {
        tar = tar
            .dir("d")
            .file(format!("d/f{round}"), "inside")
            .symlink("d", scratch.outside(""))
            .file("d/kept", "new")
            .symlink("d", "../outside")
            .file("d/link", "new");
    }
    scratch.unpack(tar.dir("d").file("d/kept", "last").end()).unwrap();
    assert_eq!(std::fs::read(scratch.target().join("d/kept")).unwrap(), b"last");
    let is_link = std::fs::symlink_metadata(scratch.target().join("d")).unwrap();
    assert!(is_link.is_dir());
}

#[test]
fn a_hard_link_to_outside_is_refused() {
    let scratch = Scratch::new();
    let absolute = scratch.outside("kept");
    for target in [
        "../outside/kept",
        "/etc/passwd",
        &absolute,
        "a/../../outside/kept",
        "..",
        "/",
        "",
    ] {
        let refused = scratch.refused(Tar::new().hardlink("link", target).end());
        assert_eq!(
            refused, "entry \"link\" is a hard link to something that is no file of this layer",
            "{target}"
        );
    }
}

#[test]
fn a_hard_link_through_a_symlink_to_outside_is_refused() {
    let scratch = Scratch::new();
    let directory = Tar::new()
        .symlink("out", scratch.outside(""))
        .hardlink("link", "out/kept");
    assert!(scratch.refused(directory.end()).contains("entry \"link\""));
}

#[test]
fn a_hard_link_to_a_symlink_is_another_name_of_the_symlink() {
    let scratch = Scratch::new();
    let target = scratch.outside("kept");
    let tar = Tar::new().symlink("out", &target).hardlink("link", "out");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(
        scratch.listing(),
        [format!("l link {target}"), format!("l out {target}")]
    );
}

#[test]
fn a_hard_link_to_a_directory_is_refused() {
    let tar = Tar::new().dir("d").hardlink("link", "d");
    assert!(
        Scratch::new()
            .refused(tar.end())
            .contains("entry \"link\" is a hard link")
    );
}

#[test]
fn a_hard_link_to_what_is_missing_or_comes_later_is_refused() {
    let tar = Tar::new().hardlink("link", "later").file("later", "");
    assert!(
        Scratch::new()
            .refused(tar.end())
            .contains("entry \"link\" is a hard link")
    );
}

#[test]
fn a_hard_link_to_itself_is_refused_unless_it_is_there() {
    let alone = Tar::new().hardlink("link", "link");
    assert!(
        Scratch::new()
            .refused(alone.end())
            .contains("entry \"link\" is a hard link")
    );
    let scratch = Scratch::new();
    let there = Tar::new().file("link", "kept").hardlink("link", "./link");
    scratch.unpack(there.end()).unwrap();
    assert_eq!(scratch.listing(), ["f 644 link kept"]);
}

#[test]
fn a_device_outside_is_refused() {
    let scratch = Scratch::new();
    let refused = scratch.refused(Tar::new().device("../outside/null", 1, 3).end());
    assert_eq!(
        refused,
        "entry \"../outside/null\" has a name that leads out of the layer"
    );
    scratch.refused(Tar::new().fifo("../outside/pipe").end());
}

#[test]
fn a_character_device_0_0_is_refused() {
    let refused = Scratch::new().refused(Tar::new().device("sneaky", 0, 0).end());
    assert_eq!(
        refused,
        "entry \"sneaky\" is a character device 0:0, which would delete files of the layers below"
    );
}

#[test]
fn a_device_number_that_the_kernel_would_cut_to_0_0_is_refused() {
    for (major, minor) in [(0x1000, 0), (0, 0x10_0000), (0x1000, 0x10_0000)] {
        let scratch = Scratch::new();
        let refused = scratch.refused(Tar::new().device("sneaky", major, minor).end());
        assert_eq!(
            refused,
            "entry \"sneaky\" has a header field that is no number, or out of range"
        );
        assert!(scratch.listing().is_empty());
    }
}

#[test]
fn a_name_of_5000_bytes_is_refused() {
    let name = "long/".repeat(1000);
    for tar in [
        Tar::new().file(&name, ""),
        Tar::new().pax(&[("path", &name)]).file("short", ""),
    ] {
        let refused = Scratch::new().refused(tar.end());
        assert!(refused.starts_with("entry \"long/long/"), "{refused}");
        assert!(refused.ends_with("(5000 bytes) has a name, or a part of it, that is too long for Linux"));
        assert!(refused.len() < 400, "messages stay short");
    }
}

#[test]
fn a_part_of_256_bytes_is_refused_and_one_of_255_is_not() {
    let scratch = Scratch::new();
    let refused = scratch.refused(Tar::new().file("x".repeat(256), "").end());
    assert!(refused.ends_with("(256 bytes) has a name, or a part of it, that is too long for Linux"));
    Scratch::new()
        .unpack(Tar::new().file("x".repeat(255), "").end())
        .unwrap();
    let target = Tar::new().symlink("l", "x".repeat(256)).file("l/f", "");
    assert!(
        Scratch::new()
            .refused(target.end())
            .starts_with("entry \"l/f\" has a name")
    );
}

#[test]
fn nesting_beyond_what_a_path_can_name_is_refused() {
    let scratch = Scratch::new();
    // Each link leads a thousand directories deeper.
    let deep = "d/".repeat(1000);
    let tar = Tar::new()
        .dir(&deep)
        .symlink("a", &deep)
        .dir(format!("a/{deep}"))
        .symlink("b", format!("a/{deep}"))
        .file(format!("b/{deep}/f"), "");
    let refused = scratch.refused(tar.end());
    assert!(refused.starts_with("entry \"b/d/d/"), "{refused}");
    assert!(refused.ends_with("too long for Linux"), "{refused}");
}

#[test]
fn the_deepest_nesting_can_be_replaced() {
    let scratch = Scratch::new();
    let tar = Tar::new().file("d/".repeat(2000) + "f", "").file("d", "flat");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(scratch.listing(), ["f 644 d flat"]);
}

#[test]
fn a_nul_in_a_name_is_refused() {
    let scratch = Scratch::new();
    let name = Tar::new().pax(&[("path", "a\0b")]).file("x", "");
    assert_eq!(
        scratch.refused(name.end()),
        "entry \"a\\x00b\" has a name that no file can have"
    );
    let target = Tar::new().pax(&[("linkpath", "a\0b")]).symlink("x", "y");
    let refused = scratch.refused(target.end());
    assert_eq!(
        refused,
        "entry \"x\" has a symbolic link's target that no link can have"
    );
}

#[test]
fn a_symbolic_link_without_a_target_is_refused() {
    let refused = Scratch::new().refused(Tar::new().symlink("x", "").end());
    assert_eq!(
        refused,
        "entry \"x\" has a symbolic link's target that no link can have"
    );
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    for tar in [
        Tar::new().symlink("./", "../outside"),
        Tar::new().symlink("/", "/etc"),
        Tar::new().file("a/..", ""),
        Tar::new().file("a", "").hardlink(".", "a"),
    ] {
        let refused = Scratch::new().refused(tar.end());
        assert!(
            refused.ends_with("names the layer's root, which can only be a directory"),
            "{refused}"
        );
    }
}

#[test]
fn what_lies_below_a_file_is_refused() {
    for tar in [
        Tar::new().file("f", "").file("f/x", ""),
        Tar::new().fifo("f").dir("f/x"),
    ] {
        let refused = Scratch::new().refused(tar.end());
        assert!(
            refused.ends_with("lies below something that is no directory"),
            "{refused}"
        );
    }
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let refused = Scratch::new().refused(Tar::new().file(name, "").end());
        assert_eq!(
            refused,
            format!("entry \"{name}\" has a name that no file can have")
        );
    }
}

#[test]
fn names_that_are_not_utf_8_are_kept_byte_by_byte() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .file(b"\xff\xfe", "a")
        .symlink(b"l\xe9", b"\xff\xfe")
        .pax(&[("path", b"p\x80\n")])
        .file("short", "b");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(
        scratch.listing(),
        ["l l\\xe9 \\xff\\xfe", "f 644 p\\x80\\n b", "f 644 \\xff\\xfe a"]
    );
}

#[test]
fn a_whiteout_below_a_file_says_nothing() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .file("f", "")
        .file("f/.wh.x", "")
        .file("f/.wh..wh..opq", "");
    scratch.unpack(tar.end()).unwrap();
    assert_eq!(scratch.listing(), ["f 644 f "]);
}
