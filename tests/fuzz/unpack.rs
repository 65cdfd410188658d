//! Any bytes as a layer: nothing may panic, hang, differ by the number of writers, or leave the directory; and what
//! has been unpacked makes the same stream again.

#![no_main]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use wharf::fs::{Abilities, Durability};
use wharf::oci::{Algorithm, Digest};
use wharf::unpack::{Limits, Options, Progress, unpack};

/// What lies beside the directories, and must stay as it is.
const BESIDE: &str = "beside";

fuzz_target!(|layer: &[u8]| {
    let scratch = tempfile::tempdir().expect("a directory");
    std::fs::write(scratch.path().join(BESIDE), BESIDE).expect("write");
    let [alone, together] = [1, 3].map(|writers| unpacked(layer, scratch.path(), writers));
    assert_eq!(alone, together, "the number of writers makes a difference");
    assert_eq!(
        std::fs::read(scratch.path().join(BESIDE)).expect("read"),
        BESIDE.as_bytes()
    );
    let names = std::fs::read_dir(scratch.path())
        .expect("list")
        .map(|entry| entry.expect("an entry").file_name());
    let beside = names
        .filter(|name| !name.as_bytes().starts_with(b"tar-split"))
        .count();
    assert_eq!(beside, 3, "something is outside of the layers' directories");
});

/// Returns what came of a layer; what failed may differ by which writer was first.
fn unpacked(layer: &[u8], scratch: &Path, writers: usize) -> Option<(String, String, u64)> {
    let target = scratch.join(writers.to_string());
    std::fs::create_dir(&target).expect("make a directory");
    let abilities = Abilities {
        whiteouts: true,
        durability: Durability::Close,
        ..Abilities::default()
    };
    let options = Options {
        abilities: Arc::new(abilities),
        writers,
        user_opaque: false,
        limits: Limits {
            max_layer_bytes: 4 << 20,
            max_entries: 1000,
            max_zstd_window_bytes: 8 << 20,
        },
    };
    let tar_split = scratch.join(format!("tar-split-{writers}"));
    let unpacked = unpack(layer, &target, &tar_split, &options, &Progress::default()).ok()?;
    let stream = Digest::of(Algorithm::Sha256, &assembled(&target, &tar_split));
    assert_eq!(
        *unpacked.diff_id.digest(),
        stream,
        "the stream made again is another"
    );
    Some((
        unpacked.diff_id.to_string(),
        unpacked.tree_digest,
        unpacked.entries,
    ))
}

/// Makes a layer's stream again: what a tar-split holds, and the content of the files that it names.
fn assembled(target: &Path, tar_split: &Path) -> Vec<u8> {
    let file = std::fs::File::open(tar_split).expect("open the tar-split");
    let mut stream = Vec::new();
    for line in BufReader::new(GzDecoder::new(file)).lines() {
        let object: Value = serde_json::from_str(&line.expect("a line")).expect("an object");
        let decode = |value: &Value| BASE64.decode(value.as_str().unwrap_or_default()).expect("base64");
        if object["type"] == 2 {
            stream.extend(decode(&object["payload"]));
            continue;
        }
        let name = match object["name"].as_str() {
            Some(name) => name.as_bytes().to_vec(),
            None => decode(&object["name_raw"]),
        };
        // Cleaned as text, as containers/storage does.
        let mut path = target.to_owned();
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(path.pop()),
                part => path.push(OsStr::from_bytes(part)),
            }
        }
        stream.extend(std::fs::read(&path).expect("read a file"));
    }
    stream
}
