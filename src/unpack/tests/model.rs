//! Random layers against a model in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::build::{Tar, gzip, header, set_size, zstd};
use super::{Scratch, options, walk};

/// An entry, its path in names `a` to `c`.
#[derive(Clone, Debug)]
enum Step {
    File(Vec<char>, usize),
    Dir(Vec<char>),
    /// To `/z`, which nothing else makes.
    Symlink(Vec<char>),
    Fifo(Vec<char>),
    Link(Vec<char>, Vec<char>),
    Whiteout(Vec<char>),
    Opaque(Vec<char>),
}

type Names = Vec<char>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Dir {
        whiteouts: BTreeSet<char>,
        is_opaque: bool,
        is_implied: bool,
    },
    Symlink,
    Fifo,
}

/// A file with its metadata; names of one file have one.
#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    mode: u32,
    mtime: u64,
}

/// What a layer has to look like.
#[derive(Clone, Default)]
struct Model {
    names: BTreeMap<Names, usize>,
    inodes: Vec<Inode>,
}

impl Model {
    fn get(&self, path: &[char]) -> Option<&Inode> {
        self.names.get(path).map(|inode| &self.inodes[*inode])
    }

    /// Follows symlinks on the way to a directory; `None` if something else is in the way.
    fn resolve(&self, path: &[char]) -> Option<Names> {
        let mut at = Vec::new();
        for name in path {
            at.push(*name);
            match self.get(&at).map(|inode| &inode.kind) {
                Some(Kind::Symlink) => at = vec!['z'],
                Some(Kind::File(_) | Kind::Fifo) => return None,
                Some(Kind::Dir { .. }) | None => {}
            }
        }
        Some(at)
    }

    /// Finds what a path of the archive means.
    fn find(&self, path: &[char]) -> Option<Names> {
        let (last, above) = path.split_last()?;
        let found = [&*self.resolve(above)?, &[*last]].concat();
        self.names.contains_key(&found).then_some(found)
    }

    fn without(&self, path: &[char]) -> Self {
        let mut without = self.clone();
        without.names.retain(|name, _| !name.starts_with(path));
        without
    }

    fn make_parents(&mut self, path: &[char]) {
        for length in 1..=path.len() {
            if self.get(&path[..length]).is_none() {
                self.put(path[..length].to_vec(), dir(true), 0o755, 0);
            }
        }
    }

    fn put(&mut self, path: Names, kind: Kind, mode: u32, mtime: u64) {
        self.names.retain(|name, _| !name.starts_with(&path));
        self.names.insert(path, self.inodes.len());
        self.inodes.push(Inode { kind, mode, mtime });
    }

    /// Takes a step if a layer can have it there, and returns the archive with it.
    fn take(&mut self, step: &Step, serial: u64, tar: Tar) -> Tar {
        let (path, own) = match step {
            Step::Opaque(path) => (path, path.as_slice()),
            Step::File(path, _)
            | Step::Dir(path)
            | Step::Symlink(path)
            | Step::Fifo(path)
            | Step::Link(path, _)
            | Step::Whiteout(path) => (path, &path[..path.len() - 1]),
        };
        let Some(parent) = self.resolve(own) else {
            return tar;
        };
        let name = path.last().copied().unwrap_or('a');
        let at = [&*parent, &[name]].concat();
        if let Step::Link(_, target) = step {
            return self.link(path, &parent, at, target, serial, tar);
        }
        if let Some(entry) = deletion(step)
            && self.leads_through_link(own)
        {
            return tar.file(entry, "");
        }
        self.make_parents(&parent);
        let (mode, mtime) = (0o700 | (serial as u32 & 0o77), 1000 + serial);
        let mut made = |kind: Kind| match (self.names.get(&at), &kind) {
            (Some(inode), Kind::Dir { .. }) if matches!(self.inodes[*inode].kind, Kind::Dir { .. }) => {
                let inode = &mut self.inodes[*inode];
                (inode.mode, inode.mtime) = (mode, mtime);
                if let Kind::Dir { is_implied, .. } = &mut inode.kind {
                    *is_implied = false;
                }
            }
            _ => self.put(at.clone(), kind, mode, mtime),
        };
        let text = text(path);
        match step {
            Step::File(_, size) => {
                let content = vec![b'0' + (serial % 10) as u8; *size];
                made(Kind::File(content.clone()));
                add(tar, EntryType::Regular, &text, "", serial, &content)
            }
            Step::Dir(_) => {
                made(dir(false));
                add(tar, EntryType::Directory, &text, "", serial, b"")
            }
            Step::Symlink(_) => {
                made(Kind::Symlink);
                add(tar, EntryType::Symlink, &text, "/z", serial, b"")
            }
            Step::Fifo(_) => {
                made(Kind::Fifo);
                add(tar, EntryType::Fifo, &text, "", serial, b"")
            }
            Step::Whiteout(_) | Step::Opaque(_) | Step::Link(..) => {
                match (step, self.dir_mut(&parent)) {
                    (Step::Whiteout(_), Some(Kind::Dir { whiteouts, .. })) => {
                        whiteouts.insert(name);
                    }
                    (Step::Opaque(_), Some(Kind::Dir { is_opaque, .. })) => *is_opaque = true,
                    _ => return tar,
                }
                match deletion(step) {
                    Some(entry) => tar.file(entry, ""),
                    None => tar,
                }
            }
        }
    }

