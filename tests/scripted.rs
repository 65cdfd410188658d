//! The binary against an upstream that lies, stalls and breaks (`support::upstream`).
