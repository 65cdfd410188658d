//! containerd's own file, for Docker and for Kubernetes.

use std::path::{Path, PathBuf};

use globset::Glob;
use toml_edit::{DocumentMut, Item, Value};

use super::{
    FileChange, Filling, Installed, Order, Plan, SetupError, agent, hosts, is_below, lookup, parse, read,
};
use crate::setup::toml::{self, Conflict, Differing};
use crate::setup::{Version, template};

/// Kubernetes' settings of images, before and since version 3 of the file.
const CRI: [&str; 2] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];

pub(super) fn plan(order: &Order, filling: &Filling, installed: &Installed) -> Result<Plan, SetupError> {
    let file = File::read(order, installed)?;
    if file.version < 2 {
        return Err(SetupError::OldConfig { path: file.path });
    }
    file.check_cri()?;
    let config = file.merge(filling, file.cri_template(installed), order.force)?;
    let agent = agent::files(order, filling, address(&config).as_deref())?;
    let dir = hosts_dir(&config, &order.etc);
    let mut notes: Vec<String> = hosts::others(&dir, filling)?
        .into_iter()
        .map(|path| format!("{path} does not name the mirror: images of that host come past it"))
        .collect();
    let hosts = hosts::default_hosts(&dir, filling)?;
    let mut files = vec![config];
    let mut by_hand = Vec::new();
    if is_below(&dir, &order.etc) {
        files.push(hosts);
    } else {
        by_hand.push(hosts);
    }
    files.extend(agent);
    notes.extend(agent::start());
    notes.push(
        "then: systemctl restart containerd kubelet, with the node drained: images and pods of now stay on \
                the snapshotter that they have, and images are pulled again"
            .to_owned(),
    );
    Ok(Plan {
        by_hand,
        ..Plan::of(files, notes)
    })
}

/// Returns containerd's file for a node that runs Docker alone.
pub(super) fn docker_config(
    order: &Order,
    filling: &Filling,
    installed: &Installed,
) -> Result<FileChange, SetupError> {
    let file = File::read(order, installed)?;
    let template = if file.version < 3 {
        template::DOCKER_1
    } else {
        template::DOCKER
    };
    file.merge(filling, template, order.force)
}

/// Returns the socket that containerd's file names, if it names one.
pub(super) fn address(config: &FileChange) -> Option<String> {
    let document: DocumentMut = config.after.parse().ok()?;
    let address = lookup(&document, &["grpc", "address"])?.as_str()?;
    Some(address.to_owned()).filter(|address| !address.is_empty())
}

/// containerd's file as it is.
struct File {
    path: PathBuf,
    before: Option<String>,
    document: DocumentMut,
    /// 1 if it does not say.
    version: i64,
    is_new: bool,
}

impl File {
    fn read(order: &Order, installed: &Installed) -> Result<Self, SetupError> {
        let path = order.etc.join("containerd/config.toml");
        let before = read(&path)?;
        let document = parse(&path, before.as_deref().unwrap_or_default())?;
        let is_new = document.is_empty();
        let version = match document.get("version") {
            Some(item) => known_version(item).ok_or_else(|| SetupError::UnknownConfig {
                path: path.clone(),
                version: item
                    .as_value()
                    .map_or_else(|| item.type_name().to_owned(), toml::text),
            })?,
            None if !is_new => 1,
            None => new_version(order, installed)?,
        };
        Ok(Self {
            path,
            before,
            document,
            version,
            is_new,
        })
    }

