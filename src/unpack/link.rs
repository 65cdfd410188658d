//! Hard links: the names of one file, some of which may be copies where the file system allows no more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entry::Meta;
use super::place::Dir;

/// A file of the layer that has, or is to have, several names.
pub(super) struct LinkTarget(Mutex<Names>);

/// The names of a file, and which of them further ones are linked to.
pub(super) struct Names {
    names: Vec<Name>,
    /// How many names the inode of the last of `names` has.
    pub(super) count: u32,
    /// The metadata that the last link's entry gives the file, which it has not yet.
    pub(super) meta: Option<Meta>,
}

/// One name of a file.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) dir: Arc<Dir>,
    pub(super) name: Box<[u8]>,
}

impl LinkTarget {
    /// Starts with a file's first name.
    pub(super) fn new(name: Name) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Names {
            names: vec![name],
            count: 1,
            meta: None,
        })))
    }

    /// Locks the names; whoever makes one holds the lock meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    /// Returns the name to link to.
    pub(super) fn current(&self) -> Option<&Name> {
        self.names.last()
    }

    /// Notes a link to the current name.
    pub(super) fn add(&mut self, name: Name) {
        self.names.push(name);
        self.count += 1;
    }

    /// Notes a copy, which is what further names are linked to.
    pub(super) fn add_copy(&mut self, name: Name) {
        self.names.push(name);
        self.count = 1;
    }

    /// Forgets a name that something else has taken.
    pub(super) fn remove(&mut self, dir: &Arc<Dir>, name: &[u8]) {
        self.names
            .retain(|known| !(Arc::ptr_eq(&known.dir, dir) && *known.name == *name));
    }
}
