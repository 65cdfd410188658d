//! Headers that lie, or ask for what nobody should give.

use std::os::unix::fs::MetadataExt as _;

use tar::EntryType;

use super::build::{Tar, header, octal, put, record, set_size};
use super::{Scratch, message, options_with};

#[test]
fn a_size_that_lies_is_found_out() {
    let mut long = header(EntryType::Regular, 0o644);
    set_size(&mut long, 1 << 40);
    let refused = Scratch::new().refused(Tar::new().entry(long, b"lies", b"", b"short").end());
    assert_eq!(
        refused,
        "the layer's archive ends in the middle of entry \"lies\""
    );
    for size in ["18446744073709551615", "9223372036854775808"] {
        let tar = Tar::new().pax(&[("size", size)]).file("lies", "short");
        let refused = Scratch::new().refused(tar.end());
        assert_eq!(
            refused,
            "entry \"lies\" has a header field that is no number, or out of range"
        );
    }
    let most = Tar::new()
        .pax(&[("size", "9223372036854775807")])
        .file("lies", "short");
    let refused = Scratch::new().refused(most.end());
    assert_eq!(
        refused,
        "the layer's archive ends in the middle of entry \"lies\""
    );
}

#[test]
fn content_that_does_not_fill_its_last_block_is_whole_and_less_is_not() {
    let tar = Tar::new().file("a", "first").file("b", "last").cut();
    let end = tar.len() - 512 + "last".len();
    let scratch = Scratch::new();
    assert_eq!(scratch.unpack(&tar[..end]).unwrap().entries, 2);
    assert_eq!(std::fs::read(scratch.target().join("b")).unwrap(), b"last");
    let refused = Scratch::new().refused(&tar[..end - 1]);
    assert_eq!(refused, "the layer's archive ends in the middle of entry \"b\"");
}

#[test]
fn a_header_with_a_negative_or_garbled_number_is_refused() {
    let fields: [(&str, std::ops::Range<usize>); 4] = [
        ("size", 124..136),
        ("mode", 100..108),
        ("uid", 108..116),
        ("mtime", 136..148),
    ];
    for (field, at) in fields {
        let mut garbled = header(EntryType::Regular, 0o644);
        put(&mut garbled.as_mut_bytes()[at], b"garbage");
        let refused = Scratch::new().refused(Tar::new().entry(garbled, b"x", b"", b"").end());
        assert!(
            refused.starts_with("entry \"x\" has a header field"),
            "{field}: {refused}"
        );
    }
    let mut negative = header(EntryType::Regular, 0o644);
    negative.as_mut_bytes()[124..136].fill(0xff);
    let refused = Scratch::new().refused(Tar::new().entry(negative, b"x", b"", b"").end());
    assert!(refused.starts_with("entry \"x\" has a header field"), "{refused}");
}

#[test]
fn a_wrong_checksum_is_refused_with_the_entry_before_it() {
    let mut tar = Tar::new().file("first", "").file("second", "").end();
    tar[512] ^= 1;
    let refused = Scratch::new().refused(tar);
    assert_eq!(
        refused,
        "the layer is no tar archive: a header has a wrong checksum, after entry \"first\""
    );
}