    fn cri_template(&self, installed: &Installed) -> &'static str {
        let pulls_itself = lookup(&self.document, &["plugins", CRI[1], "use_local_image_pull"]);
        let is_2_0 = installed.containerd == Some(Version(2, 0));
        match self.version {
            ..3 => template::CRI_1,
            _ if is_2_0 || pulls_itself.and_then(Item::as_bool) == Some(true) => template::CRI_LOCAL,
            _ => template::CRI,
        }
    }

    /// Refuses what would keep Kubernetes from pulling through the mirror, or at all.
    fn check_cri(&self) -> Result<(), SetupError> {
        let disabled = self.document.get("disabled_plugins").and_then(Item::as_array);
        let is_cri = |name: &&str| *name == "cri" || CRI.contains(name);
        if let Some(plugin) = disabled.and_then(|names| names.iter().filter_map(Value::as_str).find(is_cri)) {
            return Err(SetupError::CriDisabled {
                path: self.path.clone(),
                plugin: plugin.to_owned(),
            });
        }
        for cri in CRI {
            let mirrors = lookup(&self.document, &["plugins", cri, "registry", "mirrors"]);
            if mirrors
                .and_then(Item::as_table_like)
                .is_some_and(|mirrors| !mirrors.is_empty())
            {
                let key = format!("plugins.{cri:?}.registry.mirrors");
                return Err(SetupError::OldMirrors {
                    path: self.path.clone(),
                    key,
                });
            }
        }
        Ok(())
    }

    fn merge(&self, filling: &Filling, template: &str, force: bool) -> Result<FileChange, SetupError> {
        let wanted = filling.fill(template, "");
        let mut after = wanted.clone();
        if !self.is_new {
            let mut wanted = parse(&self.path, &wanted)?;
            // A file keeps its version, on which the names of all its settings depend.
            wanted.remove("version");
            self.check_imports(&wanted)?;
            let mut document = self.document.clone();
            let rule = |key: &str, found: &Value| rule(key, found, force);
            toml::merge(&mut document, &wanted, &rule).map_err(|conflict| self.conflict(conflict))?;
            after = document.to_string();
        }
        Ok(FileChange {
            path: self.path.clone(),
            before: self.before.clone(),
            after,
        })
    }

    /// Refuses imported files that set something else: containerd lets them win.
    fn check_imports(&self, wanted: &DocumentMut) -> Result<(), SetupError> {
        let imports = self.document.get("imports").and_then(Item::as_array);
        for pattern in imports.into_iter().flatten().filter_map(Value::as_str) {
            for path in matching(&self.path, pattern)? {
                let mut imported = parse(&path, &read(&path)?.unwrap_or_default())?;
                let rule = |key: &str, found: &Value| match key {
                    "runtime_type" => rule(key, found, false),
                    _ => Differing::Refuse,
                };
                toml::merge(&mut imported, wanted, &rule).map_err(|conflict| SetupError::Imported {
                    path,
                    key: conflict.key,
                    found: conflict.found,
                    wanted: conflict.wanted,
                })?;
            }
        }
        Ok(())
    }

    fn conflict(&self, conflict: Conflict) -> SetupError {
        SetupError::Conflict {
            path: self.path.clone(),
            key: conflict.key,
            found: conflict.found,
            wanted: conflict.wanted,
        }
    }
}

/// What containerd itself writes as its default is nobody's choice; another folder of hosts is used as it is.
fn rule(key: &str, found: &Value, force: bool) -> Differing {
    let is_default = match key {
        "snapshotter" => found.as_str() == Some("overlayfs"),
        "disable_snapshot_annotations" => found.as_bool() == Some(true),
        "config_path" => found.as_str() == Some(""),
        _ => false,
    };
    match key {
        _ if is_default => Differing::Replace,
        // The node's own choice, whatever it is.
        "config_path" | "runtime_type" => Differing::Keep,
        _ if force => Differing::Replace,
        _ => Differing::Refuse,
    }
}

fn known_version(item: &Item) -> Option<i64> {
    item.as_integer().filter(|version| (1..=3).contains(version))
}

fn new_version(order: &Order, installed: &Installed) -> Result<i64, SetupError> {
    match (order.config_version, installed.containerd) {
        (Some(version), _) => Ok(i64::from(version)),
        (None, Some(Version(..2, _))) => Ok(2),
        (None, Some(_)) => Ok(3),
        (None, None) => Err(SetupError::NoContainerd),
    }
}

/// Returns the folder of hosts.toml files that Kubernetes' pulls go by: the first one that the file names.
fn hosts_dir(config: &FileChange, etc: &Path) -> PathBuf {
    let usual = etc.join("containerd/certs.d");
    let Ok(document) = config.after.parse::<DocumentMut>() else {
        return usual;
    };
    let path = |cri| lookup(&document, &["plugins", cri, "registry", "config_path"])?.as_str();
    let named = CRI.into_iter().find_map(path).unwrap_or_default();
    let named = Path::new(named.split(':').next().unwrap_or_default());
    match named.strip_prefix("/etc") {
        _ if named.as_os_str().is_empty() => usual,
        // As the node is to have it; `etc` is elsewhere in a trial.
        Ok(below) if is_below(named, Path::new("/etc")) => etc.join(below),
        Ok(_) | Err(_) => named.to_owned(),
    }
}

/// Returns the files that an import means, whose last part may be a pattern.
fn matching(config: &Path, pattern: &str) -> Result<Vec<PathBuf>, SetupError> {
    let beside = config.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(dir), Some(name)) = (beside.parent(), beside.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let invalid = |error: globset::Error| SetupError::Invalid {
        path: config.to_owned(),
        format: "a list of imports",
        reason: error.to_string(),
    };
    let glob = Glob::new(name).map_err(invalid)?.compile_matcher();
    let names = crate::fs::list(dir)?
        .into_iter()
        .filter(|name| glob.is_match(name));
    Ok(names.map(|name| dir.join(name)).collect())
}
