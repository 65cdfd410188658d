//! Reads a tar archive entry by entry: v7, ustar, PAX and GNU, whichever mixed.
//!
//! Sources: POSIX.1-2001 pax; GNU tar's manual, "Basic Tar Format" and "Storing Sparse Files".
//! The layout of a header is the `tar` crate's; its reader is not used, since it splits PAX records at
//! newlines, which capabilities contain, and knows neither PAX sparse files nor times before 1970.

use bytes::Bytes;
use tar::{EntryType, GnuExtSparseHeader, Header};

use super::UnpackError;
use super::entry::{Device, Entry, Extent, FileShape, Kind, Meta};
use super::error::{EntryFault, shown};
use super::number::{decimal, header_number};
use super::pax::Overrides;
use super::stream::Stream;
use crate::oci::DiffId;

/// Bytes of a block: a header is one, and contents are padded to whole ones.
const BLOCK: u64 = 512;

/// The most bytes of extended headers that one entry may have, and that global ones may have in all; Go's
/// archive/tar, which most layers are made with, takes as much of one header.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// How many parts the map of a sparse file may have; each takes memory.
const MAX_EXTENTS: usize = 1 << 20;

/// The longest decimal number of 64 bits.
const MAX_DIGITS: usize = 20;

/// Device numbers have 12 and 20 bits (the kernel's `MINORBITS`). mknod(2) drops further ones, so that a larger
/// number would be another device, or a whiteout.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// A tar archive, being read.
pub(super) struct Archive<'a> {
    stream: Stream<'a>,
    /// Bytes of the current entry's content that have not been read.
    content: u64,
    /// Bytes that follow it up to the next header.
    padding: u64,
    /// For messages.
    current: Vec<u8>,
    global: Overrides,
    /// Bytes of global headers so far.
    global_bytes: u64,
}

/// What the headers before an entry's own say.
#[derive(Default)]
struct Extensions {
    pax: Overrides,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(stream: Stream<'a>) -> Self {
        Self {
            stream,
            content: 0,
            padding: 0,
            current: Vec::new(),
            global: Overrides::default(),
            global_bytes: 0,
        }
    }

    /// Reads on to the next entry; `None` at the archive's end.
    ///
    /// What of the content of the last one has not been read is passed over.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.skip_content()?;
        let mut extensions = Extensions::default();
        let mut extension_bytes = 0;
        loop {
            let Some(header) = self.next_header()? else {
                return match extension_bytes {
                    0 => Ok(None),
                    // What they describe is missing.
                    _ => Err(self.cut_short()),
                };
            };
            let name = header.path_bytes().into_owned();
            let fault = |fault| UnpackError::entry(&name, fault);
            let size = unsigned(&header.as_old().size).ok_or_else(|| fault(EntryFault::BadNumber))?;
            match header.entry_type() {
                EntryType::XGlobalHeader => {
                    let mut total = self.global_bytes;
                    let records = self.extension(size, &mut total, &name)?;
                    self.global_bytes = total;
                    self.global.read(&records).map_err(fault)?;
                }
                EntryType::XHeader => {
                    let records = self.extension(size, &mut extension_bytes, &name)?;
                    extensions.pax.read(&records).map_err(fault)?;
                }
                EntryType::GNULongName => {
                    extensions.long_name = Some(self.long_text(size, &mut extension_bytes, &name)?);
                }
                EntryType::GNULongLink => {
                    extensions.long_link = Some(self.long_text(size, &mut extension_bytes, &name)?);
                }
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// Returns the next bytes of the current entry's content; none at its end.
    pub(super) fn content(&mut self) -> Result<Bytes, UnpackError> {
        if self.content == 0 {
            return Ok(Bytes::new());
        }
        let piece = self.stream.take(self.content)?;
        if piece.is_empty() {
            return Err(self.cut_short());
        }
        self.content -= piece.len() as u64;
        Ok(piece)
    }

    /// Leaves the current entry's content, of which nothing has been read, to the directory: see
    /// [`super::tar_split::Recorder::begin_file`].
    pub(super) fn leave_content(&mut self, name: &[u8]) -> Result<Option<u64>, UnpackError> {
        self.stream.begin_file(name, self.content)
    }

    /// Reads what follows the archive too, and returns what the whole stream was.
    pub(super) fn finish(self) -> Result<(DiffId, u64), UnpackError> {
        self.stream.finish()
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry, UnpackError> {
        let Extensions {
            mut pax,
            long_name,
            long_link,
        } = extensions;
        pax.default_to(&self.global);
        let sparse_name = pax.sparse.name.take();
        let name = sparse_name
            .or_else(|| pax.path.take())
            .or(long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let target = pax
            .link_path
            .take()
            .or(long_link)
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        self.current.clone_from(&name);
        let meta = meta(header, &mut pax).map_err(|fault| UnpackError::entry(&name, fault))?;
        let has_content = !matches!(
            header.entry_type(),
            EntryType::Link
                | EntryType::Symlink
                | EntryType::Char
                | EntryType::Block
                | EntryType::Directory
                | EntryType::Fifo
        );
        // Some writers put a size into headers of what has no content.
        let size = if has_content { pax.size.unwrap_or(size) } else { 0 };
        if i64::try_from(size).is_err() {
            return Err(UnpackError::entry(&name, EntryFault::BadNumber));
        }
        (self.content, self.padding) = (size, size.next_multiple_of(BLOCK) - size);
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink { target },
            EntryType::Link => Kind::Hardlink { target },
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                Kind::Device(device(header).map_err(|fault| UnpackError::entry(&name, fault))?)
            }
            // Before there was a type for directories, a slash at the name's end was it.
            EntryType::Regular if name.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File(self.shape(&pax, &name)?),
            EntryType::GNUSparse => Kind::File(self.gnu_sparse_shape(header, &name)?),
            _ => return Err(UnpackError::entry(&name, EntryFault::UnknownType)),
        };
        Ok(Entry { name, meta, kind })
    }

    /// Returns a file's shape; reads the map that its content may begin with.
    fn shape(&mut self, pax: &Overrides, name: &[u8]) -> Result<FileShape, UnpackError> {
        let Some(real_size) = pax.sparse.real_size else {
            return Ok(FileShape::dense(self.content));
        };
        let extents = if pax.sparse.has_map_in_content {
            self.map_in_content(name)?
        } else {
            pax.sparse.extents.clone()
        };
        self.checked_shape(real_size, extents, name)
    }

    /// Reads lines of decimal numbers, padded to whole blocks: how many pairs, then offsets and lengths.
    fn map_in_content(&mut self, name: &[u8]) -> Result<Vec<Extent>, UnpackError> {
        let fault = || UnpackError::entry(name, EntryFault::BadSparseMap);
        let mut block = [0; BLOCK as usize];
        let (mut numbers, mut line) = (Vec::new(), Vec::new());
        let mut wanted = 1;
        while numbers.len() < wanted {
            let rest = self.content.checked_sub(BLOCK).ok_or_else(fault)?;
            self.read_block(&mut block)?;
            self.content = rest;
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    if line.len() == MAX_DIGITS {
                        return Err(fault());
                    }
                    line.push(byte);
                    continue;
                }
                numbers.push(decimal(&line).ok_or_else(fault)?);
                line.clear();
                if numbers.len() == 1 {
                    let count = usize::try_from(numbers[0])
                        .ok()
                        .filter(|count| *count <= MAX_EXTENTS);
                    wanted = 1 + 2 * count.ok_or_else(fault)?;
                }
            }
        }
        let pairs = numbers[1..].chunks_exact(2);
        Ok(pairs
            .map(|pair| Extent {
                offset: pair[0],
                length: pair[1],
            })
            .collect())
    }

