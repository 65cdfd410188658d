//! Which mirrors use the store, as they show themselves to each other ([`crate::flight`]).

use std::collections::HashMap;
use std::time::SystemTime;

use crate::fs::{self, FsError};

use super::Store;
use super::owner::{self, Owner};

/// A mirror that shows itself, whether it still lives or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMirror {
    /// Its id: random, another one after each start.
    pub id: String,
    pub host_name: String,
    /// Its number among the processes of its host.
    pub process: u32,
    /// The version of wharf that it runs.
    pub version: String,
    /// When it showed itself first, by the clock of the file system.
    pub started_at: SystemTime,
    /// When it gave a sign last, by the same clock: every two seconds if it does something, else every thirty.
    pub seen_at: SystemTime,
    /// What it fetches and extracts.
    pub fills: usize,
    pub extractions: usize,
}

impl Store {
    /// Returns the id by which others know this process; `None` if the store is only read.
    pub fn mirror_id(&self) -> Option<String> {
        let places = self.places().ok()?;
        Owner::from_name(&places.owner).map(|owner| owner.id().to_owned())
    }

    /// Returns the mirrors that show themselves, in the order of their names.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    pub fn mirrors(&self) -> Result<Vec<SeenMirror>, FsError> {
        let claims = self.claims()?;
        let mut names = fs::list(&self.layout().mirrors())?;
        names.sort();
        let mut mirrors = Vec::new();
        for name in names {
            let Some(owner) = Owner::from_name(&name) else {
                continue;
            };
            let dir = self.layout().mirrors().join(&name);
            let signs = fs::list(&dir)?;
            let version = signs.iter().find_map(|sign| sign.strip_prefix("version@"));
            let mut dates = Vec::new();
            for sign in &signs {
                // A beat may be gone by now.
                dates.extend(fs::modified_at(&dir.join(sign))?);
            }
            let (Some(version), Some(first), Some(last)) = (version, dates.iter().min(), dates.iter().max())
            else {
                continue;
            };
            let (fills, extractions) = claims.get(&name).copied().unwrap_or_default();
            mirrors.push(SeenMirror {
                id: owner.id().to_owned(),
                host_name: owner.host_name().to_owned(),
                process: owner.process(),
                version: version.to_owned(),
                started_at: *first,
                seen_at: *last,
                fills,
                extractions,
            });
        }
        Ok(mirrors)
    }

    /// Counts what each owner claims: fills, and extractions.
    fn claims(&self) -> Result<HashMap<String, (usize, usize)>, FsError> {
        let mut owned: HashMap<String, (usize, usize)> = HashMap::new();
        for (key, owners) in owner::claims(self.layout())? {
            for owner in owners {
                let (fills, extractions) = owned.entry(owner).or_default();
                *(if key.starts_with("layer-") {
                    extractions
                } else {
                    fills
                }) += 1;
            }
        }
        Ok(owned)
    }
}
