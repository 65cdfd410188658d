//! MooseFS: a master and two chunkservers on one host.
//!
//! Every call on a mount hangs while the master is down: clients end first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::net::{Host, Network, SERVER};
use super::server::Server;
use crate::support::mount::FuseMount;

/// The metadata of a file system without files, from Debian's package.
const EMPTY: &str = "/var/lib/mfs/metadata.mfs.empty";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A file system, mounted by both nodes.
#[derive(Debug)]
pub struct MooseFs {
    // Dropped in this order: clients before their servers, and the wire last.
    _clients: [FuseMount; 2],
    _chunkservers: [Server; 2],
    _master: Server,
    _network: Network,
}

impl MooseFs {
    /// Starts the servers in `work`, and mounts their file system at `a` and `b`.
    pub fn start(work: &Path, a: &Path, b: &Path) -> Self {
        let network = Network::start(work);
        let master = start_master(&network.server, work);
        let chunkservers = [1, 2].map(|number| start_chunkserver(&network.server, work, number));
        let clients = [("client-a", &network.a, a), ("client-b", &network.b, b)]
            .map(|(name, host, path)| mount(name, host, work, path));
        Self {
            _clients: clients,
            _chunkservers: chunkservers,
            _master: master,
            _network: network,
        }
    }
}

fn start_master(host: &Host, work: &Path) -> Server {
    let directory = made(work, "master");
    let path = |name: &str| directory.join(name);
    fs::copy(EMPTY, path("metadata.mfs")).expect("copy the empty metadata");
    fs::write(path("exports.cfg"), "* / rw,alldirs,admin,maproot=0:0\n").expect("write exports.cfg");
    fs::write(path("topology.cfg"), "").expect("write topology.cfg");
    let config = format!(
        "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {}\nEXPORTS_FILENAME = {}\n\
         TOPOLOGY_FILENAME = {}\nLOCK_MEMORY = 0\nLIMIT_GLIBC_MALLOC_ARENAS = 0\nSESSION_SUSTAIN_TIME = 60\n",
        directory.display(),
        path("exports.cfg").display(),
        path("topology.cfg").display(),
    );
    let program = "mfsmaster";
    start(host, work, program, program, &config, "initialized properly")
}

fn start_chunkserver(host: &Host, work: &Path, number: u16) -> Server {
    let name = format!("mfschunkserver{number}");
    let (directory, chunks) = (made(work, &name), made(work, &format!("chunks{number}")));
    let disks = work.join(format!("{name}-disks.cfg"));
    fs::write(&disks, format!("{}\n", chunks.display())).expect("write a list of disks");
    let config = format!(
        "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {}\nHDD_CONF_FILENAME = {}\n\
         MASTER_HOST = {SERVER}\nCSSERV_LISTEN_PORT = {}\nHDD_LEAVE_SPACE_DEFAULT = 256MiB\n",
        directory.display(),
        disks.display(),
        9521 + number,
    );
    start(
        host,
        work,
        "mfschunkserver",
        &name,
        &config,
        "connected to Master",
    )
}

/// Starts a server in the foreground, and waits until it has said that it is ready.
fn start(host: &Host, work: &Path, program: &str, name: &str, config: &str, ready: &str) -> Server {
    let path = work.join(format!("{name}.cfg"));
    fs::write(&path, config).expect("write a configuration");
    let arguments = |command: &mut Command| {
        command.arg(program).arg("-f").arg("-c").arg(path).arg("start");
    };
    let log = work.join(format!("{name}.err"));
    let said = || fs::read_to_string(&log).is_ok_and(|text| text.contains(ready));
    Server::start(name, host, work, arguments, START_TIMEOUT, said)
}

fn made(work: &Path, name: &str) -> PathBuf {
    let directory = work.join(name);
    fs::create_dir(&directory).expect("make a directory");
    directory
}

fn mount(name: &str, host: &Host, work: &Path, path: &Path) -> FuseMount {
    let mut command = host.command("mfsmount");
    // It mounts nosuid,nodev by default.
    command.arg("-f").arg(path).args(["-H", SERVER, "-o", "suid,dev"]);
    FuseMount::start(name, work, path, command)
}
