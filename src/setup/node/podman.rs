//! Podman's node: a file of its own beside the distribution's.

use super::{Filling, Order, Plan, SetupError, whole};

pub(super) fn plan(order: &Order, filling: &Filling) -> Result<Plan, SetupError> {
    let path = order.etc.join("containers/registries.conf.d/50-wharf.conf");
    let file = whole(&path, filling.registries(), order.force)?;
    Ok(Plan {
        files: vec![file],
        by_hand: Vec::new(),
        notes: vec![
            "nothing needs to be restarted but CRI-O (systemctl reload crio)".to_owned(),
            "images of other registries than these come past the mirror: add a block for each".to_owned(),
        ],
    })
}
