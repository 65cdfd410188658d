//! Daemons that end and come back, in whatever order.

use std::time::Duration;

use crate::support::cluster::{Cluster, PULL};
use crate::support::node::Node;
use crate::support::node_images::{HUNDRED, LIST_TREE, TREE, registry};
use crate::support::process::wait_until;
use crate::support::suite::Suite;

/// containerd waits up to three seconds before it connects again.
const RECONNECTED: Duration = Duration::from_secs(15);

fn is_long() -> bool {
    std::env::var_os("WHARF_LONG").is_some()
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Agent,
    Containerd,
    Docker,
}

use Who::{Agent, Containerd, Docker};

/// Each alone, and all orders of the three.
const ORDERS: [&[Who]; 9] = [
    &[Agent],
    &[Containerd],
    &[Docker],
    &[Agent, Containerd, Docker],
    &[Agent, Docker, Containerd],
    &[Containerd, Agent, Docker],
    &[Containerd, Docker, Agent],
    &[Docker, Agent, Containerd],
    &[Docker, Containerd, Agent],
];

/// Stops daemons in an order, and starts them in the same.
fn restart(node: &mut Node, order: &[Who]) {
    for who in order {
        match who {
            Agent => node.agent.stop(),
            Containerd => node.containerd.stop(),
            // It would wait 15 s for a containerd that is gone.
            Docker if !node.containerd.runs() => node.docker.kill(),
            Docker => node.docker.stop(),
        }
    }
    for who in order {
        match who {
            Agent => node.launch_agent(),
            Containerd => node.launch_containerd(),
            Docker => node.launch_docker(),
        }
    }
    node.wait_for_all();
}

fn every_order(suite: Suite) {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mut node = cluster.docker_node(suite);
    // As config/systemd has it: Docker forgets containers whose snapshotter refuses it when it starts.
    node.hold_agent_socket();
    node.docker(&["pull", "tree"]);
    node.docker(&[
        "run",
        "--detach",
        "--restart=always",
        // The program would not end at SIGTERM, and dockerd wait ten seconds for it.
        "--stop-signal=KILL",
        "--network=none",
        "--name",
        "always",
        "tree",
        "sleep",
        "1000000",
    ]);
    node.run_detached("ended", "tree");
    node.exec("ended", "echo kept > /kept");
    node.docker(&["stop", "--time=0", "ended"]);
    // Both versions and all orders take a minute and a half.
    let step = if is_long() || suite == Suite::Forky { 1 } else { 2 };
    for order in ORDERS.into_iter().step_by(step) {
        println!("{order:?}");
        restart(&mut node, order);
        let names = node.docker(&["ps", "--all", "--format", "{{.Names}}"]);
        let mut names: Vec<&str> = names.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["always", "ended"], "{order:?}");
        wait_until("the container that always runs", RECONNECTED, || {
            node.try_docker(&["exec", "always", "sh", "-c", ":"])
                .status
                .success()
                .then_some(())
        });
        assert_eq!(node.exec("always", LIST_TREE), TREE, "{order:?}");
        node.docker(&["start", "ended"]);
        assert_eq!(node.exec("ended", "cat /kept"), "kept\n", "{order:?}");
        node.docker(&["stop", "--time=0", "ended"]);
        assert_eq!(node.run_in("tree", LIST_TREE), TREE, "{order:?}");
    }
    cluster.assert_not_asked(&registry.layers("library/tree", "latest"));
}

#[test]
fn docker_28_containerd_and_the_agent_restart_in_every_order() {
    every_order(Suite::Forky);
}

#[test]
fn docker_26_containerd_and_the_agent_restart_in_every_order() {
    every_order(Suite::Trixie);
}

#[test]
fn containers_run_on_while_the_agent_is_down_and_new_ones_start_once_it_is_back() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mut node = cluster.docker_node(Suite::Forky);
    node.docker(&["pull", "tree"]);
    node.run_detached("box", "tree");
    node.agent.kill();
    assert_eq!(node.exec("box", LIST_TREE), TREE);
    let failed = node.try_docker(&["run", "--rm", "--network=none", "tree", "sh", "-c", ":"]);
    assert!(!failed.status.success(), "{}", failed.stdout);
    node.docker(&["stop", "--time=0", "box"]);
    node.start_agent(cluster.mirror.address());
    wait_until("a container to start", RECONNECTED, || {
        let ended = node.try_docker(&["run", "--rm", "--network=none", "tree", "sh", "-c", ":"]);
        ended.status.success().then_some(())
    });
    node.docker(&["start", "box"]);
    assert_eq!(node.exec("box", LIST_TREE), TREE);
}

#[test]
fn an_agent_killed_in_the_middle_of_a_pull_does_no_harm() {
    let registry = registry();
    let cluster = Cluster::start(registry.address());
    let mut node = cluster.docker_node(Suite::Forky);
    // The layers are there: what is killed is the agent's work on a hundred Prepares.
    node.docker(&["pull", "hundred"]);
    node.docker(&["rmi", "hundred"]);
    let rounds: &[usize] = if is_long() { &[5, 40, 90] } else { &[40] };
    for number in rounds {
        let prepared = |node: &Node| node.agent.log().matches("call=\"prepare\"").count();
        let before = prepared(&node);
        let mut pull = node.start_docker_command("pull", &["pull", "hundred"]);
        wait_until("some layers to be prepared", PULL, || {
            (prepared(&node) >= before + number || pull.status().is_some()).then_some(())
        });
        node.agent.kill();
        node.start_agent(cluster.mirror.address());
        // It fails, unless it was over before.
        pull.wait(PULL);
        wait_until("the image to be pulled", RECONNECTED, || {
            node.try_docker(&["pull", "hundred"])
                .status
                .success()
                .then_some(())
        });
        let script = "cat /last; echo; ls /numbers | busybox wc -l";
        assert_eq!(
            node.run_in("hundred", script),
            format!("{}\n{HUNDRED}\n", HUNDRED - 1)
        );
        node.docker(&["rmi", "hundred"]);
    }
    assert_eq!(node.snapshots(), "");
    cluster.assert_not_asked(&registry.layers("library/hundred", "latest"));
}
