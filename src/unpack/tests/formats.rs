//! What archives are written as: every header format, every compression.

use std::io::{self, Cursor, Read};

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::build::{Tar, gzip, header, octal, put, set_size, zstd};
use super::{Scratch, options};
use crate::unpack::Unpacked;

fn sample() -> Vec<u8> {
    Tar::new().dir("d").file("d/f", "content").end()
}

const SAMPLE: [&str; 2] = ["d 755 d", "f 644 d/f content"];

fn diff_id(tar: &[u8]) -> String {
    let hex: String = Sha256::digest(tar)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn diff_id_of(unpacked: &Unpacked) -> String {
    unpacked.diff_id.digest().to_string()
}

/// Unpacks, and returns what there is.
fn unpacked(bytes: impl Into<Vec<u8>>) -> Vec<String> {
    let scratch = Scratch::new();
    scratch.unpack(bytes).unwrap();
    scratch.listing()
}

#[test]
fn v7_headers_are_read() {
    let mut old = Header::new_old();
    old.as_mut_bytes()
        .copy_from_slice(header(EntryType::Regular, 0o600).as_bytes());
    // Neither magic nor version, and a zero for the type.
    old.as_mut_bytes()[257..].fill(0);
    let mut dir = old.clone();
    for header in [&mut old, &mut dir] {
        header.as_mut_bytes()[156] = 0;
    }
    dir.set_mode(0o700);
    set_size(&mut old, 3);
    let tar = Tar::new()
        .entry(dir, b"d/", b"", b"")
        .entry(old, b"d/f", b"", b"old");
    assert_eq!(unpacked(tar.end()), ["d 700 d", "f 600 d/f old"]);
}

#[test]
fn a_ustar_prefix_is_the_begin_of_the_name() {
    let mut ustar = header(EntryType::Regular, 0o644);
    let bytes = ustar.as_mut_bytes();
    bytes[257..265].copy_from_slice(b"ustar\x0000");
    put(&mut bytes[345..500], b"some/where");
    let tar = Tar::new()
        .dir("some")
        .dir("some/where")
        .entry(ustar, b"f", b"", b"");
    assert_eq!(
        unpacked(tar.end()),
        ["d 755 some", "d 755 some/where", "f 644 some/where/f "]
    );
}

#[test]
fn gnu_long_names_and_targets_are_read() {
    let (name, target) = ("n".repeat(200), "t/".repeat(150));
    let tar = Tar::new().symlink(&name, &target).file("short", "");
    assert_eq!(
        unpacked(tar.end()),
        [format!("l {name} {target}"), "f 644 short ".into()]
    );
}

#[test]
fn pax_records_win_over_the_header() {
    let long = format!("{}/f\n=x", "p".repeat(200));
    let tar = Tar::new()
        .pax(&[("path", &*long), ("size", "3"), ("comment", "a\nb=c\n")])
        .file("short", "abc")
        .pax(&[("linkpath", "to\nthere")])
        .symlink("l", "elsewhere");
    let scratch = Scratch::new();
    let mut wrong_size = tar.end();
    // The size of the header itself is wrong, and does not count.
    let at = wrong_size.windows(5).position(|bytes| bytes == b"short").unwrap();
    octal(&mut wrong_size[at + 124..at + 136], 0);
    let mut fixed = Header::from_byte_slice(&wrong_size[at..at + 512]).clone();
    fixed.set_cksum();
    wrong_size[at..at + 512].copy_from_slice(fixed.as_bytes());
    scratch.unpack(wrong_size).unwrap();
    let listing = scratch.listing();
    assert_eq!(listing[0], "l l to\\nthere");
    assert_eq!(listing[2], format!("f 644 {} abc", long.replace('\n', "\\n")));
}

#[test]
fn global_records_count_until_taken_back() {
    let tar = Tar::new()
        .extension(EntryType::XGlobalHeader, &super::build::record("mtime", b"77.5"))
        .file("a", "")
        .pax(&[("mtime", "88")])
        .file("b", "");
    let scratch = Scratch::new();
    scratch.unpack(tar.end()).unwrap();
    let time = |name: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(scratch.target().join(name)).unwrap().mtime()
    };
    assert_eq!((time("a"), time("b")), (77, 88));
}

