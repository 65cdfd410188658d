//! `wharf doctor` as any user: what it says, and its exit code.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::doctor::{Diagnosis, doctor};
use crate::support::mirror::wharf;
use crate::support::process::{free_address, run};

/// Facts of a file system that keeps everything.
fn facts() -> Value {
    json!({
        "whiteouts": true, "trusted_xattrs": true, "user_xattrs": true, "capabilities": true, "acls": true,
        "devices": true, "ownership": true, "special_modes": true, "hard_link_limit": null,
        "negative_times": true, "nanosecond_times": true, "directory_rename": true, "exclusive_mkdir": true,
        "fsync": true, "writers": 4, "durability": "syncfs"
    })
}

/// Makes a store whose wharf.json has these facts.
fn store_with(facts: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let file = json!({"format": 1, "store_id": "0123456789abcdef", "file_system": facts});
    std::fs::write(dir.path().join("wharf.json"), file.to_string()).expect("write wharf.json");
    dir
}

/// Returns the facts with one changed.
fn with(key: &str, value: Value) -> Value {
    let mut facts = facts();
    facts[key] = value;
    facts
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("text")
}

#[test]
fn the_last_line_says_whether_layers_can_be_extracted() {
    let dir = store_with(&with("whiteouts", json!(false)));
    let ended = doctor(&[dir.path()]);
    assert_eq!(ended.code(), 1, "{ended:?}");
    let last = ended.stdout.lines().last().expect("a line");
    assert!(last.starts_with("not fit for layers as it is: "), "{last}");
    assert!(last.ends_with("recorded facts"), "{last}");
}

#[test]
fn the_facts_of_wharf_json_are_reported_and_left_as_they_are() {
    let dir = store_with(&with("hard_link_limit", json!(7)));
    let before = std::fs::read(dir.path().join("wharf.json")).expect("wharf.json");
    let diagnosis = Diagnosis::of_store(dir.path());
    assert_eq!(diagnosis.report["recorded"]["hard_link_limit"], 7);
    assert_eq!(
        std::fs::read(dir.path().join("wharf.json")).expect("wharf.json"),
        before
    );
}

#[test]
fn a_misspelt_fact_is_named() {
    let dir = store_with(&with("writer", json!(16)));
    let diagnosis = Diagnosis::of_store(dir.path());
    assert_eq!(
        diagnosis.check("recorded facts")["found"],
        "unknown in wharf.json: writer"
    );
}

#[test]
fn a_directory_that_others_may_write_is_a_problem() {
    let dir = store_with(&facts());
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    let diagnosis = Diagnosis::of_store(dir.path());
    diagnosis.assert_status("other users", "problem");
    assert_eq!(diagnosis.code, 1);
}

#[test]
fn replaced_files_are_looked_at_through_the_other_mount() {
    let dir = store_with(&facts());
    let [store, other] = [path(dir.path()), "--other-mount"];
    Diagnosis::of(&[store, other, store]).assert_status("replaced files", "ok");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let ended = doctor(&[store, other, path(elsewhere.path())]);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(
        ended.stderr.contains("do not show the same file system"),
        "{ended:?}"
    );
}

#[test]
fn where_there_is_nothing_to_examine_it_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    for (arguments, code, said) in [
        (vec![path(&dir.path().join("none"))], 1, "is not a directory"),
        (vec!["--node", path(dir.path())], 1, "no store at"),
        (vec![], 2, "<STORE>"),
        (
            vec![path(dir.path()), "--node", path(dir.path())],
            2,
            "cannot be used with",
        ),
        (
            vec!["--node", path(dir.path()), "--other-mount", "/"],
            2,
            "--other-mount",
        ),
    ] {
        let ended = doctor(&arguments);
        assert_eq!(ended.code(), code, "{ended:?}");
        assert!(ended.stderr.contains(said), "{said}: {ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
}

#[test]
fn a_fact_that_makes_no_sense_stops_every_command_with_one_line() {
    let dir = store_with(&with("durability", json!("sometimes")));
    let mut serve = wharf();
    serve.args(["serve", "--listen", &free_address().to_string(), "--store"]);
    serve.arg(dir.path()).arg("--index").arg(dir.path().join("index"));
    let mut outputs = vec![doctor(&[dir.path()]), doctor(&[Path::new("--node"), dir.path()])];
    outputs.push(run(serve));
    for ended in outputs {
        assert_eq!(ended.code(), 1, "{ended:?}");
        let output = format!("{}{}", ended.stdout, ended.stderr);
        let line = output.lines().last().expect("a line");
        for part in [
            "wharf.json",
            "file_system.durability",
            "sometimes",
            "remove the key",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
