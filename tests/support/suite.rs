//! Trees of Debian suites with their containerd and Docker, and the newest with Podman, for nodes to run.
//!
//! Made once, in a minute or two and half a gigabyte each, and kept in the tests' cache. Versions drift with the
//! suite: tests print what they find.

use std::path::{Path, PathBuf};

use super::images::{cached, debian_mirror};
use super::process::{bound_command, run_ok};

const SCRIPT: &str = include_str!("suite/make.sh");
/// What a suite with Podman has besides: one tree for all costs less than one more.
const PODMAN: &str = "podman,crun,buildah,skopeo,uidmap";

/// Which Debian a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// This machine's own: containerd 1.6 on bookworm, whose Docker cannot use a snapshotter, and Podman 4.3.
    Host,
    /// containerd 1.7 and Docker 26.1.
    Trixie,
    /// containerd 2.1, Docker 28.5 and Podman 5.8.
    Forky,
}

impl Suite {
    /// Returns its tree, which is made if it is not there.
    pub fn tree(self) -> PathBuf {
        // The number is of the script and the packages: change it with them.
        let (name, version, more) = match self {
            Self::Host => return PathBuf::from("/"),
            Self::Trixie => ("trixie", 1, ""),
            Self::Forky => ("forky", 2, PODMAN),
        };
        cached(&format!("suite-{name}-v{version}"), |_, work| {
            make(name, more, work);
        })
    }
}

fn make(name: &str, more: &str, work: &Path) {
    let mut command = bound_command("/bin/sh");
    command.args(["-c", SCRIPT, "make.sh", name]);
    command.arg(work.join("made")).arg(debian_mirror()).arg(more);
    run_ok(command);
}
