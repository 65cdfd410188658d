//! A node's image store over hand-made entries, on the disk of the test.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A store with entries, and a node's directory.
struct Node {
    root: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            root: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(node.entry("")).unwrap();
        fs::write(
            node.store().join("wharf.json"),
            r#"{"format": 1, "store_id": "0123456789abcdef"}"#,
        )
        .unwrap();
        node
    }

    fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("node")
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.store().join("layers/entries").join(name)
    }

    fn add(&self, name: &str) {
        let id = name.strip_prefix("alias-").unwrap_or(name);
        fs::create_dir_all(self.store().join("layers/overlay").join(id).join("diff")).unwrap();
        fs::write(self.entry(name), object(id).to_string()).unwrap();
    }

    fn open(&self) -> LocalImageStore {
        LocalImageStore::open(&self.dir(), &self.store(), Disk::new(Duration::from_secs(10))).unwrap()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir().join(name)).unwrap()
    }

    /// The ids in the list, as a reader finds them.
    fn ids(&self) -> Vec<String> {
        let list: Vec<Value> = serde_json::from_str(&self.text("overlay-layers/layers.json")).unwrap();
        list.iter()
            .map(|layer| layer["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn token(&self) -> String {
        self.text("overlay-layers/layers.lock")
    }

    /// What changes if the list is written again.
    fn list_file(&self) -> (u64, i64, i64) {
        let metadata = fs::metadata(self.dir().join("overlay-layers/layers.json")).unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    }

    fn layers(&self) -> Vec<String> {
        let mut names = crate::fs::list(&self.dir().join("overlay")).unwrap();
        names.retain(|name| name != "l");
        names.sort();
        names
    }

    fn links(&self) -> Vec<String> {
        let mut names = crate::fs::list(&self.dir().join("overlay-layers")).unwrap();
        names.retain(|name| name.ends_with("gz"));
        names.sort();
        names
    }
}

fn id(number: usize) -> String {
    format!("{number:064x}")
}

fn object(id: &str) -> Value {
    json!({
        "id": id, "created": "2026-11-24T00:00:00Z",
        "diff-digest": format!("sha256:{id}"), "diff-size": 1024,
        "compressed-diff-digest": format!("sha256:{id}"), "compressed-size": 512, "compression": 2,
    })
}

fn refreshed(entries: usize, unreadable: usize, is_changed: bool) -> Refreshed {
    Refreshed {
        entries,
        unreadable,
        is_changed,
        is_settled: unreadable == 0,
    }
}

#[tokio::test]
async fn what_the_store_names_is_listed_and_what_it_names_no_more_is_not() {
    let node = Node::new();
    let mut images = node.open();
    assert_eq!(images.refresh().await.unwrap(), refreshed(0, 0, false));
    assert_eq!(node.ids(), Vec::<String>::new());
    assert_eq!(node.text("overlay-images/images.json"), "[]\n");
    assert_eq!(
        fs::read_link(node.dir().join("layers")).unwrap(),
        node.store().join("layers/overlay")
    );

    let token = node.token();
    assert_eq!(token.len(), 64);
    node.add(&id(2));
    node.add(&id(1));
    node.add(&format!("alias-{}", id(3)));
    fs::write(node.entry(".staged"), "{").unwrap();
    assert_eq!(images.refresh().await.unwrap(), refreshed(3, 0, true));
    assert_eq!(node.ids(), [id(1), id(2), id(3)]);
    assert_ne!(node.token(), token);
    assert_eq!(node.token().len(), 64);
    // An alias has neither a directory nor an archive of its own.
    assert_eq!(node.layers(), [id(1), id(2)]);
    let layer = node.dir().join("overlay").join(id(1)).canonicalize().unwrap();
    assert_eq!(
        layer,
        node.store()
            .canonicalize()
            .unwrap()
            .join("layers/overlay")
            .join(id(1))
    );
    assert_eq!(node.links(), [1, 2].map(|n| format!("{}.tar-split.gz", id(n))));
    assert_eq!(
        fs::read_link(node.dir().join("overlay-layers").join(&node.links()[0])).unwrap(),
        node.store().join("layers/overlay-layers").join(&node.links()[0])
    );

    fs::remove_file(node.entry(&id(1))).unwrap();
    fs::remove_file(node.entry(&format!("alias-{}", id(3)))).unwrap();
    assert_eq!(images.refresh().await.unwrap(), refreshed(1, 0, true));
    assert_eq!(node.layers(), [id(2)]);
    assert_eq!(node.ids(), [id(2)]);
    assert_eq!(node.links(), [format!("{}.tar-split.gz", id(2))]);
}

#[tokio::test]
async fn nothing_is_written_if_nothing_has_changed_also_after_a_start() {
    let node = Node::new();
    for number in 0..100 {
        node.add(&id(number));
    }
    node.add(&format!("alias-{}", id(100)));
    let mut images = node.open();
    images.refresh().await.unwrap();
    let (file, token) = (node.list_file(), node.token());
    assert_eq!(images.refresh().await.unwrap(), refreshed(101, 0, false));
    drop(images);
    // What was listed is not read again: it never changes.
    fs::write(node.entry(&id(7)), "").unwrap();
    let mut images = node.open();
    assert_eq!(images.refresh().await.unwrap(), refreshed(101, 0, false));
    assert_eq!((node.list_file(), node.token()), (file, token));
    drop(images);
    fs::write(node.dir().join("overlay-layers/layers.json"), "[{\"id\"").unwrap();
    let mut images = node.open();
    assert_eq!(images.refresh().await.unwrap(), refreshed(100, 1, true));
    assert_eq!(node.ids().len(), 100);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_left_out_until_it_can() {
    let node = Node::new();
    node.add(&id(1));
    let other = object(&id(9)).to_string();
    let whole = object(&id(2)).to_string();
    let mut without_diff_id = object(&id(2));
    without_diff_id.as_object_mut().unwrap().remove("diff-digest");
    let mut images = node.open();
    let mut is_new = true;
    for damaged in [
        "",
        &whole[..whole.len() - 1],
        "[]",
        &other,
        &without_diff_id.to_string(),
    ] {
        fs::write(node.entry(&id(2)), damaged).unwrap();
        let refreshed = images.refresh().await.unwrap();
        assert_eq!((refreshed.entries, refreshed.unreadable), (1, 1), "{damaged}");
        assert_eq!(refreshed.is_settled, !is_new, "{damaged}");
        assert_eq!(node.ids(), [id(1)], "{damaged}");
        is_new = false;
    }
    fs::write(node.entry(&id(2)), whole).unwrap();
    // Its mirror died before the directory had its name.
    assert_eq!(images.refresh().await.unwrap().unreadable, 1);
    node.add(&id(2));
    assert_eq!(images.refresh().await.unwrap(), refreshed(2, 0, true));
}

#[tokio::test]
async fn a_store_that_is_away_changes_nothing_and_heals() {
    let node = Node::new();
    node.add(&id(1));
    let mut images = node.open();
    images.refresh().await.unwrap();
    let file = node.list_file();
    let elsewhere = node.root.path().join("elsewhere");
    fs::rename(node.store(), &elsewhere).unwrap();
    let error = images.refresh().await.unwrap_err();
    assert!(matches!(error, RefreshError::Missing { .. }), "{error:?}");
    // As an unmounted file system shows it, with and without the lock files that setup leaves there.
    for bare in ["store", "store/layers/entries"] {
        fs::create_dir_all(node.root.path().join(bare)).unwrap();
        let error = images.refresh().await.unwrap_err();
        assert!(matches!(error, RefreshError::NoStore { .. }), "{error:?}");
        for said in ["mounted", "no store", "wharf.json", "--store DIR"] {
            assert!(error.to_string().contains(said), "{error}");
        }
    }
    assert_eq!((node.ids(), node.list_file()), (vec![id(1)], file));
    drop(images);
    let mut images = node.open();
    images.refresh().await.unwrap_err();
    assert_eq!(node.ids(), [id(1)]);

    fs::remove_dir_all(node.store()).unwrap();
    fs::rename(&elsewhere, node.store()).unwrap();
    node.add(&id(2));
    assert_eq!(images.refresh().await.unwrap(), refreshed(2, 0, true));
}

#[tokio::test]
async fn a_store_that_hangs_is_given_up_in_time_and_heals() {
    let node = Node::new();
    node.add(&id(1));
    let format = node.store().join("wharf.json");
    let content = fs::read(&format).unwrap();
    fs::remove_file(&format).unwrap();
    // Who opens it waits for a writer.
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &format, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let disk = Disk::new(Duration::from_millis(200));
    let mut images = LocalImageStore::open(&node.dir(), &node.store(), disk).unwrap();
    let error = images.refresh().await.unwrap_err();
    assert!(matches!(&error, RefreshError::Store(_)), "{error:?}");
    assert!(full_text(&error).contains("did not answer"), "{error:?}");
    assert_eq!(node.ids(), Vec::<String>::new());
    let mut hung = File::options().write(true).open(&format).unwrap();
    // The file is there before the reader goes on, which may open it once more.
    fs::remove_file(&format).unwrap();
    fs::write(&format, &content).unwrap();
    hung.write_all(&content).unwrap();
    drop(hung);
    let deadline = Instant::now() + Duration::from_secs(20);
    while images.refresh().await.is_err() {
        assert!(Instant::now() < deadline, "it does not heal");
    }
    assert_eq!(node.ids(), [id(1)]);
}

#[test]
fn a_directory_has_one_keeper_and_the_next_one_after_it() {
    let node = Node::new();
    let first = node.open();
    let second = LocalImageStore::open(&node.dir(), &node.store(), Disk::new(Duration::from_secs(1)));
    let error = second.err().unwrap();
    assert!(matches!(error, OpenError::Kept { .. }), "{error:?}");
    drop(first);
    node.open();
}

#[test]
fn podmans_own_storage_is_refused_untouched() {
    let node = Node::new();
    for foreign in ["overlay", "overlay-containers", "libpod"] {
        let dir = node.root.path().join(foreign).join("storage");
        fs::create_dir_all(dir.join(foreign).join("0123")).unwrap();
        let opened = LocalImageStore::open(&dir, &node.store(), Disk::new(Duration::from_secs(1)));
        let error = opened.err().unwrap();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
        assert_eq!(crate::fs::list(&dir).unwrap(), [foreign]);
    }
}

#[test]
fn a_directory_in_the_place_of_the_link_to_the_layers_is_refused_with_what_to_do() {
    let node = Node::new();
    fs::create_dir_all(node.dir().join("layers")).unwrap();
    let opened = LocalImageStore::open(&node.dir(), &node.store(), Disk::new(Duration::from_secs(1)));
    let error = opened.err().unwrap().to_string();
    assert!(
        error.contains("layers is there") && error.contains("--podman DIR"),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_that_podman_put_in_the_place_of_a_link_is_left_alone_and_all_else_goes_on() {
    let node = Node::new();
    node.add(&id(1));
    node.add(&id(2));
    node.open().refresh().await.unwrap();
    let link = node.dir().join("overlay").join(id(1));
    fs::remove_file(&link).unwrap();
    fs::create_dir_all(link.join("diff/podmans")).unwrap();
    // A layer that the store does not name, which must not be removed as one that it names no more.
    let unnamed = node.dir().join("overlay").join(id(7));
    fs::create_dir_all(unnamed.join("diff/podmans")).unwrap();
    let mut images = node.open();
    for (number, is_changed) in [(2, false), (3, true), (3, false)] {
        if is_changed {
            node.add(&id(number));
        }
        assert_eq!(images.refresh().await.unwrap(), refreshed(number, 0, is_changed));
    }
    assert_eq!(node.ids(), [id(1), id(2), id(3)]);
    assert!(fs::read_link(node.dir().join("overlay").join(id(3))).is_ok());
    fs::remove_file(node.entry(&id(1))).unwrap();
    assert_eq!(images.refresh().await.unwrap(), refreshed(2, 0, true));
    for dir in [&link, &unnamed] {
        assert!(dir.join("diff/podmans").is_dir());
    }
    // Podman has removed its own.
    node.add(&id(1));
    images.refresh().await.unwrap();
    fs::remove_dir_all(&link).unwrap();
    images.refresh().await.unwrap();
    assert!(fs::read_link(&link).is_ok(), "it is a link again");
}

#[test]
fn what_is_no_layer_among_the_links_is_refused() {
    let node = Node::new();
    drop(node.open());
    let overlay = node.dir().join("overlay");
    for name in ["l-too".to_owned(), format!("{}-init", id(1))] {
        fs::create_dir(overlay.join(&name)).unwrap();
        let opened = LocalImageStore::open(&node.dir(), &node.store(), Disk::new(Duration::from_secs(1)));
        let error = opened.err().unwrap();
        assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
        fs::remove_dir(overlay.join(&name)).unwrap();
    }
}

#[tokio::test]
async fn another_store_takes_the_place_of_the_first() {
    let (node, other) = (Node::new(), Node::new());
    node.add(&id(1));
    node.open().refresh().await.unwrap();
    other.add(&id(2));
    let disk = Disk::new(Duration::from_secs(10));
    let mut images = LocalImageStore::open(&node.dir(), &other.store(), disk).unwrap();
    images.refresh().await.unwrap();
    assert_eq!(node.ids(), [id(2)]);
    let layer = node.dir().join("overlay").join(id(2)).canonicalize().unwrap();
    assert!(layer.starts_with(other.store().canonicalize().unwrap()));
    assert_eq!(node.layers(), [id(2)]);
    assert_eq!(node.links(), [format!("{}.tar-split.gz", id(2))]);
}

#[test]
fn what_a_killed_process_has_left_is_cleared() {
    let node = Node::new();
    drop(node.open());
    let staged = node.dir().join("overlay-layers/.wharf-0123456789abcdef");
    fs::write(&staged, "[").unwrap();
    fs::remove_file(node.dir().join("overlay/l")).unwrap();
    fs::write(node.dir().join("overlay-layers/layers.lock"), "").unwrap();
    drop(node.open());
    assert!(!staged.exists());
    assert_eq!(node.token().len(), 64);
}

/// Prints what the first filling and one layer more take; of 20,000 layers with WHARF_LONG.
#[tokio::test]
async fn many_layers_are_quick() {
    let node = Node::new();
    let count = if std::env::var_os("WHARF_LONG").is_some() {
        20_000
    } else {
        1_000
    };
    for number in 0..count {
        node.add(&id(number));
    }
    let mut took = Vec::new();
    let mut images = node.open();
    for step in ["first", "none", "one"] {
        if step == "one" {
            node.add(&id(count));
        }
        let start = Instant::now();
        let refreshed = images.refresh().await.unwrap();
        assert_eq!(refreshed.is_changed, step != "none");
        took.push((step, start.elapsed()));
    }
    assert_eq!(node.ids().len(), count + 1);
    println!("{count} layers: {took:?}");
    // Some seconds at most; a machine that is busy takes ten times longer.
    let is_quick = |(_, took): &(&str, Duration)| *took < Duration::from_secs(60);
    assert!(took.iter().all(is_quick), "{took:?}");
}
