//! What kind of file system a directory is on, and how it is mounted here.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatVfs, StatVfsMountFlags, StatxFlags, statvfs, statx};

use super::{Durability, FsError};

/// Where a file system keeps its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This machine alone.
    Local,
    /// Servers that other machines ask too.
    Network,
    /// A kind that wharf does not know.
    Unknown,
}

/// File systems of FUSE whose files are on this machine. A plain `fuse` says nothing.
const LOCAL_FUSE: [&str; 7] = [
    "fuseblk",
    "fuse.bindfs",
    "fuse.fuse-overlayfs",
    "fuse.mergerfs",
    "fuse.gocryptfs",
    "fuse.encfs",
    "fuse.ntfs-3g",
];

/// The kind of a file system, as mountinfo names it: `ext4`, `nfs4`, `fuse.glusterfs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind(String);

/// The mount that a path is in.
#[derive(Clone, Debug)]
pub struct Mount {
    pub kind: Kind,
    /// Where it is mounted.
    pub point: String,
    pub flags: StatVfsMountFlags,
    /// Bytes that are free for wharf, and in all.
    pub free_bytes: u64,
    pub size_bytes: u64,
    /// Files that can still be made, and in all; 0 in all where they are not counted.
    pub free_inodes: u64,
    pub inodes: u64,
}

impl Kind {
    /// Names a kind.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Returns its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns where such a file system keeps its files.
    pub fn place(&self) -> Place {
        match self.0.as_str() {
            "ext2"
            | "ext3"
            | "ext4"
            | "xfs"
            | "btrfs"
            | "zfs"
            | "f2fs"
            | "bcachefs"
            | "tmpfs"
            | "ramfs"
            | "overlay"
            | "fuseblk"
            | "fuse.bindfs"
            | "fuse.fuse-overlayfs" => Place::Local,
            "nfs" | "nfs4" | "ceph" | "lustre" | "gpfs" | "beegfs" | "orangefs" | "afs" | "cifs" | "smb3"
            | "gfs2" | "ocfs2" => Place::Network,
            name if name.starts_with("fuse.") => Place::Network,
            _ => Place::Unknown,
        }
    }

    /// Tells whether every machine soon sees a file that is replaced by a rename, and locks are the servers'.
    ///
    /// Elsewhere an old version is read for seconds, or ESTALE, and a lock may be refused for ever (ENOLCK).
    pub fn is_coherent(&self) -> bool {
        match self.0.as_str() {
            "nfs" | "nfs4" | "ceph" | "lustre" | "gpfs" | "gfs2" | "ocfs2" => true,
            _ => self.place() == Place::Local,
        }
    }

    /// Returns what makes written files durable here.
    pub(super) fn durability(&self) -> Durability {
        match self.0.as_str() {
            // Their data waits in this machine's page cache, and one syncfs writes all of it.
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "zfs" | "f2fs" | "bcachefs" | "tmpfs" | "ramfs"
            | "overlay" | "gfs2" | "ocfs2" => Durability::Syncfs,
            // Kernel clients whose sync_fs waits until the servers have everything.
            "ceph" | "lustre" | "gpfs" => Durability::Syncfs,
            // A local disk behind FUSE: close gives the data to a page cache, and syncfs does not reach it.
            name if LOCAL_FUSE.contains(&name) => Durability::Fsync,
            // Close-to-open: what a writer has closed is with the servers, else close says why not. (Linux
            // sends syncfs to no FUSE daemon.)
            "nfs" | "nfs4" => Durability::Close,
            name if name.starts_with("fuse.") => Durability::Close,
            _ => Durability::Fsync,
        }
    }

    /// Returns how many files are best made at the same time.
    pub(super) fn writers(&self) -> u32 {
        match self.place() {
            // Processors are the bound; more writers than that only wait for each other.
            Place::Local => std::thread::available_parallelism()
                .map_or(2, |count| u32::try_from(count.get()).unwrap_or(16).clamp(2, 16)),
            // Round trips are the bound; beyond 8, GlusterFS, MooseFS and CephFS were little or no faster.
            Place::Network | Place::Unknown => 8,
        }
    }
}

