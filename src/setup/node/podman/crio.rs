//! CRI-O's own files, which may take the place of what storage.conf says.

use std::path::PathBuf;

use toml_edit::Item;

use super::{Chosen, Order, SetupError};
use crate::setup::FileChange;
use crate::setup::node::{lookup, parse, read};
use crate::setup::toml;

const DRIVER: [&str; 2] = ["crio", "storage_driver"];
const OPTIONS: [&str; 2] = ["crio", "storage_option"];

/// Adds the image store to the options of the last file that sets any: CRI-O takes those in place of
/// storage.conf's.
pub(super) fn files(order: &Order, chosen: &Chosen) -> Result<Option<FileChange>, SetupError> {
    let mut last = None;
    for path in paths(order)? {
        let Some(before) = read(&path)? else { continue };
        let document = parse(&path, &before)?;
        if let Some(driver) = lookup(&document, &DRIVER).and_then(Item::as_str)
            && !matches!(driver, "" | "overlay" | "overlay2")
        {
            return Err(SetupError::Conflict {
                path,
                key: DRIVER.join("."),
                found: format!("{driver:?}"),
                wanted: "\"overlay\"".to_owned(),
            });
        }
        let options = lookup(&document, &OPTIONS).and_then(Item::as_array);
        if options.is_some_and(|options| !options.is_empty()) {
            last = Some((path, before, document));
        }
    }
    let Some((path, before, mut document)) = last else {
        return Ok(None);
    };
    if let Some(options) = document["crio"]["storage_option"].as_array_mut() {
        let option = |store: &str| format!("overlay.imagestore={store}");
        toml::put(options, &option(&chosen.image_store), &option(&chosen.other));
    }
    Ok(Some(FileChange {
        path,
        before: Some(before),
        after: document.to_string(),
    }))
}

/// Returns the files in the order in which CRI-O reads them.
fn paths(order: &Order) -> Result<Vec<PathBuf>, SetupError> {
    let dir = order.etc.join("crio");
    let drop_ins = dir.join("crio.conf.d");
    let mut names = crate::fs::list(&drop_ins)?;
    names.sort();
    let mut paths = vec![dir.join("crio.conf")];
    paths.extend(names.into_iter().map(|name| drop_ins.join(name)));
    Ok(paths)
}
