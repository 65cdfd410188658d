//! What a file system can keep and do: facts that are probed once, and that code branches on.

use serde::{Deserialize, Deserializer, Serialize};

/// More threads than this were never faster on any file system.
const MAX_WRITERS: u32 = 256;

/// What a file system can keep and do, as a process with all capabilities finds it.
///
/// Kept in the store's `wharf.json`; whoever does something in two ways reads here which one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Character devices 0:0 can be made: overlayfs' whiteouts.
    pub whiteouts: bool,
    /// `trusted.overlay.*` attributes can be kept: they mark opaque directories.
    pub trusted_xattrs: bool,
    /// `user.*` attributes can be kept.
    pub user_xattrs: bool,
    /// `security.capability` can be kept, and reads back as it was set.
    pub capabilities: bool,
    /// POSIX ACLs (`system.posix_acl_*`) can be kept.
    pub acls: bool,
    /// Other device nodes and fifos can be made.
    pub devices: bool,
    /// Any uid and gid number can be given to a file.
    pub ownership: bool,
    /// setuid, setgid and sticky bits can be kept.
    pub special_modes: bool,
    /// How many names one file may have, as far as was tried; `None` if none of the tried was refused.
    #[serde(deserialize_with = "hard_link_limit")]
    pub hard_link_limit: Option<u32>,
    /// Times before 1970 can be kept.
    pub negative_times: bool,
    /// Times are kept to the nanosecond, not to the second.
    pub nanosecond_times: bool,
    /// A directory that is not empty can be renamed, and never onto one that is not empty either.
    pub directory_rename: bool,
    /// Of several makers of one directory exactly one succeeds.
    pub exclusive_mkdir: bool,
    /// fsync(2) of a file and of a directory is answered with success.
    pub fsync: bool,
    /// How many files are best made at the same time.
    #[serde(deserialize_with = "writers")]
    pub writers: u32,
    /// How written files are made durable.
    pub durability: Durability,
}

/// What may be assumed of a file system that nobody has tried: nothing.
impl Default for Abilities {
    fn default() -> Self {
        Self {
            whiteouts: false,
            trusted_xattrs: false,
            user_xattrs: false,
            capabilities: false,
            acls: false,
            devices: false,
            ownership: false,
            special_modes: false,
            hard_link_limit: Some(1),
            negative_times: false,
            nanosecond_times: false,
            directory_rename: false,
            exclusive_mkdir: false,
            fsync: false,
            writers: 8,
            durability: Durability::Fsync,
        }
    }
}

impl Abilities {
    /// Says why no layer can be extracted here, if so: containers would be wrong, or nothing could be published.
    pub fn refusal(&self) -> Option<&'static str> {
        if !self.whiteouts {
            return Some(
                "character devices 0:0 cannot be made, so files that an image deletes would reappear",
            );
        }
        if !self.directory_rename {
            return Some("directories cannot be renamed safely, so a layer could not be published whole");
        }
        None
    }
}

fn hard_link_limit<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u32>, D::Error> {
    match Option::<u32>::deserialize(source)? {
        Some(0) => Err(serde::de::Error::custom(
            "a file has at least 1 name; null means no limit",
        )),
        limit => Ok(limit),
    }
}

fn writers<'de, D: Deserializer<'de>>(source: D) -> Result<u32, D::Error> {
    match u32::deserialize(source)? {
        count @ 1..=MAX_WRITERS => Ok(count),
        count => Err(serde::de::Error::custom(format_args!(
            "{count} is not between 1 and {MAX_WRITERS}"
        ))),
    }
}

/// How the content of a directory tree is made durable before it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// One syncfs(2) when all is written: local file systems, and kernel clients that know it.
    Syncfs,
    /// close(2) hands everything to the servers, and its result is checked: FUSE and NFS.
    Close,
    /// fsync(2) of every file: nothing less is known to do.
    Fsync,
}
