//! hosts.toml: containerd comes to the mirror, and says that it reads from the store.

use std::path::Path;

use toml_edit::{DocumentMut, Item, Value};

use super::{FileChange, Filling, SetupError, read};
use crate::setup::toml::{self, Differing};

/// Merges the mirrors into `_default/hosts.toml` of a directory; they come before the hosts that are there.
pub(super) fn default_hosts(dir: &Path, filling: &Filling) -> Result<FileChange, SetupError> {
    let path = dir.join("_default/hosts.toml");
    let before = read(&path)?;
    let (head, parts) = filling.hosts();
    let after = match &before {
        None => head + &join(parts.iter().map(|(_, part)| part)),
        Some(found) => merge(found, &parts).map_err(|reason| SetupError::Invalid {
            path: path.clone(),
            format: "TOML with a table `host`",
            reason,
        })?,
    };
    Ok(FileChange { path, before, after })
}

/// Returns the folders of hosts that do not name the mirrors, which win over `_default`.
pub(super) fn others(dir: &Path, filling: &Filling) -> Result<Vec<String>, SetupError> {
    let (_, parts) = filling.hosts();
    let mut others = Vec::new();
    for name in crate::fs::list(dir)? {
        let path = dir.join(&name).join("hosts.toml");
        let text = if name == "_default" { None } else { read(&path)? };
        if text.is_some_and(|text| parts.iter().any(|(mirror, _)| !text.contains(mirror.as_str()))) {
            others.push(path.display().to_string());
        }
    }
    Ok(others)
}

fn merge(found: &str, parts: &[(String, String)]) -> Result<String, String> {
    let mut document: DocumentMut = found
        .parse()
        .map_err(|error: toml_edit::TomlError| error.to_string())?;
    let is_there = |document: &DocumentMut, mirror: &str| {
        document
            .get("host")
            .and_then(Item::as_table_like)
            .is_some_and(|hosts| hosts.contains_key(mirror))
    };
    let (old, new): (Vec<_>, Vec<_>) = parts.iter().partition(|(mirror, _)| is_there(&document, mirror));
    for (_, part) in old {
        let wanted: DocumentMut = part
            .parse()
            .map_err(|error: toml_edit::TomlError| error.to_string())?;
        let keep = |_: &str, _: &Value| Differing::Keep;
        toml::merge(&mut document, &wanted, &keep)
            .map_err(|conflict| format!("{} is no table", conflict.key))?;
    }
    let text = document.to_string();
    if new.is_empty() {
        return Ok(text);
    }
    let (above, below) = text.split_at(first_host(&text));
    let merged = format!(
        "{above}{}{}{below}",
        join(new.iter().map(|(_, part)| part)),
        if below.is_empty() { "" } else { "\n" }
    );
    let checked: Result<DocumentMut, _> = merged.parse();
    checked.map(|_| merged).map_err(|error| error.to_string())
}

/// Returns where the first host is, whose order is that of asking, or the end.
fn first_host(text: &str) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("[host") {
            return at;
        }
        at += line.len();
    }
    at
}

fn join<'a>(parts: impl Iterator<Item = &'a String>) -> String {
    parts.cloned().collect::<Vec<_>>().join("\n")
}
