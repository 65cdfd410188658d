//! Layers that are on the store: snapshots that nothing is unpacked for.
//!
//! containerd asks Prepare for a layer; where the store has it, a committed snapshot is recorded, and the answer is
//! AlreadyExists. Then containerd looks for it by `List` and `Stat`, and goes on with the layer above.
//! A layer that is not there is wished for from a mirror, for a while; then it is unpacked on this node, as
//! without wharf. From the first such layer on containerd fetches all that lie above, so for those no mirror is
//! waited for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use super::error::SnapshotError;
use super::label::{self, WantedLayer};
use super::layers::Found;
use super::name::{SharedName, namespace_of};
use super::record::{Kind, Place, Record, SharedLayer};
use super::snapshots::{Inner, NewSnapshot, Snapshots};
use crate::api::{LayerState, LayerWish};
use crate::oci::image_name::ImageName;
use crate::oci::{ChainId, Digest, LayerId};
use crate::store::ChainRecord;
use crate::telemetry::full_text;

/// What is said of a layer that a mirror calls ready and this node does not see.
pub(super) const NOT_SEEN: &str = "a mirror has extracted it, and this node does not see it yet";

/// What mirrors are asked for.
pub(super) struct Wish {
    chain_id: ChainId,
    image: Option<ImageName>,
    blob: Option<Digest>,
}

impl Wish {
    /// Wishes for a layer of which nothing else is known.
    pub(super) fn of_chain(chain_id: &ChainId) -> Self {
        Self {
            chain_id: chain_id.clone(),
            image: None,
            blob: None,
        }
    }

    /// Wishes for a layer of an image, and for its compressed blob if `with_blob`.
    pub(super) fn of_wanted(wanted: &WantedLayer, with_blob: bool) -> Self {
        Self {
            chain_id: wanted.chain_id.clone(),
            image: wanted.image.clone(),
            blob: wanted.blob.clone().filter(|_| with_blob),
        }
    }
}

impl Snapshots {
    /// Makes a layer of the store a snapshot; false if it is to be unpacked here.
    pub(super) async fn share(
        &self,
        new: &NewSnapshot,
        parent: Option<&Record>,
        wanted: &WantedLayer,
    ) -> Result<bool, SnapshotError> {
        let is_base_local = parent.is_some_and(|parent| base_of(parent).is_some());
        let Some(chain) = self.ready(wanted, !is_base_local).await else {
            return Ok(false);
        };
        if chain.parent != parent.and_then(Record::chain_id) {
            tracing::warn!(
                chain_id = %wanted.chain_id, parent = new.parent,
                "containerd puts a layer on another stack than the store's record of it; it is unpacked here"
            );
            return Ok(false);
        }
        let name = SharedName {
            chain_id: wanted.chain_id.clone(),
            base: parent.and_then(base_of),
        };
        let mut record = of_chain(&name, new.parent.clone(), &chain.layer_id);
        record.labels = new.labels.clone().into_iter().collect();
        if let Place::Shared(layer) = &mut record.place {
            layer.blob = wanted.blob.clone();
            layer.namespaces = namespace_of(&new.key).map(str::to_owned).into_iter().collect();
        }
        let record = self.on_disk(move |inner| inner.add_shared(record)).await?;
        self.link_blob(&record, wanted).await;
        self.inner.told(std::slice::from_ref(&record)).await;
        Ok(true)
    }

    /// Returns the record of a layer on the store, and waits for a mirror to bring it if that `may_wait`.
    async fn ready(&self, wanted: &WantedLayer, may_wait: bool) -> Option<ChainRecord> {
        let inner = &self.inner;
        // Why the store cannot be asked is in the log, once.
        if let Found::Ready(record) = inner.layers.find(&wanted.chain_id).await.ok()? {
            return Some(record);
        }
        if !may_wait {
            return None;
        }
        let wish = Wish::of_wanted(wanted, false);
        let why = match inner.materialise(&wish, inner.bounds.prepare_wait).await {
            Ok(()) => match inner.layers.find(&wanted.chain_id).await.ok()? {
                Found::Ready(record) => return Some(record),
                Found::Gone(_) | Found::NotThere => NOT_SEEN.to_owned(),
            },
            Err(why) => why,
        };
        tracing::info!(
            chain_id = %wanted.chain_id, image = wanted.image.as_ref().map(ToString::to_string), why,
            "a layer is not on the store; it and those above it are unpacked on this node"
        );
        None
    }

    /// Returns a snapshot's record, which of a layer on the store is made again if this node has lost it.
    pub(super) async fn known(&self, name: &str) -> Result<Record, SnapshotError> {
        if let Some(record) = self.inner.records.get(name) {
            return Ok(record);
        }
        let Ok(shared) = name.parse::<SharedName>() else {
            return Err(SnapshotError::NotFound(name.to_owned()));
        };
        let missing = self.missing(shared).await?;
        tracing::info!(
            snapshot = name,
            "a layer of the store is a snapshot of this node again"
        );
        self.on_disk(move |inner| {
            // The lowest first, so that a parent is there before what lies on it.
            for record in missing.into_iter().rev() {
                inner.add_shared(record)?;
            }
            Ok(())
        })
        .await?;
        self.inner.records.find(name)
    }

