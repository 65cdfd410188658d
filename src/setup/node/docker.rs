//! Docker's node: containerd knows the agent, and Docker asks containerd for its layers.

use super::{FileChange, Filling, Installed, Order, Plan, SetupError, agent, containerd, read};
use crate::setup::json::{self, Unmergeable};
use crate::setup::{Version, template};

/// The first Docker whose containerd image store is more than an experiment.
const OLDEST: Version = Version(25, 0);

pub(super) fn plan(order: &Order, filling: &Filling, installed: &Installed) -> Result<Plan, SetupError> {
    match installed.docker {
        Some(version) if version < OLDEST => return Err(SetupError::OldDocker(version)),
        Some(_) | None => {}
    }
    let daemon = daemon_json(order, filling)?;
    let mut notes = notes(&daemon, installed);
    let config = containerd::docker_config(order, filling, installed)?;
    let agent = agent::files(order, filling, containerd::address(&config).as_deref())?;
    let mut files = vec![config, daemon];
    files.extend(agent);
    notes.extend(agent::start());
    notes.push("then: systemctl restart containerd docker".to_owned());
    Ok(Plan::of(files, notes))
}

fn daemon_json(order: &Order, filling: &Filling) -> Result<FileChange, SetupError> {
    let path = order.etc.join("docker/daemon.json");
    let before = read(&path)?;
    let wanted = filling.fill(template::DAEMON_JSON, "\", \"");
    let merged = json::merge(before.as_deref().unwrap_or_default(), &wanted, order.force);
    let after = merged.map_err(|error| match error {
        Unmergeable::Invalid(reason) => SetupError::Invalid {
            path: path.clone(),
            format: "a JSON object",
            reason,
        },
        Unmergeable::Conflict { key, found, wanted } => SetupError::Conflict {
            path: path.clone(),
            key,
            found,
            wanted,
        },
    })?;
    Ok(FileChange { path, before, after })
}

fn notes(daemon: &FileChange, installed: &Installed) -> Vec<String> {
    let mut notes = Vec::new();
    if installed.docker.is_none() {
        notes.push(format!(
            "cannot run `dockerd --version`; Docker must be {}.0 or newer",
            OLDEST.0
        ));
    }
    let before = daemon.before.as_deref().unwrap_or_default();
    if !before.contains("\"wharf\"") {
        notes.push(
            "Docker's images and containers of now are hidden, not removed, while its storage driver is wharf: they \
             use disk until you remove them, and are back when you switch back"
                .to_owned(),
        );
    }
    if before.contains("\"userns-remap\"") {
        notes.push(
            "with userns-remap Docker copies ownership into every container, and Docker 29 refuses to start"
                .to_owned(),
        );
    }
    notes
}
