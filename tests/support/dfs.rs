//! File systems that two nodes share, started within a test.
//!
//! Servers and clients end with the test, also when it is killed: all are its children, and each file system has
//! a network, and GlusterFS mounts and processes, of its own. So tests can run beside each other.

mod gluster;
mod moosefs;
mod net;
mod server;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wharf::fs::{Abilities, Durability, probe};

use self::gluster::Gluster;
use self::moosefs::MooseFs;
use super::mount::SmallExt4;
use super::tree::Tolerance;

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the tests' folder is on; both nodes are this one.
    Ext4,
    Gluster,
    MooseFs,
}

/// A file system, as the nodes a and b see it.
#[derive(Debug)]
pub struct Shared {
    kind: Kind,
    a: PathBuf,
    b: PathBuf,
    _server: Server,
    _directory: TempDir,
}

#[derive(Debug)]
enum Server {
    None,
    Ext4 { _mount: SmallExt4 },
    Gluster { _volume: Box<Gluster> },
    MooseFs { _servers: Box<MooseFs> },
}

/// What a file system is that can keep everything.
pub fn able() -> Abilities {
    Abilities {
        whiteouts: true,
        trusted_xattrs: true,
        user_xattrs: true,
        capabilities: true,
        acls: true,
        devices: true,
        ownership: true,
        special_modes: true,
        hard_link_limit: None,
        negative_times: true,
        nanosecond_times: true,
        directory_rename: true,
        exclusive_mkdir: true,
        fsync: true,
        writers: 8,
        durability: Durability::Close,
    }
}

impl Shared {
    /// Starts one, which takes four seconds at most.
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, None)
    }

    /// Starts one on a device of that many bytes.
    pub fn start_small(kind: Kind, bytes: u64) -> Self {
        Self::start_with(kind, Some(bytes))
    }

    fn start_with(kind: Kind, bytes: Option<u64>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let work = directory.path().to_owned();
        let [mut a, mut b] = ["a", "b"].map(|name| work.join(name));
        let server = match (kind, bytes) {
            (Kind::Ext4, None) => {
                std::fs::create_dir(&a).expect("make a directory");
                b.clone_from(&a);
                Server::None
            }
            (Kind::Ext4, Some(bytes)) => {
                let mount = SmallExt4::mount(bytes);
                a = mount.path();
                b.clone_from(&a);
                Server::Ext4 { _mount: mount }
            }
            (Kind::Gluster, bytes) => Server::Gluster {
                _volume: Box::new(Gluster::start(&work, &a, &b, bytes.unwrap_or(0))),
            },
            (Kind::MooseFs, None) => Server::MooseFs {
                _servers: Box::new(MooseFs::start(&work, &a, &b)),
            },
            (Kind::MooseFs, Some(_)) => panic!("a small MooseFS: it keeps 256 MiB of its disks free"),
        };
        Self {
            kind,
            a,
            b,
            _server: server,
            _directory: directory,
        }
    }

    /// Where node a has it.
    pub fn a(&self) -> &Path {
        &self.a
    }

    /// Where node b has it.
    pub fn b(&self) -> &Path {
        &self.b
    }

    /// What it can keep, as the probe finds it.
    pub fn abilities(&self) -> Abilities {
        probe(&self.a).unwrap_or_else(|e| panic!("probe {:?}: {e:?}", self.kind))
    }

    /// What of a tree it need not keep.
    pub fn tolerance(&self) -> Tolerance {
        Tolerance {
            whole_seconds: self.kind == Kind::MooseFs,
            ..Tolerance::default()
        }
    }
}
