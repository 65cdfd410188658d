//! Which Authorization an endpoint wants, and the ones that are still good.
//!
//! An endpoint tells by a challenge (RFC 9110 §11.3, and distribution's token
//! specification) what it wants; that is remembered, so that the requests after
//! the first bring their token at once. Tokens are kept by repository until
//! shortly before they expire. How a token is got is [`super::token`]'s matter.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http_auth::{ChallengeParser, ChallengeRef};
use quick_cache::sync::Cache;
use tokio::time::Instant;
use url::Url;

use super::error::UpstreamError;
use crate::flight::Questions;
use crate::oci::RepositoryName;

/// How many repositories' tokens are kept for each endpoint: some megabytes at most.
const MAX_TOKENS: usize = 1024;

/// How long before its end a token is no longer used: what a request may take to arrive.
const MAX_MARGIN: Duration = Duration::from_secs(10);

/// The authorizations of one endpoint.
pub(super) struct Authorizations {
    challenge: Mutex<Option<Challenge>>,
    kept: Cache<RepositoryName, Kept>,
    /// The tokens that are being asked for.
    pub(super) questions: Questions<RepositoryName, Result<HeaderValue, UpstreamError>>,
}

#[derive(Clone)]
struct Kept {
    header: HeaderValue,
    good_until: Instant,
}

/// An Authorization header to send.
#[derive(Clone)]
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    /// Made for this request: if it is denied, another one will be too.
    pub(super) is_new: bool,
}

/// How an endpoint wants to be authorized to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a token from `realm`.
    Bearer {
        realm: Url,
        service: Option<String>,
        /// A scope that is asked for besides the repository's, such as the `aws` of public.ecr.aws.
        scope: Option<String>,
    },
    /// With a user and a password.
    Basic,
}

impl Challenge {
    /// Chooses among the challenges of a 401: Bearer over Basic, and no other.
    pub(super) fn choose(headers: &HeaderMap) -> Option<Self> {
        let texts = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok());
        // What follows a syntax error cannot be read; what stands before it can.
        let readable = texts.flat_map(|text| ChallengeParser::new(text).map_while(Result::ok));
        let mut chosen = None;
        for challenge in readable {
            match Self::of(&challenge) {
                Some(bearer @ Self::Bearer { .. }) => return Some(bearer),
                Some(Self::Basic) => chosen = Some(Self::Basic),
                None => {}
            }
        }
        chosen
    }

    fn of(challenge: &ChallengeRef<'_>) -> Option<Self> {
        if challenge.scheme.eq_ignore_ascii_case("Basic") {
            return Some(Self::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("Bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let mut named = challenge
                .params
                .iter()
                .filter(|(key, _)| key.eq_ignore_ascii_case(name));
            named.next().map(|(_, value)| value.to_unescaped())
        };
        Some(Self::Bearer {
            realm: Url::parse(&parameter("realm")?).ok()?,
            service: parameter("service"),
            scope: parameter("scope").filter(|scope| !scope.is_empty() && !scope.starts_with("repository:")),
        })
    }
}

impl Authorizations {
    /// Knows of no challenge yet.
    pub(super) fn new() -> Self {
        Self {
            challenge: Mutex::default(),
            kept: Cache::new(MAX_TOKENS),
            questions: Questions::default(),
        }
    }

    /// Returns the endpoint's last challenge.
    pub(super) fn challenge(&self) -> Option<Challenge> {
        self.lock().clone()
    }

    /// Remembers the endpoint's challenge, and tells whether it is news.
    pub(super) fn remember(&self, challenge: Challenge) -> bool {
        let mut known = self.lock();
        let is_news = known.as_ref() != Some(&challenge);
        *known = Some(challenge);
        is_news
    }

    /// Returns what authorizes to a repository's content, if it is still good and not the one `rejected`.
    pub(super) fn kept(
        &self,
        name: &RepositoryName,
        rejected: Option<&HeaderValue>,
        now: Instant,
    ) -> Option<HeaderValue> {
        let kept = self.kept.get(name)?;
        (now < kept.good_until && rejected != Some(&kept.header)).then_some(kept.header)
    }

    /// Keeps what authorizes to a repository's content until shortly before `lifetime` has passed.
    pub(super) fn keep(&self, name: RepositoryName, header: HeaderValue, lifetime: Duration, now: Instant) {
        let margin = MAX_MARGIN.min(lifetime / 4);
        let good_until = now + (lifetime - margin);
        self.kept.insert(name, Kept { header, good_until });
    }

    /// No code that holds the lock can panic half-way, so a poisoned challenge is whole.
    fn lock(&self) -> MutexGuard<'_, Option<Challenge>> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::choose(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.parse().unwrap(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn bearer_is_chosen_over_basic_whatever_the_order() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
        let expected = bearer("https://auth.docker.io/token", Some("registry.docker.io"), None);
        assert_eq!(choose(&[hub]), expected);
        assert_eq!(choose(&["Basic realm=\"x\"", hub]), expected);
        assert_eq!(choose(&[&format!("Basic realm=\"x\", {hub}")]), expected);
        assert_eq!(
            choose(&[&format!("Negotiate, {hub}, Basic realm=\"x\"")]),
            expected
        );
        assert_eq!(choose(&["basic realm=x"]), Some(Challenge::Basic));
    }

    #[test]
    fn scopes_that_are_no_repository_are_kept() {
        let ecr = r#"bearer Realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#;
        let expected = bearer(
            "https://public.ecr.aws/token/",
            Some("public.ecr.aws"),
            Some("aws"),
        );
        assert_eq!(choose(&[ecr]), expected);
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        for bad in [
            "Negotiate",
            "Bearer",
            "Bearer realm=\"token\"",
            "",
            "\"",
            "Bearer service=x",
        ] {
            assert_eq!(choose(&[bad]), None, "{bad}");
        }
        assert_eq!(
            choose(&["Basic realm=\"x\", error error"]),
            Some(Challenge::Basic)
        );
    }

    #[test]
    fn a_token_is_kept_until_shortly_before_its_end() {
        let authorizations = Authorizations::new();
        let name: RepositoryName = "library/alpine".parse().unwrap();
        let (header, now) = (HeaderValue::from_static("Bearer x"), Instant::now());
        authorizations.keep(name.clone(), header.clone(), Duration::from_secs(60), now);
        let kept =
            |seconds, rejected| authorizations.kept(&name, rejected, now + Duration::from_secs(seconds));
        assert_eq!(kept(49, None), Some(header.clone()));
        assert_eq!(kept(50, None), None);
        assert_eq!(kept(0, Some(&header)), None);
        assert_eq!(
            authorizations.kept(&"library/other".parse().unwrap(), None, now),
            None
        );
    }
}