#[test]
fn base_256_numbers_are_read() {
    let mut binary = header(EntryType::Regular, 0o644);
    let bytes = binary.as_mut_bytes();
    bytes[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\x03");
    bytes[136..148].copy_from_slice(b"\x80\0\0\0\0\0\0\x02\0\0\0\0");
    let scratch = Scratch::new();
    scratch
        .unpack(Tar::new().entry(binary, b"f", b"", b"abc").end())
        .unwrap();
    assert_eq!(scratch.listing(), ["f 644 f abc"]);
    use std::os::unix::fs::MetadataExt as _;
    let stat = std::fs::metadata(scratch.target().join("f")).unwrap();
    // ext4 keeps 34 bits.
    assert_eq!(stat.mtime(), 1 << 33);
}

#[test]
fn sparse_files_of_the_old_format_are_read() {
    let mut sparse = header(EntryType::GNUSparse, 0o644);
    set_size(&mut sparse, 6);
    let bytes = sparse.as_mut_bytes();
    for (index, offset) in [10, 20, 30, 40].into_iter().enumerate() {
        octal(&mut bytes[386 + 24 * index..][..12], offset);
        octal(&mut bytes[398 + 24 * index..][..12], 1);
    }
    bytes[482] = 1;
    octal(&mut bytes[483..495], 70);
    let mut more = [0; 512];
    for (index, offset) in [50, 60].into_iter().enumerate() {
        octal(&mut more[24 * index..][..12], offset);
        octal(&mut more[24 * index + 12..][..12], 1);
    }
    put(&mut sparse.as_old_mut().name, b"f");
    let tar = Tar::new()
        .raw(sparse, &more)
        .bytes(b"abcdef")
        .bytes(&[0; 506])
        .file("next", "");
    let scratch = Scratch::new();
    scratch.unpack(tar.end()).unwrap();
    let mut expected = [0; 70];
    for (index, byte) in b"abcdef".iter().enumerate() {
        expected[10 * (index + 1)] = *byte;
    }
    assert_eq!(std::fs::read(scratch.target().join("f")).unwrap(), expected);
    assert_eq!(scratch.listing()[1], "f 644 next ");
}

#[test]
fn sparse_files_of_the_three_pax_formats_are_read() {
    let first = [
        ("GNU.sparse.size", "20"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "2"),
        ("GNU.sparse.numbytes", "3"),
        ("GNU.sparse.offset", "10"),
        ("GNU.sparse.numbytes", "2"),
    ];
    let second = [
        ("GNU.sparse.size", "20"),
        ("GNU.sparse.map", "2,3,10,2"),
        ("GNU.sparse.name", "f"),
    ];
    let third = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "20"),
        ("GNU.sparse.name", "f"),
    ];
    let mut map = b"2\n2\n3\n10\n2\n".to_vec();
    map.resize(512, 0);
    for tar in [
        Tar::new().pax(&first).file("f", "abcde"),
        Tar::new().pax(&second).file("GNUSparseFile.1/f", "abcde"),
        Tar::new()
            .pax(&third)
            .file("GNUSparseFile.1/f", [&*map, b"abcde"].concat()),
    ] {
        let listing = unpacked(tar.file("next", "").end());
        assert_eq!(
            listing,
            [
                "f 644 f \\x00\\x00abc\\x00\\x00\\x00\\x00\\x00de\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00",
                "f 644 next "
            ]
        );
    }
}

#[test]
fn a_hole_takes_no_room() {
    use std::os::unix::fs::MetadataExt as _;
    let scratch = Scratch::new();
    let size = (1_u64 << 36).to_string();
    let tar = Tar::new()
        .pax(&[("GNU.sparse.size", &*size), ("GNU.sparse.map", "0,1")])
        .file("f", "x")
        .hardlink("copy", "f");
    let options = super::options_with(|abilities| abilities.hard_link_limit = Some(1));
    scratch.unpack_with(tar.end(), &options).unwrap();
    for name in ["f", "copy"] {
        let stat = std::fs::metadata(scratch.target().join(name)).unwrap();
        assert_eq!(stat.size(), 1 << 36);
        assert!(stat.blocks() < 1000, "{name} takes {} blocks", stat.blocks());
    }
}