    /// Reads the map of GNU tar's old format: in the header, and in blocks that follow it.
    fn gnu_sparse_shape(&mut self, header: &Header, name: &[u8]) -> Result<FileShape, UnpackError> {
        let fault = || UnpackError::entry(name, EntryFault::BadSparseMap);
        let gnu = header.as_gnu().ok_or_else(fault)?;
        let mut extents = Vec::new();
        for sparse in gnu.sparse.iter().filter(|sparse| !sparse.is_empty()) {
            extents.push(extent(&sparse.offset, &sparse.numbytes).ok_or_else(fault)?);
        }
        let mut is_extended = gnu.is_extended();
        while is_extended {
            let mut more = GnuExtSparseHeader::new();
            self.read_block(more.as_mut_bytes())?;
            for sparse in more.sparse().iter().filter(|sparse| !sparse.is_empty()) {
                extents.push(extent(&sparse.offset, &sparse.numbytes).ok_or_else(fault)?);
            }
            if extents.len() > MAX_EXTENTS {
                return Err(fault());
            }
            is_extended = more.is_extended();
        }
        let real_size = unsigned(&gnu.realsize).ok_or_else(fault)?;
        self.checked_shape(real_size, extents, name)
    }

    /// Checks that a map is in order, lies within the file, and has as much content as there is.
    fn checked_shape(
        &self,
        size: u64,
        mut extents: Vec<Extent>,
        name: &[u8],
    ) -> Result<FileShape, UnpackError> {
        extents.retain(|extent| extent.length > 0);
        // A job keeps it until its file is written.
        extents.shrink_to_fit();
        let mut end = 0;
        let mut content = 0;
        for extent in &extents {
            let extent_end = extent.offset.checked_add(extent.length);
            match extent_end {
                Some(extent_end) if extent.offset >= end && extent_end <= size => end = extent_end,
                _ => return Err(UnpackError::entry(name, EntryFault::BadSparseMap)),
            }
            content += extent.length;
        }
        if content != self.content || i64::try_from(size).is_err() {
            return Err(UnpackError::entry(name, EntryFault::BadSparseMap));
        }
        Ok(FileShape { size, extents })
    }

