//! The images that nodes run: made once, kept in the cache, never changed.
//!
//! | repository:tag | what it is |
//! |---|---|
//! | library/tree:latest | busybox and two layers with what a layer can hold and remove; [`TREE`] is what a container sees |
//! | library/tree-zstd:latest | the same, its two layers packed by zstd |
//! | library/half:latest | busybox and the layers a and b |
//! | library/whole:latest | the same and c and d on top, so that half of it is published with `half` |
//! | library/swapped:latest | busybox, b, a: what `half` has, in another order |
//! | library/twice:latest | busybox, a, b, a: the same layer twice |
//! | library/one:latest, two, three | busybox and a layer of their own |
//! | library/hundred:latest | busybox and a hundred layers, the last of which count |
//! | library/pause:latest | busybox that sleeps, for pods |

use std::fs;
use std::path::{Path, PathBuf};

use super::archives::made::tiny;
use super::archives::tar::{Entry, Tar};
use super::images::{Compression, Layer, Layout, busybox_tar, cached};
use super::layers::{Layered, add, tar_of};
use super::registry::Registry;
use super::upstream::{Upstream, bytes};

/// Part of the cache's path: change it when the images change.
const VERSION: &str = "node-images-v3";
/// How many layers `hundred` has on top of busybox's.
pub const HUNDRED: u32 = 100;
/// How long a layer's noise is.
const NOISE: usize = 64 << 10;

