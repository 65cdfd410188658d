//! A mirror's URL, whose user and password are never shown.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::{Position, Url};

use crate::config::Secret;

/// Where a mirror is: `http://mirror:5000`, or `https://user:password@mirror`. Its API is at the server's root.
///
/// Printed, it is without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct MirrorUrl {
    /// Without user and password, and without a slash at its end.
    base: String,
    server: String,
    credentials: Option<(String, Secret)>,
}

/// Why a text is no [`MirrorUrl`]; the text itself may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseMirrorUrlError {
    /// No URL at all.
    #[error("a mirror is named by a URL such as http://mirror:5000 ({0})")]
    Url(#[from] url::ParseError),
    /// Neither http nor https.
    #[error("a mirror is named by an http or https URL, such as http://mirror:5000")]
    Kind,
    /// More than a server.
    #[error("a mirror's API is at the root of its server: leave out what is behind host and port")]
    Path,
    /// A user or password that is no UTF-8.
    #[error("the user and the password of a mirror's URL must be UTF-8, percent-encoded")]
    Credentials,
}

impl MirrorUrl {
    /// Returns host and port.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns the URL of a path, which begins with a slash.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Returns user and password, if the URL has them.
    pub(super) fn credentials(&self) -> Option<(&str, &Secret)> {
        let (user, password) = self.credentials.as_ref()?;
        Some((user, password))
    }
}

impl FromStr for MirrorUrl {
    type Err = ParseMirrorUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: Url = text.parse()?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(ParseMirrorUrlError::Kind);
        }
        if !url.path().trim_end_matches('/').is_empty() || url.query().is_some() || url.fragment().is_some() {
            return Err(ParseMirrorUrlError::Path);
        }
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded
                .map(|text| text.into_owned())
                .map_err(|_| ParseMirrorUrlError::Credentials)
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some((
                decoded(user)?,
                Secret::new(decoded(password.unwrap_or_default())?),
            )),
        };
        Ok(Self {
            base: format!("{}://{}", url.scheme(), server_of(&url)),
            server: server_of(&url).to_owned(),
            credentials,
        })
    }
}

fn server_of(url: &Url) -> &str {
    &url[Position::BeforeHost..Position::AfterPort]
}

impl fmt::Display for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

impl fmt::Debug for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrors_password_is_taken_out_of_its_url() {
        let url: MirrorUrl = "https://us%40er:p%3Aw@mirror:5443/".parse().unwrap();
        assert_eq!(url.server(), "mirror:5443");
        assert_eq!(
            url.join("/wharf/v1/layers"),
            "https://mirror:5443/wharf/v1/layers"
        );
        let (user, password) = url.credentials().unwrap();
        assert_eq!((user, password.expose()), ("us@er", "p:w"));
        for shown in [format!("{url}"), format!("{url:?}")] {
            assert_eq!(shown, "https://mirror:5443");
        }
        let url: MirrorUrl = "http://[::1]:5000".parse().unwrap();
        assert_eq!((url.server(), url.credentials()), ("[::1]:5000", None));
    }

    #[test]
    fn a_path_in_a_mirrors_url_is_refused() {
        for text in ["http://m:5000/path", "http://m:5000/?a=b", "http://m:5000/#a"] {
            let error = text.parse::<MirrorUrl>().unwrap_err();
            assert_eq!(error, ParseMirrorUrlError::Path, "{text}");
        }
    }

    #[test]
    fn what_names_no_mirror_is_refused_without_being_repeated() {
        for text in [
            "",
            "mirror:5000",
            "ftp://u:hunter2@mirror",
            "http://u:hunter2@mirror/?a=b",
            "http://",
            "unix:///x",
        ] {
            let error = text.parse::<MirrorUrl>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{text}: {error}");
        }
    }
}
