//! Tags, referrers and the catalog.
//!
//! Tags and referrers are upstream's as long as it answers, and what the store
//! knows else; the catalog is the store's.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;

use super::manifest::Freshness;
use super::{Inner, Mirror, MirrorError};
use crate::flight::Questions;
use crate::fs::FsError;
use crate::oci::{Algorithm, Digest, Reference, Repository, Tag, Verified, referrers};
use crate::store::Subject;
use crate::upstream::UpstreamErrorClass;

/// Which part of a list is asked for (distribution-spec, "Listing Tags").
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Page {
    /// At most so many entries.
    pub n: Option<u32>,
    /// Only entries that come after this one.
    pub last: Option<String>,
}

/// A page of a repository's tags.
#[derive(Clone, Debug)]
pub struct Tags {
    pub names: Vec<String>,
    pub has_more: bool,
    /// Upstream did not answer: these are the tags that the store knows.
    pub is_stale: bool,
}

/// The index of what refers to a manifest.
#[derive(Clone, Debug)]
pub struct Referrers {
    pub bytes: Bytes,
    pub freshness: Freshness,
}

/// The questions under way.
#[derive(Default)]
pub(super) struct ListingQuestions {
    tags: Questions<(Repository, Page), Result<Tags, MirrorError>>,
    referrers: Questions<(Repository, Digest), Result<Bytes, MirrorError>>,
    repositories: Questions<(), Result<Vec<Repository>, FsError>>,
}

impl Page {
    /// Returns the page of `names`, which are sorted, and whether more follow.
    pub fn of<T: AsRef<str>>(&self, names: Vec<T>) -> (Vec<T>, bool) {
        let after = |name: &T| self.last.as_deref().is_none_or(|last| name.as_ref() > last);
        let mut names: Vec<T> = names.into_iter().filter(after).collect();
        let n = self.n.map_or(names.len(), |n| n as usize);
        let has_more = names.len() > n;
        names.truncate(n);
        (names, has_more)
    }

    /// Makes a page of what upstream sent as one; some registries send the whole list whatever is asked.
    fn apply(&self, mut names: Vec<String>, has_more: bool) -> (Vec<String>, bool) {
        let is_too_long = self.n.is_some_and(|n| names.len() > n as usize);
        let begins_again = self.last.as_ref().is_some_and(|last| names.contains(last));
        if !is_too_long && !begins_again {
            return (names, has_more);
        }
        names.sort();
        self.of(names)
    }
}

impl Mirror {
    /// Returns a page of a repository's tags.
    ///
    /// # Errors
    /// What upstream answers, if the store knows no tags of the repository.
    pub async fn tags(&self, repository: &Repository, page: &Page) -> Result<Tags, MirrorError> {
        let find = || {
            let (inner, repository, page) = (Arc::clone(&self.inner), repository.clone(), page.clone());
            async move {
                let upstream = inner.upstream(&repository.host)?;
                let listed = upstream
                    .list_tags(&repository.name, page.n, page.last.as_deref())
                    .await?;
                let (names, has_more) = page.apply(listed.tags, listed.has_more);
                Ok(Tags {
                    names,
                    has_more,
                    is_stale: false,
                })
            }
        };
        let key = (repository.clone(), page.clone());
        let asking = self.inner.listings.tags.ask(key, find);
        match self.inner.in_time(asking).await {
            Err(error) if error.is_passing() => {
                let known = self.inner.known_tags(repository).await;
                if known.is_empty() {
                    return Err(error);
                }
                let (names, has_more) = page.of(known);
                Ok(Tags {
                    names,
                    has_more,
                    is_stale: true,
                })
            }
            answer => answer,
        }
    }

