//! Archives, byte by byte: right ones, and wrong ones in every detail.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// An archive that is being written.
#[derive(Clone, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let mut header = header(EntryType::Regular, 0o644);
        set_size(&mut header, content.as_ref().len() as u64);
        self.entry(header, name.as_ref(), b"", content.as_ref())
    }

    pub(super) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(header(EntryType::Directory, 0o755), name.as_ref(), b"", b"")
    }

    pub(super) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let header = header(EntryType::Symlink, 0o777);
        self.entry(header, name.as_ref(), target.as_ref(), b"")
    }

    pub(super) fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(
            header(EntryType::Link, 0o644),
            name.as_ref(),
            target.as_ref(),
            b"",
        )
    }

    pub(super) fn fifo(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(header(EntryType::Fifo, 0o644), name.as_ref(), b"", b"")
    }

    /// A character device.
    pub(super) fn device(self, name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        let mut header = header(EntryType::Char, 0o644);
        let bytes = header.as_mut_bytes();
        octal(&mut bytes[329..337], major.into());
        octal(&mut bytes[337..345], minor.into());
        self.entry(header, name.as_ref(), b"", b"")
    }

    /// Adds an entry under a name and to a target of whatever lengths.
    pub(super) fn entry(self, mut header: Header, name: &[u8], target: &[u8], content: &[u8]) -> Self {
        let mut tar = self;
        for (text, kind) in [(name, EntryType::GNULongName), (target, EntryType::GNULongLink)] {
            if text.len() > 100 {
                tar = tar.extension(kind, &[text, b"\0"].concat());
            }
        }
        put(&mut header.as_old_mut().name, name);
        put(&mut header.as_old_mut().linkname, target);
        tar.raw(header, content)
    }

    /// Adds an extended header of any kind.
    pub(super) fn extension(self, kind: EntryType, content: &[u8]) -> Self {
        let mut header = header(kind, 0o644);
        put(&mut header.as_old_mut().name, b"extension");
        set_size(&mut header, content.len() as u64);
        self.raw(header, content)
    }

    /// Adds a PAX header for the next entry.
    pub(super) fn pax<V: AsRef<[u8]>>(self, records: &[(&str, V)]) -> Self {
        let records: Vec<Vec<u8>> = records
            .iter()
            .map(|(key, value)| record(key, value.as_ref()))
            .collect();
        let records = records.concat();
        self.extension(EntryType::XHeader, &records)
    }

    /// Adds a header as it is but for its checksum, and content padded to blocks.
    pub(super) fn raw(self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.bytes(header.as_bytes()).bytes(content).pad()
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ends the archive as it should.
    pub(super) fn end(self) -> Vec<u8> {
        self.bytes(&[0; 1024]).0
    }

    /// Ends it without the blocks that mark the end.
    pub(super) fn cut(self) -> Vec<u8> {
        self.0
    }
}

/// Makes a header of this process's user, of a mtime in 1970.
pub(super) fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(rustix::process::geteuid().as_raw().into());
    header.set_gid(rustix::process::getegid().as_raw().into());
    header.set_mtime(1000);
    header.set_size(0);
    header
}

pub(super) fn set_size(header: &mut Header, size: u64) {
    header.set_size(size);
}

/// Makes a PAX record.
pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Puts a text into a field as far as it fits.
pub(super) fn put(field: &mut [u8], text: &[u8]) {
    let length = field.len().min(text.len());
    field.fill(0);
    field[..length].copy_from_slice(&text[..length]);
}

/// Puts a number into a field.
pub(super) fn octal(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    put(field, format!("{number:0width$o}").as_bytes());
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
