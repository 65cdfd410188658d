//! A mirror that is killed between any two steps of publishing: strace kills it at an exact system call.

use std::path::Path;
use std::time::Duration;

use super::store::assert_listed;
use crate::support::cluster::{Cluster, PULL};
use crate::support::dfs::Kind;
use crate::support::mirror::Options;
use crate::support::node_images::add_layered;
use crate::support::process::{Service, bound_command, wait_until};
use crate::support::suite::Suite;
use crate::support::upstream::Upstream;

/// The calls that change what a store's names are, or make it durable.
const CALLS: &str = "mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,fsync,fdatasync";
/// How many of them one thread of a mirror makes for a layer, at most: 40 are far more.
const MOST: usize = 40;
const ATTACHED: Duration = Duration::from_secs(20);

/// Traces a mirror, and kills it when a thread of it begins its `number`th call.
fn kill_at_call(mirror: u32, number: usize, logs: &Path) -> Service {
    let mut command = bound_command("strace");
    command.args([
        "--follow-forks",
        "--quiet=exit,path-resolution",
        "--output=/dev/null",
    ]);
    command.arg(format!("--trace={CALLS}"));
    command.arg(format!("--inject={CALLS}:signal=KILL:when={number}"));
    command.arg(format!("--attach={mirror}"));
    let mut strace = Service::start("strace", logs, command);
    // It says so when it has all threads; the mirror may have made the call by then.
    let log = logs.join("strace.err");
    strace.wait_ready(ATTACHED, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.contains(" attached").then_some(())
    });
    strace
}

/// Which calls to kill a mirror at: with WHARF_LONG all, and else fewer the later they are.
fn calls() -> impl Iterator<Item = usize> {
    let is_long = std::env::var_os("WHARF_LONG").is_some();
    (1..MOST).filter(move |number| is_long || *number <= 6 || number % 4 == 0)
}

#[test]
fn a_mirror_killed_between_any_two_steps_of_publishing_harms_no_reader_and_is_repaired() {
    let upstream = Upstream::start();
    add_layered(&upstream, "here", 2);
    let mut cluster = Cluster::start_on(Kind::Ext4, Options::new(upstream.address()));
    let node = cluster.podman_node(Suite::Forky);
    let other = cluster.podman_node(Suite::Host);
    assert_eq!(other.podman_run("here", "cat /name"), "here");
    let mut kills = 0;
    for number in calls() {
        let name = format!("image-{number}");
        let image = add_layered(&upstream, &name, 2);
        let logs = tempfile::tempdir().expect("a directory");
        let strace = kill_at_call(cluster.mirror.id(), number, logs.path());
        let mut pull = node.start_podman_command("pull", &["pull", "--retry=0", &name]);
        // Without its mirror a node asks the registry, which is not to be reached.
        wait_until("the mirror to be killed, or the pull to end", PULL, || {
            (pull.status().is_some() || cluster.mirror.has_ended()).then_some(())
        });
        drop(strace);
        let killed = cluster.mirror.has_ended();
        pull.wait(PULL);
        println!("call {number}: {}", if killed { "killed" } else { "not reached" });

        let here = other.podman_run_with(&["--pull=never"], "here", "cat /name");
        assert_eq!(here, "here", "call {number}");
        if killed {
            kills += 1;
            cluster.mirror.start_again();
        }
        for node in [&node, &other] {
            assert_eq!(node.podman_run(&name, "cat /name"), name, "call {number}");
            node.podman(&["save", "--quiet", &format!("--output=/var/tmp/{name}"), &name]);
            assert_eq!(node.own_layers(), Vec::<String>::new(), "call {number}");
        }
        assert_listed(cluster.mirror.store(), &image.layer_ids());
        cluster.assert_not_asked(&image.layers);
    }
    assert!(kills >= 5, "{kills} kills");
}
