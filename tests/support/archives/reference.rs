//! What GNU tar and umoci make of layers, on the file system of the tests' folder.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;

use crate::support::images::{Compression, Layout};
use crate::support::process::{bound_command, run, run_ok};
use crate::support::tree::{Entry, Kind, Tree};

const OPAQUE: &str = ".wh..wh..opq";
const WHITEOUT: &str = ".wh.";

/// Returns what GNU tar makes of a layer, with its whiteouts in overlayfs' form.
pub fn by_gnu_tar(tar: &Path) -> Tree {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = bound_command("tar");
    command.args([
        "--extract",
        "--numeric-owner",
        "--same-owner",
        "--preserve-permissions",
    ]);
    command.args(["--xattrs", "--xattrs-include=*", "--delay-directory-restore"]);
    // Names are taken as they are.
    command.args(["--no-wildcards", "--file"]).arg(tar);
    command.arg("--directory").arg(directory.path());
    let ended = run(command);
    // umoci writes whiteouts below what is a file by now.
    let is_moot = |line: &&str| line.contains("/.wh.") && line.ends_with("Cannot open: Not a directory");
    let mut moot = ended.stderr.lines().filter(is_moot);
    assert!(
        ended.status.success() || moot.next().is_some(),
        "extract {}: {}",
        tar.display(),
        ended.stderr
    );
    as_lower(&Tree::read(directory.path()))
}

/// Returns the directories of a tree that none of its layers describes: the root too, if so.
pub fn implied(layers: &[PathBuf], tree: &Tree) -> BTreeSet<PathBuf> {
    let described: BTreeSet<PathBuf> = layers.iter().flat_map(|tar| directories(tar)).collect();
    let directories = tree
        .entries
        .iter()
        .filter(|(_, entry)| entry.kind == Kind::Directory);
    directories
        .map(|(name, _)| name.clone())
        .filter(|name| !described.contains(name))
        .collect()
}

/// Returns the directories that have an entry in a layer.
fn directories(tar: &Path) -> Vec<PathBuf> {
    let mut archive = tar::Archive::new(File::open(tar).expect("open a layer"));
    let mut names = Vec::new();
    for entry in archive.entries().expect("read a layer") {
        let entry = entry.expect("read an entry");
        if entry.header().entry_type().is_dir() {
            let path = entry.path_bytes();
            let plain = |part: &Component| matches!(part, Component::Normal(_));
            let parts = Path::new(OsStr::from_bytes(&path)).components();
            names.push(parts.filter(plain).collect());
        }
    }
    names
}

/// Turns the whiteouts of the image specification into those of overlayfs.
fn as_lower(tree: &Tree) -> Tree {
    let mut lower = Tree::default();
    let mut opaque = BTreeSet::new();
    for (name, entry) in &tree.entries {
        let Some(hidden) = whiteout(name) else {
            lower.entries.insert(name.clone(), entry.clone());
            continue;
        };
        let parent = name.parent().unwrap_or(Path::new(""));
        if *hidden == OPAQUE[WHITEOUT.len()..] {
            opaque.insert(parent.to_owned());
            continue;
        }
        let hidden = parent.join(hidden);
        match tree.entries.get(&hidden) {
            None => {
                lower.entries.insert(hidden, hiding());
            }
            // Removed and made again in one layer: nothing of the old one shows.
            Some(made) if made.kind == Kind::Directory => {
                opaque.insert(hidden);
            }
            Some(_) => {}
        }
    }
    for name in opaque {
        let entry = lower.entries.get_mut(&name).expect("the opaque directory");
        entry
            .xattrs
            .insert("trusted.overlay.opaque".into(), b"y".to_vec());
    }
    lower
}

fn whiteout(name: &Path) -> Option<&OsStr> {
    let name = name.file_name()?.as_bytes();
    name.strip_prefix(WHITEOUT.as_bytes()).map(OsStr::from_bytes)
}

/// A whiteout; only its kind and numbers count.
fn hiding() -> Entry {
    Entry {
        kind: Kind::CharDevice,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        size: 0,
        content: None,
        target: None,
        device: Some((0, 0)),
        xattrs: Default::default(),
        linked: None,
    }
}

/// What umoci makes of layers on each other.
#[derive(Debug)]
pub struct ByUmoci {
    directory: TempDir,
}

impl ByUmoci {
    /// Unpacks layers, the bottom one first.
    pub fn unpack(layers: &[PathBuf]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut layout = Layout::new(&directory.path().join("layout"));
        let packed: Vec<_> = layers
            .iter()
            .map(|tar| layout.layer(tar, Compression::Gzip))
            .collect();
        layout.image("image", "amd64", &packed);
        let by_umoci = Self { directory };
        let mut command = bound_command("umoci");
        command.args(["raw", "unpack", "--image"]);
        command.arg(format!(
            "{}:image",
            by_umoci.directory.path().join("layout").display()
        ));
        command.arg(by_umoci.path());
        run_ok(command);
        by_umoci
    }

    /// Where they are.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// Reads what they make together.
    pub fn tree(&self) -> Tree {
        fs::metadata(self.path()).expect("what umoci has made");
        Tree::read(&self.path())
    }
}