#[test]
fn a_checksum_over_signed_bytes_is_taken() {
    let mut tar = Tar::new().file(b"\xff\xfe", "x").end();
    let bytes = tar[..148].iter().chain(&tar[156..512]);
    let signed = bytes.map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * i64::from(b' ');
    tar[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
    let scratch = Scratch::new();
    assert_eq!(scratch.unpack(tar).unwrap().entries, 1);
}

#[test]
fn a_lone_block_of_zeros_hides_nothing() {
    let tar = Tar::new().file("first", "").bytes(&[0; 512]).file("hidden", "");
    let refused = Scratch::new().refused(tar.end());
    assert_eq!(
        refused,
        "the layer is no tar archive: more follows a block of zeros, after entry \"first\""
    );
}

#[test]
fn a_time_before_1970_is_kept() {
    let scratch = Scratch::new();
    let mut old = header(EntryType::Regular, 0o644);
    old.as_mut_bytes()[136..148].fill(0xff);
    let tar = Tar::new()
        .entry(old, b"binary", b"", b"")
        .pax(&[("mtime", "-1.25")])
        .file("pax", "");
    scratch.unpack(tar.clone().end()).unwrap();
    let time = |name: &str| {
        let stat = std::fs::metadata(scratch.target().join(name)).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    };
    assert_eq!(time("binary"), (-1, 0));
    assert_eq!(time("pax"), (-2, 750_000_000));

    let other = Scratch::new();
    other
        .unpack_with(
            tar.end(),
            &options_with(|abilities| abilities.negative_times = false),
        )
        .unwrap();
    let stat = std::fs::metadata(other.target().join("pax")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (0, 0));
}

#[test]
fn times_at_the_ends_of_64_bits_break_nothing() {
    for time in ["9223372036854775807", "-9223372036854775807.5"] {
        let tar = Tar::new()
            .pax(&[("mtime", time)])
            .file("f", "")
            .hardlink("g", "f");
        Scratch::new().unpack(tar.end()).unwrap();
    }
    let beyond = Tar::new().pax(&[("mtime", "9223372036854775808")]).file("f", "");
    // What belongs to no entry yet is named by its header.
    assert!(
        Scratch::new()
            .refused(beyond.end())
            .contains("has a header field")
    );
}

#[test]
fn attributes_of_overlayfs_are_dropped() {
    let scratch = Scratch::new();
    let attributes = [
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.user.overlay.whiteout", "y"),
    ];
    let tar = Tar::new()
        .pax(&attributes)
        .dir("d")
        .pax(&attributes)
        .file("d/f", "");
    let options = options_with(|abilities| abilities.trusted_xattrs = true);
    let unpacked = scratch.unpack_with(tar.end(), &options).unwrap();
    for name in ["d", "d/f"] {
        let mut names = [0; 1024];
        let length = rustix::fs::listxattr(scratch.target().join(name), &mut names[..]).unwrap_or(0);
        let names = String::from_utf8_lossy(&names[..length]);
        assert!(!names.contains("overlay"), "{names}");
    }
    assert_eq!(
        unpacked.compromises.lost_xattrs, 0,
        "nothing that was wanted is lost"
    );
}

#[test]
fn a_huge_extended_header_is_refused() {
    let mut huge = header(EntryType::XHeader, 0o644);
    set_size(&mut huge, 1 << 40);
    let refused = Scratch::new().refused(Tar::new().entry(huge, b"huge", b"", b"").end());
    assert_eq!(refused, "entry \"huge\" has extended headers of more than 1 MiB");
}

#[test]
fn many_extended_headers_are_as_bad_as_a_huge_one() {
    let records = record("comment", &[b'x'; 100_000]);
    for kind in [
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        let mut tar = Tar::new();
        for _ in 0..11 {
            tar = tar.extension(kind, &records);
        }
        let refused = Scratch::new().refused(tar.file("f", "").end());
        assert_eq!(
            refused, "entry \"extension\" has extended headers of more than 1 MiB",
            "{kind:?}"
        );
    }
}

#[test]
fn more_attributes_than_a_file_can_have_are_refused() {
    let records: Vec<u8> = (0..1025)
        .flat_map(|number| record(&format!("SCHILY.xattr.user.{number}"), b""))
        .collect();
    let tar = Tar::new().extension(EntryType::XHeader, &records).file("f", "");
    let refused = Scratch::new().refused(tar.end());
    assert_eq!(
        refused,
        "entry \"extension\" has more extended attributes than a file can have"
    );
}

#[test]
fn malformed_extended_headers_are_refused() {
    for records in [
        b"garbage".as_slice(),
        b"5 a=b\n",
        b"99999999999999999999 a=b\n",
        b"-6 a=b\n",
        b"6 abcd\n",
        b"9 uid=-1\n",
        b"10 size=x\n",
        b"0 \n",
        b"29 GNU.sparse.numbytes=12345\n",
    ] {
        let tar = Tar::new().extension(EntryType::XHeader, records).file("f", "");
        let refused = Scratch::new().refused(tar.end());
        assert!(refused.starts_with("entry \"extension\" has "), "{refused}");
    }
}

#[test]
fn extended_headers_without_an_entry_are_refused() {
    let tar = Tar::new().pax(&[("path", "lost")]).end();
    let refused = Scratch::new().refused(tar);
    assert_eq!(
        refused,
        "the layer's archive ends in the middle of entry \"extension\""
    );
}

#[test]
fn an_entry_of_an_unknown_type_is_refused() {
    let refused = Scratch::new().refused(
        Tar::new()
            .entry(header(EntryType::new(b'M'), 0), b"m", b"", b"")
            .end(),
    );
    assert_eq!(refused, "entry \"m\" is of a type that no layer has");
}

#[test]
fn maps_of_holes_that_do_not_fit_are_refused() {
    let top = u64::MAX.to_string();
    for (size, map) in [
        ("10", "0,3,2,2"),
        ("10", "5,2,0,3"),
        ("10", "8,5"),
        ("10", "0,4"),
        ("10", "0,5,"),
        ("10", "0"),
        ("10", "0,x"),
        (&*top, "0,5"),
        ("10", &*format!("{top},5")),
        ("10", &*format!("5,{top}")),
    ] {
        let tar = Tar::new()
            .pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)])
            .file("sparse", "12345");
        let result = Scratch::new().unpack(tar.end());
        // One comma too many says nothing.
        if map == "0,5," {
            result.unwrap();
            continue;
        }
        let refused = message(&result.unwrap_err());
        assert!(
            refused.ends_with("has a map of holes that does not fit its content"),
            "{map}: {refused}"
        );
    }
}

