//! Whom an upstream lets in: challenges, tokens and passwords.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::basic;

use super::answer::Reply;
use super::record::Asked;

/// What an upstream demands.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// A user's name and password with each request.
    Basic(&'static str, &'static str),
    /// A token for the repository, which everybody gets.
    AnonymousToken { lifetime: Duration },
    /// A token for the repository, which one user gets.
    Token {
        user: &'static str,
        password: &'static str,
        lifetime: Duration,
    },
}

/// What is demanded, and the tokens that were given.
#[derive(Default)]
pub(super) struct Tokens {
    auth: Auth,
    /// Scope and end of each.
    given: HashMap<String, (String, Instant)>,
    /// How many were given ever, so that none is given twice.
    count: usize,
}

impl Tokens {
    pub(super) fn demand(&mut self, auth: Auth) {
        self.auth = auth;
    }

    pub(super) fn revoke(&mut self) {
        self.given.clear();
    }

    /// Returns the challenge, if a request is not let in; `url` is this registry's.
    pub(super) fn refuse(&self, asked: &Asked, url: &str) -> Option<Reply> {
        let sent = asked.header("authorization");
        let challenge = match self.auth {
            Auth::None => return None,
            Auth::Basic(user, password) if sent == Some(&*basic(user, password)) => return None,
            Auth::Basic(..) => "Basic realm=\"scripted\"".to_owned(),
            Auth::AnonymousToken { .. } | Auth::Token { .. } => {
                let scope = format!("repository:{}:pull", asked.repository);
                let token = sent.and_then(|sent| sent.strip_prefix("Bearer "));
                let given = token.and_then(|token| self.given.get(token));
                if given.is_some_and(|(given, end)| scopes(given, &scope) && Instant::now() < *end) {
                    return None;
                }
                format!("Bearer realm=\"{url}/token\",service=\"scripted\",scope=\"{scope}\"")
            }
        };
        Some(Reply::error(401, "UNAUTHORIZED").header("www-authenticate", &challenge))
    }

    /// Answers a request for a token.
    pub(super) fn give(&mut self, asked: &Asked) -> Reply {
        let sent = asked.header("authorization");
        let lifetime = match self.auth {
            Auth::AnonymousToken { lifetime } if sent.is_none() => lifetime,
            Auth::Token {
                user,
                password,
                lifetime,
            } if sent == Some(&*basic(user, password)) => lifetime,
            _ => return Reply::error(401, "UNAUTHORIZED"),
        };
        self.count += 1;
        let token = format!("secret-token-{}", self.count);
        let end = Instant::now() + lifetime;
        self.given.insert(token.clone(), (asked.reference.clone(), end));
        Reply::json(&json!({"token": token, "expires_in": lifetime.as_secs()}))
    }
}

/// Tells whether what was asked for, several scopes with spaces between, has a scope.
fn scopes(given: &str, scope: &str) -> bool {
    given.split(' ').any(|given| given == scope)
}