/// Lists the tree of `library/tree` in a container, in the words of [`TREE`].
pub const LIST_TREE: &str = "cd /tree; busybox find . | busybox sort | while read -r name; do
  links=' %h'; [ -L \"$name\" ] || [ ! -d \"$name\" ] || links=
  busybox stat -c \"%n %A %u:%g$links\" \"$name\"
done";
/// What a container of `library/tree` sees: name, mode, owner, and links but of directories.
pub const TREE: &str = "\
. drwxr-x--- 1000:1001
./both -rwsr-s--- 1000:1000 1
./high -rw-r--r-- 3000000000:3000000001 1
./one -rw-r----- 7:8 3
./opaque drwxr-xr-x 0:0
./opaque/new -rw-r--r-- 0:0 1
./replaced drwxr-xr-x 0:0
./replaced/inner -rw-r--r-- 0:0 1
./setgid drwxrwsr-x 8:8
./setuid -rwsr-xr-x 0:0 1
./sticky drwxrwxrwt 0:0
./symlink lrwxrwxrwx 0:0 1
./three -rw-r----- 7:8 3
./two -rw-r----- 7:8 3
";

/// Starts a registry with them, which it cannot change.
pub fn registry() -> Registry {
    Registry::start(&cached(VERSION, fill), "readonly: {enabled: true}")
}

/// Adds busybox with the file `name` to a scripted registry as an image, and returns the digests of its layers.
pub fn add_image(upstream: &Upstream, name: &str) -> Vec<String> {
    add_layered(upstream, name, 1).layers
}

/// Adds such an image with so many layers on top of busybox's: each has the file `name`, and one of its own.
pub fn add_layered(upstream: &Upstream, name: &str, layers: usize) -> Layered {
    let work = tempfile::tempdir().expect("a directory");
    let busybox = fs::read(busybox_tar(work.path())).expect("read busybox");
    let own = (1..=layers).map(|number| {
        let file = format!("{name}-{number}");
        tar_of(&[("name", name.as_bytes()), (&file, name.as_bytes())])
    });
    let tars: Vec<Vec<u8>> = std::iter::once(busybox).chain(own).collect();
    add(upstream, &format!("library/{name}"), "latest", &tars)
}

fn fill(_cache: &Path, work: &Path) {
    let root = work.join("made");
    fs::create_dir(&root).expect("make the registry's root");
    let registry = Registry::start(&root, "readonly: {enabled: false}");
    let layout = Layout::new(&work.join("layout"));
    let busybox = layout.layer(&busybox_tar(work), Compression::Gzip);
    let mut images = Images {
        work: work.to_owned(),
        layout,
        registry,
    };

    let tree = [tree(), changed_tree()];
    let zstd = tree.each_ref().map(|tar| images.packed(tar, Compression::Zstd));
    images.image("tree-zstd", &[std::slice::from_ref(&busybox), &zstd[..]].concat());
    let tree = tree.each_ref().map(|tar| images.layer(tar));
    images.image("tree", &[std::slice::from_ref(&busybox), &tree[..]].concat());
    let letters = [1, 2, 3, 4].map(|seed| images.noise(seed));
    images.image("half", &[std::slice::from_ref(&busybox), &letters[..2]].concat());
    images.image("whole", &[std::slice::from_ref(&busybox), &letters[..]].concat());
    let [a, b] = [&letters[0], &letters[1]].map(Layer::clone);
    images.image("swapped", &[busybox.clone(), b.clone(), a.clone()]);
    images.image("twice", &[busybox.clone(), a.clone(), b, a]);
    for (seed, name) in [(11, "one"), (12, "two"), (13, "three")] {
        let own = images.noise(seed);
        images.image(name, &[busybox.clone(), own]);
    }
    let mut hundred = vec![busybox.clone()];
    hundred.extend((0..HUNDRED).map(|number| images.layer(&tiny(number))));
    images.image("hundred", &hundred);
    images.image("pause", &[busybox]);
}

/// What is being made.
struct Images {
    work: PathBuf,
    layout: Layout,
    registry: Registry,
}

impl Images {
    fn layer(&self, tar: &[u8]) -> Layer {
        self.packed(tar, Compression::Gzip)
    }

    fn packed(&self, tar: &[u8], compression: Compression) -> Layer {
        let path = self.work.join("layer.tar");
        fs::write(&path, tar).expect("write a layer");
        self.layout.layer(&path, compression)
    }

    /// A layer with the file `noise-<seed>`.
    fn noise(&self, seed: u64) -> Layer {
        let mut tar = Tar::default();
        tar.add(Entry::file(format!("noise-{seed}"), bytes(NOISE, seed)));
        self.layer(&tar.finished())
    }

    fn image(&mut self, name: &str, layers: &[Layer]) {
        self.layout
            .image_that_runs(&["sleep", "1000000"], name, "amd64", layers);
        self.layout
            .push(&self.registry, name, &format!("library/{name}:latest"), &[]);
    }
}

fn tree() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.add(Entry::directory("tree").mode(0o750).owner(1000, 1001));
    tar.add(Entry::file("tree/one", "shared").mode(0o640).owner(7, 8));
    tar.add(Entry::hard_link("tree/two", "tree/one").mode(0o640).owner(7, 8));
    tar.add(Entry::hard_link("tree/three", "tree/one").mode(0o640).owner(7, 8));
    tar.add(Entry::file("tree/setuid", "setuid").mode(0o4755));
    tar.add(Entry::file("tree/both", "both").mode(0o6750).owner(1000, 1000));
    tar.add(Entry::file("tree/high", "high").owner(3_000_000_000, 3_000_000_001));
    tar.add(Entry::directory("tree/setgid").mode(0o2775).owner(8, 8));
    tar.add(Entry::directory("tree/sticky").mode(0o1777));
    tar.add(Entry::symlink("tree/symlink", "one"));
    tar.add(Entry::file("tree/gone", "removed above"));
    tar.add(Entry::directory("tree/gone-too"));
    tar.add(Entry::file("tree/gone-too/file", "removed above"));
    tar.add(Entry::directory("tree/opaque"));
    tar.add(Entry::file("tree/opaque/old", "hidden above"));
    tar.add(Entry::file("tree/replaced", "a directory above"));
    tar.finished()
}

fn changed_tree() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.add(Entry::directory("tree").mode(0o750).owner(1000, 1001));
    tar.add(Entry::file("tree/.wh.gone", ""));
    tar.add(Entry::file("tree/.wh.gone-too", ""));
    tar.add(Entry::directory("tree/opaque"));
    tar.add(Entry::file("tree/opaque/.wh..wh..opq", ""));
    tar.add(Entry::file("tree/opaque/new", "new"));
    tar.add(Entry::directory("tree/replaced"));
    tar.add(Entry::file("tree/replaced/inner", "inner"));
    tar.finished()
}
