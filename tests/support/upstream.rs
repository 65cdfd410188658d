//! An upstream registry that does what a test tells it: a real one on a real
//! socket, until a test puts something in its [`script`].
//!
//! It has two addresses: the registry (with the endpoint for tokens), and the
//! "CDN" that blobs are redirected to, which refuses any request that carries
//! credentials. Each connection is a thread; whatever a test changes holds from
//! the next request on. Every request is recorded when it arrives, before it is
//! held or refused.

mod answer;
mod auth;
mod content;
mod dead;
mod record;
mod script;
mod serve;

use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;

pub use auth::Auth;
pub use content::{Image, OCI_INDEX, OCI_MANIFEST, bytes, descriptor, image_manifest, index};
pub use dead::{Dead, refusing_address};
pub use record::Asked;
pub use script::{Then, When, any_cdn, anything, blob, blobs, cdn, manifest, manifests, tags, then, token};

use content::Content;
use record::Record;
use script::Script;
use serve::Listener;

/// A running upstream.
pub struct Upstream {
    shared: Arc<Shared>,
    _registry: Listener,
    _cdn: Listener,
}

/// What the threads of an upstream share.
struct Shared {
    registry: SocketAddr,
    cdn: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    state: Mutex<State>,
}

/// What an upstream has, does and was asked.
#[derive(Default)]
struct State {
    content: Content,
    settings: Settings,
    auth: auth::Tokens,
    script: Script,
    record: Record,
    /// The signatures of URLs that the CDN still takes.
    signatures: Vec<String>,
}

/// What holds for every request, the script aside.
#[derive(Clone, Debug)]
struct Settings {
    redirects_blobs: bool,
    has_referrers_api: bool,
    /// How many tags a page has at most.
    page_limit: usize,
    is_down: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            redirects_blobs: false,
            has_referrers_api: true,
            page_limit: 1000,
            is_down: false,
        }
    }
}

impl Upstream {
    /// Starts an upstream without content on plain HTTP, for everybody.
    pub fn start() -> Self {
        Self::start_on(None)
    }

    /// Starts an upstream that speaks TLS.
    pub fn start_tls(config: Arc<ServerConfig>) -> Self {
        Self::start_on(Some(config))
    }

    fn start_on(tls: Option<Arc<ServerConfig>>) -> Self {
        let (registry, cdn) = (serve::bind(), serve::bind());
        let address = |listener: &std::net::TcpListener| listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            registry: address(&registry),
            cdn: address(&cdn),
            tls,
            state: Mutex::default(),
        });
        Self {
            _registry: Listener::start(registry, Arc::clone(&shared), answer::registry),
            _cdn: Listener::start(cdn, Arc::clone(&shared), answer::cdn),
            shared,
        }
    }

    /// Where the registry listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.registry
    }

    /// The registry's base URL.
    pub fn url(&self) -> String {
        self.shared.url(self.shared.registry)
    }

    /// Adds a blob to a repository; returns its digest.
    pub fn add_blob(&self, repository: &str, bytes: Vec<u8>) -> String {
        self.state().content.add_blob(repository, bytes)
    }

    /// Adds a blob under a digest that need not be its own.
    pub fn add_blob_as(&self, repository: &str, digest: &str, bytes: Vec<u8>) {
        self.state().content.add_blob_as(repository, digest, bytes);
    }

    /// Adds a manifest to a repository; returns its digest.
    pub fn add_manifest(&self, repository: &str, media_type: &str, bytes: Vec<u8>) -> String {
        self.state().content.add_manifest(repository, media_type, bytes)
    }

    /// Adds an image of a config and `layers` under a tag.
    pub fn add_image(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Image {
        self.state().content.add_image(repository, tag, layers)
    }

    /// Lets a tag name a digest.
    pub fn tag(&self, repository: &str, tag: &str, digest: &str) {
        self.state().content.tag(repository, tag, digest);
    }

    /// Takes a repository away with all it has.
    pub fn remove_repository(&self, repository: &str) {
        self.state().content.remove(repository);
    }

    /// Adds to the script: from now on, `when` asked, `then` happens.
    pub fn script(&self, when: When, then: Then) {
        self.state().script.add(when, then);
    }

    /// Empties the script.
    pub fn clear_script(&self) {
        self.state().script = Script::default();
    }

    /// Demands this of everybody from now on.
    pub fn demand(&self, auth: Auth) {
        self.state().auth.demand(auth);
    }

    /// Makes every token worthless that was given so far.
    pub fn revoke_tokens(&self) {
        self.state().auth.revoke();
    }

    /// Redirects every GET of a blob to the CDN from now on.
    pub fn redirect_blobs(&self) {
        self.state().settings.redirects_blobs = true;
    }

    /// Makes every URL worthless that the CDN was named by so far.
    pub fn expire_urls(&self) {
        self.state().signatures.clear();
    }

    /// Has no referrers API from now on, as an old registry.
    pub fn without_referrers_api(&self) {
        self.state().settings.has_referrers_api = false;
    }

    /// Lists at most so many tags at once from now on.
    pub fn limit_pages(&self, tags: usize) {
        self.state().settings.page_limit = tags;
    }

    /// Breaks every connection, and from now on each new one at once.
    pub fn go_down(&self) {
        let mut state = self.state();
        state.settings.is_down = true;
        for socket in state.record.open_sockets() {
            // It may have been closed from the other side in the meantime.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Ends [`Upstream::go_down`].
    pub fn come_back(&self) {
        self.state().settings.is_down = false;
    }

    /// Every request so far, in the order of their arrival.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().record.asked.clone()
    }

    /// The requests so far that `when` means.
    pub fn asked_for(&self, when: &When) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| when.means(asked));
        asked
    }

    /// How many requests so far `when` means.
    pub fn count(&self, when: &When) -> usize {
        self.asked_for(when).len()
    }

    /// How often a blob was asked for by GET, of the registry.
    pub fn blob_gets(&self, digest: &str) -> usize {
        self.count(&blob(digest).get())
    }

    /// How many bytes of a blob or manifest were sent, by registry and CDN.
    pub fn bytes_sent(&self, digest: &str) -> usize {
        self.state().record.bytes_sent(digest)
    }

    /// The most requests of a GET of a blob that were being answered at one time.
    pub fn most_blob_gets_at_once(&self) -> usize {
        self.state().record.most_blob_gets
    }

    /// The most requests that were being answered at one time, by registry and CDN together.
    pub fn most_requests_at_once(&self) -> usize {
        self.state().record.most_requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panics fails no test by itself: the mirror's view of it does.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}
