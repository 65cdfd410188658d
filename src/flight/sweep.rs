//! Clears what mirrors have left that are gone for good: pods with host names of their own, machines that never come back.
//!
//! What a process of this host left is cleared at the next start here. Of others nobody can tell that but by their silence:
//! who has not beaten in many sweeps in a row, each of which could list, is taken for gone. If it wakes up after all, it
//! makes its directories again, and what it had staged is fetched anew.

use std::collections::BTreeMap;

use super::beats::last_beat;
use super::claim::{Claims, Places, owners};
use crate::fs::{Calls, FsError, random_name};

/// How many sweeps a mirror must have been silent for. An idle one beats every thirty seconds.
const SILENT_SWEEPS: u32 = 7;

/// What earlier sweeps have seen.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Of each mirror its last beat, and for how many sweeps it has been that.
    mirrors: BTreeMap<String, (Option<String>, u32)>,
    /// The claims whose owner was not there, by their names and generations.
    ownerless: Vec<(String, String)>,
}

impl Sweep {
    /// Looks at all mirrors and claims once, and removes what has been abandoned for long. To be called every few minutes.
    ///
    /// # Errors
    /// Any errno; the next call goes on.
    pub async fn run<C: Calls>(&mut self, claims: &Claims<C>) -> Result<(), FsError> {
        let (calls, places) = claims.parts();
        let present = calls.list(&places.mirrors).await?;
        self.mirrors.retain(|owner, _| present.contains(owner));
        for owner in present.iter().filter(|owner| **owner != places.owner) {
            let beat = last_beat(&calls.list(&places.mirrors.join(owner)).await?);
            let (last, silent) = self.mirrors.entry(owner.clone()).or_default();
            *silent = if *last == beat { *silent + 1 } else { 0 };
            *last = beat;
            if *silent >= SILENT_SWEEPS {
                tracing::info!(owner, "a mirror of the store is gone; what it left is removed");
                calls.remove_tree(&places.work.join(owner)).await?;
                calls.remove_tree(&places.mirrors.join(owner)).await?;
            }
        }
        self.clear_claims(calls, places, &present).await
    }

    /// Removes the claims of owners that do not show themselves, if the last sweep found the same.
    async fn clear_claims<C: Calls>(
        &mut self,
        calls: &C,
        places: &Places,
        present: &[String],
    ) -> Result<(), FsError> {
        let before = std::mem::take(&mut self.ownerless);
        for key in calls.list(&places.claims).await? {
            let dir = places.claims.join(&key);
            let Some(top) = calls.list(&dir).await?.into_iter().max() else {
                continue;
            };
            let owners = owners(&calls.list(&dir.join(&top)).await?);
            if owners.iter().any(|owner| present.contains(owner)) {
                continue;
            }
            let claim = (key, top);
            if before.contains(&claim) {
                let away = places.work.join(&places.owner).join(random_name());
                match calls.rename(&dir, &away).await {
                    Err(error) if error.is_missing() => {}
                    renamed => {
                        renamed?;
                        calls.remove_tree(&away).await?;
                    }
                }
            } else {
                self.ownerless.push(claim);
            }
        }
        Ok(())
    }
}
