//! Layers extracted by one node onto a real file system, and read by another one.
//!
//! Each check runs on each file system: [`ext4`], [`gluster`] and [`moosefs`]. What GNU tar and umoci make of the
//! same layers on a local file system is what has to come out.

mod ext4;
mod gluster;
mod harness;
mod kill;
mod moosefs;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf::fs::{Abilities, FsErrorKind};
use wharf::unpack::{Limits, Options, Progress, UnpackError, Unpacked, settle, unpack};

use crate::support::archives::reference::{ByUmoci, by_gnu_tar, implied};
use crate::support::archives::{Packing, made, tools, written};
use crate::support::dfs::Shared;
use crate::support::mount::Overlay;
use crate::support::sha256_file;
use crate::support::tree::{Entry, Kind, Tolerance, Tree};

/// How many names of one file the file of real busybox images has.
const MANY_LINKS: u32 = 400;
const MANY_LAYERS: u32 = 100;

fn options(abilities: Abilities) -> Options {
    Options {
        writers: abilities.writers as usize,
        abilities: Arc::new(abilities),
        user_opaque: false,
        limits: Limits {
            max_layer_bytes: 8 << 30,
            max_entries: 1 << 20,
            max_zstd_window_bytes: 128 << 20,
        },
    }
}

fn try_unpack(source: impl Read + Send, target: &Path, options: &Options) -> Result<Unpacked, UnpackError> {
    fs::create_dir_all(target).expect("make a layer's directory");
    let tar_split = target.with_added_extension("tar-split.gz");
    unpack(source, target, &tar_split, options, &Progress::default())
}

/// Unpacks a tar packed in some way through node a, as the only layer; returns where node b has it.
fn unpack_one(shared: &Shared, name: &str, tar: &Path, packing: Packing) -> PathBuf {
    let packed = packing.pack(&fs::read(tar).expect("read a layer"));
    let (target, options) = (shared.a().join(name), options(shared.abilities()));
    let unpacked = try_unpack(&packed[..], &target, &options).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert_eq!(unpacked.diff_id.to_string(), sha256_file(tar), "{name}: DiffID");
    settle(&target, &unpacked.unsettled, &[], &options).unwrap_or_else(|e| panic!("settle {name}: {e:?}"));
    shared.b().join(name)
}

/// Unpacks layers on each other through node a, the bottom one first; returns where node b has them.
fn unpack_stack(shared: &Shared, name: &str, tars: &[PathBuf], abilities: Abilities) -> Vec<PathBuf> {
    let options = options(abilities);
    let mut below: Vec<PathBuf> = Vec::new();
    for (number, tar) in tars.iter().enumerate() {
        let target = shared.a().join(name).join(number.to_string());
        let file = fs::File::open(tar).expect("open a layer");
        let unpacked =
            try_unpack(file, &target, &options).unwrap_or_else(|e| panic!("{}: {e:?}", tar.display()));
        settle(&target, &unpacked.unsettled, &below, &options)
            .unwrap_or_else(|e| panic!("settle {}: {e:?}", tar.display()));
        below.insert(0, target);
    }
    let at_b = |number: usize| shared.b().join(name).join(number.to_string());
    (0..tars.len()).map(at_b).collect()
}

/// Asserts that a layer's directory is what GNU tar makes of it.
fn assert_as_gnu_tar(actual: &Path, tar: &Path, tolerance: &Tolerance, what: &str) {
    let expected = by_gnu_tar(tar);
    let tolerance = Tolerance {
        implied: implied(&[tar.to_owned()], &expected),
        ..tolerance.clone()
    };
    Tree::read(actual).assert_same(&expected, &tolerance, what);
}

/// Asserts that layers on each other, mounted as an overlay, are what umoci makes of them.
fn assert_as_umoci(layers: &[PathBuf], tars: &[PathBuf], tolerance: &Tolerance, what: &str) {
    let overlay = Overlay::mount(layers);
    let expected = ByUmoci::unpack(tars).tree();
    let mut implied = implied(tars, &expected);
    // The root of an overlay looks as its upper directory, which is none of the layers'.
    implied.insert(PathBuf::new());
    let tolerance = Tolerance {
        implied,
        ..tolerance.clone()
    };
    Tree::read(&overlay.path()).assert_same(&expected, &tolerance, what);
}

fn everything_a_layer_can_hold_is_there(shared: &Shared, packings: &[Packing]) {
    let work = tempfile::tempdir().expect("a directory");
    let tar = written(work.path(), &[made::everything()]).remove(0);
    for packing in packings {
        let name = format!("everything-{packing:?}");
        let layer = unpack_one(shared, &name, &tar, *packing);
        assert_as_gnu_tar(&layer, &tar, &shared.tolerance(), &name);
    }
    for (name, tar) in tools::archives(work.path()) {
        let layer = unpack_one(shared, &name, &tar, Packing::Plain);
        assert_as_gnu_tar(&layer, &tar, &shared.tolerance(), &name);
    }
}