    /// Tells whether a link of the layer is on a path: what would be deleted behind it is not.
    fn leads_through_link(&self, path: &[char]) -> bool {
        let kinds = (1..=path.len()).map_while(|length| self.get(&path[..length]));
        kinds
            .map(|inode| &inode.kind)
            .any(|kind| matches!(kind, Kind::Symlink))
    }

    fn link(
        &mut self,
        path: &[char],
        parent: &[char],
        at: Names,
        target: &[char],
        serial: u64,
        tar: Tar,
    ) -> Tar {
        let Some(found) = self.find(target) else {
            return tar;
        };
        let inode = self.names[&found];
        // A directory has one name, and nothing can be linked to through what the link replaces.
        let is_dir = matches!(self.inodes[inode].kind, Kind::Dir { .. });
        if is_dir || (found != at && self.without(&at).find(target).as_ref() != Some(&found)) {
            return tar;
        }
        let link = &mut self.inodes[inode];
        let serial = match (&link.kind, found == at) {
            (Kind::File(_), false) => {
                (link.mode, link.mtime) = (0o700 | (serial as u32 & 0o77), 1000 + serial);
                serial
            }
            _ => link.mtime - 1000,
        };
        if found != at {
            self.make_parents(parent);
            self.names.retain(|name, _| !name.starts_with(&at));
            self.names.insert(at, inode);
        }
        add(tar, EntryType::Link, &text(path), &text(target), serial, b"")
    }

    fn dir_mut(&mut self, path: &[char]) -> Option<&mut Kind> {
        let inode = *self.names.get(path)?;
        Some(&mut self.inodes[inode].kind)
    }

    fn expected(&self) -> BTreeMap<PathBuf, String> {
        let mut expected = BTreeMap::new();
        let mut groups = BTreeMap::new();
        for (path, inode) in &self.names {
            let path = PathBuf::from(text(path));
            let first = groups.entry(*inode).or_insert_with(|| path.clone()).clone();
            let Inode { kind, mode, mtime } = &self.inodes[*inode];
            let look = match kind {
                Kind::File(content) => format!("f {mode:o} {mtime} {first:?} {}", digest(content)),
                Kind::Dir { whiteouts, .. } => {
                    for name in whiteouts {
                        let below = path.join(name.to_string());
                        expected.insert(below, "w".to_owned());
                    }
                    format!("d {mode:o} {mtime}")
                }
                Kind::Symlink => format!("l {mtime} {first:?}"),
                Kind::Fifo => format!("p {mode:o} {mtime} {first:?}"),
            };
            expected.insert(path, look);
        }
        expected.remove(Path::new(""));
        expected
    }

    fn dirs(&self, is_wanted: impl Fn(&Names, &Kind) -> bool) -> BTreeSet<PathBuf> {
        let names = self.names.iter();
        names
            .filter(|(path, inode)| !path.is_empty() && is_wanted(path, &self.inodes[**inode].kind))
            .map(|(path, _)| PathBuf::from(text(path)))
            .collect()
    }

    fn is_opaque(&self, path: &[char], kind: &Kind) -> bool {
        let Kind::Dir { is_opaque, .. } = kind else {
            return false;
        };
        let above = self.get(&path[..path.len() - 1]).map(|inode| &inode.kind);
        let is_remade =
            matches!(above, Some(Kind::Dir { whiteouts, .. }) if whiteouts.contains(&path[path.len() - 1]));
        *is_opaque || is_remade
    }
}

fn dir(is_implied: bool) -> Kind {
    Kind::Dir {
        whiteouts: BTreeSet::new(),
        is_opaque: false,
        is_implied,
    }
}

/// Says in short what a content is.
fn digest(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{} bytes {:x}", content.len(), hasher.finish())
}

