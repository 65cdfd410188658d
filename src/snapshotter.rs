//! The agent's gRPC service: containerd's proxy snapshotter over the store.

/// containerd's API, compiled by `build.rs`; its folder says where it comes from.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/containerd.rs"));
    pub use containerd::services::content::v1 as content;
    pub use containerd::services::introspection::v1 as introspection;
    pub use containerd::services::snapshots::v1 as snapshots;
    pub use containerd::types;
}
