//! The rules of claims that a test breaks one by one, to see that it notices.

/// A rule without which claims would seem to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Who has won a claim looks once more whether the work is done.
    SecondLook,
    /// Each owner writes files of its own.
    OwnInode,
    /// Lower generations stay until the work is done or has failed.
    LowerStay,
    /// The time in which one was blocked says nothing of others.
    BlockedIsNotSilent,
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Has a rule broken in this thread, or none.
#[cfg(test)]
pub(crate) fn break_rule(rule: Option<Rule>) {
    BROKEN.set(rule);
}

/// Tells whether a rule is kept: always, but in a test of that.
#[inline]
pub(crate) fn is_kept(rule: Rule) -> bool {
    #[cfg(test)]
    return BROKEN.get() != Some(rule);
    #[cfg(not(test))]
    {
        let _ = rule;
        true
    }
}