fn text(path: &[char]) -> String {
    let names: Vec<String> = path.iter().map(char::to_string).collect();
    names.join("/")
}

/// Returns the name of the entry that a step of deleting is.
fn deletion(step: &Step) -> Option<String> {
    match step {
        Step::Whiteout(path) => {
            let (name, above) = path.split_last()?;
            let above = if above.is_empty() {
                String::new()
            } else {
                text(above) + "/"
            };
            Some(format!("{above}.wh.{name}"))
        }
        Step::Opaque(path) => Some(format!("{}/.wh..wh..opq", text(path))),
        _ => None,
    }
}

/// Adds an entry; every third one has its name and target in a PAX header, and sizes there for some.
fn add(tar: Tar, kind: EntryType, name: &str, target: &str, serial: u64, content: &[u8]) -> Tar {
    let mut header: Header = header(kind, 0o700 | (serial as u32 & 0o77));
    header.set_mtime(1000 + serial);
    set_size(&mut header, content.len() as u64);
    if !serial.is_multiple_of(3) {
        return tar.entry(header, name.as_bytes(), target.as_bytes(), content);
    }
    tar.pax(&[("path", name), ("linkpath", target)])
        .entry(header, b"wrong", b"wrong", content)
}

/// Lists what there is as [`Model::expected`] does.
fn found(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut groups = BTreeMap::new();
    let look = |path: PathBuf| {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(dir).unwrap().to_owned();
        let first = groups.entry(stat.ino()).or_insert_with(|| name.clone());
        let (kind, mode, mtime) = (stat.file_type(), stat.mode() & 0o7777, stat.mtime());
        let look = if kind.is_dir() {
            format!("d {mode:o} {mtime}")
        } else if kind.is_file() {
            format!(
                "f {mode:o} {mtime} {first:?} {}",
                digest(&fs::read(&path).unwrap())
            )
        } else if kind.is_symlink() {
            format!("l {mtime} {first:?}")
        } else if kind.is_fifo() {
            format!("p {mode:o} {mtime} {first:?}")
        } else {
            "w".to_owned()
        };
        (name, look)
    };
    walk(dir).into_iter().map(look).collect()
}

fn path() -> impl Strategy<Value = Names> {
    prop::collection::vec(prop::char::range('a', 'c'), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (path(), prop_oneof![0..2000_usize, 260_000..400_000_usize]).prop_map(|(path, size)| Step::File(path, size)),
        4 => path().prop_map(Step::Dir),
        1 => path().prop_map(Step::Symlink),
        1 => path().prop_map(Step::Fifo),
        4 => (path(), path()).prop_map(|(path, target)| Step::Link(path, target)),
        2 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
    ]
}

/// Unpacks with so many writers, and compares.
fn check(model: &Model, bytes: &[u8], writers: usize) -> Result<(), TestCaseError> {
    let scratch = Scratch::new();
    let mut options = options();
    options.writers = writers;
    let unpacked = scratch.unpack_with(bytes, &options);
    let unpacked = unpacked.map_err(|error| TestCaseError::fail(super::message(&error)))?;
    prop_assert_eq!(found(&scratch.target()), model.expected());
    let unsettled = unpacked.unsettled;
    let opaque: BTreeSet<_> = unsettled.opaque.into_iter().collect();
    prop_assert_eq!(opaque, model.dirs(|path, kind| model.is_opaque(path, kind)));
    let implied: BTreeSet<_> = unsettled.implied.into_iter().collect();
    let is_implied = |_: &Names, kind: &Kind| matches!(kind, Kind::Dir { is_implied: true, .. });
    prop_assert_eq!(implied, model.dirs(is_implied));
    Ok(())
}

fn cases() -> u32 {
    if std::env::var_os("WHARF_LONG").is_some() {
        600
    } else {
        24
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_is_what_its_entries_say(steps in prop::collection::vec(step(), 1..40), compression in 0..4) {
        let mut model = Model::default();
        model.put(Vec::new(), dir(true), 0o755, 0);
        let mut tar = Tar::new();
        for (serial, step) in steps.iter().enumerate() {
            tar = model.take(step, serial as u64, tar);
        }
        let bytes = tar.end();
        let bytes = match compression {
            0 => bytes,
            1 => gzip(&bytes),
            2 => [gzip(&bytes[..512]), gzip(&bytes[512..])].concat(),
            _ => zstd(&bytes),
        };
        for writers in [1, 8] {
            check(&model, &bytes, writers)?;
        }
    }
}
