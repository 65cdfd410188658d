//! The node of Podman, Buildah and CRI-O: a file beside the distribution's for registries, and storage.conf.

mod crio;
mod form;
mod registries;
mod storage_conf;

use std::path::Path;

use super::{Filling, Order, Plan, SetupError, agent};
use crate::setup::{ImageStore, Runtime, template};
use form::Form;
pub use storage_conf::names_image_store;

/// Where this node reads layers, and whatever follows from it.
struct Chosen {
    form: Form,
    /// The directory that storage.conf names.
    image_store: String,
    /// The one that the other form would name.
    other: String,
}

pub(super) fn plan(order: &Order, filling: &Filling) -> Result<Plan, SetupError> {
    let (registries, others) = registries::plan(order, filling)?;
    let mut files = vec![registries];
    let chosen = Chosen::choose(order, filling)?;
    let storage = storage_conf::merge(order, filling, &chosen)?;
    let mut notes = vec![chosen.form.reason.clone()];
    notes.extend(storage_conf::overriding(order, &chosen)?);
    notes.extend(others.replaced);
    let mut warnings = others.winning;
    if chosen.form.kind == ImageStore::Local {
        form::refuse_overlap(order, &storage_conf::graphroot(&storage)?)?;
    }
    files.push(storage);
    if order.runtime == Runtime::Crio {
        files.extend(crio::files(order, &chosen)?);
    }
    let mut empty_files = Vec::new();
    match chosen.form.kind {
        ImageStore::Shared => {
            warnings.extend(form::shared_store_warning(&order.store));
            match form::lock_files(order) {
                Ok(found) => empty_files = found,
                Err(why) => notes.push(why),
            }
        }
        ImageStore::Local => {
            files.extend(agent::podman_files(order, filling)?);
            empty_files = form::local_lock_files(order)?;
            notes.push(
                "then: systemctl daemon-reload && systemctl enable --now wharf-podman.service; it reads its settings \
                 at its start: systemctl restart wharf-podman if they changed"
                    .to_owned(),
            );
        }
    }
    notes.extend(limits(order.runtime).map(str::to_owned));
    Ok(Plan {
        empty_files,
        warnings,
        ..Plan::of(files, notes)
    })
}

/// Says what to restart, and what does not work.
fn limits(runtime: Runtime) -> impl Iterator<Item = &'static str> {
    let restart = match runtime {
        Runtime::Crio => "then: systemctl restart crio; it reads storage.conf at its start alone",
        Runtime::Docker | Runtime::Containerd | Runtime::Podman => {
            "nothing needs to be restarted but a `podman system service` that runs"
        }
    };
    [
        restart,
        "images of other registries than these come past the mirror: add a block for each",
        "image volumes (`podman image mount`, `--mount type=image`, Kubernetes' image volumes) do not see layers \
         of the store: copy the files out of a container of the image instead (`podman create`, `podman cp`)",
        "rootless users have storage.conf files of their own, and cannot read the store: root's alone is changed",
    ]
    .into_iter()
}

impl Chosen {
    fn choose(order: &Order, filling: &Filling) -> Result<Self, SetupError> {
        let shared = filling.fill(template::SHARED_IMAGE_STORE, "");
        let local = filling.fill(template::LOCAL_IMAGE_STORE, "");
        let set_up = storage_conf::named(order)?;
        let is_set_up = |store: &str| set_up.iter().any(|found| Path::new(found) == Path::new(store));
        let before = if is_set_up(&shared) {
            Some(ImageStore::Shared)
        } else if is_set_up(&local) {
            Some(ImageStore::Local)
        } else {
            None
        };
        let form = Form::choose(order, before);
        let (image_store, other) = match form.kind {
            ImageStore::Shared => (shared, local),
            ImageStore::Local => (local, shared),
        };
        Ok(Self {
            form,
            image_store,
            other,
        })
    }
}
