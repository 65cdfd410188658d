//! The Dockerfile's final stage, replayed with the binary that was built: no base
//! image can be pulled where the tests run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::curl::{Curl, MANIFEST_TYPES};
use crate::support::mirror::{WHARF, wait_ready};
use crate::support::process::{Service, bound_command, free_address};
use crate::support::registry::Registry;
use crate::support::sha256;

/// One instruction: its name and the rest of its line.
type Instruction = (String, String);

/// Returns the instructions of the final stage, its FROM first, with continued lines joined.
fn final_stage() -> Vec<Instruction> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(char::is_whitespace)?;
        Some((name.to_ascii_uppercase(), rest.trim().to_owned()))
    });
    let all: Vec<Instruction> = instructions.collect();
    let stages: Vec<usize> = (0..all.len()).filter(|&index| all[index].0 == "FROM").collect();
    assert!(stages.len() >= 2, "two stages: {all:?}");
    all[stages[stages.len() - 1]..].to_vec()
}

fn only<'a>(stage: &'a [Instruction], name: &str) -> &'a str {
    let mut found = stage.iter().filter(|(instruction, _)| instruction == name);
    let (_, rest) = found.next().unwrap_or_else(|| panic!("no {name} in {stage:?}"));
    assert!(found.next().is_none(), "one {name} in {stage:?}");
    rest
}

#[test]
fn the_final_stage_serves_blobs_as_the_user_that_it_names() {
    let stage = final_stage();
    let user = only(&stage, "USER");
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    let (uid, gid): (u32, u32) = (uid.parse().expect("a number"), gid.parse().expect("a number"));
    assert_eq!((uid, gid), (65532, 65532), "a user that is not root, by number");

    let exec_form = |name: &str| -> Vec<String> {
        serde_json::from_str(only(&stage, name)).unwrap_or_else(|e| panic!("the exec form of {name}: {e}"))
    };
    let entrypoint = exec_form("ENTRYPOINT");
    let program = PathBuf::from(&entrypoint[0]);
    let copied = stage.iter().filter(|(name, _)| name == "COPY").any(|(_, rest)| {
        let words: Vec<&str> = rest
            .split_whitespace()
            .filter(|word| !word.starts_with("--"))
            .collect();
        let [source, target] = words[..] else { return false };
        let whole = if target.ends_with('/') {
            format!("{target}wharf")
        } else {
            target.to_owned()
        };
        source.ends_with("/release/wharf") && Path::new(&whole) == program
    });
    assert!(copied, "the binary is copied to {}: {stage:?}", program.display());
    let arguments = [&entrypoint[1..], &exec_form("CMD")].concat();
    let owned = format!("--chown={uid}:{gid} {STATE} {STATE}");
    assert!(
        stage
            .iter()
            .any(|(name, rest)| name == "COPY" && rest.ends_with(&owned)),
        "{STATE} is the user's: {stage:?}"
    );
    serves_a_blob_as(uid, gid, &arguments);
}

/// Where the image keeps its store and index.
const STATE: &str = "/var/lib/wharf";

/// Runs the binary as that user, with the image's arguments on a directory that it owns, and gets a blob from it.
fn serves_a_blob_as(uid: u32, gid: u32, arguments: &[String]) {
    let registry = Registry::filled();
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("open a directory");
    // The target directory may be below a home that the user cannot enter.
    let program = root.join("wharf");
    fs::copy(WHARF, &program).expect("copy the binary");
    fs::create_dir(root.join("own")).expect("make a directory");
    chown(root.join("own"), Some(uid), Some(gid)).expect("give a directory away");

    let address = free_address();
    let mut command = bound_command("setpriv");
    command.args([
        "--reuid",
        &uid.to_string(),
        "--regid",
        &gid.to_string(),
        "--clear-groups",
    ]);
    // Again, since a change of user clears it.
    command.args([
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
        "--pdeathsig",
        "KILL",
        "--",
    ]);
    let own = root.join("own");
    command.arg(&program).args(
        arguments
            .iter()
            .map(|argument| argument.replace(STATE, &own.to_string_lossy())),
    );
    command.args(["--listen", &address.to_string()]);
    command
        .arg("--upstream")
        .arg(format!("http://{}", registry.address()));
    command.current_dir(&own);
    let mut service = Service::start("wharf", root, command);
    wait_ready(&mut service, address);

    let get = |path: &str| {
        Curl::new(&format!("http://{address}/v2/{path}"))
            .accept(MANIFEST_TYPES)
            .send()
    };
    assert_eq!(get("library/layers/manifests/latest").status, 200);
    for blob in registry.blobs("library/layers", "latest") {
        assert_eq!(sha256(&get(&format!("library/layers/blobs/{blob}")).body), blob);
    }
    registry.assert_fetched_once(&registry.blobs("library/layers", "latest"));
    service.signal(rustix::process::Signal::TERM);
    assert_eq!(service.wait(Duration::from_secs(20)).code(), Some(0));
}
