//! containerd's filters, by which `List` chooses snapshots.
//!
//! A filter is a list of selectors, separated by commas, all of which must match: a field, and an operator with
//! a value (`==`, `!=`, `~=` for a regular expression), or a field alone, which must not be empty. A field is
//! `name`, `parent`, `kind`, or `labels.` and a label's name, which is quoted if it has other characters than
//! letters, digits and `_`. Of several filters any one must match. Source: containerd's `pkg/filters`.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

use super::record::{Kind, Record};

/// What `List` is asked to tell.
#[derive(Debug)]
pub(super) struct Filters(Vec<Vec<Selector>>);

/// A text is no filter.
#[derive(Debug, thiserror::Error)]
#[error("filter {text:?}: {reason}")]
pub struct ParseFilterError {
    text: String,
    reason: String,
}

#[derive(Debug)]
struct Selector {
    field: Field,
    condition: Condition,
}

#[derive(Debug)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// One that snapshots do not have: it is empty.
    Other,
}

#[derive(Debug)]
enum Condition {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters; none of them choose everything.
    ///
    /// # Errors
    /// Says what is wrong with the first that is none.
    pub(super) fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, ParseFilterError> {
        let parse = |text: &T| {
            let text = text.as_ref();
            Parser::new(text).selectors().map_err(|reason| ParseFilterError {
                text: text.to_owned(),
                reason,
            })
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Tells whether a snapshot is chosen.
    pub(super) fn choose(&self, record: &Record) -> bool {
        let matches = |selectors: &Vec<Selector>| selectors.iter().all(|selector| selector.matches(record));
        self.0.is_empty() || self.0.iter().any(matches)
    }
}

impl Selector {
    fn matches(&self, record: &Record) -> bool {
        let value = match &self.field {
            Field::Name => Some(record.name.as_str()),
            Field::Parent => record.parent.as_deref(),
            Field::Kind => Some(match record.kind {
                Kind::View => "View",
                Kind::Active => "Active",
                Kind::Committed => "Committed",
            }),
            Field::Label(name) => record.labels.get(name).map(String::as_str),
            Field::Other => None,
        };
        let text = value.unwrap_or_default();
        match &self.condition {
            // A label may be there and empty.
            Condition::Present => match self.field {
                Field::Label(_) => value.is_some(),
                _ => !text.is_empty(),
            },
            Condition::Equal(wanted) => text == wanted,
            Condition::NotEqual(unwanted) => text != unwanted,
            Condition::Matches(pattern) => pattern.is_match(text),
        }
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text.chars().peekable(),
        }
    }

    fn selectors(mut self) -> Result<Vec<Selector>, String> {
        let mut selectors = Vec::new();
        if self.rest.peek().is_none() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            match self.rest.next() {
                None => return Ok(selectors),
                Some(',') => {}
                Some(other) => return Err(format!("{other:?} where a comma should be")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, String> {
        let mut path = vec![self.field()?];
        while self.rest.next_if_eq(&'.').is_some() {
            path.push(self.field()?);
        }
        let field = match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["name"] => Field::Name,
            ["parent"] => Field::Parent,
            ["kind"] => Field::Kind,
            ["labels", name @ ..] if !name.is_empty() => Field::Label(name.join(".")),
            _ => Field::Other,
        };
        Ok(Selector {
            field,
            condition: self.condition()?,
        })
    }

    fn field(&mut self) -> Result<String, String> {
        if self.rest.peek() == Some(&'"') {
            return self.quoted();
        }
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if word.is_empty() {
            return Err("a field is missing".to_owned());
        }
        Ok(word)
    }

    fn condition(&mut self) -> Result<Condition, String> {
        let operator = self.take_while(|c| matches!(c, '=' | '!' | '~'));
        if operator.is_empty() {
            return Ok(Condition::Present);
        }
        let value = match self.rest.peek() {
            Some('"') => self.quoted()?,
            _ => self.take_while(|c| c != ',' && !c.is_whitespace()),
        };
        match operator.as_str() {
            "==" => Ok(Condition::Equal(value)),
            "!=" => Ok(Condition::NotEqual(value)),
            "~=" => Regex::new(&value)
                .map(Condition::Matches)
                .map_err(|error| error.to_string()),
            other => Err(format!("{other:?} is no operator")),
        }
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.rest.next_if(|c| is_part(*c))).collect()
    }

    /// Reads a string as Go writes it, without escapes that no label or key needs.
    fn quoted(&mut self) -> Result<String, String> {
        self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.next() {
                None => return Err("a quotation mark is missing".to_owned()),
                Some('"') => return Ok(text),
                Some('\\') => match self.rest.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(escaped @ ('"' | '\\' | '\'')) => text.push(escaped),
                    Some(other) => return Err(format!("the escape \\{other} is not known")),
                    None => return Err("a quotation mark is missing".to_owned()),
                },
                Some(c) => text.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::record::{Place, Usage};
    use super::*;

    fn record() -> Record {
        Record {
            name: "moby/3/top".to_owned(),
            id: 1,
            kind: Kind::Committed,
            parent: Some("sha256:below".to_owned()),
            labels: [
                ("containerd.io/snapshot.ref".to_owned(), "sha256:61b1".to_owned()),
                ("empty".to_owned(), String::new()),
            ]
            .into(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            place: Place::Local {
                usage: Usage::default(),
            },
        }
    }

    #[test]
    fn filters_choose_as_containerds_do() {
        for (texts, is_chosen) in [
            (vec![], true),
            (vec![""], true),
            (vec!["name==moby/3/top"], true),
            (vec!["name!=moby/3/top"], false),
            (vec!["kind==Committed,parent==\"sha256:below\""], true),
            (vec!["kind==Active"], false),
            (vec!["parent==\"\""], false),
            (
                vec!["labels.\"containerd.io/snapshot.ref\"==sha256:61b1,parent==\"sha256:below\""],
                true,
            ),
            (
                vec!["labels.\"containerd.io/snapshot.ref\"==\"sha256:other\""],
                false,
            ),
            (vec!["labels.empty"], true),
            (vec!["labels.absent"], false),
            (vec!["labels.absent==\"\""], true),
            (vec!["name~=^moby/[0-9]+/"], true),
            (vec!["name~=^k8s"], false),
            (vec!["name==other", "kind==Committed"], true),
            (vec!["unknown==x"], false),
        ] {
            let filters = Filters::parse(&texts).unwrap();
            assert_eq!(filters.choose(&record()), is_chosen, "{texts:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_an_error_that_names_it() {
        for text in [
            "==x",
            "name=x",
            "name==\"x",
            "name==a b",
            "name~=(",
            "labels.",
            "name==\"\\q\"",
        ] {
            let error = Filters::parse(&[text]).unwrap_err().to_string();
            assert!(error.contains("filter"), "{error}");
        }
    }
}
