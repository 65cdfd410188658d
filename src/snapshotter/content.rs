//! Links the store's blobs into containerd's content store.
//!
//! Docker wants the compressed layers there: without them `docker images` of 26.1 does not list an image, `docker save`
//! writes an archive without layers and says nothing, and `docker push` fails. A symbolic link in the
//! directory of containerd's content plugin is a blob to it, once it is committed by the content API with its
//! whole length as offset; containerd's garbage collector removes the link, and never what it leads to. The directory
//! is containerd's own (`blobs/<algorithm>/<hex>` below the root that the plugin exports), so where this does
//! not work nothing else is tried, and the log says what follows.
//!
//! Sources: containerd's `content.proto`, `introspection.proto`, and its local content store.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::proto::content::content_client::ContentClient;
use super::proto::content::{WriteAction, WriteContentRequest};
use super::proto::introspection::PluginsRequest;
use super::proto::introspection::introspection_client::IntrospectionClient;
use crate::fs::{self, FsError, random_name};
use crate::oci::image_name::ImageName;
use crate::oci::{Algorithm, Digest, Repository};
use crate::telemetry::full_text;

/// containerd answers at once; while it does not, no Prepare is to wait for it.
const CONTENT_WAIT: Duration = Duration::from_secs(2);

/// containerd's content store, which need not run yet. Cheap to clone.
#[derive(Clone)]
pub struct ContentStore {
    inner: Arc<Inner>,
}

struct Inner {
    address: PathBuf,
    channel: Channel,
    /// The content plugin's directory, once containerd has told it.
    root: Mutex<Option<PathBuf>>,
    /// Blobs whose last link containerd has not taken, so that a namespace may lack them though the link is there.
    uncommitted: Mutex<BTreeSet<Digest>>,
    /// The last link failed, and the log has said so.
    fails: AtomicBool,
}

/// A blob of the store.
#[derive(Clone, Debug)]
pub(super) struct BlobToLink {
    pub(super) digest: Digest,
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    /// Where it is from: containerd mounts it from there instead of pushing it.
    pub(super) image: Option<ImageName>,
}

#[derive(Debug, thiserror::Error)]
enum ContentError {
    #[error("containerd at {} answers", address.display())]
    Answer {
        address: PathBuf,
        #[source]
        status: Box<Status>,
    },
    #[error("containerd has not answered within {CONTENT_WAIT:?}")]
    Late,
    #[error("containerd has no content plugin that says where it keeps blobs")]
    NoRoot,
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl ContentStore {
    /// Takes the containerd that listens on the unix socket `address`; needs a running tokio.
    pub fn new(address: &Path) -> Self {
        let socket = address.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Self {
            inner: Arc::new(Inner {
                address: address.to_owned(),
                // The name is for HTTP alone.
                channel: Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector),
                root: Mutex::default(),
                uncommitted: Mutex::default(),
                fails: AtomicBool::new(false),
            }),
        }
    }

    /// Makes a blob known to a namespace of containerd; tells whether it is.
    pub(super) async fn link(&self, namespace: &str, blob: &BlobToLink) -> bool {
        let linked = match timeout(CONTENT_WAIT, self.try_link(namespace, blob)).await {
            Ok(linked) => linked,
            Err(_) => Err(ContentError::Late),
        };
        let failed = self.inner.fails.swap(linked.is_err(), Ordering::AcqRel);
        match &linked {
            Err(error) if !failed => tracing::warn!(
                error = full_text(error),
                digest = %blob.digest,
                "blobs are not linked into containerd's content store: images run, but `docker save` and `docker push` \
                 lack their layers, and `docker images` may not list them; name containerd's socket (--containerd), \
                 or turn this off (--content-links=false)"
            ),
            Ok(()) if failed => tracing::info!("blobs are linked into containerd's content store again"),
            Ok(()) | Err(_) => {}
        }
        linked.is_ok()
    }

    /// Tells whether the content store has a blob, as a link into `store` or as a file; true if that cannot be told.
    pub(super) async fn has(&self, digest: &Digest, store: &Path) -> bool {
        let Ok(Ok(root)) = timeout(CONTENT_WAIT, self.root()).await else {
            return true;
        };
        if self.uncommitted().contains(digest) {
            return false;
        }
        let (path, store) = (path_in(&root, digest), store.to_owned());
        let look = move || match std::fs::read_link(path) {
            // The store may have had another place.
            Ok(target) => target.starts_with(store),
            Err(error) => error.kind() != ErrorKind::NotFound,
        };
        tokio::task::spawn_blocking(look).await.unwrap_or(true)
    }

    /// Returns the blobs whose links into `store` the content store has; `None` if that cannot be told.
    pub(super) async fn links(&self, store: &Path) -> Option<BTreeSet<Digest>> {
        let root = timeout(CONTENT_WAIT, self.root()).await.ok()?.ok()?;
        let store = store.to_owned();
        let found = tokio::task::spawn_blocking(move || links_into(&root, &store)).await;
        match found.ok()? {
            Ok(links) => Some(links),
            Err(error) => {
                tracing::debug!(error = error.full_text(), "which blobs are linked cannot be told");
                None
            }
        }
    }

