use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::fs::Durability;

fn capable() -> Abilities {
    Abilities {
        whiteouts: true,
        directory_rename: true,
        hard_link_limit: Some(47),
        ..Abilities::default()
    }
}

/// A store's directory, and what is in its wharf.json.
fn store_with(text: &str) -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    std::fs::write(layout.format_file(), text).unwrap();
    (dir, layout)
}

fn content(layout: &Layout) -> Value {
    serde_json::from_slice(&std::fs::read(layout.format_file()).unwrap()).unwrap()
}

#[test]
fn a_store_is_its_owners_alone_unless_somebody_made_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mode_of = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let made = dir.path().join("new/store");
    make_root(&Layout::new(&made)).unwrap();
    assert_eq!(mode_of(&made), 0o700);
    let given = dir.path().join("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o711)).unwrap();
    make_root(&Layout::new(&given)).unwrap();
    assert_eq!(mode_of(&given), 0o711);
}

#[test]
fn what_was_probed_once_is_not_probed_again() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let first = open_or_make(&layout, || Some(capable())).unwrap();
    assert_eq!(first, Some(capable()));
    let again = open_or_make(&layout, || panic!("probed again")).unwrap();
    assert_eq!(again, Some(capable()));
}

#[test]
fn a_store_that_an_unprivileged_process_made_gets_its_facts_later() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    assert_eq!(open_or_make(&layout, || None).unwrap(), None);
    let id = content(&layout)["store_id"].clone();
    assert_eq!(
        open_or_make(&layout, || Some(capable())).unwrap(),
        Some(capable())
    );
    assert_eq!(content(&layout)["store_id"], id);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "a file beside it"
    );
}

#[test]
fn every_fact_that_an_operator_changes_is_believed() {
    for (key, value) in facts_of(&capable()) {
        let other = match (&key[..], &value) {
            (_, Value::Bool(is_set)) => Value::Bool(!is_set),
            ("durability", _) => Value::from("syncfs"),
            _ => Value::from(9),
        };
        let text =
            serde_json::json!({"format": 1, "store_id": "x", "file_system": {&key: &other}, "more": [1]});
        let (_dir, layout) = store_with(&text.to_string());
        let found = open_or_make(&layout, || Some(capable())).unwrap().unwrap();
        let mut expected = facts_of(&capable());
        expected.insert(key.clone(), other);
        assert_eq!(facts_of(&found), expected, "{key}");
        assert_eq!(content(&layout)["file_system"], Value::Object(expected), "{key}");
        assert_eq!(content(&layout)["more"], serde_json::json!([1]));
    }
}

#[test]
fn a_value_that_makes_no_sense_names_file_key_and_remedy() {
    for (key, value, why) in [
        ("whiteouts", "\"yes\"", "expected a boolean"),
        ("writers", "0", "0 is not between 1 and 256"),
        ("hard_link_limit", "0", "a file has at least 1 name"),
        ("durability", "\"never\"", "unknown variant"),
    ] {
        let (_dir, layout) = store_with(&format!(
            "{{\"format\":1,\"store_id\":\"x\",\"file_system\":{{\"{key}\":{value}}}}}"
        ));
        let error = open_or_make(&layout, || panic!("probed"))
            .unwrap_err()
            .to_string();
        let file = layout.format_file();
        assert!(
            error.starts_with(&format!("{}: file_system.{key}: ", file.display())),
            "{error}"
        );
        assert!(
            error.contains(why) && error.ends_with("probes the file system again"),
            "{error}"
        );
    }
}

#[test]
fn mirrors_that_start_together_end_with_one_whole_file() {
    for text in [None, Some("{\"format\":1,\"store_id\":\"old\"}")] {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        if let Some(text) = text {
            std::fs::write(layout.format_file(), text).unwrap();
        }
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (layout, barrier) = (&layout, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let found = open_or_make(layout, || (number % 4 != 0).then(capable)).unwrap();
                    assert!(found.is_none() || found == Some(capable()));
                });
            }
        });
        let whole = FormatFile::read(&layout).unwrap().unwrap();
        assert_eq!(whole.abilities(&layout.format_file()).unwrap(), Some(capable()));
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "a file beside it"
        );
        assert_eq!(capable().durability, Durability::Fsync);
    }
}
