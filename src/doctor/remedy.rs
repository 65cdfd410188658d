//! What to change on which file system, where that is known.

use crate::fs::Kind;

/// What a file system may miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Whiteouts,
    TrustedXattrs,
    UserXattrs,
    Capabilities,
    Acls,
    Devices,
    Ownership,
    SpecialModes,
    HardLinks,
    Times,
    Rename,
    ExclusiveMkdir,
    Fsync,
}

/// Says what to change so that the need is met.
pub(super) fn remedy(kind: &Kind, need: Need) -> &'static str {
    let known = match kind.as_str() {
        "fuse.glusterfs" => on_glusterfs(need),
        "fuse.mfs" => on_moosefs(need),
        "nfs" | "nfs4" => on_nfs(need),
        "fuse.ceph-fuse" | "ceph" => on_cephfs(need),
        "fuse.juicefs" => on_juicefs(need),
        "lustre" => on_lustre(need),
        "tmpfs" => on_tmpfs(need),
        "cifs" | "smb3" | "vfat" | "exfat" | "ntfs3" | "fuseblk" => {
            Some("none: this kind of file system is not made for Unix files; take another one")
        }
        _ => None,
    };
    known.unwrap_or(match need {
        Need::TrustedXattrs | Need::UserXattrs | Need::Capabilities => {
            "mount with extended attributes (often user_xattr or xattr), or take a file system that has them"
        }
        Need::Acls => "mount with acl, or take a file system that has ACLs",
        Need::Ownership | Need::SpecialModes => {
            "let root of this machine be root on the servers (no squashing of root), and mount without uid= or gid="
        }
        Need::Whiteouts | Need::Devices => {
            "let root of this machine be root on the servers, or take a file system that keeps device nodes"
        }
        Need::HardLinks | Need::Times => "none known for this file system",
        Need::Rename | Need::ExclusiveMkdir | Need::Fsync => "take another file system",
    })
}

fn on_glusterfs(need: Need) -> Option<&'static str> {
    Some(match need {
        Need::Capabilities => {
            "mount with selinux (mount -t glusterfs -o acl,selinux; glusterfs --selinux --capability)"
        }
        Need::Acls => {
            "mount with acl (mount -t glusterfs -o acl,selinux), on bricks whose file system has ACLs"
        }
        Need::HardLinks => "gluster volume set VOLUME storage.gfid2path off; and storage.max-hardlinks 0",
        Need::Ownership => "gluster volume set VOLUME server.root-squash off",
        _ => return None,
    })
}

fn on_moosefs(need: Need) -> Option<&'static str> {
    Some(match need {
        Need::Times => "none: MooseFS keeps whole seconds from 1970 on",
        Need::TrustedXattrs | Need::UserXattrs | Need::Capabilities => "mount without mfsnoxattrs",
        Need::Whiteouts | Need::Devices | Need::Ownership | Need::SpecialModes => {
            "mfsexports.cfg: maproot=0:0 for the mirrors' machines"
        }
        _ => return None,
    })
}

fn on_nfs(need: Need) -> Option<&'static str> {
    Some(match need {
        Need::TrustedXattrs => "none: NFS carries no trusted.* attributes",
        Need::Capabilities => "none: NFS carries no security.capability",
        Need::UserXattrs => {
            "mount with vers=4.2, from a server that has user attributes (Linux 5.9 and later)"
        }
        Need::Acls => "none for NFSv4; NFSv3 carries POSIX ACLs (mount with vers=3,acl)",
        Need::Whiteouts | Need::Devices | Need::Ownership | Need::SpecialModes => {
            "export with no_root_squash to the mirrors; NFSv4: the same ids on both sides (numeric ids, no idmapd)"
        }
        _ => return None,
    })
}

fn on_cephfs(need: Need) -> Option<&'static str> {
    Some(match need {
        Need::Acls => {
            "ceph.conf: client_acl_type = posix_acl and fuse_default_permissions = false; kernel: -o acl"
        }
        _ => return None,
    })
}

fn on_juicefs(need: Need) -> Option<&'static str> {
    Some(match need {
        Need::TrustedXattrs | Need::UserXattrs => "mount with --enable-xattr",
        Need::Capabilities => "mount with --enable-xattr; a version that returns security.capability",
        Need::Acls => "juicefs config META-URL --enable-acl, where the version has it",
        _ => return None,
    })
}

fn on_lustre(need: Need) -> Option<&'static str> {
    Some(match need {
        Need::UserXattrs => "mount clients with user_xattr",
        Need::Acls => "mount the MDT with acl",
        Need::Ownership => "no root squash for the mirrors: lctl set_param mdt.*.root_squash, nosquash_nids",
        _ => return None,
    })
}

fn on_tmpfs(need: Need) -> Option<&'static str> {
    Some(match need {
        Need::UserXattrs => "Linux 6.6 or later",
        _ => return None,
    })
}
