//! A directory tree with everything that a file system keeps of it, and how two differ.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr, major, minor};
use rustix::io::Errno;

use super::sha256_file;

/// The longest list of attributes that Linux gives out, and the longest value.
const XATTR_MAX: usize = 64 << 10;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// All of one name but the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// The twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Of a regular file; 0 of others.
    pub size: u64,
    /// The digest of a regular file.
    pub content: Option<String>,
    /// What a symlink says.
    pub target: Option<OsString>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first of the names in the tree that are this file, if there is more than this one.
    pub linked: Option<PathBuf>,
}

/// A directory tree; the root has the empty name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub entries: BTreeMap<PathBuf, Entry>,
}

/// What may differ between two trees that count as the same.
#[derive(Clone, Debug, Default)]
pub struct Tolerance {
    /// Times are kept to the second.
    pub whole_seconds: bool,
    /// Names of one file may be files of their own.
    pub copied_links: bool,
    /// These are compared by their kind alone, for nothing says how they have to be.
    pub implied: BTreeSet<PathBuf>,
}

impl Tree {
    /// Reads a directory and all below it; never through a symlink.
    pub fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        let mut files = BTreeMap::new();
        tree.visit(root, Path::new(""), &mut files);
        for names in files.into_values().filter(|names: &Vec<PathBuf>| names.len() > 1) {
            let first = names.iter().min().expect("names").clone();
            for name in names {
                tree.entries.get_mut(&name).expect("it was read").linked = Some(first.clone());
            }
        }
        tree
    }

    fn visit(&mut self, root: &Path, name: &Path, files: &mut BTreeMap<(u64, u64), Vec<PathBuf>>) {
        // Joined with an empty name it would end in a slash.
        let path = if name == Path::new("") {
            root.to_owned()
        } else {
            root.join(name)
        };
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
        if metadata.is_dir() {
            let names = fs::read_dir(&path).unwrap_or_else(|e| panic!("list {}: {e}", path.display()));
            for entry in names {
                self.visit(root, &name.join(entry.expect("an entry").file_name()), files);
            }
        } else if metadata.nlink() > 1 {
            let file = (metadata.dev(), metadata.ino());
            files.entry(file).or_default().push(name.to_owned());
        }
        self.entries
            .insert(name.to_owned(), Entry::read(&path, &metadata));
    }

    /// Returns an entry that must be there.
    pub fn entry(&self, name: impl AsRef<Path>) -> &Entry {
        let name = name.as_ref();
        self.entries
            .get(name)
            .unwrap_or_else(|| panic!("no {} in the tree", name.display()))
    }

    /// Returns the names, the root left out.
    pub fn names(&self) -> Vec<&Path> {
        self.entries.keys().skip(1).map(PathBuf::as_path).collect()
    }

    /// Returns each difference as a line: name, field, what is and what should be.
    pub fn differences(&self, expected: &Self, tolerance: &Tolerance) -> Vec<String> {
        let names: BTreeSet<&PathBuf> = self.entries.keys().chain(expected.entries.keys()).collect();
        let mut lines = Vec::new();
        for name in names {
            match (self.entries.get(name), expected.entries.get(name)) {
                (Some(actual), Some(expected)) => {
                    let implied = tolerance.implied.contains(name);
                    lines.extend(
                        actual
                            .differences(expected, tolerance, implied)
                            .into_iter()
                            .map(|line| format!("{name:?}: {line}")),
                    );
                }
                (Some(_), None) => lines.push(format!("{name:?}: must not be there")),
                (None, _) => lines.push(format!("{name:?}: is missing")),
            }
        }
        lines
    }

    /// Asserts that the trees are the same.
    #[track_caller]
    pub fn assert_same(&self, expected: &Self, tolerance: &Tolerance, what: &str) {
        let lines = self.differences(expected, tolerance);
        let shown = lines.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
        assert!(lines.is_empty(), "{what}: {} differences\n{shown}", lines.len());
    }
}

impl Entry {
    fn read(path: &Path, metadata: &Metadata) -> Self {
        let kind = Kind::of(metadata);
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice)
            .then(|| (major(metadata.rdev()), minor(metadata.rdev())));
        Self {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            size: if kind == Kind::File { metadata.len() } else { 0 },
            content: (kind == Kind::File).then(|| sha256_file(path)),
            target: (kind == Kind::Symlink)
                .then(|| fs::read_link(path).expect("read a link").into_os_string()),
            device,
            xattrs: xattrs(path),
            linked: None,
        }
    }

    fn differences(&self, expected: &Self, tolerance: &Tolerance, implied: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let mut compare = |field: &str, actual: &dyn fmt::Debug, expected: &dyn fmt::Debug| {
            let (actual, expected) = (format!("{actual:?}"), format!("{expected:?}"));
            if actual != expected {
                lines.push(format!("{field} is {actual}, not {expected}"));
            }
        };
        compare("kind", &self.kind, &expected.kind);
        compare("device", &self.device, &expected.device);
        // Of a whiteout nothing else is seen.
        if implied || expected.device == Some((0, 0)) {
            return lines;
        }
        if self.kind != Kind::Symlink {
            compare("mode", &Octal(self.mode), &Octal(expected.mode));
        }
        compare("uid", &self.uid, &expected.uid);
        compare("gid", &self.gid, &expected.gid);
        let kept = |(seconds, nanoseconds)| (seconds, if tolerance.whole_seconds { 0 } else { nanoseconds });
        compare("mtime", &kept(self.mtime), &kept(expected.mtime));
        compare("size", &self.size, &expected.size);
        compare("content", &self.content, &expected.content);
        compare("target", &self.target, &expected.target);
        if !tolerance.copied_links {
            compare("linked", &self.linked, &expected.linked);
        }
        compare("xattrs", &self.xattrs, &expected.xattrs);
        lines
    }
}

impl Kind {
    fn of(metadata: &Metadata) -> Self {
        let file_type = metadata.file_type();
        if file_type.is_dir() {
            Self::Directory
        } else if file_type.is_symlink() {
            Self::Symlink
        } else if file_type.is_char_device() {
            Self::CharDevice
        } else if file_type.is_block_device() {
            Self::BlockDevice
        } else if file_type.is_fifo() {
            Self::Fifo
        } else if file_type.is_socket() {
            Self::Socket
        } else {
            Self::File
        }
    }
}

struct Octal(u32);

impl fmt::Debug for Octal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// MooseFS keeps access lists, and does not list them.
const UNLISTED: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut buffer = vec![0; XATTR_MAX];
    let length = llistxattr(path, &mut buffer[..])
        .unwrap_or_else(|e| panic!("list the attributes of {}: {e}", path.display()));
    let mut names: BTreeSet<OsString> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect();
    names.extend(UNLISTED.map(OsString::from));
    let read = |name: OsString| match lgetxattr(path, &name, &mut buffer[..]) {
        Ok(length) => Some((name, buffer[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) if UNLISTED.iter().any(|unlisted| name == *unlisted) => None,
        Err(e) => panic!("read {name:?} of {}: {e}", path.display()),
    };
    names.into_iter().filter_map(read).collect()
}
