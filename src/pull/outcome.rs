//! What came of an image: its lines, and the exit code.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use super::bars;
use crate::api::{ImageReport, ReportedStage};
use crate::oci::Platform;
use crate::oci::image_name::ImageName;

/// How a pull ended; the worst of all images counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything is in the store, and every layer that can be is extracted.
    Complete,
    /// Every blob is in the store, and some layers are not extracted.
    NotExtracted,
    /// Something could not be fetched or stored.
    Failed,
    /// A signal came first.
    Interrupted,
}

/// What the lines about an image go by, besides its report.
pub(super) struct Wording<'a> {
    /// The platform that was asked for.
    pub(super) platform: &'a Platform,
    /// That upstream could not be asked is no surprise.
    pub(super) is_offline: bool,
    /// Why layers are left packed that could be extracted; `None` if that is as it was ordered.
    pub(super) why_packed: Option<String>,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.code())
    }
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::NotExtracted => 3,
            Self::Failed => 1,
            Self::Interrupted => 130,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::NotExtracted => "not extracted",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Prints what came of an image, or why nothing did, and returns the outcome.
pub(super) fn tell(name: &ImageName, result: &anyhow::Result<ImageReport>, wording: &Wording) -> Outcome {
    let told = match result {
        Ok(report) => tell_report(name, report, wording).map_err(anyhow::Error::from),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    told.unwrap_or_else(|error| {
        eprintln!("wharf: {name}: {error:#}");
        Outcome::Failed
    })
}

/// Prints an image's name and digest to standard output, and its layers to standard error.
fn tell_report(name: &ImageName, report: &ImageReport, wording: &Wording) -> std::io::Result<Outcome> {
    let end = report.end.clone().unwrap_or_default();
    let mut outcome = Outcome::Complete;
    if let Some(age_seconds) = end.stale_seconds.filter(|_| !wording.is_offline) {
        let age = humantime::format_duration(Duration::from_secs(age_seconds));
        eprintln!("wharf: {name}: upstream could not be asked; this is what the tag meant {age} ago");
        outcome = Outcome::Failed;
    }
    if let Some(offered) = &end.platform {
        tell_other_platform(name, offered, wording.platform);
    }
    for layer in &report.layers {
        eprintln!("{name}: {}", bars::last_line(layer));
        if layer.stage == ReportedStage::Failed {
            outcome = outcome.max(Outcome::NotExtracted);
        }
    }
    if let Some(error) = &end.config_failure {
        eprintln!("{name}: its config cannot be read: {error}");
        outcome = outcome.max(Outcome::NotExtracted);
    }
    if let Some(why) = wording.why_packed.as_ref().filter(|_| end.is_left_packed) {
        eprintln!("wharf: {name}: {why}");
        outcome = outcome.max(Outcome::NotExtracted);
    }
    if let Some(missing) = &end.missing {
        eprintln!("wharf: {name}: {missing}");
        outcome = Outcome::Failed;
    }
    writeln!(std::io::stdout(), "{name} {} {}", report.digest, outcome.word())?;
    Ok(outcome)
}

/// Says if an image that no index chose is for another platform than was asked for.
fn tell_other_platform(name: &ImageName, offered: &Platform, wanted: &Platform) {
    let (os, architecture) = (&offered.os, &offered.architecture);
    if (os, architecture) != (&wanted.os, &wanted.architecture) {
        eprintln!(
            "wharf: {name}: it is for {os}/{architecture} and for nothing else, and {wanted} was asked for"
        );
    }
}
