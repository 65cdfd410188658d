//! Bounds: what is beyond them ends the unpacking, soon.

use super::build::{Tar, gzip, header, set_size, zstd};
use super::{Scratch, message, options, options_with};

#[test]
fn too_many_entries_are_refused() {
    let mut options = options();
    options.limits.max_entries = 100;
    let many = |count: usize| {
        (0..count)
            .fold(Tar::new().dir("./"), |tar, number| {
                tar.file(number.to_string(), "")
            })
            .end()
    };
    Scratch::new().unpack_with(many(99), &options).unwrap();
    let refused = Scratch::new().unpack_with(many(100), &options).unwrap_err();
    assert_eq!(
        message(&refused),
        "the layer is beyond the limit max_layer_entries = 100; raise it if the image is to be trusted"
    );
}

#[test]
fn directories_without_entries_count_as_entries() {
    let mut options = options();
    options.limits.max_entries = 100;
    let scratch = Scratch::new();
    let refused = scratch.unpack_with(Tar::new().file("d/".repeat(200), "").end(), &options);
    assert!(message(&refused.unwrap_err()).contains("max_layer_entries = 100"));
    assert!(scratch.listing().len() <= 100);
}

#[test]
fn whiteouts_count_as_entries() {
    let mut options = options();
    options.limits.max_entries = 100;
    let tar = (0..101).fold(Tar::new(), |tar, number| tar.file(format!(".wh.{number}"), ""));
    let refused = Scratch::new().unpack_with(tar.end(), &options).unwrap_err();
    assert!(message(&refused).contains("max_layer_entries = 100"));
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let mut options = options();
    options.limits.max_layer_bytes = 1 << 20;
    let zeros = vec![0; 6 << 20];
    let tar = Tar::new().file("bomb", &zeros).end();
    for bytes in [gzip(&tar), zstd(&tar), tar] {
        let scratch = Scratch::new();
        let refused = scratch.unpack_with(bytes, &options).unwrap_err();
        assert_eq!(
            message(&refused),
            "the layer is beyond the limit max_layer_size = 1048576; raise it if the image is to be trusted"
        );
        let written = std::fs::metadata(scratch.target().join("bomb")).map_or(0, |stat| stat.len());
        assert!(written <= 1 << 20, "{written} bytes were written");
    }
    // After the archive's end too.
    let after = gzip(&[Tar::new().end(), zeros].concat());
    let refused = Scratch::new().unpack_with(after, &options).unwrap_err();
    assert!(message(&refused).contains("max_layer_size"));
}

#[test]
fn a_zstd_window_of_2_gib_is_refused() {
    // RFC 8878 3.1.1.1.2: the window's exponent less 10, in 5 bits before 3 of mantissa.
    for descriptor in [21 << 3, 18 << 3, (17 << 3) | 1] {
        let mut frame = b"\x28\xb5\x2f\xfd\x00".to_vec();
        frame.push(descriptor);
        // A last block, raw, of no bytes.
        frame.extend_from_slice(&[1, 0, 0]);
        let refused = Scratch::new().refused(frame);
        assert_eq!(
            refused,
            "the layer is beyond the limit max_zstd_window = 134217728; raise it if the image is to be trusted"
        );
    }
    let allowed = b"\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00".to_vec();
    Scratch::new().unpack(allowed).unwrap();
}

#[test]
fn an_archive_cut_at_any_block_is_found_out() {
    let tar = Tar::new()
        .dir("d")
        .file("d/small", "small")
        .file("d/large", vec![b'x'; 5000])
        .pax(&[("path", "d/pax")])
        .file("x", "y")
        .file("d/".repeat(80), "")
        .symlink("l", "d")
        .hardlink("h", "d/small");
    let whole = tar.len();
    let bytes = tar.cut();
    let full = Scratch::new().unpack(bytes.clone()).unwrap();
    for length in (0..whole).step_by(512) {
        let scratch = Scratch::new();
        match scratch.unpack(&bytes[..length]) {
            // Between two entries it looks like an end; the DiffID tells.
            Ok(unpacked) => assert_ne!(unpacked.diff_id, full.diff_id, "{length}"),
            Err(error) => assert!(
                message(&error).contains("ends in the middle of entry \""),
                "{length}"
            ),
        }
        for length in [length + 1, length + 511] {
            match Scratch::new().unpack(&bytes[..length]) {
                // In what only fills the last block up.
                Ok(unpacked) => assert_ne!(unpacked.diff_id, full.diff_id, "{length}"),
                Err(error) => assert!(
                    message(&error).contains("ends in the middle of entry \""),
                    "{length}: {error}"
                ),
            }
        }
    }
}

