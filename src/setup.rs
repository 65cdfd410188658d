//! `wharf setup`: makes a node's runtime read layers from the store, by the files under `config/`.
//!
//! What a file needs is written down once, in `config/`; here it is merged into what the node has. Everything that
//! was there stays, and what contradicts it is refused before anything is written, unless it is forced. Merging
//! what was merged changes nothing. Services are restarted by who runs this, not by it.
//!
//! `template` fills in this node's paths, `toml` and `json` merge, `node` says which files a runtime needs, and
//! `file` writes one.

mod empty_file;
mod error;
mod file;
mod installed;
mod json;
mod node;
mod template;
mod toml;

use std::path::PathBuf;

use url::Url;

pub use empty_file::EmptyFile;
pub use error::SetupError;
pub use file::FileChange;
pub use installed::{Installed, Version};
pub use node::names_image_store;

/// What runs a node's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// Docker on containerd: layers come from `wharf agent`
    Docker,
    /// containerd with Kubernetes (CRI): layers come from `wharf agent`
    #[value(alias = "kubernetes")]
    Containerd,
    /// Podman, Buildah, skopeo: images come through the mirror, and layers from the store
    Podman,
    /// Kubernetes with CRI-O: the same
    #[value(name = "crio", alias = "cri-o")]
    Crio,
}

/// Which lists of layers a node's containers/storage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ImageStore {
    /// Those on the store: for file systems that keep files and locks in step, such as NFS and CephFS
    Shared,
    /// Lists on this node, which `wharf agent --podman` keeps: for every file system
    Local,
}

/// What to set up, and where everything is.
#[derive(Clone, Debug)]
pub struct Order {
    pub runtime: Runtime,
    /// The mirrors, the preferred one first; without logins.
    pub mirrors: Vec<Url>,
    /// The store on this node.
    pub store: PathBuf,
    /// The agent's own directory.
    pub root: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The node's own image store for Podman and CRI-O.
    pub podman: PathBuf,
    /// Which image store they read; found out if it is not given.
    pub image_store: Option<ImageStore>,
    /// The `wharf` that is to run as the agent.
    pub program: PathBuf,
    /// The directory of configurations, `/etc` or where another node's is; outside that one nothing is written.
    pub etc: PathBuf,
    /// The version of containerd's configuration, for a new file; found out if it is not given.
    pub config_version: Option<u32>,
    /// Whether a setting that contradicts is replaced instead of refused.
    pub force: bool,
}

/// What has to be changed on a node; nothing has been yet.
#[derive(Debug)]
pub struct Plan {
    /// Every file that the runtime needs, also those that are right already.
    pub files: Vec<FileChange>,
    /// Empty files that it needs besides.
    pub empty_files: Vec<EmptyFile>,
    /// Files outside the directory of configurations, which are the operator's to write.
    pub by_hand: Vec<FileChange>,
    /// The same, of empty files.
    pub empty_by_hand: Vec<EmptyFile>,
    /// What harms the node, or others, until the operator mends it; also where nothing is to change.
    pub warnings: Vec<String>,
    /// What the operator must know, and do.
    pub notes: Vec<String>,
}

impl Plan {
    /// Compares what the node has with what it needs.
    ///
    /// # Errors
    /// Fails, with the file, the setting and the remedy, if something is there that cannot be merged, and with the
    /// reason if the runtime that is installed cannot read layers from a store.
    pub fn make(order: &Order, installed: &Installed) -> Result<Self, SetupError> {
        node::plan(order, installed)
    }

    fn of(files: Vec<FileChange>, notes: Vec<String>) -> Self {
        Self {
            files,
            empty_files: Vec::new(),
            by_hand: Vec::new(),
            empty_by_hand: Vec::new(),
            warnings: Vec::new(),
            notes,
        }
    }

    /// Tells whether the node has all it needs.
    pub fn is_done(&self) -> bool {
        let mut files = self.files.iter().chain(&self.by_hand);
        let mut empty_files = self.empty_files.iter().chain(&self.empty_by_hand);
        !files.any(FileChange::is_change) && !empty_files.any(EmptyFile::is_change)
    }

    /// Returns the changes as a unified diff, which is empty if the node has all it needs.
    pub fn diff(&self) -> String {
        let files = self.files.iter().map(FileChange::diff);
        files
            .chain(self.empty_files.iter().map(EmptyFile::diff))
            .collect()
    }

    /// Writes each file that changes, whole or not at all, and keeps what was there before in `<file>.wharf-backup`.
    ///
    /// The empty files come first: they make the image store, and a runtime that is told of one that cannot be made
    /// fails on every command.
    ///
    /// # Errors
    /// Any errno, with the path. Files before it are written.
    pub fn write(&self) -> Result<(), SetupError> {
        self.empty_files.iter().try_for_each(EmptyFile::write)?;
        self.files.iter().try_for_each(FileChange::write)
    }
}

#[cfg(test)]
mod tests;