#[test]
fn compression_is_told_from_the_bytes() {
    let tar = sample();
    for (compressed, what) in [
        (tar.clone(), "plain"),
        (gzip(&tar), "gzip"),
        (
            [gzip(&tar[..700]), gzip(b""), gzip(&tar[700..])].concat(),
            "gzip of several members",
        ),
        (zstd(&tar), "zstd"),
        (
            [
                b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(),
                zstd(&tar[..700]),
                b"\x5f\x2a\x4d\x18\0\0\0\0".to_vec(),
                zstd(&tar[700..]),
                b"\x51\x2a\x4d\x18\x01\0\0\0z".to_vec(),
            ]
            .concat(),
            "zstd of several frames",
        ),
    ] {
        let scratch = Scratch::new();
        let unpacked = scratch.unpack(compressed).unwrap();
        assert_eq!(scratch.listing(), SAMPLE, "{what}");
        assert_eq!(diff_id_of(&unpacked), diff_id(&tar), "{what}");
        assert_eq!(unpacked.size_bytes, tar.len() as u64, "{what}");
        assert_eq!(unpacked.entries, 2, "{what}");
    }
}

/// Gives a byte at a time, and is interrupted before each.
struct Trickle(Cursor<Vec<u8>>, bool);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn a_source_may_give_a_byte_at_a_time() {
    let tar = sample();
    for bytes in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let scratch = Scratch::new();
        scratch
            .unpack_from(Trickle(Cursor::new(bytes), false), &options())
            .unwrap();
        assert_eq!(scratch.listing(), SAMPLE);
    }
}

#[test]
fn an_empty_stream_is_an_empty_layer() {
    for bytes in [
        Vec::new(),
        vec![0; 512],
        vec![0; 1024],
        vec![0; 10240],
        gzip(b""),
        zstd(b""),
    ] {
        let scratch = Scratch::new();
        let unpacked = scratch.unpack(bytes).unwrap();
        assert_eq!((unpacked.entries, scratch.listing().len()), (0, 0));
        assert!(unpacked.unsettled.root_is_implied);
    }
}

#[test]
fn bytes_after_the_archive_count_for_the_diff_id() {
    for more in [vec![0; 10_000], b"garbage".to_vec(), vec![b'x'; 300_000]] {
        let tar = [sample(), more].concat();
        for bytes in [tar.clone(), gzip(&tar), zstd(&tar)] {
            let scratch = Scratch::new();
            let unpacked = scratch.unpack(bytes).unwrap();
            assert_eq!(scratch.listing(), SAMPLE);
            assert_eq!(diff_id_of(&unpacked), diff_id(&tar));
            assert_eq!(unpacked.size_bytes, tar.len() as u64);
        }
    }
}

#[test]
fn an_archive_may_end_without_its_mark() {
    let tar = Tar::new().dir("d").file("d/f", "content");
    assert_eq!(unpacked(tar.clone().cut()), SAMPLE);
    assert_eq!(unpacked([tar.cut(), vec![0; 512]].concat()), SAMPLE);
}

#[test]
fn damaged_compression_is_told_as_such() {
    let tar = sample();
    let (mut sum, mut frame) = (gzip(&tar), zstd(&tar));
    let at = sum.len() - 6;
    sum[at] ^= 1;
    let at = frame.len() / 2;
    frame.truncate(at);
    for (bytes, name) in [
        (sum, "gzip"),
        (frame, "zstd"),
        ([gzip(&tar), b"x".to_vec()].concat(), "gzip"),
    ] {
        let refused = Scratch::new().refused(bytes);
        assert!(
            refused.starts_with(&format!("the layer is no whole {name} stream: "))
                || refused.starts_with("the layer's archive ends"),
            "{refused}"
        );
    }
}