fn stacks_look_as_umoci_unpacks_them(shared: &Shared) {
    let work = tempfile::tempdir().expect("a directory");
    let mut stacks = vec![("made", written(work.path(), &made::stack()))];
    stacks.extend(tools::BUILDERS.map(|builder| (builder, tools::built_by(builder))));
    for (name, tars) in stacks {
        let layers = unpack_stack(shared, name, &tars, shared.abilities());
        for (layer, tar) in layers.iter().zip(&tars) {
            assert_as_gnu_tar(
                layer,
                tar,
                &shared.tolerance(),
                &format!("{name}, {}", tar.display()),
            );
        }
        assert_as_umoci(&layers, &tars, &shared.tolerance(), name);
    }
}

fn whiteouts_and_opaque_directories_hide_without_attributes(shared: &Shared) {
    let work = tempfile::tempdir().expect("a directory");
    let mut stacks = vec![("bare-made", written(work.path(), &made::stack()))];
    stacks.push(("bare-buildah", tools::built_by("buildah")));
    let abilities = Abilities {
        trusted_xattrs: false,
        ..shared.abilities()
    };
    for (name, tars) in stacks {
        let layers = unpack_stack(shared, name, &tars, abilities.clone());
        for layer in &layers {
            let opaque = |attribute: &OsString| attribute.to_string_lossy().contains("overlay");
            let marked = |(_, entry): &(_, &Entry)| entry.xattrs.keys().any(opaque);
            let tree = Tree::read(layer);
            assert_eq!(
                tree.entries.iter().find(marked),
                None,
                "{name}: an attribute of overlayfs"
            );
        }
        assert_as_umoci(&layers, &tars, &shared.tolerance(), name);
    }
}

fn names_beyond_the_limit_become_copies(shared: &Shared) {
    let work = tempfile::tempdir().expect("a directory");
    let tar = written(work.path(), &[made::linked(MANY_LINKS)]).remove(0);
    let limit = shared.abilities().hard_link_limit;
    // Also when the probe has not seen the limit: then the file system's refusal says it.
    for (name, hard_link_limit) in [("links", limit), ("links-unknown", None)] {
        let options = options(Abilities {
            hard_link_limit,
            ..shared.abilities()
        });
        let file = fs::File::open(&tar).expect("open a layer");
        let unpacked = try_unpack(file, &shared.a().join(name), &options).unwrap_or_else(|e| panic!("{e:?}"));
        let layer = shared.b().join(name);
        let tolerance = Tolerance {
            copied_links: limit.is_some(),
            ..shared.tolerance()
        };
        assert_as_gnu_tar(&layer, &tar, &tolerance, name);
        let tree = Tree::read(&layer);
        let files = tree.entries.iter().filter(|(_, entry)| entry.kind == Kind::File);
        // A name that stands alone is a file of its own.
        let different: BTreeSet<&PathBuf> = files
            .map(|(name, entry)| entry.linked.as_ref().unwrap_or(name))
            .collect();
        let copies = different.len() as u64 - 1;
        assert_eq!(
            unpacked.compromises.copied_links, copies,
            "{name}: {:?}",
            unpacked.compromises
        );
        if limit.is_some() {
            assert!(
                (1..=u64::from(MANY_LINKS) / 10).contains(&copies),
                "{name}: {copies} copies"
            );
        } else {
            assert_eq!(copies, 0);
        }
    }
}

fn a_debian_tree_is_there(shared: &Shared) {
    let tar = tools::debian();
    let layer = unpack_one(shared, "debian", &tar, Packing::Zstd);
    assert_as_gnu_tar(&layer, &tar, &shared.tolerance(), "debian");
}

fn a_hundred_layers_are_one_image(shared: &Shared) {
    let work = tempfile::tempdir().expect("a directory");
    let made: Vec<_> = (0..MANY_LAYERS).map(made::tiny).collect();
    let tars = written(work.path(), &made);
    let layers = unpack_stack(shared, "hundred", &tars, shared.abilities());
    assert_as_umoci(&layers, &tars, &shared.tolerance(), "a hundred layers");
}

fn a_volume_that_fills_up_is_told(shared: &Shared, bytes: usize) {
    let neighbour = shared.a().join("neighbour");
    fs::write(&neighbour, "untouched").expect("write a file");
    let target = shared.a().join("full-layer");
    let options = options(shared.abilities());
    let filling = made::filling(2 * bytes);
    let error = try_unpack(&filling[..], &target, &options).expect_err("twice what there is room for");
    let UnpackError::Fs(error) = &error else {
        panic!("no error of the file system: {error:?}")
    };
    assert_eq!(error.kind(), FsErrorKind::Full, "{}", error.full_text());
    assert!(error.path().starts_with(&target), "{}", error.full_text());
    assert!(!error.operation().is_empty());
    let mut names: Vec<_> = fs::read_dir(shared.b())
        .expect("list")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name != "lost+found" && name != ".trashcan")
        // What a failed unpacking leaves is its caller's to remove, the tar-split too.
        .filter(|name| name != "full-layer.tar-split.gz")
        .collect();
    names.sort();
    assert_eq!(names, ["full-layer", "neighbour"]);
    assert_eq!(fs::read(&neighbour).expect("read a file"), b"untouched");

    fs::remove_file(shared.a().join("full-layer.tar-split.gz")).expect("remove the tar-split");
    // With room again the same directory's name is good.
    fs::remove_dir_all(&target).expect("remove what is partial");
    let small = made::filling(bytes / 4);
    try_unpack(&small[..], &target, &options).unwrap_or_else(|e| panic!("{e:?}"));
}
