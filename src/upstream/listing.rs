//! Lists: the tags of a repository, and what refers to a manifest.

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, HeaderMap, HeaderValue, LINK};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::Upstream;
use super::error::{Nonsense, UpstreamError};
use super::request::Question;
use super::send::is_same_origin;
use super::short::ShortAnswer;
use crate::oci::manifest::MAX_MANIFEST_BYTES;
use crate::oci::{Digest, RepositoryName, media_type};
use crate::telemetry::labels::UpstreamKind;

/// The largest page of tags that is read: 50,000 tags of the greatest length.
const MAX_TAGS_BYTES: usize = 8 << 20;

/// How many pages of referrers are put together; more would not fit into a manifest anyway.
const MAX_REFERRER_PAGES: usize = 32;

/// A page of a repository's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// The tags, in upstream's order; text that upstream chose.
    pub tags: Vec<String>,
    /// There are more tags after these, as far as can be known.
    pub has_more: bool,
}

#[derive(Deserialize)]
struct Tags {
    /// Some registries write `null` for none.
    tags: Option<Vec<String>>,
}

/// Pages of an index, put together in the first one.
struct Pages {
    index: Value,
    count: usize,
    /// Of all the pages as they came.
    size_bytes: usize,
}

/// Writes which page is asked for; a function, since the serializer must not live across an await.
fn page_query(n: Option<u32>, last: Option<&str>) -> Option<String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(n.map(|n| ("n", n.to_string())));
    query.extend_pairs(last.map(|last| ("last", last)));
    Some(query.finish()).filter(|query| !query.is_empty())
}

impl Upstream {
    /// Fetches a page of tags: at most `n`, those after `last`.
    ///
    /// # Errors
    /// Fails if no endpoint gives it.
    pub async fn list_tags(
        &self,
        name: &RepositoryName,
        n: Option<u32>,
        last: Option<&str>,
    ) -> Result<TagPage, UpstreamError> {
        let mut question = Question::get(UpstreamKind::Other, name, format!("/v2/{name}/tags/list"));
        question.query = page_query(n, last);
        let answer = self.ask_short(&question, MAX_TAGS_BYTES).await?;
        let tags: Tags = self.parse(&answer.url, &answer.bytes)?;
        let tags = tags.tags.unwrap_or_default();
        Ok(TagPage {
            has_more: next_page(&answer.headers).is_some(),
            tags,
        })
    }

    /// Fetches the index of what refers to a manifest; the pages of a long one are put together.
    ///
    /// # Errors
    /// Fails if no endpoint gives it. `NotFound` means that the registry has no referrers API: the
    /// caller falls back to the tag (distribution-spec, "Unavailable Referrers API").
    pub async fn get_referrers(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Bytes, UpstreamError> {
        let mut question = Question::get(
            UpstreamKind::Other,
            name,
            format!("/v2/{name}/referrers/{digest}"),
        );
        let accepted = HeaderValue::from_static(media_type::OCI_INDEX);
        question.headers.insert(ACCEPT, accepted);
        let mut merged: Option<Pages> = None;
        for _ in 0..MAX_REFERRER_PAGES {
            let answer = self.ask_short(&question, MAX_MANIFEST_BYTES).await;
            let answer = answer.map_err(without_referrers_api)?;
            let pages = self.merge(merged.take(), &answer)?;
            let Some(next) = next_page(&answer.headers) else {
                return Ok(match pages.count {
                    1 => answer.bytes,
                    _ => pages.index.to_string().into(),
                });
            };
            let next = self.same_registry(&answer.url, next)?;
            (question.path, question.query) = (next.path().to_owned(), next.query().map(str::to_owned));
            merged = Some(pages);
        }
        Err(UpstreamError::Invalid {
            host: self.0.host.clone(),
            server: self.0.host.to_string(),
            nonsense: Nonsense::ManyPages(MAX_REFERRER_PAGES),
        })
    }

    /// Adds a page to those before it.
    fn merge(&self, before: Option<Pages>, answer: &ShortAnswer) -> Result<Pages, UpstreamError> {
        let mut index: Value = self.parse(&answer.url, &answer.bytes)?;
        let found = self.manifests(&answer.url, &mut index)?;
        let Some(mut pages) = before else {
            let (count, size_bytes) = (1, answer.bytes.len());
            return Ok(Pages {
                index,
                count,
                size_bytes,
            });
        };
        let found = std::mem::take(found);
        self.manifests(&answer.url, &mut pages.index)?.extend(found);
        pages.count += 1;
        pages.size_bytes += answer.bytes.len();
        if pages.size_bytes > MAX_MANIFEST_BYTES {
            let limit_bytes = MAX_MANIFEST_BYTES;
            return Err(self.nonsense(&answer.url, Nonsense::TooLarge { limit_bytes }));
        }
        Ok(pages)
    }

    fn parse<T: DeserializeOwned>(&self, url: &Url, bytes: &[u8]) -> Result<T, UpstreamError> {
        serde_json::from_slice(bytes).map_err(|error| self.nonsense(url, Nonsense::Json(error.to_string())))
    }

    fn manifests<'a>(&self, url: &Url, index: &'a mut Value) -> Result<&'a mut Vec<Value>, UpstreamError> {
        let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
        manifests.ok_or_else(|| self.nonsense(url, Nonsense::Json("no manifests".to_owned())))
    }

    /// Finds the next page, which is the same registry's.
    fn same_registry(&self, from: &Url, next: &str) -> Result<Url, UpstreamError> {
        let next = from.join(next).ok().filter(|next| is_same_origin(from, next));
        next.ok_or_else(|| self.nonsense(from, Nonsense::Redirect))
    }
}

/// A registry without the API answers 404, or that its route knows no GET.
fn without_referrers_api(error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::Invalid {
            host,
            nonsense: Nonsense::Status(StatusCode::METHOD_NOT_ALLOWED),
            ..
        } => UpstreamError::NotFound { host },
        error => error,
    }
}

/// Reads the target of `Link: <target>; rel="next"` (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<&str> {
    let mut links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    links.find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.replace([' ', '"'], "");
            parameter.eq_ignore_ascii_case("rel=next")
        });
        is_next.then_some(target)
    })
}
