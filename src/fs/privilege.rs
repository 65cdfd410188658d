//! What a process must be allowed to do before it can extract layers.

use rustix::thread::{CapabilitySet, capabilities};

/// The capabilities that making any file of any layer takes.
const NEEDED: [(CapabilitySet, &str); 7] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::MKNOD, "CAP_MKNOD"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::SETFCAP, "CAP_SETFCAP"),
    (CapabilitySet::FSETID, "CAP_FSETID"),
];

/// Returns what this process lacks for extracting layers; nothing for root on the host.
pub fn missing_privileges() -> Vec<&'static str> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let mut missing: Vec<&'static str> = NEEDED
        .iter()
        .filter(|(capability, _)| !effective.contains(*capability))
        .map(|(_, name)| *name)
        .collect();
    if !is_initial_user_namespace() {
        // All capabilities of another one give no device and no trusted.* attribute.
        missing.push("the host's user namespace");
    }
    missing
}

/// Tells whether all ids are the host's own; without /proc, as before user namespaces, they are.
fn is_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .map_or(true, |map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}
