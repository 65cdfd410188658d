//! Merging into a TOML file: comments and order stay, new tables come last.

use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value};

/// A key that has another value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) key: String,
    pub(super) found: String,
    pub(super) wanted: String,
}

/// What becomes of a value that is there and differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Differing {
    Keep,
    Replace,
    Refuse,
}

/// Tells what becomes of the value of a key, by the last part of its name.
pub(super) type Rule<'a> = &'a dyn Fn(&str, &Value) -> Differing;

/// Adds to `existing` what `wanted` has: tables are merged, lists of tables get the entries that they lack, and of
/// values that differ the rule decides.
pub(super) fn merge(
    existing: &mut DocumentMut,
    wanted: &DocumentMut,
    rule: Rule<'_>,
) -> Result<(), Conflict> {
    merge_table(existing.as_table_mut(), wanted.as_table(), rule)?;
    let trailing = existing.trailing().as_str().unwrap_or_default().to_owned();
    if let Some(first) = first_new(existing.as_table_mut()).filter(|_| !trailing.trim().is_empty()) {
        // Comments that ended the file stay where they are.
        let above = first
            .decor()
            .prefix()
            .and_then(RawString::as_str)
            .unwrap_or_default();
        let prefix = format!("{trailing}{above}");
        first.decor_mut().set_prefix(prefix);
        existing.set_trailing("");
    }
    Ok(())
}

/// Puts a path, or an option that ends in one, into a list, in the place of another one if that is there; comments
/// stay.
pub(super) fn put(list: &mut Array, text: &str, in_place_of: &str) {
    let is = |text| move |value: &Value| value.as_str().map(Path::new) == Some(Path::new(text));
    if list.iter().any(is(text)) {
        list.retain(|value| !is(in_place_of)(value));
        return;
    }
    let place = list.iter().position(is(in_place_of));
    match place {
        Some(place) => drop(list.replace(place, text)),
        None => list.push(text),
    }
}

/// Finds the first table that is printed after all those that were there.
fn first_new(table: &mut Table) -> Option<&mut Table> {
    table.iter_mut().find_map(|(_, item)| {
        let table = item.as_table_mut()?;
        match table.position() {
            Some(_) => None,
            None if table.is_implicit() => first_new(table),
            None => Some(table),
        }
    })
}

fn merge_table(existing: &mut dyn TableLike, wanted: &dyn TableLike, rule: Rule<'_>) -> Result<(), Conflict> {
    for (key, item) in wanted.iter() {
        match existing.get_mut(key) {
            None | Some(Item::None) => insert(existing, wanted, key, item),
            Some(found) => merge_item(found, item, key, rule).map_err(|conflict| conflict.below(key))?,
        }
    }
    Ok(())
}

fn insert(existing: &mut dyn TableLike, wanted: &dyn TableLike, key: &str, item: &Item) {
    let mut item = item.clone();
    unplace(&mut item);
    existing.insert(key, item);
    // The comments above the key.
    if let (Some(from), Some(mut to)) = (wanted.key(key), existing.key_mut(key)) {
        *to.leaf_decor_mut() = from.leaf_decor().clone();
    }
}

fn merge_item(found: &mut Item, wanted: &Item, key: &str, rule: Rule<'_>) -> Result<(), Conflict> {
    if let Some(tables) = wanted.as_array_of_tables() {
        return merge_tables(found, tables);
    }
    if let Some(wanted) = wanted.as_table_like() {
        return match found.as_table_like_mut() {
            Some(found) => merge_table(found, wanted, rule),
            None => Err(Conflict::of(found, "a table")),
        };
    }
    let Some(wanted) = wanted.as_value() else {
        return Ok(());
    };
    let Some(value) = found.as_value_mut() else {
        return Err(Conflict::of(found, text(wanted)));
    };
    if is_same(value, wanted) {
        return Ok(());
    }
    match rule(key, value) {
        Differing::Keep => {}
        Differing::Refuse => return Err(Conflict::of(found, text(wanted))),
        Differing::Replace => {
            let decor = value.decor().clone();
            *value = wanted.clone();
            *value.decor_mut() = decor;
        }
    }
    Ok(())
}

/// Adds the entries that have no equal; of a list that is there, those alone that are wharf's.
fn merge_tables(found: &mut Item, wanted: &ArrayOfTables) -> Result<(), Conflict> {
    match found {
        Item::Value(Value::Array(array)) if array.is_empty() => {
            *found = Item::ArrayOfTables(wanted.clone());
            unplace(found);
        }
        Item::Value(Value::Array(array)) => {
            for table in wanted.iter().filter(|table| is_wharfs(*table)) {
                if !array
                    .iter()
                    .filter_map(Value::as_inline_table)
                    .any(|table| is_wharfs(table))
                {
                    array.push(Value::InlineTable(inline(table)));
                }
            }
        }
        Item::ArrayOfTables(tables) => {
            for table in wanted.iter().filter(|table| is_wharfs(*table)) {
                if !tables.iter().any(|table| is_wharfs(table)) {
                    let mut item = Item::Table(table.clone());
                    unplace(&mut item);
                    if let Item::Table(table) = item {
                        tables.push(table);
                    }
                }
            }
        }
        Item::None | Item::Value(_) | Item::Table(_) => return Err(Conflict::of(found, "a list of tables")),
    }
    Ok(())
}

fn is_wharfs(table: &dyn TableLike) -> bool {
    table.get("snapshotter").and_then(Item::as_str) == Some("wharf")
}

fn inline(table: &Table) -> InlineTable {
    let mut table = table.clone().into_inline_table();
    table.fmt();
    table
}

/// Takes the places of another file away, so that tables come after those that are there.
fn unplace(item: &mut Item) {
    match item {
        Item::Table(table) => unplace_table(table),
        Item::ArrayOfTables(tables) => tables.iter_mut().for_each(unplace_table),
        Item::None | Item::Value(_) => {}
    }
}

fn unplace_table(table: &mut Table) {
    table.set_position(None);
    table.iter_mut().for_each(|(_, item)| unplace(item));
}

impl Conflict {
    fn of(found: &Item, wanted: impl Into<String>) -> Self {
        let found = match found.as_value() {
            Some(value) => text(value),
            None => found.type_name().to_owned(),
        };
        Self {
            key: String::new(),
            found,
            wanted: wanted.into(),
        }
    }

    fn below(mut self, key: &str) -> Self {
        let quoted = if key.contains('.') {
            format!("{key:?}")
        } else {
            key.to_owned()
        };
        self.key = if self.key.is_empty() {
            quoted
        } else {
            format!("{quoted}.{}", self.key)
        };
        self
    }
}

/// A value as it would be written by itself, whichever quotes it has and without the comment behind it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(string) => format!("{:?}", string.value()),
        other => other.clone().decorated("", "").to_string(),
    }
}

/// Tells whether two values mean the same: absolute paths may be written in several ways.
fn is_same(found: &Value, wanted: &Value) -> bool {
    let path = |value: &Value| {
        let path = value.as_str().map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    text(found) == text(wanted) || path(found).is_some_and(|found| path(wanted) == Some(found))
}