#[test]
fn a_map_of_holes_that_claims_2_to_the_40_parts_is_refused_at_once() {
    let mut content = format!("{}\n", 1_u64 << 40).into_bytes();
    content.resize(4096, b'1');
    let tar = Tar::new()
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "10"),
        ])
        .file("sparse", content);
    let refused = Scratch::new().refused(tar.end());
    assert_eq!(
        refused,
        "entry \"sparse\" has a map of holes that does not fit its content"
    );
}

#[test]
fn a_map_of_holes_without_line_ends_takes_no_memory() {
    let tar = Tar::new()
        .pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "10")])
        .file("sparse", vec![b'1'; 1 << 20]);
    let refused = Scratch::new().refused(tar.end());
    assert_eq!(
        refused,
        "entry \"sparse\" has a map of holes that does not fit its content"
    );
}

#[test]
fn maps_of_the_old_format_are_checked_too() {
    let map = |parts: &[(u64, u64)], real_size| {
        let mut header = header(EntryType::GNUSparse, 0o644);
        set_size(&mut header, 5);
        let bytes = header.as_mut_bytes();
        for (index, (offset, length)) in parts.iter().enumerate() {
            octal(&mut bytes[386 + 24 * index..][..12], *offset);
            octal(&mut bytes[398 + 24 * index..][..12], *length);
        }
        octal(&mut bytes[483..495], real_size);
        Tar::new().entry(header, b"sparse", b"", b"12345").end()
    };
    Scratch::new().unpack(map(&[(5, 5)], 10)).unwrap();
    for (parts, real_size) in [
        (&[(0, 3), (2, 2)][..], 10),
        (&[(6, 5)], 10),
        (&[(0, 4)], 10),
        (&[(0, 0o77_777_777_777), (0, 1)], 10),
    ] {
        let refused = Scratch::new().refused(map(parts, real_size));
        assert_eq!(
            refused,
            "entry \"sparse\" has a map of holes that does not fit its content"
        );
    }
}
