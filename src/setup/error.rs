//! Why a node cannot be set up.

use std::path::PathBuf;

use crate::fs::FsError;

/// A node cannot be set up as it is; nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file is not what it should be.
    #[error("{} cannot be read as {format}; mend it first: {reason}", .path.display())]
    Invalid {
        path: PathBuf,
        format: &'static str,
        reason: String,
    },
    /// A file sets something else already.
    #[error(
        "{} sets {key} to {found}, and wharf needs {wanted}; change it there, or replace it with --force",
        .path.display()
    )]
    Conflict {
        path: PathBuf,
        key: String,
        found: String,
        wanted: String,
    },
    /// An imported file, which wins over the one that imports it, sets something else.
    #[error(
        "{} sets {key} to {found}, and wharf needs {wanted}; change it there, as imported files win",
        .path.display()
    )]
    Imported {
        path: PathBuf,
        key: String,
        found: String,
        wanted: String,
    },
    /// The agent's socket is elsewhere already.
    #[error(
        "{} listens on {found}, and containerd is to ask {wanted}; change it there, or name that path (--socket PATH)",
        .path.display()
    )]
    Socket {
        path: PathBuf,
        found: String,
        wanted: String,
    },
    /// The node's own image store would be in the way of something else, or that of it.
    #[error(
        "{} cannot be this node's own image store: {} is {what}, and one must not lie in the other; name another \
         directory on a local disk (--podman DIR)", .dir.display(), .other.display()
    )]
    ImageStore {
        dir: PathBuf,
        other: PathBuf,
        what: &'static str,
    },
    /// A file of registries blocks what is to come through the mirror, and wharf's file would undo that.
    #[error(
        "{} has blocked = true for {registry}, and wharf's file would open it; remove the block there, or replace it with \
         --force", .path.display()
    )]
    Blocked { path: PathBuf, registry: String },
    /// The same, by a file that wins over wharf's.
    #[error(
        "{} has blocked = true for {registry}, and wins over wharf's file, as it is read later; remove the block there",
        .path.display()
    )]
    BlockedLater { path: PathBuf, registry: String },
    /// A link leads out of the directory of configurations.
    #[error(
        "{} leads to {}, outside {}, where nothing is written; put a file in the link's place, or run this on the node",
        .path.display(), .real.display(), .etc.display()
    )]
    Outside {
        path: PathBuf,
        real: PathBuf,
        etc: PathBuf,
    },
    /// A file that is wholly wharf's says something else.
    #[error("{} is there and says something else; move it away, or replace it with --force", .path.display())]
    Occupied { path: PathBuf },
    /// containerd refuses mirrors in its own file beside `config_path`.
    #[error(
        "{} sets {key}, which containerd refuses beside config_path; write those hosts as hosts.toml below \
         /etc/containerd/certs.d and remove it",
        .path.display()
    )]
    OldMirrors { path: PathBuf, key: String },
    /// containerd's file switches Kubernetes' interface off.
    #[error("{} switches CRI off; remove {plugin:?} from disabled_plugins", .path.display())]
    CriDisabled { path: PathBuf, plugin: String },
    /// containerd's file has a version that these settings cannot be said in.
    #[error(
        "{0} has no `version`, or 1, where Kubernetes' settings have other names; replace it by what `containerd \
         --config {0} config dump` prints, which is the same in a newer version with every default written out",
        .path.display()
    )]
    OldConfig { path: PathBuf },
    /// containerd's file has a version that came after this program.
    #[error(
        "{} has version = {version}, and this wharf knows 1, 2 and 3 alone; use a newer wharf, or write what it needs \
         in that version by hand (config/agent/)",
        .path.display()
    )]
    UnknownConfig { path: PathBuf, version: String },
    /// Nothing says which version a new file should have.
    #[error(
        "cannot run `containerd --version`; say which file it needs: --config-version 2 (1.6, 1.7) or 3 (2.x)"
    )]
    NoContainerd,
    /// Docker's own store of layers cannot be made to read others.
    #[error(
        "Docker {0} cannot read layers from a store: it needs 25 or newer; this one can use the mirror alone \
         (config/daemon.json)"
    )]
    OldDocker(super::Version),
    /// A path that the files cannot name.
    #[error(
        "{0:?} cannot be written into the files: use an absolute path of letters, digits and . _ - + @ /"
    )]
    Path(PathBuf),
    /// A URL that the clients refuse.
    #[error("{0} cannot be a mirror's address in the files: write http://HOST:PORT or https://HOST:PORT")]
    Mirror(String),
    /// A mirror's URL with a user or a password.
    #[error(
        "{0} is given with a login, which no client's files can carry; write {0} here, and the agent's login into \
         /etc/wharf/agent.env (Podman's: podman.env) by hand (WHARF_MIRRORS=http://USER:PASSWORD@HOST:PORT), where it \
         stays"
    )]
    Login(String),
    /// A mirror's URL that goes on after its server.
    #[error(
        "a mirror's API is at the root of its server, and its address has no path and no query; write {0}"
    )]
    MirrorPath(String),
}
