//! What of the store's additional image store a test looks at from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Returns the ids of the layers that layers.json lists, which must be a list without doubles.
pub fn listed(store: &Path) -> BTreeSet<String> {
    let text = fs::read(store.join("layers/overlay-layers/layers.json")).expect("read layers.json");
    let layers: Vec<Value> = serde_json::from_slice(&text).expect("layers.json is a list");
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| layer["id"].as_str().expect("an id").to_owned())
        .collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "an id is there twice");
    set
}

/// Asserts that layers.json has these layers, that each is whole for containers/storage, and that each layer below is
/// listed too.
pub fn assert_listed(store: &Path, layer_ids: &[String]) {
    let list = listed(store);
    let overlay = store.join("layers/overlay");
    for (number, id) in layer_ids.iter().enumerate() {
        assert!(list.contains(id), "{id} is not listed");
        let directory = overlay.join(id);
        assert!(directory.join("diff").is_dir(), "{id} has no directory");
        let link = fs::read_to_string(directory.join("link")).expect("a link's name");
        let target = fs::read_link(overlay.join("l").join(&link)).expect("a link");
        assert_eq!(target, Path::new("..").join(id).join("diff"));
        let lower = fs::read_to_string(directory.join("lower")).unwrap_or_default();
        let lower = lower.split(':').filter(|name| !name.is_empty()).count();
        assert_eq!(lower, number, "layers below {id}");
        let tar_split = store.join(format!("layers/overlay-layers/{id}.tar-split.gz"));
        assert!(tar_split.is_file(), "{}", tar_split.display());
    }
}
