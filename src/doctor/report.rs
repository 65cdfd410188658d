//! What a doctor found: lines for a person, JSON for a program.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::fs::{Abilities, Mount};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// The file system cannot; wharf does something else.
    Missing,
    /// To be known, or to be mended some day.
    Warning,
    /// wharf refuses to extract layers, or it is not safe.
    Problem,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    pub found: String,
    /// What wharf does as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// What to change, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug)]
pub struct Report {
    directory: String,
    file_system: String,
    pub checks: Vec<Check>,
    /// The facts as they were probed now.
    pub found: Option<Abilities>,
    /// The facts of wharf.json.
    pub recorded: Option<Abilities>,
}

/// A report as JSON.
#[derive(Serialize)]
struct Json<'a> {
    directory: &'a str,
    file_system: &'a str,
    sound: bool,
    verdict: String,
    checks: &'a [Check],
    found: &'a Option<Abilities>,
    recorded: &'a Option<Abilities>,
}

impl Check {
    pub(super) fn new(name: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self {
            name,
            status,
            found: found.into(),
            instead: None,
            remedy: None,
        }
    }

    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, found)
    }

    pub(super) fn missing(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Missing, found)
    }

    pub(super) fn warning(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Warning, found)
    }

    pub(super) fn problem(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Problem, found)
    }

    /// Adds what wharf does as it is.
    pub(super) fn instead(mut self, text: impl Into<String>) -> Self {
        self.instead = Some(text.into());
        self
    }

    /// Adds what to change.
    pub(super) fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Some(text.into());
        self
    }
}

impl Report {
    pub(super) fn new(directory: &Path, mount: &Mount) -> Self {
        Self {
            directory: directory.display().to_string(),
            file_system: mount.kind.as_str().to_owned(),
            checks: Vec::new(),
            found: None,
            recorded: None,
        }
    }

    /// Tells whether layers can be extracted and used, and are safe.
    pub fn is_sound(&self) -> bool {
        self.count(Status::Problem) == 0
    }

    /// Returns the report as JSON, with a newline at its end.
    pub fn to_json(&self) -> String {
        let json = Json {
            directory: &self.directory,
            file_system: &self.file_system,
            sound: self.is_sound(),
            verdict: self.verdict(),
            checks: &self.checks,
            found: &self.found,
            recorded: &self.recorded,
        };
        // Strings, numbers and booleans always can be written.
        serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// Returns the last line.
    fn verdict(&self) -> String {
        let problems: Vec<&str> = self
            .checks
            .iter()
            .filter(|check| check.status == Status::Problem)
            .map(|check| check.name)
            .collect();
        if !problems.is_empty() {
            return format!("not fit for layers as it is: {}", problems.join(", "));
        }
        match self.count(Status::Missing) + self.count(Status::Warning) {
            0 => "fit for layers".to_owned(),
            count => format!("fit for layers, with {count} to know of"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})\n", self.directory, self.file_system)?;
        let width = self
            .checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        for check in &self.checks {
            let status = match check.status {
                Status::Ok => "ok",
                Status::Missing => "missing",
                Status::Warning => "warning",
                Status::Problem => "PROBLEM",
            };
            writeln!(f, "{status:<7}  {:<width$}  {}", check.name, check.found)?;
            for (label, text) in [("wharf: ", &check.instead), ("change: ", &check.remedy)] {
                if let Some(text) = text {
                    writeln!(f, "{:9}{:width$}  {label}{text}", "", "")?;
                }
            }
        }
        writeln!(f, "\n{}", self.verdict())
    }
}
