//! Real parts against the real binary: Debian's `docker-registry` as upstream,
//! filled with real images, and dockerd, podman, skopeo, ctr and curl as clients.

mod agent;
mod api;
mod cold_blob;
mod command_line;
mod containerd;
mod crash;
mod dfs;
mod docker;
mod dockerfile;
mod doctor;
mod full_store;
mod held;
mod hung_store;
mod images;
mod layers;
mod local_image_store;
mod materialise;
mod mirrors;
mod podman;
mod pull;
mod setup;
mod shared_layers;
mod snapshotter;
mod unpack;
