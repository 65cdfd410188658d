//! The vocabulary of the OCI specifications: values that cannot be built wrong.
//!
//! Pure: no file, no network, no clock. Everything that arrives from the
//! network becomes one of these types before it may name anything on the store
//! ([`crate::store`]) or upstream ([`crate::upstream`]).

pub mod accept;
pub mod chain;
pub mod config;
pub mod digest;
pub mod error_code;
pub mod image_name;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod platform;
pub mod range;
pub mod reference;
pub mod referrers;
pub mod verify;

pub use accept::Accept;
pub use chain::{ChainId, ChainLink, DiffId, LayerId};
pub use config::ImageConfig;
pub use digest::{Algorithm, Digest, Hasher};
pub use error_code::ErrorCode;
pub use manifest::Manifest;
pub use name::{RegistryHost, Repository, RepositoryName};
pub use platform::Platform;
pub use range::{ByteRange, RangeOutcome};
pub use reference::{Reference, Tag};
pub use verify::{DigestMismatch, Verified, Verifier};