#[test]
fn compression_cut_anywhere_is_found_out() {
    // What does not compress, so that the cuts lie in its content.
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(20_000)
    .collect();
    let tar = Tar::new().file("noise", noise).end();
    for bytes in [gzip(&tar), zstd(&tar)] {
        for length in (5..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
            let refused = Scratch::new().refused(&bytes[..length]);
            assert!(
                refused.contains("no whole") || refused.contains("in the middle of entry \"noise\""),
                "{length}: {refused}"
            );
        }
    }
}

#[test]
fn many_small_files_come_out_right_with_one_writer_and_many() {
    let count = if std::env::var_os("WHARF_LONG").is_some() {
        30_000
    } else {
        3000
    };
    for writers in [1, 16] {
        let mut options = options();
        options.writers = writers;
        let tar = (0..count).fold(Tar::new(), |tar, number| {
            let content = vec![b'x'; number % 700];
            if number % 100 == 0 {
                tar.dir(format!("{}", number / 100))
            } else {
                tar
            }
            .file(format!("{}/{number}", number / 100), content)
        });
        let scratch = Scratch::new();
        let unpacked = scratch.unpack_with(gzip(&tar.end()), &options).unwrap();
        assert_eq!(unpacked.entries as usize, count + count / 100);
        assert_eq!(scratch.listing().len(), count + count / 100);
    }
}

#[test]
fn maps_and_attributes_do_not_pile_up_in_memory() {
    let before = peak_memory();
    // A million parts that are empty, and as many bytes of attributes, for each of many files.
    let map = "0,0,".repeat(200_000) + "0,1";
    let value = vec![b'v'; 900_000];
    let mut tar = Tar::new();
    for number in 0..60 {
        tar = tar
            .pax(&[("GNU.sparse.size", "1"), ("GNU.sparse.map", &*map)])
            .file(format!("map{number}"), "x")
            .pax(&[("SCHILY.xattr.user.large", &value)])
            .file(format!("attribute{number}"), "x");
    }
    for number in 0..50 {
        tar = tar
            .pax(&[("SCHILY.xattr.user.large", &value)])
            .hardlink(format!("link{number}"), "map0");
    }
    let bytes = tar.end();
    let after_building = peak_memory();
    let options = options_with(|abilities| abilities.user_xattrs = false);
    Scratch::new().unpack_with(bytes, &options).unwrap();
    let taken = peak_memory() - after_building.max(before);
    assert!(taken < 100 << 20, "{} MiB", taken >> 20);
}

#[test]
fn attributes_that_would_have_to_be_kept_are_bounded() {
    let value = vec![b'v'; 1_000_000];
    let mut tar = Tar::new();
    for number in 0..68 {
        tar = tar
            .pax(&[("SCHILY.xattr.user.large", &value)])
            .dir(format!("d{number}"));
    }
    let refused = Scratch::new().refused(tar.end());
    assert_eq!(
        refused,
        "entry \"d67\" brings directories' attributes and links' targets of the layer to more than 64 MiB"
    );
}

/// Returns how much memory this process, which runs one test, has had at most.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn a_large_file_flows_through_in_pieces() {
    let mut large = header(tar::EntryType::Regular, 0o644);
    let content = vec![b'z'; 8 << 20];
    set_size(&mut large, content.len() as u64);
    let scratch = Scratch::new();
    let tar = Tar::new()
        .file("deep/er/large", &content)
        .entry(large, b"deep/er/second", b"", &content);
    scratch.unpack(zstd(&tar.end())).unwrap();
    for name in ["large", "second"] {
        assert!(
            std::fs::read(scratch.target().join("deep/er").join(name)).unwrap() == content,
            "{name}"
        );
    }
}
