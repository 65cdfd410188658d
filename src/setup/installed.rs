//! What is installed on this machine, as it says of itself.

use std::fmt;
use std::process::Command;

/// The first two numbers of a program's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

/// The programs that matter; `None` if one cannot be run or says something else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Installed {
    pub containerd: Option<Version>,
    pub docker: Option<Version>,
}

impl Installed {
    /// Asks the programs.
    pub fn find() -> Self {
        Self {
            containerd: ask("containerd"),
            docker: ask("dockerd"),
        }
    }
}

fn ask(program: &str) -> Option<Version> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Version::find_in(&String::from_utf8_lossy(&output.stdout))
}

impl Version {
    /// Finds the first word that is a version, such as `v2.1.9+unknown` or `20.10.24+dfsg1,`.
    pub(super) fn find_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut numbers = word.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
            Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}
