//! Records: which digest a tag, or a list of referrers, had when upstream was asked.
//!
//! A record is an empty file whose name says it all:
//! `<sequence>.<algorithm>-<hex>.<milliseconds since 1970>`. A new answer is a new
//! name with the next sequence number; names are never rewritten, because a
//! distributed file system shows a changed file late and a new name at once
//! (facts/dfs.md 2c). The highest sequence number is the newest; older names
//! are removed after a newer one is there.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fs::{self, FsError, FsErrorKind};
use crate::oci::{Digest, Repository, Tag};

use super::Store;
use super::layout::{digest_of, file_name};

/// How often two mirrors may win the same sequence number before this one gives up.
const MAX_SEQUENCE_RACES: usize = 8;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Tag(Tag),
    /// The list of what refers to this digest.
    Referrers(Digest),
}

/// An answer of upstream about a [`Subject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub digest: Digest,
    /// When upstream said so, by the clock of the mirror that asked.
    pub checked_at: SystemTime,
}

impl Record {
    /// Makes a record of what upstream has said at this moment.
    pub fn now(digest: Digest) -> Self {
        Self {
            digest,
            checked_at: SystemTime::now(),
        }
    }

    /// Returns how long ago upstream said so; nothing if that clock is ahead of this one.
    pub fn age(&self) -> Duration {
        self.checked_at.elapsed().unwrap_or_default()
    }
}

struct Name {
    sequence: u64,
    record: Record,
}

impl Store {
    /// Returns the newest record of a subject.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn latest_record(
        &self,
        repository: &Repository,
        subject: &Subject,
    ) -> Result<Option<Record>, FsError> {
        let names = fs::list(&self.layout().records(repository, subject))?;
        let newest = names
            .iter()
            .filter_map(|name| Name::parse(name))
            .max_by_key(|name| name.sequence);
        Ok(newest.map(|name| name.record))
    }

    /// Adds a record made now, and removes the older ones.
    ///
    /// # Errors
    /// Any errno.
    pub fn add_record(
        &self,
        repository: &Repository,
        subject: &Subject,
        digest: &Digest,
    ) -> Result<(), FsError> {
        let dir = self.layout().records(repository, subject);
        fs::make_dirs(&dir)?;
        for race in 1.. {
            let older = fs::list(&dir)?;
            let newest = older
                .iter()
                .filter_map(|name| Name::parse(name))
                .map(|name| name.sequence)
                .max();
            let name = Name {
                sequence: newest.map_or(0, |sequence| sequence + 1),
                record: Record::now(digest.clone()),
            };
            match fs::create_new(&dir.join(name.text()), b"") {
                Err(error) if error.kind() == FsErrorKind::Exists && race < MAX_SEQUENCE_RACES => continue,
                created => created?,
            }
            return older.iter().try_for_each(|name| fs::remove(&dir.join(name)));
        }
        Ok(())
    }

    /// Removes what is known of a subject, after upstream said that it is gone.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn forget_records(&self, repository: &Repository, subject: &Subject) -> Result<(), FsError> {
        let dir = self.layout().records(repository, subject);
        fs::list(&dir)?
            .iter()
            .try_for_each(|name| fs::remove(&dir.join(name)))
    }

    /// Returns the tags of a repository that have a record, sorted.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, FsError> {
        let dir = self.layout().tags(repository);
        let mut tags = Vec::new();
        for tag in fs::list(&dir)?.iter().filter_map(|name| name.parse::<Tag>().ok()) {
            if !fs::list(&dir.join(tag.as_str()))?.is_empty() {
                tags.push(tag);
            }
        }
        tags.sort();
        Ok(tags)
    }

    /// Returns where a subject's records are, for messages and for [`crate::fs::Disk`].
    pub fn records_path(&self, repository: &Repository, subject: &Subject) -> PathBuf {
        self.layout().records(repository, subject)
    }
}

impl Name {
    fn text(&self) -> String {
        let since_epoch = self
            .record
            .checked_at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        format!(
            "{:010}.{}.{}",
            self.sequence,
            file_name(&self.record.digest),
            since_epoch.as_millis()
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (sequence, digest, millis) = (parts.next()?, parts.next()?, parts.next()?);
        let checked_at = UNIX_EPOCH + Duration::from_millis(millis.parse().ok()?);
        let record = Record {
            digest: digest_of(digest)?,
            checked_at,
        };
        parts.next().is_none().then_some(Self {
            sequence: sequence.parse().ok()?,
            record,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn the_newest_record_of_a_tag_counts_and_the_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let repository = Repository::new("ghcr.io".parse().unwrap(), "a/b".parse().unwrap());
        let subject = Subject::Tag("v1".parse().unwrap());
        assert_eq!(store.latest_record(&repository, &subject).unwrap(), None);
        for content in ["one", "two", "two", "three"] {
            let digest = Digest::of(Algorithm::Sha512, content.as_bytes());
            store.add_record(&repository, &subject, &digest).unwrap();
            assert_eq!(
                store
                    .latest_record(&repository, &subject)
                    .unwrap()
                    .unwrap()
                    .digest,
                digest
            );
            assert_eq!(
                fs::list(&store.records_path(&repository, &subject))
                    .unwrap()
                    .len(),
                1
            );
        }
        assert_eq!(store.tags(&repository).unwrap(), ["v1".parse().unwrap()]);
        store.forget_records(&repository, &subject).unwrap();
        assert_eq!(store.latest_record(&repository, &subject).unwrap(), None);
        assert_eq!(store.tags(&repository).unwrap(), []);
    }
}
