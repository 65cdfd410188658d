//! `wharf doctor`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::doctor;

/// Where to look.
#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    /// Directory of the store, or one where a store could be; it must be writable
    #[arg(value_name = "STORE", required_unless_present = "node")]
    store: Option<PathBuf>,
    /// The same store through another mount of its file system: tells when a rename is seen there
    #[arg(long, value_name = "DIR", conflicts_with = "node")]
    other_mount: Option<PathBuf>,
    /// Check a node's own mount of the store instead; it may be read-only
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    node: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the report; exit code 1 says that something must be changed.
pub(super) fn run(arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    let report = match (&arguments.node, &arguments.store) {
        (Some(dir), _) => doctor::examine_node(dir)?,
        (None, Some(store)) => doctor::examine_store(store, arguments.other_mount.as_deref())?,
        (None, None) => anyhow::bail!("name a store"),
    };
    let text = if arguments.json {
        report.to_json()
    } else {
        report.to_string()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print the report")?;
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
