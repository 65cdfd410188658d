//! wharf: a pull-through OCI registry mirror that writes to the cluster's
//! distributed file system, fetching every blob from upstream exactly once.
//!
//! The modules in reading order: [`oci`] (the vocabulary), [`fs`], [`store`], [`index`],
//! [`upstream`], [`flight`], [`mirror`] (the core, which joins them), [`http`] (its edge),
//! [`server`] and [`pull`] (which wire them all), [`doctor`], [`config`], [`cli`], [`telemetry`].

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod flight;
pub mod fs;
pub mod http;
pub mod index;
pub mod inventory;
pub mod local_image_store;
pub mod mirror;
pub mod oci;
pub mod pull;
pub mod server;
pub mod setup;
pub mod snapshotter;
pub mod store;
pub mod telemetry;
mod trust;
pub mod unpack;
pub mod upstream;
