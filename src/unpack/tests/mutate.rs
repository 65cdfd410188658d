//! Archives that are changed at random: whatever they have become, the unpacking ends, and stays inside.
//!
//! With `WHARF_LONG` for a minute. (Not by libFuzzer, which needs another toolchain: the mutations know what a
//! header is instead, and mend its checksum, without which nearly all would end at the first header.)

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tar::{EntryType, Header};

use super::build::{Tar, gzip, header, octal, put, record, set_size, zstd};
use super::{Scratch, options};
use crate::unpack::UnpackError;

/// Types of entries, those that no layer has too.
const TYPES: &[u8] = b"0123456789LKxgSMVDNX\0";

/// Names and targets that want something.
const NAMES: [&[u8]; 14] = [
    b"",
    b".",
    b"..",
    b"/",
    b"./",
    b"../x",
    b"/etc",
    b"d",
    b"d/f",
    b"d/../..",
    b"l/x",
    b".wh.d",
    b"d/.wh..wh..opq",
    b"\xff",
];

/// Texts of numbers.
const NUMBERS: [&[u8]; 9] = [
    b"00000000000",
    b"77777777777",
    b"00000000001",
    b"00000001000",
    b"garbage",
    b"-1",
    b"\x80\0\0\0\0\0\0\0\0\0\x02\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
];

/// Where a header's name, numbers and link are.
const FIELDS: [(usize, usize); 10] = [
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (329, 8),
    (337, 8),
    (386, 12),
    (398, 12),
    (483, 12),
];

/// Small numbers that look random (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Archives of every format.
fn seeds() -> Vec<Vec<u8>> {
    let plain = Tar::new()
        .dir("./")
        .dir("d")
        .file("d/f", "content")
        .symlink("l", "../d")
        .file("l/x", vec![b'x'; 1500])
        .hardlink("h", "d/f")
        .fifo("p")
        .file("d", "flat")
        .file(".wh.gone", "")
        .dir("o")
        .file("o/.wh..wh..opq", "");
    let extended = Tar::new()
        .extension(EntryType::XGlobalHeader, &record("mtime", b"5"))
        .pax(&[
            ("path", "d/long"),
            ("mtime", "-1.5"),
            ("SCHILY.xattr.user.x", "v"),
            ("size", "3"),
        ])
        .file("short", "abc")
        .file("n".repeat(150), "")
        .symlink("s", "t/".repeat(80))
        .hardlink("d/second", "d/long");
    let mut sparse = header(EntryType::GNUSparse, 0o644);
    set_size(&mut sparse, 2);
    let bytes = sparse.as_mut_bytes();
    octal(&mut bytes[386..398], 700);
    octal(&mut bytes[398..410], 1);
    bytes[482] = 1;
    octal(&mut bytes[483..495], 900);
    let mut more = [0; 512];
    octal(&mut more[..12], 800);
    octal(&mut more[12..24], 1);
    let mut map = b"2\n2\n3\n10\n2\n".to_vec();
    map.resize(512, 0);
    let holes = Tar::new()
        .raw(sparse, &more)
        .bytes(b"ab")
        .bytes(&[0; 510])
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.realsize", "20"),
            ("GNU.sparse.name", "g"),
        ])
        .file("x", [&*map, b"abcde"].concat())
        .pax(&[("GNU.sparse.size", "20"), ("GNU.sparse.map", "2,3,10,2")])
        .file("i", "abcde")
        .hardlink("copy", "i");
    vec![plain.end(), extended.end(), holes.end()]
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = random.of(seeds).clone();
    for _ in 0..=random.below(6) {
        let blocks = tar.len() / 512;
        let at = random.below(blocks) * 512;
        match random.below(8) {
            0 => tar[at + 156] = *random.of(TYPES),
            1 => {
                let start = at + *random.of(&[0, 157]);
                let name = *random.of(&NAMES);
                put(&mut tar[start..start + 100], name);
            }
            2 | 3 => {
                let (start, length) = *random.of(&FIELDS);
                let number = *random.of(&NUMBERS);
                put(&mut tar[at + start..at + start + length], number);
            }
            4 => {
                let byte = at + random.below(512);
                tar[byte] = *random.of(b"\0\xff0179/.= \n,");
            }
            5 => {
                // A piece of another archive, of whole blocks.
                let other = random.of(seeds);
                let from = random.below(other.len() / 512) * 512;
                let to = (from + 512 * (1 + random.below(4))).min(other.len());
                tar.splice(at..at, other[from..to].iter().copied());
            }
            6 => drop(tar.drain(at..at + 512)),
            _ => tar.truncate(random.below(tar.len() + 1).max(512)),
        }
        tar.resize(tar.len().next_multiple_of(512).max(512), 0);
    }
    mend_checksums(&mut tar);
    tar
}

/// Makes the sums right of all blocks that look like headers.
fn mend_checksums(tar: &mut [u8]) {
    for block in tar
        .chunks_exact_mut(512)
        .filter(|block| block[257..262] == *b"ustar")
    {
        let mut header = Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
}

fn compress(random: &mut Random, tar: Vec<u8>) -> Vec<u8> {
    let mut bytes = match random.below(8) {
        0 => gzip(&tar),
        1 => zstd(&tar),
        _ => return tar,
    };
    if random.below(2) == 0 {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

#[test]
fn no_change_of_an_archive_gets_out_or_hangs() {
    let seed = 0x9e37_79b9_7f4a_7c15;
    let until = std::env::var_os("WHARF_LONG").map(|_| Instant::now() + Duration::from_secs(60));
    let seeds = seeds();
    let mut options = options();
    options.limits.max_layer_bytes = 16 << 20;
    let (mut random, mut done, mut good) = (Random(seed), 0, 0);
    while done < 400 || until.is_some_and(|until| Instant::now() < until) {
        let tar = mutate(&mut random, &seeds);
        let bytes = compress(&mut random, tar);
        let scratch = Scratch::new();
        // Panics are passed on, and what lies beside the target is compared.
        match scratch.unpack_with(bytes, &options) {
            Ok(_) => good += 1,
            Err(UnpackError::Died) => panic!("the {done}th archive killed a thread"),
            Err(_) => {}
        }
        open_up(&scratch.target());
        done += 1;
    }
    assert!(
        good * 20 > done,
        "only {good} of {done} were archives: the changes are too wild"
    );
}

/// Lets a directory be removed by those who are not root.
fn open_up(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            open_up(&entry.path());
        }
    }
}
