//! Any bytes as a layer: nothing may panic, hang, differ by the number of writers, or leave the directory.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use wharf::fs::{Abilities, Durability};
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
    let beside = std::fs::read_dir(scratch.path()).expect("list").count();
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
    let unpacked = unpack(layer, &target, &options, &Progress::default()).ok()?;
    Some((
        unpacked.diff_id.to_string(),
        unpacked.tree_digest,
        unpacked.entries,
    ))
}
