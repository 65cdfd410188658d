//! One entry of a layer's archive, with everything that its headers say.

/// What is said of an entry, of whatever kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Permissions with setuid, setgid and sticky: 12 bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    /// Names and values, as they are to be set.
    pub(super) xattrs: Vec<Xattr>,
}

impl Meta {
    /// Returns how much memory its attributes take.
    pub(super) fn held_bytes(&self) -> usize {
        let attributes = self.xattrs.iter();
        attributes
            .map(|xattr| size_of::<Xattr>() + xattr.name.len() + xattr.value.len())
            .sum()
    }
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Xattr {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// A time as file systems keep it: seconds since 1970, and nanoseconds forward from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File(FileShape),
    Directory,
    Symlink { target: Vec<u8> },
    Hardlink { target: Vec<u8> },
    Device(Device),
}

/// How the content of a file in the archive lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileShape {
    /// Bytes of the file, holes included.
    pub(super) size: u64,
    /// Where the content goes, in ascending order; what lies between is a hole.
    pub(super) extents: Vec<Extent>,
}

/// A part of a file that is no hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A device node or fifo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) kind: Kind,
}

impl FileShape {
    /// Makes the shape of a file without holes.
    pub(super) fn dense(size: u64) -> Self {
        let whole = Extent {
            offset: 0,
            length: size,
        };
        Self {
            size,
            extents: if size == 0 { Vec::new() } else { vec![whole] },
        }
    }

    /// Tells whether the content is the file, without holes.
    pub(super) fn is_dense(&self) -> bool {
        self.content_bytes() == self.size
    }

    /// Returns how many bytes of content there are.
    pub(super) fn content_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length).sum()
    }
}
