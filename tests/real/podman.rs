//! Podman, Buildah and skopeo through the mirror.
//!
//! [`plain`] has clients that know nothing of the store and pull the blobs. All others are nodes (`support/node`) of
//! Podman 4.3 and 5.8 that read the layers of the store, which they have mounted read-only: on ext4 as it is, and on
//! GlusterFS and MooseFS, mounted in another network than the mirror's, through the directory that `wharf agent
//! --podman` keeps. A test asks the mirror's access log whether a node has fetched a layer.

mod crashes;
mod everyday;
mod file_systems;
mod handmade;
mod many;
mod plain;
mod pulls;
mod store;
mod tar_split;
mod users;