    /// Reads the next header; `None` at a block of zeros, or where the stream ends between entries.
    fn next_header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        match self.stream.read(block)? {
            0 => return Ok(None),
            count if (count as u64) < BLOCK => return Err(self.cut_short()),
            _ => {}
        }
        if block.iter().all(|byte| *byte == 0) {
            // The end is two blocks of zeros. Other readers refuse a single one, or read on: whatever this one
            // did would differ from what somebody else sees in the layer.
            return match self.stream.read(block)? as u64 {
                BLOCK if block.iter().any(|byte| *byte != 0) => {
                    Err(self.no_archive("more follows a block of zeros"))
                }
                _ => Ok(None),
            };
        }
        let bytes = || block[..148].iter().chain(&block[156..]).copied();
        // Eight spaces stand for the sum itself. Old writers add signed bytes.
        let unsigned: i64 = bytes().map(i64::from).sum::<i64>() + 8 * i64::from(b' ');
        let signed: i64 =
            bytes().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * i64::from(b' ');
        let told = header_number(&header.as_old().cksum);
        if told != Some(unsigned) && told != Some(signed) {
            return Err(self.no_archive("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    /// Reads an extended header, of which there may be several: `total` counts their bytes.
    fn extension(&mut self, size: u64, total: &mut u64, name: &[u8]) -> Result<Vec<u8>, UnpackError> {
        *total = total.saturating_add(size);
        if *total > MAX_EXTENSION_BYTES {
            return Err(UnpackError::entry(name, EntryFault::LargeExtension));
        }
        self.current = name.to_vec();
        (self.content, self.padding) = (size, size.next_multiple_of(BLOCK) - size);
        let mut extension = Vec::new();
        while self.content > 0 {
            extension.extend_from_slice(&self.content()?);
        }
        self.skip_content()?;
        Ok(extension)
    }

    /// Reads a long name, which ends at the first zero.
    fn long_text(&mut self, size: u64, total: &mut u64, name: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let mut text = self.extension(size, total, name)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn skip_content(&mut self) -> Result<(), UnpackError> {
        let (content, padding) = (self.content, self.padding);
        (self.content, self.padding) = (0, 0);
        if self.stream.skip(content)? > 0 {
            return Err(self.cut_short());
        }
        // Some writers (umoci) end where the last content does, and Go's archive/tar takes that for the end.
        self.stream.skip(padding)?;
        Ok(())
    }

    fn read_block(&mut self, block: &mut [u8]) -> Result<(), UnpackError> {
        if self.stream.read(block)? < block.len() {
            return Err(self.cut_short());
        }
        Ok(())
    }

    fn no_archive(&self, reason: &'static str) -> UnpackError {
        UnpackError::Archive {
            reason,
            after: shown(&self.current),
        }
    }

    fn cut_short(&self) -> UnpackError {
        UnpackError::CutShort {
            entry: shown(&self.current),
        }
    }
}

fn meta(header: &Header, pax: &mut Overrides) -> Result<Meta, EntryFault> {
    let old = header.as_old();
    let number = |field: &[u8]| header_number(field).ok_or(EntryFault::BadNumber);
    let owner = |pax: Option<u64>, field: &[u8]| {
        let id = match pax {
            Some(id) => id,
            None => unsigned(field).ok_or(EntryFault::BadNumber)?,
        };
        // chown(2) takes the highest number for "as it is".
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or(EntryFault::BadNumber)
    };
    let mtime = match pax.mtime {
        Some(mtime) => mtime,
        None => super::entry::Time {
            seconds: number(&old.mtime)?,
            nanoseconds: 0,
        },
    };
    Ok(Meta {
        // Some writers add the type's bits.
        mode: (number(&old.mode)? & 0o7777) as u32,
        uid: owner(pax.uid, &old.uid)?,
        gid: owner(pax.gid, &old.gid)?,
        mtime,
        xattrs: std::mem::take(&mut pax.xattrs),
    })
}

fn device(header: &Header) -> Result<Device, EntryFault> {
    if header.entry_type() == EntryType::Fifo {
        return Ok(Device::Fifo);
    }
    // Where ustar and GNU have them; zeros in older headers.
    let number = |field: &[u8], max: u32| {
        let number = unsigned(field).and_then(|number| u32::try_from(number).ok());
        number
            .filter(|number| *number <= max)
            .ok_or(EntryFault::BadNumber)
    };
    let bytes = header.as_bytes();
    let (major, minor) = (
        number(&bytes[329..337], MAX_MAJOR)?,
        number(&bytes[337..345], MAX_MINOR)?,
    );
    Ok(match header.entry_type() {
        EntryType::Char => Device::Character { major, minor },
        _ => Device::Block { major, minor },
    })
}

fn unsigned(field: &[u8]) -> Option<u64> {
    header_number(field)?.try_into().ok()
}

fn extent(offset: &[u8], length: &[u8]) -> Option<Extent> {
    Some(Extent {
        offset: unsigned(offset)?,
        length: unsigned(length)?,
    })
}
