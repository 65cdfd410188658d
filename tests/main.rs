//! The tests of the binary: one test program, so that it is linked once.
//!
//! [`real`] drives real registries, daemons and clients, needs root and the Debian packages
//! that `tests/run` installs. [`scripted`] needs neither: an upstream that misbehaves on
//! demand. [`docs`] holds README.md to its word. What is missing fails a test; nothing is skipped.

mod support;

mod docs;
mod real;
mod scripted;
