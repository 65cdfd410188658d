//! The agent's gRPC service: a proxy snapshotter for containerd, whose layers lie on the store.
//!
//! | file | what it does |
//! |---|---|
//! | `service` | the gRPC calls, from and to containerd's types |
//! | `snapshots` | the calls themselves: what each of them does to records, directories and the node's references |
//! | `shared` | Prepare for a layer that is on the store, or that a mirror can bring there |
//! | `mounts` | a snapshot's mounts, and that every layer below it is there |
//! | `layers` | the store as a node sees it: read-only, slow, gone at times |
//! | `records`, `record` | what containerd has been told: in memory, in sled, and beside each local snapshot |
//! | `recovery` | makes records of layers of the store again when all were lost |
//! | `local` | the directories of local snapshots, and the short links to all layers |
//! | `name`, `label`, `filter` | names, labels and filters, in containerd's words |
//! | `blobs`, `content` | links the store's blobs into containerd's content store |
//! | `error` | why a call fails, and its status |
//!
//! A layer of the store is a committed snapshot whose name is its ChainID (`name`): no directory of this node
//! belongs to it, and its record can be made again from the store alone. Every other snapshot is local. containerd
//! waits for an answer with its own locks held, so every call is bounded, and Commit, List and Remove never touch the
//! store; Stat, Usage and Update do so alone to make a lost record again.
//!
//! Leaves to others: mirrors ([`crate::agent::mirrors`]), and the wiring ([`crate::agent`]).
//!
//! Sources: containerd's `snapshots.proto` and `core/snapshots`.

mod blobs;
mod content;
mod error;
mod filter;
mod label;
mod layers;
mod local;
mod mounts;
mod name;
mod record;
mod records;
mod recovery;
mod service;
mod shared;
mod snapshots;

/// containerd's API, compiled by `build.rs`; its folder says where it comes from.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/containerd.rs"));
    pub use containerd::services::content::v1 as content;
    pub use containerd::services::introspection::v1 as introspection;
    pub use containerd::services::snapshots::v1 as snapshots;
    pub use containerd::types;
}

pub use content::ContentStore;
pub use error::SnapshotError;
pub use layers::StoreLayers;
pub use records::OpenRecordsError;
pub use service::Service;
pub use snapshots::{Bounds, Parts, Snapshots};
