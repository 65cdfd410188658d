//! `config/wharf.toml` is what it says: every key, at its default.

use std::collections::BTreeSet;

use super::error::Origin;
use super::raw::RawConfig;
use super::{Config, Overrides};

const DOCUMENTED: &str = include_str!("../../config/wharf.toml");
const SYSTEMD_UNIT: &str = include_str!("../../config/wharf.service");

fn parse(text: &str) -> Config {
    Config::parse(text, &Origin::Default, Overrides::default()).unwrap()
}

/// Returns the documented file with the examples of keys without a default switched on.
fn with_examples() -> String {
    let switch_on = |line: &'static str| {
        let example = line.strip_prefix('#').filter(|rest| {
            let starts_as_key = rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '[');
            starts_as_key && (rest.starts_with('[') || rest.contains(" = "))
        });
        example.unwrap_or(line)
    };
    DOCUMENTED.lines().map(switch_on).collect::<Vec<_>>().join("\n")
}

/// Returns the keys that a table has, as serde lists them to whoever writes an unknown one.
fn keys_of(table: &str) -> Vec<String> {
    let error = toml::from_str::<RawConfig>(&format!("{table}\nno_such_key = 0")).unwrap_err();
    let (_, listed) = error.message().split_once("expected ").unwrap();
    let names = listed.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

#[test]
fn the_documented_file_is_the_default() {
    assert_eq!(
        format!("{:?}", parse(DOCUMENTED)),
        format!("{:?}", Config::default())
    );
}

#[test]
fn the_documented_file_has_every_key_and_its_examples_are_valid() {
    let text = with_examples();
    let config = parse(&text);
    assert_eq!((config.upstreams.len(), config.access.len()), (5, 1));

    let file: toml::Table = text.parse().unwrap();
    let written = |tables: &[&toml::Value]| -> BTreeSet<String> {
        let tables = tables.iter().map(|table| table.as_table().unwrap());
        tables.flat_map(|table| table.keys().cloned()).collect()
    };
    let upstreams: Vec<_> = file["upstream"].as_table().unwrap().values().collect();
    let rules: Vec<_> = file["access"].as_array().unwrap().iter().collect();
    for (table, written) in [
        ("", file.keys().cloned().collect()),
        ("[tls]", written(&[&file["tls"]])),
        ("[log]", written(&[&file["log"]])),
        ("[upstream.x]", written(&upstreams)),
        ("[[access]]", written(&rules)),
    ] {
        let expected: BTreeSet<String> = keys_of(table).into_iter().collect();
        assert!(expected.len() > 1, "{table}: {expected:?}");
        assert_eq!(written, expected, "{table}");
    }
}

#[test]
fn systemd_waits_longer_than_requests_are_drained() {
    let seconds = SYSTEMD_UNIT
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let seconds: u64 = seconds.unwrap().parse().unwrap();
    assert!(seconds >= Config::default().drain_timeout.as_secs() + 5);
}

#[test]
fn a_rule_that_names_no_repository_is_refused_with_what_to_write() {
    let rule = |glob: &str| {
        let text = format!("[[access]]\nrepositories = [{glob:?}]\nclients = [\"10.0.0.0/8\"]");
        Config::parse(&text, &Origin::Default, Overrides::default())
    };
    for good in [
        "docker.io/acme/*",
        "docker.io/acme/app",
        "docker.io/library/*",
        "ghcr.io/app",
        "*/secret",
        "*",
        "{ghcr,quay}.io/acme/**",
        "docker.io/*",
        "registry:5000/a",
    ] {
        assert!(rule(good).is_ok(), "{good}: {:?}", rule(good));
    }
    for (bad, remedy) in [
        ("docker.io/busybox", "docker.io/library/busybox"),
        ("index.docker.io/acme/*", "docker.io/acme/*"),
        ("docker.io/Acme/*", "lower case"),
        ("https://ghcr.io/acme", "HOST/NAME"),
        ("acme", "HOST/NAME"),
        ("ghcr.io/acme/", "not one that repositories have"),
    ] {
        let error = rule(bad).unwrap_err().to_string();
        let is_told = error.contains("access[0].repositories") && error.contains(remedy);
        assert!(is_told, "{bad}: {error}");
    }
}
