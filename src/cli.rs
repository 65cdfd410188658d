//! The command line: arguments and a call for each subcommand, no logic.
//!
//! A wrong argument ends the process with exit code 2, as clap does; every
//! other failure comes back from [`run`] for `main` to print.

mod agent;
mod doctor;
mod inspect;
mod ls;
mod mirror_argument;
mod node_paths;
mod nodes;
mod pull;
mod serve;
mod setup;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A pull-through OCI registry mirror that fetches every blob from upstream once.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mirror registries: serve the pull half of the OCI distribution API.
    Serve(serve::ServeArguments),
    /// Serve this node's containerd the layers of a store as a snapshotter, or list them for its Podman.
    Agent(agent::AgentArguments),
    /// Bring images into a store and extract their layers, beside mirrors or without one.
    Pull(pull::PullArguments),
    /// List the images in a store with their layers, or the nodes that use them.
    Ls(ls::LsArguments),
    /// Forget nodes that are gone.
    Nodes(nodes::NodesArguments),
    /// Tell what a store knows of an image, or of a stack of layers, as JSON.
    Inspect(inspect::InspectArguments),
    /// Make this node's Docker, containerd, Podman or CRI-O read from the mirror and the store.
    Setup(setup::SetupArguments),
    /// Tell what a store's file system can keep, and what to change on it.
    Doctor(doctor::DoctorArguments),
}

/// Parses the process's arguments and environment, runs the subcommand that they name, and returns its exit code.
///
/// # Errors
/// Fails as the subcommand does. A wrong argument, `--help` and `--version` end the process here.
pub fn run() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Agent(arguments) => agent::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Pull(arguments) => pull::run(arguments),
        Command::Ls(arguments) => ls::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Nodes(arguments) => nodes::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Inspect(arguments) => inspect::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Setup(arguments) => setup::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Doctor(arguments) => doctor::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_flag_of_serve_has_its_variable() {
        let command = Arguments::command();
        let serve = command.find_subcommand("serve").unwrap();
        for argument in serve.get_arguments() {
            let Some(long) = argument.get_long().filter(|long| *long != "help") else {
                continue;
            };
            let variable = format!("WHARF_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(&*variable));
        }
    }

    #[test]
    fn an_agents_log_level_is_checked_as_the_mirrors_is() {
        for (level, is_level) in [
            ("debug", true),
            ("off", true),
            ("info,wharf::snapshotter=debug", true),
            ("wharf=debug", true),
            ("nonsense", false),
            ("", false),
            ("wharf=loud", false),
        ] {
            let agent = [
                "wharf",
                "agent",
                "--store",
                "/s",
                "--podman",
                "/p",
                "--log-level",
                level,
            ];
            let parsed = Arguments::try_parse_from(agent);
            assert_eq!(parsed.is_ok(), is_level, "{level}");
            assert_eq!(crate::config::log_level(level).is_ok(), is_level, "{level}");
            if let Err(error) = parsed {
                let text = error.to_string();
                assert!(
                    text.contains("--log-level") && text.contains("is no log level"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn offline_may_be_switched_off_by_flag() {
        for (argument, expected) in [
            ("--offline", true),
            ("--offline=true", true),
            ("--offline=no", false),
        ] {
            let parsed = Arguments::try_parse_from(["wharf", "serve", argument]).unwrap();
            let Command::Serve(serve) = parsed.command else {
                panic!("another command");
            };
            assert_eq!(serve.overrides().offline, Some(expected), "{argument}");
        }
    }
}
