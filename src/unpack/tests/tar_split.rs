//! The stream made again: from every directory that a test of this folder has unpacked, and in each special case.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use serde_json::Value;
use tar::EntryType;

use super::build::{Tar, header, octal, set_size};
use super::{Scratch, UnpackError};

/// What the tar-split's own reader would come to.
pub(super) struct Assembled {
    pub(super) stream: Vec<u8>,
    /// Name and size of each file whose content came from the directory.
    files: Vec<(Vec<u8>, u64)>,
}

/// Makes the stream again, as containers/storage does, and checks what its reader checks.
pub(super) fn assemble(target: &Path, tar_split: &Path) -> io::Result<Assembled> {
    let (mut stream, mut files, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    let root = fs::canonicalize(target)?;
    let lines = BufReader::new(GzDecoder::new(File::open(tar_split)?)).lines();
    for (position, line) in lines.enumerate() {
        let object: Value = serde_json::from_str(&line?)?;
        assert_eq!(object["position"], position);
        let payload = BASE64.decode(object["payload"].as_str().unwrap()).unwrap();
        if object["type"] == 2 {
            assert!((1..=64 << 10).contains(&payload.len()));
            stream.extend(payload);
            continue;
        }
        assert_eq!(object["type"], 1);
        let name = match (&object["name"], &object["name_raw"]) {
            (Value::String(name), Value::Null) => name.clone().into_bytes(),
            (Value::Null, Value::String(raw)) => BASE64.decode(raw).unwrap(),
            _ => panic!("{line:?} has no name", line = object),
        };
        let path = root.join(cleaned(&name));
        assert!(seen.insert(path.clone()), "{} comes twice", name.escape_ascii());
        assert_eq!(fs::canonicalize(&path)?, path, "{}", name.escape_ascii());
        let content = fs::read(&path)?;
        assert_eq!(object["size"], content.len(), "{}", name.escape_ascii());
        assert_eq!(payload, crc(&content).to_be_bytes(), "{}", name.escape_ascii());
        files.push((name, content.len() as u64));
        stream.extend(content);
    }
    Ok(Assembled { stream, files })
}

/// Cleans a name as Go's `filepath.Join` does behind a root.
fn cleaned(name: &[u8]) -> PathBuf {
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => assert!(path.pop(), "{} leads out", name.escape_ascii()),
            part => path.push(std::ffi::OsStr::from_bytes(part)),
        }
    }
    path
}

/// CRC-64/GO-ISO, byte by byte: polynomial x^64 + x^4 + x^3 + x + 1, reflected.
fn crc(bytes: &[u8]) -> u64 {
    let table: Vec<u64> = (0..256)
        .map(|byte: u64| {
            let shift = |crc: u64| (crc >> 1) ^ ((crc & 1) * 0xd800_0000_0000_0000);
            (0..8).fold(byte, |crc, _| shift(crc))
        })
        .collect();
    !bytes.iter().fold(!0, |crc: u64, byte| {
        table[(crc as u8 ^ byte) as usize] ^ (crc >> 8)
    })
}

#[test]
fn the_checksum_is_that_of_the_catalogue() {
    assert_eq!(crc(b"123456789"), 0xb909_56c7_75a4_1001);
}

/// Unpacks, makes the same stream again, and returns the names of what came from the directory.
fn from_directory(tar: Vec<u8>) -> Vec<String> {
    let scratch = Scratch::new();
    scratch.unpack(tar.clone()).unwrap();
    let assembled = assemble(&scratch.target(), &scratch.tar_split()).unwrap();
    assert!(assembled.stream == tar, "the stream is another");
    let names = assembled.files.iter();
    names.map(|(name, _)| name.escape_ascii().to_string()).collect()
}

#[test]
fn contents_are_left_to_the_directory_and_all_else_is_kept() {
    let large = vec![b'x'; 3 << 20];
    let tar = Tar::new()
        .dir("./")
        .file("./empty", "")
        .file("./small", "s")
        .hardlink("./link", "./small")
        .symlink("./symlink", "small")
        .file("./large", &large);
    let tar = tar.pax(&[("comment", "c")]).file("./last", vec![1; 512]).end();
    let scratch = Scratch::new();
    scratch.unpack(tar).unwrap();
    let assembled = assemble(&scratch.target(), &scratch.tar_split()).unwrap();
    let sizes: Vec<_> = assembled.files.iter().map(|(_, size)| *size).collect();
    assert_eq!(sizes, [1, 3 << 20, 512]);
    // 11 headers and 3 MiB in nothing but a kilobyte or two.
    assert!(fs::metadata(scratch.tar_split()).unwrap().len() < 2000);
}