impl Mount {
    /// Returns the mount that `path` is in.
    ///
    /// # Errors
    /// Any errno.
    pub fn of(path: &Path) -> Result<Self, FsError> {
        let found = statvfs(path).map_err(|errno| FsError::new("stat file system of", path, errno.into()))?;
        let (kind, point) = kind_and_point(path)?;
        let StatVfs { f_frsize: block, .. } = found;
        Ok(Self {
            kind,
            point,
            flags: found.f_flag,
            free_bytes: found.f_bavail.saturating_mul(block),
            size_bytes: found.f_blocks.saturating_mul(block),
            free_inodes: found.f_favail,
            inodes: found.f_files,
        })
    }

    /// Returns the flags that matter to layers, as `mount` writes them.
    pub fn options(&self) -> Vec<&'static str> {
        let names = [
            (StatVfsMountFlags::RDONLY, "ro"),
            (StatVfsMountFlags::NOSUID, "nosuid"),
            (StatVfsMountFlags::NODEV, "nodev"),
            (StatVfsMountFlags::NOEXEC, "noexec"),
        ];
        let is_set = |(flag, _): &(StatVfsMountFlags, _)| self.flags.contains(*flag);
        names.into_iter().filter(is_set).map(|(_, name)| name).collect()
    }
}

/// Finds a path's mount in mountinfo by its id; a kernel or sandbox that does not tell leaves it unknown.
fn kind_and_point(path: &Path) -> Result<(Kind, String), FsError> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|errno| FsError::new("stat", path, errno.into()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = table.lines().find_map(|line| of_mount(line, found.stx_mnt_id));
    Ok(line.unwrap_or_else(|| (Kind::new("unknown"), "?".to_owned())))
}

/// Reads a line of mountinfo (proc_pid_mountinfo(5)) if it is about this mount.
fn of_mount(line: &str, id: u64) -> Option<(Kind, String)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    if fields.next()?.parse() != Ok(id) {
        return None;
    }
    // Blanks are octal there.
    let point = fields.nth(3)?.replace("\\040", " ");
    let (name, rest) = file_system.split_once(' ')?;
    // FUSE's older way to say what is behind it, as MooseFS does: `fuse mfs#10.0.0.1:9421`.
    let kind = match rest.replace("\\043", "#").split_once('#') {
        Some((behind, _)) if name == "fuse" => Kind::new(&format!("fuse.{behind}")),
        _ => Kind::new(name),
    };
    Some((kind, point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_by_its_id() {
        let line = "36 35 98:0 /mnt1 /mnt/my\\040dfs rw,noatime master:1 - fuse.glusterfs v1 rw,user_id=0";
        let (kind, point) = of_mount(line, 36).unwrap();
        assert_eq!((kind.as_str(), point.as_str()), ("fuse.glusterfs", "/mnt/my dfs"));
        assert!(of_mount(line, 3).is_none());
        let line = "109 48 0:43 / /m rw,relatime - fuse mfs\\04310.0.0.1:9421 rw,user_id=0";
        assert_eq!(of_mount(line, 109).unwrap().0.as_str(), "fuse.mfs");
    }

    #[test]
    fn a_kind_decides_how_files_are_made_durable() {
        for (name, place, durability) in [
            ("ext4", Place::Local, Durability::Syncfs),
            ("tmpfs", Place::Local, Durability::Syncfs),
            ("ceph", Place::Network, Durability::Syncfs),
            ("nfs4", Place::Network, Durability::Close),
            ("fuse.glusterfs", Place::Network, Durability::Close),
            ("fuseblk", Place::Local, Durability::Fsync),
            ("fuse.mfs", Place::Network, Durability::Close),
            ("fuse", Place::Unknown, Durability::Fsync),
            ("9p", Place::Unknown, Durability::Fsync),
        ] {
            let kind = Kind::new(name);
            assert_eq!((kind.place(), kind.durability()), (place, durability), "{name}");
            assert!((2..=16).contains(&kind.writers()), "{name}");
        }
    }

    #[test]
    fn kernel_clients_and_local_disks_are_coherent_and_fuse_is_not() {
        for name in ["ext4", "nfs", "nfs4", "ceph", "lustre", "gpfs"] {
            assert!(Kind::new(name).is_coherent(), "{name}");
        }
        for name in [
            "fuse.glusterfs",
            "fuse.mfs",
            "fuse.juicefs",
            "fuse",
            "9p",
            "unknown",
        ] {
            assert!(!Kind::new(name).is_coherent(), "{name}");
        }
    }

    #[test]
    fn the_mount_of_a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount::of(dir.path()).unwrap();
        assert!(mount.point.starts_with('/'), "{mount:?}");
        assert!(mount.free_bytes <= mount.size_bytes, "{mount:?}");
    }
}
