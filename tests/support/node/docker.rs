//! `docker` on a node.

use std::process::Command;

use serde_json::Value;

use super::Node;
use crate::support::chain::chain_ids;
use crate::support::process::{Ended, Service, run, run_ok};

impl Node {
    fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("docker");
        command.args(arguments);
        command
    }

    /// Runs `docker`, which must succeed; returns what it prints.
    pub fn docker(&self, arguments: &[&str]) -> String {
        run_ok(self.docker_command(arguments))
    }

    /// Runs `docker`, which may fail.
    pub fn try_docker(&self, arguments: &[&str]) -> Ended {
        run(self.docker_command(arguments))
    }

    /// Starts `docker` in the background.
    pub fn start_docker_command(&self, name: &str, arguments: &[&str]) -> Service {
        Service::start(name, self.first.directory.path(), self.docker_command(arguments))
    }

    /// Runs a shell line in a new container of an image that is there; returns what it prints.
    pub fn run_in(&self, image: &str, script: &str) -> String {
        self.docker(&[
            "run",
            "--rm",
            "--network=none",
            "--pull=never",
            image,
            "sh",
            "-euc",
            script,
        ])
    }

    /// Runs a container in the background until it is removed.
    pub fn run_detached(&self, name: &str, image: &str) {
        self.docker(&[
            "run",
            "--detach",
            "--network=none",
            "--pull=never",
            "--name",
            name,
            image,
            "sleep",
            "1000000",
        ]);
    }

    /// Runs a shell line in a container that runs.
    pub fn exec(&self, name: &str, script: &str) -> String {
        self.docker(&["exec", name, "sh", "-euc", script])
    }

    /// The blobs in the content store that Docker's containerd keeps.
    pub fn content(&self) -> Vec<String> {
        let list = self.shell("ctr --namespace moby content ls --quiet");
        list.lines().map(str::to_owned).collect()
    }

    /// The snapshots that Docker's containerd knows, a line each.
    pub fn snapshots(&self) -> String {
        self.shell("ctr --namespace moby snapshots --snapshotter wharf ls | tail -n +2")
    }

    /// Asserts that `docker save` writes all these layers.
    pub fn assert_saved(&self, image: &str, layers: &[String]) {
        let archive = self.shell(&format!("docker save {image} | tar -tf -"));
        for layer in layers {
            let path = format!("blobs/{}", layer.replace(':', "/"));
            assert!(archive.lines().any(|line| line == path), "{path} in {archive}");
        }
    }

    /// What `docker inspect` tells of an object.
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.docker(&["inspect", name]);
        let mut objects: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        objects.pop().expect("an object")
    }

    /// The stacks of an image's layers, the lowest first.
    pub fn chain_ids(&self, image: &str) -> Vec<String> {
        let inspected = self.inspect(image);
        let diff_ids = inspected["RootFS"]["Layers"].as_array().expect("layers");
        let diff_ids = diff_ids
            .iter()
            .map(|id| id.as_str().expect("a DiffID").to_owned());
        chain_ids(&diff_ids.collect::<Vec<_>>())
    }
}
