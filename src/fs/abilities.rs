//! What a file system can keep and do: facts that are probed once, and that code branches on.

use serde::{Deserialize, Serialize};

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
    pub hard_link_limit: Option<u32>,
    /// Times before 1970 can be kept.
    pub negative_times: bool,
    /// Times are kept to the nanosecond, not to the second.
    pub nanosecond_times: bool,
    /// A directory that is not empty can be renamed, and never onto one that is not empty either.
    pub directory_rename: bool,
    /// Of several makers of one directory exactly one succeeds.
    pub exclusive_mkdir: bool,
    /// How many files are best made at the same time.
    pub writers: u32,
    /// How written files are made durable.
    pub durability: Durability,
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
