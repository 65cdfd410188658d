//! A line for each thing that a file system can keep or do.

use super::remedy::{Need, remedy};
use super::{Check, Status};
use crate::fs::{Abilities, Durability, Kind};

/// What there is to say of one ability.
struct Line {
    need: Need,
    name: &'static str,
    is_there: bool,
    there: &'static str,
    missing: &'static str,
    instead: &'static str,
    status: Status,
}

const REFUSES: &str = "extracts no layer; blobs are served as ever";

/// Says what of `found` is there, and what is done about the rest.
pub(super) fn checks(found: &Abilities, kind: &Kind) -> Vec<Check> {
    let lines = marks(found)
        .into_iter()
        .chain(metadata(found))
        .chain(names(found));
    let mut checks: Vec<Check> = lines.map(|line| line.into_check(kind)).collect();
    checks.push(hard_links(found.hard_link_limit, kind));
    checks.push(writing(found));
    checks
}

impl Line {
    fn into_check(self, kind: &Kind) -> Check {
        if self.is_there {
            return Check::ok(self.name, self.there);
        }
        Check::new(self.name, self.status, self.missing)
            .instead(self.instead)
            .remedy(remedy(kind, self.need))
    }
}

fn marks(found: &Abilities) -> [Line; 5] {
    [
        Line {
            need: Need::Whiteouts,
            name: "whiteouts",
            is_there: found.whiteouts,
            there: "deleted files are kept as character devices 0:0",
            missing: "character devices 0:0 cannot be made, so files that an image deletes would reappear",
            instead: REFUSES,
            status: Status::Problem,
        },
        Line {
            need: Need::TrustedXattrs,
            name: "trusted attributes",
            is_there: found.trusted_xattrs,
            there: "trusted.overlay.* is kept: directories can be marked opaque",
            missing: "trusted.overlay.* is not kept",
            instead: "writes an opaque directory as a whiteout for each name below it, in a copy for each chain",
            status: Status::Missing,
        },
        Line {
            need: Need::UserXattrs,
            name: "user attributes",
            is_there: found.user_xattrs,
            there: "user.* is kept",
            missing: "user.* is not kept",
            instead: "leaves them out of layers and says so in their records; rootless overlay mounts get no marks",
            status: Status::Missing,
        },
        Line {
            need: Need::Capabilities,
            name: "file capabilities",
            is_there: found.capabilities,
            there: "security.capability is kept",
            missing: "security.capability is not kept: programs such as ping fail for users other than root",
            instead: "leaves them out of layers, says so in their records, and warns once",
            status: Status::Missing,
        },
        Line {
            need: Need::Acls,
            name: "ACLs",
            is_there: found.acls,
            there: "POSIX ACLs are kept",
            missing: "POSIX ACLs are not kept",
            instead: "leaves them out of layers and says so in their records; modes are kept",
            status: Status::Missing,
        },
    ]
}

fn metadata(found: &Abilities) -> [Line; 5] {
    [
        Line {
            need: Need::Devices,
            name: "devices and fifos",
            is_there: found.devices,
            there: "are kept",
            missing: "cannot be made",
            instead: "leaves them out of layers and says so in their records",
            status: Status::Missing,
        },
        Line {
            need: Need::Ownership,
            name: "owners",
            is_there: found.ownership,
            there: "any uid and gid is kept",
            missing: "files cannot be given to any uid and gid: programs with users of their own fail",
            instead: "leaves files to its own user and says so in the layers' records",
            status: Status::Missing,
        },
        Line {
            need: Need::SpecialModes,
            name: "special modes",
            is_there: found.special_modes,
            there: "setuid, setgid and sticky are kept",
            missing: "setuid, setgid or sticky is not kept: programs such as sudo fail",
            instead: "leaves them out and says so in the layers' records",
            status: Status::Missing,
        },
        Line {
            need: Need::Times,
            name: "nanoseconds",
            is_there: found.nanosecond_times,
            there: "times are kept to the nanosecond",
            missing: "times are cut, to the second or so",
            instead: "takes the times as they come out",
            status: Status::Missing,
        },
        Line {
            need: Need::Times,
            name: "times before 1970",
            is_there: found.negative_times,
            there: "are kept",
            missing: "are not kept",
            instead: "takes the times as they come out",
            status: Status::Missing,
        },
    ]
}

fn names(found: &Abilities) -> [Line; 3] {
    [
        Line {
            need: Need::Rename,
            name: "rename",
            is_there: found.directory_rename,
            there: "directories are renamed, and never over one that holds something",
            missing: "directories cannot be renamed, or replace others: layers cannot be published whole",
            instead: REFUSES,
            status: Status::Problem,
        },
        Line {
            need: Need::ExclusiveMkdir,
            name: "mkdir",
            is_there: found.exclusive_mkdir,
            there: "of several makers of a directory one succeeds",
            missing: "several makers of one directory may all succeed",
            instead: "stays safe, but mirrors may fetch and extract the same thing twice",
            status: Status::Warning,
        },
        Line {
            need: Need::Fsync,
            name: "fsync",
            is_there: found.fsync,
            there: "is answered, for files and directories",
            missing: "is refused: what was published may be lost in a crash",
            instead: "cannot publish what it cannot make durable",
            status: Status::Problem,
        },
    ]
}

fn hard_links(limit: Option<u32>, kind: &Kind) -> Check {
    let name = "hard links";
    let Some(limit) = limit else {
        return Check::ok(name, "as many as were tried");
    };
    let found = match limit {
        1 => "cannot be made".to_owned(),
        _ => format!("a file can have {limit} names and no more"),
    };
    Check::missing(name, found)
        .instead("makes copies beyond that, and says so in the layer's record")
        .remedy(remedy(kind, Need::HardLinks))
}

fn writing(found: &Abilities) -> Check {
    let durable = match found.durability {
        Durability::Syncfs => "one syncfs a layer",
        Durability::Close => "every close, whose result is checked",
        Durability::Fsync => "an fsync of every file",
    };
    Check::ok(
        "writing",
        format!("{} files at a time, durable by {durable}", found.writers),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_says_what_is_done_and_what_to_change() {
        for kind in ["fuse.glusterfs", "fuse.mfs", "nfs4", "ext4", "something"] {
            let checks = checks(&Abilities::default(), &Kind::new(kind));
            let (lacks, others): (Vec<_>, Vec<_>) =
                checks.iter().partition(|check| check.status != Status::Ok);
            assert_eq!((lacks.len(), others.len()), (14, 1), "{checks:?}");
            for lack in lacks {
                assert!(lack.instead.is_some() && lack.remedy.is_some(), "{lack:?}");
            }
        }
    }

    #[test]
    fn only_what_makes_containers_wrong_is_a_problem() {
        let problems: Vec<_> = checks(&Abilities::default(), &Kind::new("ext4"))
            .into_iter()
            .filter(|check| check.status == Status::Problem)
            .map(|check| check.name)
            .collect();
        assert_eq!(problems, ["whiteouts", "rename", "fsync"]);
    }
}
