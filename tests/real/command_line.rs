//! What `wharf serve` says to a wrong configuration: one line, and an exit code that is not 0.

use std::net::TcpListener;
use std::path::Path;

use crate::support::mirror::wharf;
use crate::support::process::{free_address, run};

/// Runs `wharf serve` with a configuration that cannot work; returns the one line that it prints.
fn refused(directory: &Path, config: &str, arguments: &[&str]) -> String {
    let path = directory.join("wharf.toml");
    std::fs::write(&path, config).expect("write a configuration");
    let mut command = wharf();
    command
        .current_dir(directory)
        .arg("serve")
        .arg("--config")
        .arg(path)
        .args(arguments);
    let ended = run(command);
    let output = format!("{}{}", ended.stdout, ended.stderr);
    assert_ne!(ended.code(), 0, "{config}\n{output}");
    // A log line may come before, when logs are set up already; the error is the last line.
    let lines: Vec<&str> = output.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert_eq!(lines.len(), 1, "{config}\n{output}");
    assert!(!output.contains("panicked"), "{output}");
    lines[0].to_owned()
}

#[test]
fn a_wrong_configuration_is_refused_by_one_line_that_names_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let table = [
        ("lsiten = \"127.0.0.1:5000\"", &[][..], "lsiten"),
        ("tag_ttl = \"soon\"", &[], "tag_ttl"),
        ("listen = \"nowhere\"", &[], "listen"),
        (
            "[upstream.\"docker.io\"]\nendpoints = [\"ftp://a\"]",
            &[],
            "endpoints",
        ),
        ("", &["--tag-ttl", "soon"], "tag-ttl"),
    ];
    for (config, arguments, named) in table {
        let line = refused(directory.path(), config, arguments);
        let found = line.contains(named) || line.contains(&named.replace('-', "_"));
        assert!(found, "{named} in {line}");
    }
}

#[test]
fn a_taken_port_is_refused_by_one_line_that_names_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("an address").to_string();
    let line = refused(directory.path(), "store = \"store\"", &["--listen", &address]);
    assert!(line.contains(&address), "{line}");
}

#[test]
fn a_store_that_is_a_file_is_refused_by_one_line_that_names_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = directory.path().join("store");
    std::fs::write(&store, "not a directory").expect("write a file");
    let listen = free_address().to_string();
    let store = store.to_str().expect("text");
    let line = refused(directory.path(), "", &["--store", store, "--listen", &listen]);
    assert!(line.contains(store), "{line}");
}
