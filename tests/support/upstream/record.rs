//! What an upstream was asked, and how much it sent.

use std::collections::HashMap;
use std::net::TcpStream;

use crate::support::wire::{Headers, header};

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    Base,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Token,
    Cdn,
    Other,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub route: Route,
    /// The repository's name; empty where there is none.
    pub repository: String,
    /// Digest or tag; the scope of a token.
    pub reference: String,
    /// Path and query.
    pub target: String,
    pub headers: Headers,
    /// What it was answered; 0 as long as no head was sent.
    pub status: u16,
}

impl Asked {
    /// Returns the first header of that name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Sorts a request.
    pub(super) fn new(method: &str, target: &str, headers: Headers) -> Self {
        let path = target.split('?').next().unwrap_or_default();
        let (route, repository, reference) = sort(path);
        let reference = match route {
            Route::Token => query(target, "scope").unwrap_or_default(),
            _ => reference.to_owned(),
        };
        Self {
            method: method.to_owned(),
            route,
            repository: repository.to_owned(),
            reference,
            target: target.to_owned(),
            headers,
            status: 0,
        }
    }

    fn is_blob_get(&self) -> bool {
        self.route == Route::Blob && self.method == "GET"
    }
}

/// Returns a path's route, repository and reference.
fn sort(path: &str) -> (Route, &str, &str) {
    if path == "/v2/" {
        return (Route::Base, "", "");
    }
    if path == "/token" {
        return (Route::Token, "", "");
    }
    if let Some(digest) = path.strip_prefix("/cdn/") {
        return (Route::Cdn, "", digest);
    }
    let routes = [
        ("/manifests/", Route::Manifest),
        ("/blobs/", Route::Blob),
        ("/tags/", Route::Tags),
        ("/referrers/", Route::Referrers),
    ];
    let Some(path) = path.strip_prefix("/v2/") else {
        return (Route::Other, "", "");
    };
    let found = routes.iter().find_map(|(infix, route)| {
        let (repository, reference) = path.rsplit_once(infix)?;
        Some((*route, repository, reference))
    });
    found.unwrap_or((Route::Other, "", ""))
}

/// Returns the first value of a key of the query, decoded.
pub(super) fn query(target: &str, key: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs
        .into_iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.into_owned())
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) asked: Vec<Asked>,
    pub(super) most_blob_gets: usize,
    pub(super) most_requests: usize,
    blob_gets: usize,
    requests: usize,
    sent: HashMap<String, usize>,
    sockets: HashMap<u64, TcpStream>,
    next_socket: u64,
}

impl Record {
    /// Notes a request; returns its number.
    pub(super) fn arrived(&mut self, asked: Asked) -> usize {
        self.requests += 1;
        self.most_requests = self.most_requests.max(self.requests);
        if asked.is_blob_get() {
            self.blob_gets += 1;
            self.most_blob_gets = self.most_blob_gets.max(self.blob_gets);
        }
        self.asked.push(asked);
        self.asked.len() - 1
    }

    /// Notes a request's status.
    pub(super) fn answered(&mut self, request: usize, status: u16) {
        self.asked[request].status = status;
    }

    /// Notes that a request's answer ends, however it does.
    pub(super) fn ended(&mut self, request: usize) {
        self.requests -= 1;
        if self.asked[request].is_blob_get() {
            self.blob_gets -= 1;
        }
    }

    pub(super) fn sent(&mut self, digest: &str, bytes: usize) {
        *self.sent.entry(digest.to_owned()).or_default() += bytes;
    }

    pub(super) fn bytes_sent(&self, digest: &str) -> usize {
        self.sent.get(digest).copied().unwrap_or_default()
    }

    /// Notes a connection; returns its number.
    pub(super) fn connected(&mut self, socket: TcpStream) -> u64 {
        self.next_socket += 1;
        self.sockets.insert(self.next_socket, socket);
        self.next_socket
    }

    pub(super) fn disconnected(&mut self, socket: u64) {
        self.sockets.remove(&socket);
    }

    pub(super) fn open_sockets(&self) -> impl Iterator<Item = &TcpStream> {
        self.sockets.values()
    }
}
