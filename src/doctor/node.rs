//! A node's own mount of the store: what it shows of the marks that layers need.

use std::path::Path;

use rustix::fs::StatVfsMountFlags;

use super::remedy::{Need, remedy};
use super::{Check, DoctorError, Report, mount, reach};
use crate::fs::{Kind, Mount, missing_privileges};
use crate::setup;
use crate::store::{Reference, Store};

/// Examines the mount that `dir`, a store, is in, without writing.
///
/// # Errors
/// Fails if there is no store, or it cannot be read.
pub fn examine_node(dir: &Path) -> Result<Report, DoctorError> {
    let seen = Store::look(dir)?.ok_or_else(|| DoctorError::NoStore { path: dir.to_owned() })?;
    let mount = Mount::of(dir)?;
    let mut report = Report::new(dir, &mount);
    report.checks.push(mount::place(&mount));
    report
        .checks
        .push(writable(&mount, setup::names_image_store(Path::new("/etc"), dir)));
    report.checks.push(flags(&mount));
    report.checks.push(reach::check(dir, &mount)?);
    report.checks.extend(match &seen.reference {
        // Others than root are not shown trusted.*.
        _ if missing_privileges().contains(&"CAP_SYS_ADMIN") => {
            vec![Check::problem("marks of layers", "only root is shown them").remedy("run this as root")]
        }
        Some(reference) => marks(reference, &mount.kind),
        None => vec![
            Check::warning(
                "marks of layers",
                "nobody has told yet what the store's file system can keep",
            )
            .remedy("run `wharf doctor STORE` as root where the store is writable, then this again"),
        ],
    });
    report.recorded = seen.abilities;
    Ok(report)
}

/// Says whether the mount is read-only. Podman removes and replaces layers in a list of the store that it can write.
fn writable(mount: &Mount, is_named_by_podman: bool) -> Check {
    let name = "read-only";
    if mount.flags.contains(StatVfsMountFlags::RDONLY) {
        return Check::ok(name, "mounted ro: a node only reads");
    }
    if is_named_by_podman {
        let found =
            "mounted rw, and storage.conf names it: `podman rmi` and failed pulls remove layers of all nodes";
        return Check::problem(name, found).remedy(
            "mount with ro,nosuid,nodev; where a mirror runs on this machine, name a read-only bind mount of the store in \
             storage.conf (`wharf setup podman --store OTHER`)",
        );
    }
    Check::warning(
        name,
        "mounted rw: this node's root could change the layers of all nodes",
    )
    .remedy("mount with ro, unless a mirror runs on this machine")
}

/// Says what nosuid and its like do. overlayfs goes by its own mount and not by those of the layers below.
fn flags(mount: &Mount) -> Check {
    let name = "mount options";
    let set: Vec<_> = mount
        .options()
        .into_iter()
        .filter(|option| *option != "ro")
        .collect();
    if set.is_empty() {
        return Check::ok(
            name,
            "neither nosuid nor nodev; containers on overlayfs would not feel them, and the node is safer with them",
        );
    }
    Check::ok(name, format!("{}: containers on overlayfs do not feel them", set.join(","))).instead(
        "fuse-overlayfs and image volumes that are bind-mounted do: setuid programs, devices or programs fail there",
    )
}

fn marks(seen: &Reference, kind: &Kind) -> Vec<Check> {
    let lines = [
        (
            "whiteouts",
            seen.whiteout,
            "deleted files are hidden",
            "character devices 0:0 are not shown: files that images delete reappear",
            Need::Whiteouts,
        ),
        (
            "trusted attributes",
            seen.trusted_xattr,
            "opaque directories are marked",
            "trusted.overlay.* is not shown: files that images replace reappear",
            Need::TrustedXattrs,
        ),
        (
            "file capabilities",
            seen.capability,
            "are shown",
            "security.capability is not shown: programs such as ping fail for users other than root",
            Need::Capabilities,
        ),
        (
            "user attributes",
            seen.user_xattr,
            "are shown",
            "user.* is not shown: rootless mounts and some programs miss them",
            Need::UserXattrs,
        ),
        (
            "ACLs",
            seen.acl,
            "are shown, and so kept to",
            "POSIX ACLs are not shown, and so not kept to: groups may get more than they should",
            Need::Acls,
        ),
        (
            "special modes",
            seen.special_mode,
            "setuid and setgid are shown",
            "setuid and setgid are not shown: programs such as sudo fail",
            Need::SpecialModes,
        ),
    ];
    lines
        .into_iter()
        .map(|(name, is_shown, shown, hidden, need)| match is_shown {
            Some(true) => Check::ok(name, shown),
            Some(false) => Check::problem(name, format!("{hidden} on this node")).remedy(format!(
                "in fstab or the mount command of this node: {}",
                remedy(kind, need)
            )),
            None => Check::missing(name, "the store's file system does not keep them, on any node")
                .instead("does as `wharf doctor STORE` says"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn what_the_store_has_and_the_node_does_not_see_is_a_problem() {
        let seen = Reference {
            whiteout: Some(true),
            trusted_xattr: Some(true),
            user_xattr: None,
            capability: Some(false),
            acl: Some(true),
            special_mode: Some(true),
        };
        let checks = marks(&seen, &Kind::new("fuse.glusterfs"));
        let of = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(of("whiteouts").status, Status::Ok);
        assert_eq!(of("user attributes").status, Status::Missing);
        assert_eq!(of("file capabilities").status, Status::Problem);
        assert!(
            of("file capabilities")
                .remedy
                .as_deref()
                .unwrap()
                .contains("selinux")
        );
    }

    #[test]
    fn a_writable_mount_is_a_problem_where_podman_reads_the_stores_lists() {
        let mut mount = Mount::of(Path::new("/")).unwrap();
        for (is_read_only, is_named, status) in [
            (true, true, Status::Ok),
            (false, false, Status::Warning),
            (false, true, Status::Problem),
        ] {
            mount.flags.set(StatVfsMountFlags::RDONLY, is_read_only);
            let check = writable(&mount, is_named);
            assert_eq!(check.status, status, "{check:?}");
            assert_eq!(check.found.contains("podman rmi"), status == Status::Problem);
        }
    }

    #[test]
    fn a_directory_without_a_store_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = examine_node(dir.path()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("no store at {}", dir.path().display())),
            "{error}"
        );
    }
}
