use super::*;

fn report(found: Option<Abilities>, recorded: Option<Abilities>) -> Report {
    let mount = Mount::of(Path::new("/")).unwrap();
    let mut report = Report::new(Path::new("/"), &mount);
    (report.found, report.recorded) = (found, recorded);
    report
}

fn whole() -> Abilities {
    Abilities {
        whiteouts: true,
        directory_rename: true,
        ..Abilities::default()
    }
}

#[test]
fn facts_that_differ_from_the_recorded_ones_are_named() {
    assert_eq!(compare(&report(Some(whole()), Some(whole()))), []);
    assert_eq!(compare(&report(Some(whole()), None)), []);
    let cautious = Abilities {
        whiteouts: true,
        hard_link_limit: None,
        directory_rename: true,
        ..Abilities::default()
    };
    let hopeful = Abilities {
        acls: true,
        ..cautious.clone()
    };
    for (recorded, status, text) in [
        (cautious, Status::Warning, "hard_link_limit: null there, 1 now"),
        (
            hopeful,
            Status::Problem,
            "acls: true there, false now; hard_link_limit: null there, 1 now",
        ),
    ] {
        let checks = compare(&report(Some(whole()), Some(recorded)));
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].found, format!("wharf.json differs: {text}"));
        assert_eq!(checks[0].status, status);
    }
}

#[test]
fn recorded_facts_that_forbid_layers_are_a_problem() {
    let recorded = Abilities {
        whiteouts: false,
        ..whole()
    };
    let mut report = report(Some(whole()), Some(recorded));
    report.checks = compare(&report);
    assert_eq!(report.checks[0].status, Status::Problem);
    assert!(!report.is_sound());
    let text = report.to_string();
    assert_eq!(
        text.lines().last(),
        Some("not fit for layers as it is: recorded facts")
    );
}

#[test]
fn what_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = examine_store(&dir.path().join("none"), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("none is not a directory"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_no_store_does_not_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let report = examine_store(dir.path(), None).unwrap();
    assert_eq!(report.recorded, None);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
