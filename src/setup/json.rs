//! Merging into a JSON object: members keep their order and their text, new ones come last.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Why two texts cannot be merged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unmergeable {
    /// One of them is no JSON object.
    Invalid(String),
    /// A member has another value.
    Conflict {
        key: String,
        found: String,
        wanted: String,
    },
}

/// The members of an object, with the text of their values.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, _>()? {
                    if members.iter().any(|(other, _)| *other == key) {
                        return Err(serde::de::Error::custom(format!("{key:?} is there twice")));
                    }
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Adds to the object `existing` what `wanted` has: objects are merged, the entries of lists come first, and any
/// other value must be equal unless it is forced. Returns `existing` itself if it has all of that.
pub(super) fn merge(existing: &str, wanted: &str, force: bool) -> Result<String, Unmergeable> {
    if existing.trim().is_empty() {
        return Ok(wanted.to_owned());
    }
    let indent = indent_of(existing);
    let merged = merge_object(
        existing,
        wanted,
        force,
        &Place {
            key: String::new(),
            indent: &indent,
            depth: 1,
        },
    )?;
    Ok(merged.map_or_else(|| existing.to_owned(), |object| object + "\n"))
}

/// Where in a file an object is.
struct Place<'a> {
    key: String,
    indent: &'a str,
    depth: usize,
}

/// Merges two objects; `None` if that changes nothing.
fn merge_object(
    existing: &str,
    wanted: &str,
    force: bool,
    place: &Place<'_>,
) -> Result<Option<String>, Unmergeable> {
    let invalid = |error: serde_json::Error| Unmergeable::Invalid(error.to_string());
    let mut members: Members = serde_json::from_str(existing).map_err(invalid)?;
    let wanted: Members = serde_json::from_str(wanted).map_err(invalid)?;
    let mut is_changed = false;
    for (key, value) in wanted.0 {
        let Some((_, found)) = members.0.iter_mut().find(|(other, _)| *other == key) else {
            members.0.push((key, value));
            is_changed = true;
            continue;
        };
        let inner = Place {
            key: format!("{}{key}", place.key),
            indent: place.indent,
            depth: place.depth + 1,
        };
        if let Some(merged) = merge_value(found.get(), value.get(), force, inner)? {
            *found = RawValue::from_string(merged).map_err(invalid)?;
            is_changed = true;
        }
    }
    Ok(is_changed.then(|| render(&members, place)))
}

/// Merges two values of one key; `None` if that changes nothing.
fn merge_value(
    found: &str,
    wanted: &str,
    force: bool,
    place: Place<'_>,
) -> Result<Option<String>, Unmergeable> {
    let parse =
        |text| serde_json::from_str(text).map_err(|e: serde_json::Error| Unmergeable::Invalid(e.to_string()));
    match (parse(found)?, parse(wanted)?) {
        (Value::Object(_), Value::Object(_)) => {
            let key = format!("{}.", place.key);
            merge_object(found, wanted, force, &Place { key, ..place })
        }
        (Value::Array(mut old), Value::Array(mut new)) => {
            let same = |one: &Value, other: &Value| match (one.as_str(), other.as_str()) {
                (Some(one), Some(other)) => one.trim_end_matches('/') == other.trim_end_matches('/'),
                _ => one == other,
            };
            new.retain(|entry| !old.iter().any(|other| same(entry, other)));
            if new.is_empty() {
                return Ok(None);
            }
            new.append(&mut old);
            let entries: Vec<String> = new.iter().map(Value::to_string).collect();
            Ok(Some(format!("[{}]", entries.join(", "))))
        }
        (old, new) if old == new => Ok(None),
        _ if force => Ok(Some(wanted.to_owned())),
        _ => Err(Unmergeable::Conflict {
            key: place.key,
            found: found.to_owned(),
            wanted: wanted.to_owned(),
        }),
    }
}

fn render(members: &Members, place: &Place<'_>) -> String {
    let (inner, outer) = (
        place.indent.repeat(place.depth),
        place.indent.repeat(place.depth - 1),
    );
    let member = |(key, value): &(String, Box<RawValue>)| {
        format!("{inner}{}: {}", Value::from(key.as_str()), value.get())
    };
    let members: Vec<String> = members.0.iter().map(member).collect();
    format!("{{\n{}\n{outer}}}", members.join(",\n"))
}

/// Returns the white space before the first member, or two spaces if all is on one line.
fn indent_of(text: &str) -> String {
    let before = text
        .trim_start()
        .trim_start_matches('{')
        .split('"')
        .next()
        .unwrap_or_default();
    match before.rsplit_once('\n') {
        Some((_, indent)) if !indent.is_empty() => indent.to_owned(),
        Some(_) | None => "  ".to_owned(),
    }
}
