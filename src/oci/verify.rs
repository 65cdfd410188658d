//! The proof that some bytes have the digest they are to have.

use super::{Digest, Hasher};

/// Hashes bytes as they pass, to hold them against an expected digest at the end.
pub struct Verifier {
    expected: Digest,
    hasher: Hasher,
    seen: u64,
}

/// The proof that bytes of this digest were seen whole; only [`Verifier::finish`] makes one.
#[derive(Clone, Debug)]
pub struct Verified(Digest);

/// The bytes were not those that the digest names.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{seen} bytes have the digest {actual} and not {expected}")]
pub struct DigestMismatch {
    pub expected: Digest,
    pub actual: Digest,
    pub seen: u64,
}

impl Verifier {
    /// Starts before the first byte.
    pub fn new(expected: Digest) -> Self {
        let hasher = Hasher::new(expected.algorithm());
        Self {
            expected,
            hasher,
            seen: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.seen += bytes.len() as u64;
    }

    /// Returns how many bytes have passed.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Ends the hash.
    ///
    /// # Errors
    /// Fails if the bytes have another digest.
    pub fn finish(self) -> Result<Verified, DigestMismatch> {
        let actual = self.hasher.finish();
        if actual != self.expected {
            return Err(DigestMismatch {
                expected: self.expected,
                actual,
                seen: self.seen,
            });
        }
        Ok(Verified(actual))
    }
}

impl Verified {
    /// Checks bytes that are all there.
    ///
    /// # Errors
    /// Fails if the bytes have another digest.
    pub fn check(expected: &Digest, bytes: &[u8]) -> Result<Self, DigestMismatch> {
        let mut verifier = Verifier::new(expected.clone());
        verifier.update(bytes);
        verifier.finish()
    }

    /// Returns the digest that was proved.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}
