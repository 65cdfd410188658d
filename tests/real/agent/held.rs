//! What a node does while a pull waits for layers that nobody pulled before.

use crate::support::cluster::{Cluster, PULL};
use crate::support::gate::Gate;
use crate::support::mirror::Options;
use crate::support::node_images::add_image;
use crate::support::process::wait_until;
use crate::support::suite::Suite;
use crate::support::upstream::{Upstream, blob, then};

fn containers_run_while_a_pull_waits(suite: Suite) {
    let upstream = Upstream::start();
    let [slow, _, _] = ["slow", "here", "going"].map(|name| add_image(&upstream, name));
    let cluster = Cluster::start(upstream.address());
    let node = cluster.docker_node(suite);
    node.docker(&["pull", "here"]);
    node.docker(&["pull", "going"]);
    let gate = Gate::new();
    upstream.script(blob(&slow[1]), then().hold(&gate));
    let mut pull = node.start_docker_command("pull", &["pull", "slow"]);
    gate.wait_for(1);

    assert_eq!(node.run_in("here", "cat /name"), "here");
    node.docker(&["rmi", "going"]);
    node.docker(&["pull", "here"]);
    assert!(
        pull.status().is_none(),
        "the pull waits for its layer: {}",
        pull.stderr()
    );

    gate.open();
    let status = pull.wait(PULL);
    assert!(status.success(), "{}", pull.stderr());
    assert_eq!(node.run_in("slow", "cat /name"), "slow");
    cluster.assert_not_asked(&slow);
}

#[test]
fn docker_28_runs_and_removes_while_a_pull_waits() {
    containers_run_while_a_pull_waits(Suite::Forky);
}

#[test]
fn docker_26_runs_and_removes_while_a_pull_waits() {
    containers_run_while_a_pull_waits(Suite::Trixie);
}

#[test]
fn a_layer_whose_pull_was_not_held_is_waited_for_when_it_is_prepared() {
    let upstream = Upstream::start();
    let slow = add_image(&upstream, "slow");
    let cluster = Cluster::start_with(Options::new(upstream.address()).keys("hold_timeout = \"0s\""));
    let node = cluster.docker_node(Suite::Forky);
    let gate = Gate::new();
    upstream.script(blob(&slow[1]), then().hold(&gate));
    let mut pull = node.start_docker_command("pull", &["pull", "slow"]);
    gate.wait_for(1);
    wait_until("the layer below to be prepared", PULL, || {
        node.agent.log().contains("call=\"prepare\"").then_some(())
    });
    assert!(pull.status().is_none(), "{}", pull.stderr());
    gate.open();
    let status = pull.wait(PULL);
    assert!(status.success(), "{}", pull.stderr());
    assert_eq!(node.run_in("slow", "cat /name"), "slow");
    cluster.assert_not_asked(&slow);
}
