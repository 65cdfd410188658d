//! `wharf setup`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use url::Url;

use super::mirror_argument::MirrorUrlParser;
use super::node_paths::NodePaths;
use crate::setup::{ImageStore, Installed, Order, Plan, Runtime};

/// What runs the containers here, and where everything is.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --write nothing is changed: the changes are printed as a diff. What must be restarted \
is said on stderr."
)]
pub(super) struct SetupArguments {
    /// What runs this node's containers
    #[arg(value_name = "RUNTIME")]
    runtime: Runtime,
    /// Change the files; what was there is kept once as FILE.wharf-backup
    #[arg(long)]
    write: bool,
    /// Replace settings that contradict, such as another storage driver
    #[arg(long)]
    force: bool,
    /// A mirror; several, the preferred one first
    #[arg(
        long = "mirror",
        value_name = "URL",
        value_parser = MirrorUrlParser::<Url>::default(),
        env = "WHARF_MIRRORS",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:5000"
    )]
    mirrors: Vec<Url>,
    /// Directory of the store on this node
    #[arg(long, value_name = "DIR", env = "WHARF_STORE", default_value = "/mnt/wharf")]
    store: PathBuf,
    #[command(flatten)]
    paths: NodePaths,
    /// Directory of this node's own image store for Podman and CRI-O, on a local disk
    #[arg(long, value_name = "DIR", env = "WHARF_PODMAN", default_value = "/srv/wharf")]
    podman: PathBuf,
    /// Which lists of layers Podman and CRI-O read [default: by the store's file system]
    #[arg(long, value_name = "WHERE")]
    image_store: Option<ImageStore>,
    /// Directory where the files are read and written, such as another node's /etc; nothing is written outside it
    /// but empty lock files in the image store that Podman is to read.
    /// The paths inside them (store, root, socket, image store, this program) are as the node sees them; of config_path,
    /// /etc means DIR
    #[arg(long, value_name = "DIR", default_value = "/etc")]
    etc: PathBuf,
    /// Version of a new containerd configuration: 2 (containerd 1.6, 1.7) or 3 (2.x) [default: the one installed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=3))]
    config_version: Option<u32>,
}

/// Prints the changes, or makes them.
pub(super) fn run(arguments: SetupArguments) -> anyhow::Result<()> {
    let etc = arguments.etc.display().to_string();
    let order = Order {
        runtime: arguments.runtime,
        mirrors: arguments.mirrors,
        store: arguments.store,
        socket: arguments.paths.socket(),
        root: arguments.paths.root,
        podman: arguments.podman,
        image_store: arguments.image_store,
        program: std::env::current_exe().context("cannot tell where this program is")?,
        etc: arguments.etc,
        config_version: arguments.config_version,
        force: arguments.force,
    };
    let plan = Plan::make(&order, &Installed::find())?;
    let text = if arguments.write {
        plan.write()?;
        summary(&plan)
    } else {
        plan.diff()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print the changes")?;
    for warning in &plan.warnings {
        eprintln!("warning: {warning}");
    }
    if plan.is_done() {
        eprintln!("this node has all that it needs; nothing is to change");
        return Ok(());
    }
    for file in plan.by_hand.iter().filter(|file| file.is_change()) {
        let path = file.path.display();
        eprintln!(
            "* {path} is outside {etc} and left to you; it needs:\n\n{}",
            file.after
        );
    }
    for file in plan.empty_by_hand.iter().filter(|file| file.is_change()) {
        let place = file.place();
        eprintln!("* {place} is outside {etc} and left to you; it is to be an empty file");
    }
    for note in &plan.notes {
        eprintln!("* {note}");
    }
    Ok(())
}

fn summary(plan: &Plan) -> String {
    let line = |file: &crate::setup::FileChange| match (file.is_change(), &file.before) {
        (false, _) => format!("unchanged {}\n", file.path.display()),
        (true, None) => format!("made      {}\n", file.path.display()),
        (true, Some(_)) => format!(
            "changed   {}, before: {}\n",
            file.path.display(),
            file.backup().display()
        ),
    };
    let empty_line = |file: &crate::setup::EmptyFile| match file.is_change() {
        false => format!("unchanged {}\n", file.place()),
        true => format!("made      {}\n", file.place()),
    };
    let files = plan.files.iter().map(line);
    files.chain(plan.empty_files.iter().map(empty_line)).collect()
}
