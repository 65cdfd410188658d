//! PAX records: what they say in place of a header's fields (POSIX.1-2001 pax, "pax Extended Header").
//!
//! Of vendors' records those are read that layers have: `SCHILY.xattr.*` and `GNU.sparse.*`.

use super::entry::{Extent, Time, Xattr};
use super::error::EntryFault;
use super::number::{decimal, pax_time};

/// How many extended attributes an entry may have. listxattr(2) gives 64 KiB of names, and each one that a file
/// system refuses costs a call.
const MAX_XATTRS: usize = 1024;

/// What the records before an entry say of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Sparse,
}

/// What GNU tar's records say of a file's holes, in its three formats (0.0, 0.1, 1.0).
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    /// The map follows at the begin of the content (1.0).
    pub(super) has_map_in_content: bool,
    pub(super) real_size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) extents: Vec<Extent>,
    /// An offset whose length is to come (0.0).
    offset: Option<u64>,
}

impl Overrides {
    /// Reads the records of one extended header; later ones win.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), EntryFault> {
        // Some writers pad with zeros.
        while !records.is_empty() && records[0] != 0 {
            let (key, value, rest) = next_record(records).ok_or(EntryFault::BadExtension)?;
            self.take(key, value)?;
            records = rest;
        }
        Ok(())
    }

    /// Takes what another header's records say, below what these say.
    pub(super) fn default_to(&mut self, global: &Self) {
        let or = |own: &mut Option<Vec<u8>>, other: &Option<Vec<u8>>| {
            if own.is_none() {
                own.clone_from(other);
            }
        };
        or(&mut self.path, &global.path);
        or(&mut self.link_path, &global.link_path);
        self.size = self.size.or(global.size);
        self.uid = self.uid.or(global.uid);
        self.gid = self.gid.or(global.gid);
        self.mtime = self.mtime.or(global.mtime);
        for xattr in &global.xattrs {
            if !self.xattrs.iter().any(|own| own.name == xattr.name) {
                self.xattrs.push(xattr.clone());
            }
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), EntryFault> {
        // An empty value takes back what a global header said.
        let text = (!value.is_empty()).then(|| value.to_vec());
        let number = |value: &[u8]| -> Result<Option<u64>, EntryFault> {
            if value.is_empty() {
                return Ok(None);
            }
            decimal(value).map(Some).ok_or(EntryFault::BadNumber)
        };
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link_path = text,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(pax_time(value).ok_or(EntryFault::BadNumber)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.take_xattr(name, value)?;
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(field, value)?;
                }
            }
        }
        Ok(())
    }

    fn take_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), EntryFault> {
        self.xattrs.retain(|xattr| xattr.name != name);
        if self.xattrs.len() == MAX_XATTRS {
            return Err(EntryFault::ManyXattrs);
        }
        self.xattrs.push(Xattr {
            name: name.to_vec(),
            value: value.to_vec(),
        });
        Ok(())
    }
}

impl Sparse {
    fn take(&mut self, field: &[u8], value: &[u8]) -> Result<(), EntryFault> {
        let number = || decimal(value).ok_or(EntryFault::BadNumber);
        match field {
            b"major" => self.has_map_in_content = number()? >= 1,
            b"size" | b"realsize" => self.real_size = Some(number()?),
            b"name" => self.name = Some(value.to_vec()),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(EntryFault::BadSparseMap)?;
                self.extents.push(Extent {
                    offset,
                    length: number()?,
                });
            }
            b"map" => self.extents = read_map(value)?,
            _ => {}
        }
        Ok(())
    }
}

/// Reads a map of comma-separated offsets and lengths (0.1).
fn read_map(value: &[u8]) -> Result<Vec<Extent>, EntryFault> {
    let numbers: Vec<u64> = value
        .split(|byte| *byte == b',')
        .filter(|number| !number.is_empty())
        .map(|number| decimal(number).ok_or(EntryFault::BadSparseMap))
        .collect::<Result<_, _>>()?;
    if !numbers.len().is_multiple_of(2) {
        return Err(EntryFault::BadSparseMap);
    }
    let pairs = numbers.chunks_exact(2);
    Ok(pairs
        .map(|pair| Extent {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

/// Splits off the first record: its length in decimal, a space, key, "=", value, a newline. Values may hold
/// any bytes, newlines too.
fn next_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&records[..space])?).ok()?;
    let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn records_are_read_by_their_length_whatever_their_value_holds() {
        let mut overrides = Overrides::default();
        let records = [
            record("path", b"a\nb"),
            record("SCHILY.xattr.security.capability", b"\x01\n\0=\n"),
            record("SCHILY.xattr.user.empty", b""),
            record("mtime", b"-1.5"),
            record("uid", b"4000000000"),
            record("comment", b"ignored"),
        ]
        .concat();
        overrides.read(&records).unwrap();
        assert_eq!(overrides.path.as_deref(), Some(b"a\nb".as_slice()));
        assert_eq!(overrides.xattrs[0].value, b"\x01\n\0=\n");
        assert_eq!(overrides.xattrs[1].name, b"user.empty");
        assert_eq!(overrides.uid, Some(4_000_000_000));
        assert_eq!(overrides.mtime, pax_time(b"-1.5"));
    }

    #[test]
    fn broken_records_are_refused() {
        for broken in [
            b"".as_slice(),
            b"5 a=b\n",
            b"999 a=b\n",
            b"6 a=bX",
            b"6 abc\n",
            b"x a=b\n",
            b"7 uid=\n7 uid=x",
            b"1 ",
        ] {
            let read = Overrides::default().read(broken);
            assert_eq!(read.is_ok(), broken.is_empty(), "{}", broken.escape_ascii());
        }
    }
}
