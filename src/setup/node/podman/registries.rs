//! Podman's files of registries: wharf's own, and what others say of the same registries.
//!
//! Podman reads `registries.conf` and then the files of `registries.conf.d` by their names. The last file that has a
//! block for a registry has the whole of it: neither `blocked` nor mirrors of an earlier one remain.

use std::path::Path;

use toml_edit::{DocumentMut, Item, TableLike};

use super::{Filling, Order, SetupError};
use crate::setup::FileChange;
use crate::setup::node::{lookup, parse, read, whole};

const OURS: &str = "50-wharf.conf";

/// What other files say of the registries that wharf's has.
#[derive(Default)]
pub(super) struct Others {
    /// Notes on blocks that count no more.
    pub(super) replaced: Vec<String>,
    /// Warnings of blocks that count in place of wharf's.
    pub(super) winning: Vec<String>,
}

/// One file's word on a registry.
struct Block {
    registry: String,
    is_blocked: bool,
}

/// Plans wharf's file, and looks at the others.
///
/// # Errors
/// Fails if one of them blocks a registry that is to come through the mirror, unless that is forced.
pub(super) fn plan(order: &Order, filling: &Filling) -> Result<(FileChange, Others), SetupError> {
    let dir = order.etc.join("containers/registries.conf.d");
    let path = dir.join(OURS);
    let wanted = filling.registries();
    let ours = blocks(&parse(&path, &wanted)?);
    let mut names = crate::fs::list(&dir)?;
    names.retain(|name| name.ends_with(".conf") && name != OURS);
    names.sort();
    let (later, earlier): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| &**name > OURS);
    let main = order.etc.join("containers/registries.conf");
    let mut others = Others::default();
    for path in [main]
        .into_iter()
        .chain(earlier.into_iter().map(|name| dir.join(name)))
    {
        for block in same(&path, &ours)? {
            if block.is_blocked && !order.force {
                return Err(SetupError::Blocked {
                    path,
                    registry: block.registry,
                });
            }
            others.replaced.push(format!(
                "{} has a block for {}, which counts no more: that of {OURS} takes its place",
                path.display(),
                block.registry
            ));
        }
    }
    for path in later.into_iter().map(|name| dir.join(name)) {
        for block in same(&path, &ours)? {
            if block.is_blocked && !order.force {
                return Err(SetupError::BlockedLater {
                    path,
                    registry: block.registry,
                });
            }
            others.winning.push(winning(&path, &block));
        }
    }
    Ok((whole(&path, wanted, order.force)?, others))
}

fn winning(path: &Path, block: &Block) -> String {
    let Block { registry, is_blocked } = block;
    let what = if *is_blocked {
        "blocks it"
    } else {
        "has the last word on it"
    };
    format!(
        "{} is read after {OURS} and has a block for {registry}, so that it {what}, and images come as it says; remove the \
         block there, or write the mirrors into it",
        path.display()
    )
}

/// Returns what a file says of those registries.
fn same(path: &Path, ours: &[Block]) -> Result<Vec<Block>, SetupError> {
    let mut found = blocks(&parse(path, &read(path)?.unwrap_or_default())?);
    found.retain(|block| ours.iter().any(|ours| ours.registry == block.registry));
    Ok(found)
}

fn blocks(document: &DocumentMut) -> Vec<Block> {
    let mut blocks = Vec::new();
    if let Some(tables) = document.get("registry").and_then(Item::as_array_of_tables) {
        blocks.extend(tables.iter().filter_map(|table| block(table)));
    }
    if let Some(tables) = document.get("registry").and_then(Item::as_array) {
        let tables = tables.iter().filter_map(|value| value.as_inline_table());
        blocks.extend(tables.filter_map(|table| block(table)));
    }
    // The file's old form.
    if let Some(blocked) = lookup(document, &["registries", "block", "registries"]).and_then(Item::as_array) {
        blocks.extend(blocked.iter().filter_map(|registry| {
            Some(Block {
                registry: registry.as_str()?.to_owned(),
                is_blocked: true,
            })
        }));
    }
    blocks
}

fn block(table: &dyn TableLike) -> Option<Block> {
    let text = |key| {
        table
            .get(key)
            .and_then(Item::as_str)
            .filter(|text| !text.is_empty())
    };
    Some(Block {
        registry: text("prefix").or_else(|| text("location"))?.to_owned(),
        is_blocked: table.get("blocked").and_then(Item::as_bool) == Some(true),
    })
}
