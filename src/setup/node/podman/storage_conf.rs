//! `storage.conf`, which containers/storage takes from one place: a file below `/etc` hides the
//! distribution's.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Value};

use super::{Chosen, Filling, Order, SetupError};
use crate::setup::FileChange;
use crate::setup::node::{lookup, parse, read};
use crate::setup::toml::{self, Differing};
use crate::store::Store;

const IMAGE_STORES: [&str; 3] = ["storage", "options", "additionalimagestores"];

/// Returns the stores that the node's file names already.
pub(super) fn named(order: &Order) -> Result<Vec<String>, SetupError> {
    let path = path(order);
    let document = parse(&path, &read(&path)?.unwrap_or_default())?;
    Ok(texts(image_stores(&document)))
}

/// Tells whether a node's storage.conf names the lists on the store; one that cannot be read names nothing.
pub fn names_image_store(etc: &Path, store: &Path) -> bool {
    let text = read(&etc.join("containers/storage.conf")).ok().flatten();
    let document = text.and_then(|text| text.parse::<DocumentMut>().ok());
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let lists = real(&Store::image_store_path(store));
    let named = document.map(|document| texts(image_stores(&document)));
    named.is_some_and(|named| named.iter().any(|found| real(Path::new(found)) == lists))
}

/// Returns where Podman keeps its own images, by the file as it will be.
pub(super) fn graphroot(file: &FileChange) -> Result<PathBuf, SetupError> {
    let document = parse(&file.path, &file.after)?;
    let named = lookup(&document, &["storage", "graphroot"]).and_then(Item::as_str);
    let named = named.filter(|named| !named.is_empty());
    Ok(PathBuf::from(named.unwrap_or("/var/lib/containers/storage")))
}

/// Adds the image store; what is there, or in the distribution's file if that is all there is, stays.
pub(super) fn merge(order: &Order, filling: &Filling, chosen: &Chosen) -> Result<FileChange, SetupError> {
    let path = path(order);
    let before = read(&path)?;
    let shipped = || read(&share(order).join("containers/storage.conf"));
    let base = match &before {
        Some(text) => Some(text.clone()),
        None => shipped()?,
    };
    let wanted = filling.storage_conf(&chosen.image_store);
    let after = match base {
        None => wanted,
        Some(base) => {
            let mut document = parse(&path, &base)?;
            let mut wanted = parse(&path, &wanted)?;
            // Where a node keeps its own images is its own choice, and has defaults.
            for key in ["runroot", "graphroot"] {
                wanted["storage"]
                    .as_table_like_mut()
                    .map(|table| table.remove(key));
            }
            let stores = with_ours(image_stores(&document), chosen);
            wanted["storage"]["options"]["additionalimagestores"] = Item::Value(Value::Array(stores));
            let rule = |key: &str, found: &Value| match (key, found.as_str()) {
                ("additionalimagestores", _) | ("driver", Some("")) => Differing::Replace,
                // Its older name.
                ("driver", Some("overlay2")) => Differing::Keep,
                _ if order.force => Differing::Replace,
                _ => Differing::Refuse,
            };
            toml::merge(&mut document, &wanted, &rule).map_err(|conflict| SetupError::Conflict {
                path: path.clone(),
                key: conflict.key,
                found: conflict.found,
                wanted: conflict.wanted,
            })?;
            document.to_string()
        }
    };
    Ok(FileChange { path, before, after })
}

/// Says which files beside storage.conf would take the image store away again.
///
/// Newer Podmans read them after it, and the last one that names any wins.
pub(super) fn overriding(order: &Order, chosen: &Chosen) -> Result<Vec<String>, SetupError> {
    let mut notes = Vec::new();
    for root in [share(order), order.etc.clone()] {
        for dir in ["storage.conf.d", "storage.rootful.conf.d"] {
            let dir = root.join("containers").join(dir);
            let mut names = crate::fs::list(&dir)?;
            names.retain(|name| name.ends_with(".conf"));
            for path in names.into_iter().map(|name| dir.join(name)) {
                let document = parse(&path, &read(&path)?.unwrap_or_default())?;
                let is_ours = |store: &String| Path::new(store) == Path::new(&chosen.image_store);
                if let Some(stores) = image_stores(&document)
                    && !texts(Some(stores)).iter().any(is_ours)
                {
                    notes.push(format!(
                        "{} names other additionalimagestores, and wins with newer Podmans: name {} there too",
                        path.display(),
                        chosen.image_store
                    ));
                }
            }
        }
    }
    Ok(notes)
}

fn path(order: &Order) -> PathBuf {
    order.etc.join("containers/storage.conf")
}

/// Returns the distribution's directory beside `/etc`.
fn share(order: &Order) -> PathBuf {
    order.etc.parent().unwrap_or(Path::new("/")).join("usr/share")
}

fn image_stores(document: &DocumentMut) -> Option<&Array> {
    lookup(document, &IMAGE_STORES)?.as_array()
}

fn texts(array: Option<&Array>) -> Vec<String> {
    let texts = array.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Returns the stores with ours among them, and without the one that another form had named.
fn with_ours(found: Option<&Array>, chosen: &Chosen) -> Array {
    let mut stores = found.cloned().unwrap_or_default();
    toml::put(&mut stores, &chosen.image_store, &chosen.other);
    stores
}