    /// Returns the index of what refers to a manifest; an empty one if nothing does.
    ///
    /// # Errors
    /// What upstream answers, if the store cannot answer in its place.
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Referrers, MirrorError> {
        let inner = &self.inner;
        let subject = Subject::Referrers(digest.clone());
        let seen = inner.latest_record(repository, &subject).await;
        if let Some(seen) = &seen
            && inner.is_fresh(&subject, seen)
            && let Some(bytes) = inner.stored_bytes(&seen.record.digest).await
        {
            return Ok(Referrers {
                bytes,
                freshness: Freshness::Fresh,
            });
        }
        let find = || {
            let (inner, repository, digest) = (Arc::clone(inner), repository.clone(), digest.clone());
            let is_known = seen.is_some();
            async move { inner.ask_for_referrers(&repository, &digest, is_known).await }
        };
        let asking = inner
            .listings
            .referrers
            .ask((repository.clone(), digest.clone()), find);
        let error = match inner.in_time(asking).await {
            Ok(bytes) => {
                return Ok(Referrers {
                    bytes,
                    freshness: Freshness::Fresh,
                });
            }
            Err(error) => error,
        };
        if error.is_passing()
            && let Some(seen) = &seen
            && let Some(bytes) = inner.stored_bytes(&seen.record.digest).await
        {
            return Ok(Referrers {
                bytes,
                freshness: seen.staleness(),
            });
        }
        Err(error)
    }

    /// Returns every repository from which the store holds a manifest, sorted.
    ///
    /// One walk through the store answers all who ask, for it may take long: they wait for it no
    /// longer than for any call, and it goes on.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub async fn repositories(&self) -> Result<Vec<Repository>, FsError> {
        let inner = &self.inner;
        let find = || {
            let (store, root) = (inner.store.clone(), inner.store.root().to_owned());
            async move {
                let walk = tokio::task::spawn_blocking(move || store.repositories());
                let panicked = |error| FsError::new("list", &root, io::Error::other(error));
                walk.await.map_err(panicked)?
            }
        };
        let failed = |error| FsError::new("list", inner.store.root(), error);
        let listed = timeout(inner.disk.deadline(), inner.listings.repositories.ask((), find)).await;
        listed
            .map_err(|late| failed(io::Error::new(io::ErrorKind::TimedOut, late)))
            .and_then(|asked| asked.map_err(|error| failed(io::Error::other(error)))?)
            .inspect_err(|error| inner.note_store_error(error))
    }
}

impl Inner {
    async fn known_tags(&self, repository: &Repository) -> Vec<String> {
        let (store, of) = (self.store.clone(), repository.clone());
        let path = store.repository_path(repository);
        let listed = self.disk.run("list", &path, move || store.tags(&of)).await;
        let tags = listed
            .inspect_err(|error| self.note_store_error(error))
            .unwrap_or_default();
        tags.iter().map(Tag::to_string).collect()
    }

    /// Asks upstream by the referrers API, and by the fallback tag where there is no such API; `is_known`
    /// says that there is a record of an earlier answer.
    async fn ask_for_referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        is_known: bool,
    ) -> Result<Bytes, MirrorError> {
        let upstream = self.upstream(&repository.host)?;
        let name = &repository.name;
        let bytes = match upstream.get_referrers(name, digest).await {
            Ok(bytes) => bytes,
            Err(error) if error.class() == UpstreamErrorClass::NotFound => {
                let tag = Reference::Tag(Tag::of_referrers(digest));
                match upstream.get_manifest(name, &tag).await {
                    Ok(fetched) => fetched.bytes,
                    Err(error) if error.class() == UpstreamErrorClass::NotFound => referrers::empty(),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let count = referrers::count(&bytes).map_err(|error| MirrorError::NoManifest(error.to_string()))?;
        // Clients choose the digest: what nothing refers to is no reason for a file of its own.
        let has_news = count > 0 || is_known;
        self.keep_referrers(repository, digest, &bytes, has_news).await?;
        Ok(bytes)
    }

    async fn keep_referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        bytes: &Bytes,
        has_news: bool,
    ) -> Result<(), MirrorError> {
        let of_list = Digest::of(Algorithm::Sha256, bytes);
        let verified = Verified::check(&of_list, bytes)?;
        let (store, kept) = (self.store.clone(), bytes.clone());
        let path = store.blob_path(&of_list);
        match self
            .disk
            .run("publish", &path, move || store.put_blob(&kept, &verified))
            .await
        {
            Ok(()) => {
                let subject = Subject::Referrers(digest.clone());
                if has_news {
                    self.add_record(repository, &subject, &of_list).await;
                } else {
                    self.remember_record((repository.clone(), subject), of_list);
                }
            }
            Err(error) => self.note_store_error(&error),
        }
        Ok(())
    }
}