#[test]
fn names_are_those_of_the_archive() {
    let names = from_directory(
        Tar::new()
            .file("a", "1")
            .file("./b", "2")
            .file("/c", "3")
            .file("d/../e", "4")
            .file("f//g/.", "5")
            .file(b"\xff\n\xc3", "6")
            .file("\u{fffd}\"\\\u{2028}", "7")
            .end(),
    );
    let expected = [
        "a",
        "./b",
        "/c",
        "d/../e",
        "f//g/.",
        "\\xff\\n\\xc3",
        "\\xef\\xbf\\xbd\\\"\\\\\\xe2\\x80\\xa8",
    ];
    assert_eq!(names, expected);
}

#[test]
fn what_lies_behind_links_is_kept_whole() {
    let names = from_directory(
        Tar::new()
            .dir("d")
            .symlink("relative", "d")
            .symlink("absolute", "/d")
            .file("relative/a", "a")
            .file("absolute/b", "b")
            // As text this is the root's; as a path it would be too, if the link led there.
            .file("relative/../c", "c")
            .file("d/e", "e")
            .end(),
    );
    assert_eq!(names, ["relative/../c", "d/e"]);
}

#[test]
fn names_that_may_not_fit_behind_a_stores_path_are_kept_whole() {
    let long = vec!["n".repeat(200); 11].join("/");
    assert_eq!(from_directory(Tar::new().file(long, "x").end()), [""; 0]);
}

#[test]
fn sparse_files_and_ignored_ones_are_kept_whole() {
    let mut sparse = header(EntryType::GNUSparse, 0o644);
    set_size(&mut sparse, 2);
    let bytes = sparse.as_mut_bytes();
    octal(&mut bytes[386..398], 700);
    octal(&mut bytes[398..410], 2);
    octal(&mut bytes[483..495], 900);
    let tar = Tar::new()
        .entry(sparse, b"sparse", b"", b"ab")
        .file(".wh..wh.plnk", "ignored")
        .file(".wh.gone", "content of a whiteout")
        .file("last", "x");
    assert_eq!(from_directory(tar.end()), ["last"]);
}

#[test]
fn what_later_entries_replace_is_in_the_stream_all_the_same() {
    for size in [1, 300, 200_000, 700_000] {
        let content = |byte: u8| vec![byte; size];
        let names = from_directory(
            Tar::new()
                .file("f", content(b'1'))
                .file("kept", content(b'k'))
                .file("f", content(b'2'))
                .file("d/a", content(b'3'))
                .file("d/e/b", content(b'4'))
                .symlink("l", "d")
                .file("l/through", content(b'5'))
                .file("d", content(b'6'))
                .file("./f", content(b'7'))
                .file("now-a-link", content(b'8'))
                .symlink("now-a-link", "f")
                .file("now-a-directory", content(b'9'))
                .dir("now-a-directory")
                .end(),
        );
        assert_eq!(names, ["kept", "d", "./f"], "of {size} bytes");
    }
}

#[test]
fn a_name_that_is_taken_away_is_kept_also_if_its_file_has_others() {
    let tar = Tar::new()
        .file("a", "first")
        .hardlink("b", "a")
        .hardlink("c", "b")
        .file("a", "second")
        .file("b", "third")
        .hardlink("a", "a")
        .hardlink("b", "a");
    assert_eq!(from_directory(tar.end()), ["a"]);
}

#[test]
fn what_follows_the_archive_is_kept() {
    let tar = Tar::new().file("f", "content");
    let end = [tar.clone().end(), vec![0; 9216], vec![b'g'; 200_001]].concat();
    for stream in [end, tar.clone().cut(), tar.bytes(&[0; 512]).cut()] {
        assert_eq!(from_directory(stream), ["f"]);
    }
    for stream in [Tar::new().end(), Tar::new().cut()] {
        assert_eq!(from_directory(stream), [""; 0]);
    }
}

#[test]
fn nothing_is_left_beside_it() {
    let scratch = Scratch::new();
    let tar = Tar::new().file("f", "1").file("f", "2").file("f", "3").end();
    scratch.unpack(tar).unwrap();
    // Scratch looks for what should not be there.
    assert_eq!(scratch.listing(), ["f 644 f 3"]);
}

#[test]
fn what_cannot_be_written_fails_the_unpacking_and_is_named() {
    let scratch = Scratch::new();
    fs::write(scratch.tar_split(), "there").unwrap();
    let mut tar = Tar::new();
    for number in 0..1000 {
        tar = tar.file(number.to_string(), "content");
    }
    let error = scratch.unpack(tar.end()).unwrap_err();
    let UnpackError::Fs(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.path(), scratch.tar_split());
    assert_eq!(error.io_error().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(scratch.tar_split()).unwrap(), b"there");
}
