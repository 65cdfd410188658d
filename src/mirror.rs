//! The pull-through core: the only module that knows store and upstream together.
//!
//! So far it holds how a stored blob is read for a client ([`body`]).

pub mod body;