    /// Reads from the store what a lost snapshot and those below it were, the topmost first.
    async fn missing(&self, name: SharedName) -> Result<Vec<Record>, SnapshotError> {
        let base = match &name.base {
            Some(base) => Some(self.inner.records.find(base)?),
            None => None,
        };
        let mut missing = Vec::new();
        let mut next = Some(name);
        let until = Instant::now() + self.inner.bounds.prepare_wait;
        while let Some(name) = next {
            let chain = self.found_again(&name.chain_id, until).await?;
            let below = chain.parent.map(|chain_id| SharedName {
                chain_id,
                base: name.base.clone(),
            });
            let is_on_base = |below: &SharedName| {
                let base = base.as_ref().and_then(Record::chain_id);
                base.as_ref() == Some(&below.chain_id)
            };
            let (parent, unknown) = match below {
                Some(below) if is_on_base(&below) => (name.base.clone(), None),
                Some(below) => {
                    let text = below.to_string();
                    let is_known = self.inner.records.get(&text).is_some();
                    (Some(text), (!is_known).then_some(below))
                }
                None => (None, None),
            };
            missing.push(of_chain(&name, parent, &chain.layer_id));
            next = unknown;
        }
        Ok(missing)
    }

    async fn found_again(&self, chain_id: &ChainId, until: Instant) -> Result<ChainRecord, SnapshotError> {
        if let Found::Ready(record) = self.inner.layers.find(chain_id).await? {
            return Ok(record);
        }
        let patience = until.saturating_duration_since(Instant::now());
        let wish = Wish::of_chain(chain_id);
        let asked = self.inner.materialise(&wish, patience).await;
        match self.inner.layers.find(chain_id).await? {
            Found::Ready(record) => Ok(record),
            missing => Err(SnapshotError::LayerGone {
                chain_id: chain_id.clone(),
                path: match missing {
                    Found::Gone(path) => path,
                    _ => self.inner.layers.root().to_owned(),
                },
                why: asked.err().unwrap_or_else(|| NOT_SEEN.to_owned()),
            }),
        }
    }
}

impl Inner {
    /// Asks mirrors to bring a layer to the store, and waits for at most `patience`.
    ///
    /// # Errors
    /// Says why it is not there.
    pub(super) async fn materialise(&self, wish: &Wish, patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wish = LayerWish {
                chain_id: wish.chain_id.clone(),
                image: wish.image.clone(),
                blob: wish.blob.clone(),
                wait_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            };
            let answer = self
                .mirrors
                .layer(&wish)
                .await
                .map_err(|error| full_text(&error))?;
            let said = |otherwise: &str| answer.message.clone().unwrap_or_else(|| otherwise.to_owned());
            match answer.state {
                LayerState::Ready => return Ok(()),
                LayerState::Running if Instant::now() < until => {}
                LayerState::Running => {
                    return Err(format!(
                        "a mirror is still bringing it, after {patience:?}: {} of {} bytes",
                        answer.bytes, answer.size_bytes
                    ));
                }
                LayerState::Unknown => return Err(said("no mirror knows an image with it")),
                LayerState::Failed => return Err(said("a mirror could not extract it")),
            }
        }
    }

    /// Adds a layer of the store, or notes that another namespace uses it as well.
    fn add_shared(&self, mut record: Record) -> Result<Record, SnapshotError> {
        if let Some(present) = self.records.get(&record.name) {
            let (Some(layer), Some(new)) = (present.shared(), record.shared()) else {
                return Err(SnapshotError::Exists(record.name));
            };
            let layer = SharedLayer {
                blob: new.blob.clone().or_else(|| layer.blob.clone()),
                namespaces: layer.namespaces.union(&new.namespaces).cloned().collect(),
                ..new.clone()
            };
            // What they say of the blob must fit the one that is noted.
            let labels = present.labels.clone().into_iter().chain(record.labels);
            record = Record {
                labels: labels.collect(),
                place: Place::Shared(layer),
                ..present.clone()
            };
            if record == present {
                return Ok(record);
            }
        } else {
            record.id = self.records.new_id();
        }
        if let Some(parent) = &record.parent {
            self.records.find(parent)?;
        }
        self.layers.bind();
        self.records.put(record.clone())?;
        if let Some(layer) = record.shared() {
            self.with_references(|references| references.add_layer(&layer.chain_id));
        }
        Ok(record)
    }

    /// Notes that a stack's topmost layer is another directory now.
    pub(super) fn move_layer(&self, chain_id: &ChainId, layer_id: &LayerId) -> Result<(), SnapshotError> {
        for mut record in self.records.shared() {
            if let Place::Shared(layer) = &mut record.place
                && layer.chain_id == *chain_id
                && layer.layer_id != *layer_id
            {
                layer.layer_id = layer_id.clone();
                self.records.put(record)?;
            }
        }
        Ok(())
    }
}

/// Returns the nearest local snapshot at or below a committed one.
fn base_of(record: &Record) -> Option<String> {
    match &record.place {
        Place::Local { .. } => Some(record.name.clone()),
        Place::Shared(_) => record.name.parse::<SharedName>().ok()?.base,
    }
}

/// Makes the record of a layer of the store; its id is given when it is added.
fn of_chain(name: &SharedName, parent: Option<String>, layer_id: &LayerId) -> Record {
    let now = SystemTime::now();
    Record {
        name: name.to_string(),
        id: 0,
        kind: Kind::Committed,
        parent,
        // By this containerd finds it.
        labels: [(label::CHAIN.to_owned(), name.chain_id.to_string())].into(),
        created: now,
        updated: now,
        place: Place::Shared(SharedLayer {
            chain_id: name.chain_id.clone(),
            layer_id: layer_id.clone(),
            blob: None,
            namespaces: BTreeSet::new(),
        }),
    }
}