    async fn try_link(&self, namespace: &str, blob: &BlobToLink) -> Result<(), ContentError> {
        let root = self.root().await?;
        let (link, target) = (path_in(&root, &blob.digest), blob.path.clone());
        let placed = tokio::task::spawn_blocking(move || place(&link, &target)).await;
        match placed {
            Ok(Ok(())) => {
                self.uncommitted().insert(blob.digest.clone());
                self.commit(namespace, blob).await?;
                self.uncommitted().remove(&blob.digest);
                Ok(())
            }
            Ok(Err(error)) => {
                // containerd may have been given another directory since.
                *self.inner.root.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Err(error.into())
            }
            Err(_) => Err(ContentError::Late),
        }
    }

    async fn commit(&self, namespace: &str, blob: &BlobToLink) -> Result<(), ContentError> {
        let size = i64::try_from(blob.size_bytes).unwrap_or(i64::MAX);
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: format!("wharf-{}", blob.digest),
            total: size,
            expected: blob.digest.to_string(),
            // An offset below the length would cut the blob.
            offset: size,
            labels: blob
                .image
                .iter()
                .map(|image| source_label(&image.repository))
                .collect(),
            ..WriteContentRequest::default()
        };
        let mut request = Request::new(tokio_stream::once(message));
        if let Ok(value) = namespace.parse::<MetadataValue<Ascii>>() {
            request.metadata_mut().insert("containerd-namespace", value);
        }
        let written = async {
            let mut answers = ContentClient::new(self.inner.channel.clone())
                .write(request)
                .await?
                .into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        match written.await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            written => written.map_err(|status| self.answer(status)),
        }
    }

    async fn root(&self) -> Result<PathBuf, ContentError> {
        if let Some(root) = self.known_root() {
            return Ok(root);
        }
        let request = PluginsRequest {
            filters: vec!["type==io.containerd.content.v1,id==content".to_owned()],
        };
        let answer = IntrospectionClient::new(self.inner.channel.clone())
            .plugins(request)
            .await;
        let plugins = answer.map_err(|status| self.answer(status))?.into_inner().plugins;
        let root = plugins
            .into_iter()
            .find_map(|mut plugin| plugin.exports.remove("root"));
        let root = PathBuf::from(root.ok_or(ContentError::NoRoot)?);
        *self.inner.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(root.clone());
        Ok(root)
    }

    fn uncommitted(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.inner
            .uncommitted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn known_root(&self) -> Option<PathBuf> {
        self.inner
            .root
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn answer(&self, status: Status) -> ContentError {
        ContentError::Answer {
            address: self.inner.address.clone(),
            status: Box::new(status),
        }
    }
}

fn path_in(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs")
        .join(digest.algorithm().as_str())
        .join(digest.hex())
}

/// Lists the blobs below a content plugin's directory that are links into `store`.
fn links_into(root: &Path, store: &Path) -> Result<BTreeSet<Digest>, FsError> {
    let mut links = BTreeSet::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let names = fs::list(&root.join("blobs").join(algorithm.as_str()))?;
        let digests = names
            .iter()
            .filter_map(|name| format!("{}:{name}", algorithm.as_str()).parse::<Digest>().ok());
        links.extend(digests.filter(|digest| {
            std::fs::read_link(path_in(root, digest)).is_ok_and(|target| target.starts_with(store))
        }));
    }
    Ok(links)
}

/// Makes `link` lead to `target`, unless containerd has the blob itself.
fn place(link: &Path, target: &Path) -> Result<(), FsError> {
    let failed = |operation| move |source| FsError::new(operation, link, source);
    match std::fs::read_link(link) {
        Ok(present) if present == target => return Ok(()),
        // A file of containerd's own: not a link (EINVAL).
        Err(source) if source.kind() == ErrorKind::InvalidInput => return Ok(()),
        Err(source) if source.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(failed("read link")(source)),
        Ok(_) => {}
    }
    // containerd lists only names that are digests.
    let staged = link.with_file_name(format!(".wharf-{}", random_name()));
    symlink(target, &staged).map_err(failed("make link"))?;
    std::fs::rename(&staged, link).map_err(|source| {
        let _ = std::fs::remove_file(&staged);
        failed("make link")(source)
    })
}

/// Returns the label by which containerd finds out where a blob can be had (its `docker` resolver's).
fn source_label(repository: &Repository) -> (String, String) {
    (
        format!("containerd.io/distribution.source.{}", repository.host),
        repository.name.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_links_into_the_store_are_told_from_all_else() {
        let dir = tempfile::tempdir().unwrap();
        let (root, store) = (dir.path().join("content"), dir.path().join("store"));
        assert!(links_into(&root, &store).unwrap().is_empty());
        let digest = |seed: &str| Digest::of(Algorithm::Sha256, seed.as_bytes());
        let blobs = root.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(digest("own").hex()), "own").unwrap();
        symlink(store.join("x"), blobs.join(".wharf-staged")).unwrap();
        symlink(dir.path().join("other/x"), blobs.join(digest("other").hex())).unwrap();
        place(&path_in(&root, &digest("linked")), &store.join("blobs/x")).unwrap();
        // What containerd has itself stays.
        place(&path_in(&root, &digest("own")), &store.join("blobs/y")).unwrap();
        assert_eq!(
            links_into(&root, &store).unwrap(),
            [digest("linked")].into_iter().collect()
        );
    }
}
