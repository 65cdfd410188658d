//! Sees to it that layers.json lists the layers of an image, for a client that looks them up there.
//!
//! A client of containers/storage looks a layer up by the digest of its blob, which leads it to the DiffID, and then by
//! its id, which the whole stack makes. So each layer needs a directory under its own id, though another stack has the
//! same one; and a blob that is another compression of a layer needs an alias, which is believed only once the blob has
//! been decompressed: whoever could make one on a manifest's word would give other images the wrong files.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::image::{Image, LayerError};
use super::manifest::ServedManifest;
use super::{Inner, Mirror};
use crate::oci::{ChainLink, Digest, Manifest, Repository};
use crate::store::{ChainRecord, Entry, EntryName, LayerPlace};
use crate::telemetry::full_text;

/// How long layers are waited for until they are listed: longer than clients are held. Who asks later looks anew.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a client waits for before it looks an image's layers up.
pub struct Awaited {
    /// The blobs that it need not fetch then.
    pub layers: Vec<Digest>,
    /// Tells whether they are there.
    pub ready: Pin<Box<dyn Future<Output = bool> + Send>>,
}

/// Which image; what is listed of it, if all is.
pub(super) type ListedImage = Option<Arc<[EntryName]>>;

impl Mirror {
    /// Returns what a client at this address waits for that looks layers up in layers.json; `None` if there is nothing to
    /// wait for: no image, none that is extracted, or one that is listed.
    pub fn listing(
        &self,
        repository: &Repository,
        served: &ServedManifest,
        address: IpAddr,
    ) -> Option<Awaited> {
        let inner = &self.inner;
        let manifest = Manifest::parse(&served.bytes).ok()?;
        let blobs = manifest.image_blobs()?;
        inner.extraction.as_ref()?;
        let key = (repository.clone(), served.digest.clone());
        if inner
            .listed_images
            .get(&key)
            .is_some_and(|names| inner.image_store.lists(&names))
        {
            return None;
        }
        let inner = Arc::clone(inner);
        let layers = blobs.layers.into_iter().map(|blob| blob.digest).collect();
        let ready = Box::pin(async move {
            let is_listed = inner.is_listed(key, Arc::new(manifest)).await;
            if is_listed {
                inner.image_store.seen_by(address).await;
            }
            is_listed
        });
        Some(Awaited { layers, ready })
    }

    /// Returns what a client waits for that mounts layers by their chains; `None` if there is nothing to wait for: the
    /// image is not on its way, or is published.
    pub fn publishing(&self, repository: &Repository, served: &ServedManifest) -> Option<Awaited> {
        let image = self.image(repository, &served.digest)?;
        if image.is_published() {
            return None;
        }
        let layers = image
            .layers()
            .iter()
            .map(|layer| layer.blob.digest.clone())
            .collect();
        let ready = Box::pin(async move { image.published().await });
        Some(Awaited { layers, ready })
    }

    /// Notes that a client of containers/storage fetches a blob, and may be about to make a layer of it.
    pub fn note_image_store_fetch(&self, blob: &Digest) {
        self.inner.image_store.note_fetch(blob);
    }

    /// Waits until a layer that is to be listed is, or will not be; and until the node at this address can see it.
    ///
    /// A client of containers/storage makes a layer whose blob it has read, if it does not find it then, and fails if it
    /// comes at that very moment.
    pub async fn layer_has_come(self, blob: Digest, address: IpAddr) {
        if self.inner.coming.wait(&blob).await {
            self.inner.image_store.seen_by(address).await;
        }
    }

    /// Brings layers.json up to date, and keeps it so as long as the process lives.
    pub fn keep_image_store(&self) {
        if self.inner.extraction.is_some() {
            tokio::spawn(Arc::clone(&self.inner).keep_image_store());
        }
    }

    /// Brings layers.json up to date once.
    pub async fn list_layers(&self) {
        if self.inner.extraction.is_some() {
            self.inner.refresh_once().await;
        }
    }
}

impl Inner {
    /// Waits until an image is listed; once for all who wait, and it goes on when they leave.
    async fn is_listed(self: &Arc<Self>, key: (Repository, Digest), manifest: Arc<Manifest>) -> bool {
        let find = || {
            let (inner, key, manifest) = (Arc::clone(self), key.clone(), Arc::clone(&manifest));
            async move {
                let names = inner.list_image(&key, &manifest).await;
                if let Some(names) = &names {
                    inner.listed_images.insert(key, Arc::clone(names));
                }
                names
            }
        };
        matches!(self.listing_images.ask(key.clone(), find).await, Ok(Some(_)))
    }

