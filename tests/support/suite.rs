//! Trees of Debian suites with their containerd and Docker, for nodes to run.
//!
//! Made once, in about a minute and half a gigabyte each, and kept in the tests' cache. Versions drift with the
//! suite: tests print what they find.

use std::path::{Path, PathBuf};

use super::images::{cached, debian_mirror};
use super::process::{bound_command, run_ok};

const SCRIPT: &str = include_str!("suite/make.sh");

/// Which Debian a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// This machine's own: containerd 1.6 on bookworm, whose Docker cannot use a snapshotter.
    Host,
    /// containerd 1.7 and Docker 26.1.
    Trixie,
    /// containerd 2.1 and Docker 28.5.
    Forky,
}

impl Suite {
    /// Returns its tree, which is made if it is not there.
    pub fn tree(self) -> PathBuf {
        let name = match self {
            Self::Host => return PathBuf::from("/"),
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        };
        // The number is of the script: change both.
        cached(&format!("suite-{name}-v1"), |_, work| make(name, work))
    }
}

fn make(name: &str, work: &Path) {
    let mut command = bound_command("/bin/sh");
    command.args(["-c", SCRIPT, "make.sh", name]);
    command.arg(work.join("made")).arg(debian_mirror());
    run_ok(command);
}
