//! What the client does on real sockets, one file a behaviour.

mod bodies;
mod failover;
mod hosts;
mod listings;
mod manifests;
mod redirects;
mod server;
mod tls;
mod tokens;
