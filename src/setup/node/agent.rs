//! The agent's own files: what it is told, and its units.

use std::path::Path;

use url::Url;

use super::{FileChange, Filling, Order, SetupError, read};
use crate::setup::template;

/// Where the agent listens and containerd does if nobody says otherwise; as `wharf agent --help` has it.
const SOCKET: (&str, &str) = ("WHARF_AGENT_SOCKET", "/run/wharf/agent.sock");
const CONTAINERD: (&str, &str) = ("CONTAINERD_ADDRESS", "/run/containerd/containerd.sock");

/// Returns the environment file and the units. A unit that is there is its operator's, and stays.
///
/// `containerd` is the socket that containerd's own file names, if it names one.
pub(super) fn files(
    order: &Order,
    filling: &Filling,
    containerd: Option<&str>,
) -> Result<Vec<FileChange>, SetupError> {
    let units = order.etc.join("systemd/system");
    let socket = filling.fill(template::AGENT_SOCKET, "");
    let service = filling.fill(template::AGENT_SERVICE, "");
    Ok(vec![
        environment(
            &order.etc.join("wharf/agent.env"),
            &variables(order, filling, containerd)?,
            order.force,
        )?,
        socket_unit(&units.join("wharf-agent.socket"), socket)?,
        unit(&units.join("wharf-agent.service"), service)?,
    ])
}

/// Returns the environment file and the unit of an agent that keeps an image store alone.
pub(super) fn podman_files(order: &Order, filling: &Filling) -> Result<Vec<FileChange>, SetupError> {
    let service = filling.fill(template::PODMAN_SERVICE, "");
    Ok(vec![
        environment(
            &order.etc.join("wharf/podman.env"),
            &filling.fill(template::PODMAN_ENV, ","),
            order.force,
        )?,
        unit(&order.etc.join("systemd/system/wharf-podman.service"), service)?,
    ])
}

/// Returns the environment file, with the sockets that are not at their usual places.
fn variables(order: &Order, filling: &Filling, containerd: Option<&str>) -> Result<String, SetupError> {
    let mut text = filling.fill(template::AGENT_ENV, ",");
    let socket = template::plain(&order.socket)?;
    if socket != SOCKET.1 {
        text.push_str("# The agent's socket, where systemd does not hand it over.\n");
        text.push_str(&format!("{}={socket}\n", SOCKET.0));
    }
    if let Some(address) = containerd {
        let address = template::plain(Path::new(address))?;
        if address != CONTAINERD.1 {
            text.push_str("# containerd's socket, as its own file has it.\n");
            text.push_str(&format!("{}={address}\n", CONTAINERD.0));
        }
    }
    Ok(text)
}

/// Says how the agent is started.
pub(super) fn start() -> Vec<String> {
    vec![
        "mount the store on this node, read-only (nosuid,nodev)".to_owned(),
        "then: systemctl daemon-reload && systemctl enable --now wharf-agent.socket wharf-agent.service"
            .to_owned(),
        "the agent reads its settings at its start: systemctl restart wharf-agent if they changed".to_owned(),
    ]
}

fn unit(path: &Path, wanted: String) -> Result<FileChange, SetupError> {
    let before = read(path)?;
    let after = before.clone().unwrap_or(wanted);
    Ok(FileChange {
        path: path.to_owned(),
        before,
        after,
    })
}

/// The same, but the path must be the one that containerd is told.
fn socket_unit(path: &Path, wanted: String) -> Result<FileChange, SetupError> {
    let stream = |text: &str| setting(text, "ListenStream").map(str::to_owned);
    let change = unit(path, wanted.clone())?;
    match (stream(&change.after), stream(&wanted)) {
        (found, wanted) if found.as_ref().map(Path::new) == wanted.as_ref().map(Path::new) => Ok(change),
        (found, wanted) => Err(SetupError::Socket {
            path: path.to_owned(),
            found: found.unwrap_or_else(|| "nothing".to_owned()),
            wanted: wanted.unwrap_or_default(),
        }),
    }
}

/// Adds the variables that are missing, below what is there.
fn environment(path: &Path, wanted: &str, force: bool) -> Result<FileChange, SetupError> {
    let before = read(path)?;
    let Some(found) = &before else {
        return Ok(FileChange {
            path: path.to_owned(),
            before,
            after: wanted.to_owned(),
        });
    };
    let mut after = found.clone();
    for (name, value) in wanted.lines().filter_map(variable) {
        match setting(&after, name) {
            Some(old) if is_same(name, old, value) => {}
            Some(_) if force => after = with_value(&after, name, value),
            Some(old) => {
                return Err(SetupError::Conflict {
                    path: path.to_owned(),
                    key: name.to_owned(),
                    found: shown(name, old),
                    wanted: value.to_owned(),
                });
            }
            None => {
                if !after.is_empty() && !after.ends_with('\n') {
                    after.push('\n');
                }
                after.push_str(&format!("{name}={value}\n"));
            }
        }
    }
    Ok(FileChange {
        path: path.to_owned(),
        before,
        after,
    })
}

/// Replaces every value of a variable, and nothing else.
fn with_value(text: &str, name: &str, value: &str) -> String {
    let line = |line: &str| match variable(line) {
        Some((key, _)) if key.trim() == name => format!("{name}={value}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn variable(line: &str) -> Option<(&str, &str)> {
    line.split_once('=').filter(|(name, _)| !name.starts_with('#'))
}

/// Returns what a unit or an environment file sets last.
fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = |(key, value): (&str, &'a str)| (key.trim() == name).then_some(value.trim());
    text.lines().rev().filter_map(variable).find_map(value)
}

/// Tells whether two values of a variable mean the same mirrors or the same path; a login is the operator's.
fn is_same(name: &str, found: &str, wanted: &str) -> bool {
    match name {
        "WHARF_MIRRORS" => {
            let (found, wanted) = (found.split(','), wanted.split(','));
            found.map(without_login).eq(wanted.map(without_login))
        }
        _ => Path::new(found) == Path::new(wanted),
    }
}

/// Returns a mirror's URL without user and password; a text that is none, as it is.
fn without_login(text: &str) -> String {
    let text = text.trim();
    let Ok(mut url) = text.parse::<Url>() else {
        return text.to_owned();
    };
    // A URL that takes none has none.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
}

/// A value as an error may show it: a mirror's URL may have a login.
fn shown(name: &str, value: &str) -> String {
    if name == "WHARF_MIRRORS" && value.contains('@') {
        "URLs with a login".to_owned()
    } else {
        value.to_owned()
    }
}
