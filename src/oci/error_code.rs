//! The error codes of the distribution spec (`spec.md`, "Error Codes").

/// A code of the distribution spec's error bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    TooManyRequests,
    Unauthorized,
    /// Not in the spec's table of codes but in every registry's: the service cannot answer now.
    Unavailable,
    /// As [`ErrorCode::Unavailable`]: an asked page or range cannot be had.
    RangeInvalid,
    Unsupported,
}

impl ErrorCode {
    /// Returns the code as the spec writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}
