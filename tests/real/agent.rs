//! Docker and Kubernetes nodes whose layers lie on the store: containerd and Docker of three Debian releases, each
//! on a node of its own (`support/node`), with the agent, a mirror, Debian's `docker-registry` as its upstream, and
//! a GlusterFS that the mirror and the nodes mount in different networks.

mod blobs;
mod cold_pull;
mod cri;
mod everyday;
mod held;
mod losses;
mod restarts;
mod setup;
