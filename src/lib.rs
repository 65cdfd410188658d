//! wharf: a pull-through OCI registry mirror that writes to the cluster's
//! distributed file system, fetching every blob from upstream exactly once.

pub mod fs;
pub mod oci;
pub mod store;
