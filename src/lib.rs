//! wharf: a pull-through OCI registry mirror that writes to the cluster's
//! distributed file system, fetching every blob from upstream exactly once.

pub mod cli;
pub mod config;
pub mod flight;
pub mod fs;
pub mod mirror;
pub mod oci;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
