//! Claims over a file system in memory that lags, hangs, stops nodes, kills them and wakes them up late.
//!
//! The code of [`claim`](super::claim) and [`beats`](super::beats) runs as it is, on tokio's paused clock and one thread, so a
//! seed tells all that happens. After each run, and at each step of it, what must always hold is checked.

mod disk;
mod scenario;

use super::rule::Rule;
use scenario::{Faults, run};

/// As many runs as a test does by default; `WHARF_SEEDS=FROM..TO` says which ones.
const SEEDS: u64 = 300;

/// As many with `WHARF_LONG`.
const LONG_SEEDS: u64 = 5000;

/// As many seeds as it may take at most to notice that a rule is broken.
const TO_NOTICE: u64 = 5000;

fn seeds(default: u64) -> std::ops::Range<u64> {
    let parse = |text: String| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    std::env::var("WHARF_SEEDS")
        .ok()
        .and_then(parse)
        .unwrap_or(0..default)
}

/// `WHARF_SEEDS=N..M` with `WHARF_TRACE=1` shows every call.
fn trace() {
    if std::env::var_os("WHARF_TRACE").is_some() {
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        let _ = subscriber.without_time().with_writer(std::io::stderr).try_init();
    }
}

/// Runs all seeds; panics with the first that breaks something.
fn hold(faults: Faults) {
    trace();
    let default = match std::env::var_os("WHARF_LONG") {
        Some(_) => LONG_SEEDS,
        None => SEEDS,
    };
    for seed in seeds(default) {
        if let Err(broken) = run(seed, faults, None) {
            panic!("seed {seed}: {broken} (WHARF_SEEDS={seed}..{})", seed + 1);
        }
    }
}

/// Asserts that one of the seeds shows that a rule is not kept.
fn caught(rule: Rule, faults: Faults) {
    let noticed = seeds(TO_NOTICE).find_map(|seed| Some((seed, run(seed, faults, Some(rule)).err()?)));
    let Some((seed, broken)) = noticed else {
        panic!("{rule:?} was not noticed");
    };
    println!("{rule:?} was noticed by seed {seed}: {broken}");
}

#[test]
fn without_faults_each_blob_is_fetched_once() {
    hold(Faults::None);
}

#[test]
fn with_every_fault_nothing_wrong_is_published_and_nobody_waits_for_ever() {
    hold(Faults::All);
}

#[test]
fn not_looking_again_after_mkdir_is_noticed() {
    caught(Rule::SecondLook, Faults::All);
}

#[test]
fn writing_on_in_the_file_of_another_owner_is_noticed() {
    caught(Rule::OwnInode, Faults::All);
}

#[test]
fn removing_lower_generations_early_is_noticed() {
    caught(Rule::LowerStay, Faults::All);
}

#[test]
fn counting_blocked_time_as_silence_is_noticed() {
    caught(Rule::BlockedIsNotSilent, Faults::All);
}
