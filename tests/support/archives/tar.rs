//! A tar archive byte by byte: what no tool writes can be written too.

use std::fmt::Write as _;

const BLOCK: usize = 512;
/// What a name in a header has room for.
const NAME_FIELD: usize = 100;

/// How names that do not fit into the header are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongNames {
    Pax,
    Gnu,
}

/// An archive that grows.
#[derive(Clone, Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// One entry of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The type flag of the header.
    pub flag: u8,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds and nanoseconds; the latter go into a PAX header if there are any.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    /// Further PAX records.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    pub long_names: LongNames,
}

impl Entry {
    fn new(flag: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            flag,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            content: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (1_600_000_000, 0),
            device: (0, 0),
            pax: Vec::new(),
            long_names: LongNames::Pax,
        }
    }

    /// A regular file.
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(b'0', path);
        entry.content = content.as_ref().to_vec();
        entry
    }

    /// A directory; its path needs no slash at its end.
    pub fn directory(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', path).mode(0o755)
    }

    /// A symlink.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::link(b'2', path, target).mode(0o777)
    }

    /// A hard link.
    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::link(b'1', path, target)
    }

    fn link(flag: u8, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(flag, path);
        entry.link = target.as_ref().to_vec();
        entry
    }

    /// A device: `b'3'` is one of characters, `b'4'` one of blocks.
    pub fn device(flag: u8, path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        let mut entry = Self::new(flag, path);
        entry.device = (major, minor);
        entry
    }

    /// A fifo.
    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'6', path)
    }

    /// Sets the mode.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the owner.
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Sets the time.
    pub fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.mtime = (seconds, nanoseconds);
        self
    }

    /// Adds a PAX record.
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Adds an extended attribute.
    pub fn xattr(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax([b"SCHILY.xattr.", name.as_ref()].concat(), value)
    }

    /// Writes long names as GNU tar does.
    pub fn gnu(mut self) -> Self {
        self.long_names = LongNames::Gnu;
        self
    }
}

impl Tar {
    /// Adds an entry.
    pub fn add(&mut self, entry: Entry) -> &mut Self {
        let mut pax = entry.pax.clone();
        for (name, key, flag) in [(&entry.path, "path", b'L'), (&entry.link, "linkpath", b'K')] {
            match entry.long_names {
                _ if name.len() <= NAME_FIELD => {}
                LongNames::Pax => pax.push((key.into(), name.clone())),
                LongNames::Gnu => self.extension(flag, "././@LongLink", &[name, &b"\0"[..]].concat()),
            }
        }
        let (seconds, nanoseconds) = entry.mtime;
        if nanoseconds != 0 {
            pax.push(("mtime".into(), format!("{seconds}.{nanoseconds:09}").into()));
        }
        if !pax.is_empty() {
            self.extension(b'x', "PaxHeaders/entry", &records(&pax));
        }
        self.bytes.extend(header(&entry));
        self.padded(&entry.content);
        self
    }

    /// Adds a PAX header that is for all that follow.
    pub fn global(&mut self, key: &str, value: &str) -> &mut Self {
        self.extension(b'g', "pax_global_header", &records(&[(key.into(), value.into())]));
        self
    }

    fn extension(&mut self, flag: u8, name: &str, content: &[u8]) {
        let mut entry = Entry::file(name, content);
        entry.flag = flag;
        self.bytes.extend(header(&entry));
        self.padded(content);
    }

    fn padded(&mut self, content: &[u8]) {
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Returns the archive.
    pub fn finished(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }
}

fn header(entry: &Entry) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let cut = |name: &[u8]| name[..name.len().min(NAME_FIELD)].to_vec();
    put(&mut block, 0, &cut(&entry.path));
    number(&mut block, 100, 8, entry.mode.into());
    number(&mut block, 108, 8, entry.uid.into());
    number(&mut block, 116, 8, entry.gid.into());
    number(&mut block, 124, 12, entry.content.len() as i128);
    number(&mut block, 136, 12, entry.mtime.0.into());
    block[156] = entry.flag;
    put(&mut block, 157, &cut(&entry.link));
    // Numbers in base 256 are GNU's, and every reader knows them in an archive of either kind.
    match entry.long_names {
        LongNames::Pax => put(&mut block, 257, b"ustar\x0000"),
        LongNames::Gnu => put(&mut block, 257, b"ustar  \0"),
    }
    number(&mut block, 329, 8, entry.device.0.into());
    number(&mut block, 337, 8, entry.device.1.into());
    put(&mut block, 148, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    block
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes a number in octal, or in base 256 if that has no room for it.
fn number(block: &mut [u8; BLOCK], at: usize, width: usize, value: i128) {
    if (0..1_i128 << (3 * (width - 1))).contains(&value) {
        put(
            block,
            at,
            format!("{value:0digits$o}\0", digits = width - 1).as_bytes(),
        );
    } else {
        let bytes = value.to_be_bytes();
        put(block, at, &bytes[bytes.len() - width..]);
        block[at] |= 0x80;
    }
}

/// Formats PAX records, each of which begins with its own length.
fn records(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in pairs {
        let rest = key.len() + value.len() + " =\n".len();
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        let mut start = String::new();
        write!(start, "{length} ").expect("write to a string");
        bytes.extend([start.as_bytes(), key, b"=", value, b"\n"].concat());
    }
    bytes
}
