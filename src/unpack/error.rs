//! Why a layer cannot be unpacked.

use std::io;
use std::sync::Arc;

use crate::fs::FsError;

/// Longer names are cut in messages.
const MAX_SHOWN_NAME: usize = 200;

/// Why a layer cannot be unpacked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("cannot read the layer's bytes")]
    Read(#[source] Arc<io::Error>),
    #[error("the layer is no whole {compression} stream")]
    Decode {
        compression: &'static str,
        source: Arc<io::Error>,
    },
    #[error("the layer is no tar archive: {reason}, after entry {after}")]
    Archive { reason: &'static str, after: String },
    #[error("the layer's archive ends in the middle of entry {entry}")]
    CutShort { entry: String },
    #[error("entry {entry} {fault}")]
    Entry { entry: String, fault: EntryFault },
    #[error("the layer is beyond the limit {key} = {value}; raise it if the image is to be trusted")]
    Limit { key: &'static str, value: u64 },
    #[error(
        "the layer deletes files of the layers below, which this file system cannot express: it takes no \
         character devices (see wharf doctor)"
    )]
    NoWhiteouts,
    #[error("cannot start a thread")]
    Thread(#[source] Arc<io::Error>),
    #[error("a thread of the unpacking died")]
    Died,
    #[error("the unpacking was cancelled")]
    Cancelled,
}

/// What is wrong with an entry of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    #[error("has a name that leads out of the layer")]
    Outside,
    #[error("has a name, or a part of it, that is too long for Linux")]
    TooLong,
    #[error("has a name that no file can have")]
    BadName,
    #[error("names the layer's root, which can only be a directory")]
    Root,
    #[error("lies below something that is no directory")]
    NotBelowDirectory,
    #[error("goes through too many symbolic links")]
    LinkLoop,
    #[error("has a symbolic link's target that no link can have")]
    BadTarget,
    #[error("is a hard link to something that is no file of this layer")]
    LinkTarget,
    #[error("is a character device 0:0, which would delete files of the layers below")]
    LiteralWhiteout,
    #[error("has a header field that is no number, or out of range")]
    BadNumber,
    #[error("has extended headers that cannot be read")]
    BadExtension,
    #[error("has extended headers of more than 1 MiB")]
    LargeExtension,
    #[error("has more extended attributes than a file can have")]
    ManyXattrs,
    #[error("brings directories' attributes and links' targets of the layer to more than 64 MiB")]
    TooMuch,
    #[error("has a map of holes that does not fit its content")]
    BadSparseMap,
    #[error("is of a type that no layer has")]
    UnknownType,
}

impl UnpackError {
    pub(super) fn read(source: &io::Error) -> Self {
        let copy = match source.get_ref() {
            Some(inner) => io::Error::new(source.kind(), inner.to_string()),
            None => source
                .raw_os_error()
                .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error),
        };
        Self::Read(copy.into())
    }

    pub(super) fn limit(key: &'static str, value: u64) -> Self {
        Self::Limit { key, value }
    }

    pub(super) fn entry(name: &[u8], fault: EntryFault) -> Self {
        Self::Entry {
            entry: shown(name),
            fault,
        }
    }
}

/// Writes a name of whatever bytes for a message.
pub(super) fn shown(name: &[u8]) -> String {
    if name.len() <= MAX_SHOWN_NAME {
        return format!("\"{}\"", name.escape_ascii());
    }
    let cut = name[..MAX_SHOWN_NAME].escape_ascii();
    format!("\"{cut}\"… ({} bytes)", name.len())
}
