//! The node's process: wires the snapshotter, serves it on a unix socket, and ends in order.

pub mod mirrors;