    async fn list_image(
        self: &Arc<Self>,
        (repository, digest): &(Repository, Digest),
        manifest: &Manifest,
    ) -> ListedImage {
        let image = self.bring_now(repository, digest, manifest);
        let coming = self.coming.layers(&image);
        let listed = self.list_layers_of(&image).await;
        self.has_come(coming);
        listed
    }

    async fn list_layers_of(self: &Arc<Self>, image: &Arc<Image>) -> ListedImage {
        if !image.published().await {
            return None;
        }
        let (links, tell) = (image.links().await, |error: &str| {
            let (repository, digest) = (&image.repository, &image.digest);
            tracing::warn!(
                image = %repository, manifest = %digest, error,
                "not all layers are listed for containers/storage"
            );
        });
        // All to their ends, for each makes a directory, which is to be listed whatever becomes of the others.
        let completed = join_all((0..links.len()).map(|index| self.complete(image, &links, index))).await;
        let (mut names, mut failed) = (Vec::new(), None);
        for completed in completed {
            match completed {
                Ok(completed) => names.extend(completed),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let is_listed = timeout(PATIENCE, self.image_store.listed(&names)).await.is_ok();
        match failed {
            Some(error) => tell(&full_text(&error)),
            None if !is_listed => tell("the list could not be written for a long time"),
            None => return Some(names.into()),
        }
        None
    }

    /// Completes a published layer of an image, and returns the entries by which a client finds it.
    async fn complete(
        self: &Arc<Self>,
        image: &Arc<Image>,
        links: &Arc<[ChainLink]>,
        index: usize,
    ) -> Result<Vec<EntryName>, LayerError> {
        let (link, blob) = (&links[index], &image.layers()[index].blob);
        let own = EntryName::Layer(link.layer_id.clone());
        let chain_id = link.chain_id.clone();
        let record = self.on_store(move |store| store.chain(&chain_id)).await?;
        let record = record.ok_or(LayerError::Below)?;
        if !self.image_store.lists(std::slice::from_ref(&own)) {
            self.complete_layer(LayerPlace::of(links, index), record.clone())
                .await?;
        }
        // Not always the record's: mirrors that publish a layer at a time may have other blobs of it, and the entry may be
        // that of one that died before it made the directory.
        let wanted = own.clone();
        let found_by = self.on_store(move |store| store.blob_of_entry(&wanted)).await?;
        if found_by.as_ref().unwrap_or(&record.blob) == &blob.digest {
            return Ok(vec![own]);
        }
        let alias = EntryName::of_alias(&record.diff_id, &blob.digest);
        if !self.image_store.lists(std::slice::from_ref(&alias)) {
            self.write_alias(image, links, index, &alias, record).await?;
        }
        Ok(vec![own, alias])
    }

    /// Completes a published layer, within the bound of extractions.
    async fn complete_layer(
        self: &Arc<Self>,
        place: LayerPlace,
        record: ChainRecord,
    ) -> Result<(), LayerError> {
        let Some(extraction) = self.extraction.clone() else {
            return Ok(());
        };
        let _turn = extraction.turn().await?;
        let (store, options) = (self.store.clone(), extraction.options.clone());
        // Not under the deadline of one call: there may be many files to link.
        let (inner, runtime) = (Arc::clone(self), Handle::current());
        let completing = tokio::task::spawn_blocking(move || {
            let compression = store.compression_of(&record.blob)?;
            let entry = Entry::of_layer(&place, &record, compression);
            let list = |name: &EntryName| runtime.block_on(inner.list_first(name, &record.blob));
            store.complete_layer(&place, &entry, &record, &options, &list)
        });
        Ok(completing.await??)
    }

    /// Writes down that one more blob has the DiffID of a layer, if it has.
    async fn write_alias(
        self: &Arc<Self>,
        image: &Arc<Image>,
        links: &Arc<[ChainLink]>,
        index: usize,
        name: &EntryName,
        record: ChainRecord,
    ) -> Result<(), LayerError> {
        let wanted = name.clone();
        if self.on_store(move |store| store.has_entry(&wanted)).await? {
            return Ok(());
        }
        let (name, digest) = (name.clone(), image.layers()[index].blob.digest.clone());
        let size_bytes = if record.blob == digest {
            // The layer was made of it.
            record.blob_size_bytes
        } else {
            self.check_compression(image, links, index, &record.diff_id)
                .await?
        };
        self.on_store(move |store| {
            let compression = store.compression_of(&digest)?;
            store.write_entry(&name, &Entry::of_alias(&record, &digest, size_bytes, compression))
        })
        .await?;
        Ok(())
    }
}
