//! `wharf doctor`, run and read.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::mirror::wharf;
use super::process::{Ended, run};

/// What a doctor said.
#[derive(Debug)]
pub struct Diagnosis {
    pub code: i32,
    pub report: Value,
}

impl Diagnosis {
    /// Runs `wharf doctor --json` with more arguments.
    pub fn of<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Self {
        let mut command = wharf();
        command.args(["doctor", "--json"]).args(arguments);
        Self::by(command)
    }

    /// Examines a directory as a store.
    pub fn of_store(dir: &Path) -> Self {
        Self::of(&[dir])
    }

    /// Examines a directory as a node's mount.
    pub fn of_node(dir: &Path) -> Self {
        Self::of(&[Path::new("--node"), dir])
    }

    /// Runs a command that prints a report as JSON.
    pub fn by(command: Command) -> Self {
        let ended = run(command);
        let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
        let diagnosis = Self {
            code: ended.code(),
            report,
        };
        let is_sound = diagnosis.report["sound"].as_bool().expect("a verdict");
        assert_eq!(diagnosis.code, i32::from(!is_sound), "{diagnosis:?}");
        diagnosis
    }

    /// Returns the first check of that name.
    pub fn check(&self, name: &str) -> &Value {
        let checks = self.report["checks"].as_array().expect("checks");
        let is_meant = |check: &&Value| check["name"] == name;
        checks
            .iter()
            .find(is_meant)
            .unwrap_or_else(|| panic!("{name}: {self:?}"))
    }

    /// Asserts how a check came out.
    pub fn assert_status(&self, name: &str, status: &str) {
        assert_eq!(self.check(name)["status"], status, "{name}: {self:#?}");
    }
}

/// Runs `wharf doctor` as a person does.
pub fn doctor<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Ended {
    let mut command = wharf();
    command.arg("doctor").args(arguments);
    run(command)
}
