//! Nodes as they are found, set up in a directory of their own.

mod containerd;
mod docker;
mod podman;

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const CONFIG: &str = "containerd/config.toml";
const DAEMON: &str = "docker/daemon.json";

const NEW: Installed = Installed {
    containerd: Some(Version(2, 1)),
    docker: Some(Version(28, 5)),
};

/// A node's `/etc`.
struct Node {
    etc: TempDir,
    order: Order,
    installed: Installed,
}

impl Node {
    fn new(runtime: Runtime) -> Self {
        let etc = tempfile::tempdir().unwrap();
        let order = Order {
            runtime,
            mirrors: vec![
                "http://mirror-a:5000".parse().unwrap(),
                "https://mirror-b".parse().unwrap(),
            ],
            store: PathBuf::from("/srv/dfs/wharf"),
            root: PathBuf::from("/data/agent"),
            socket: PathBuf::from("/run/agent.sock"),
            podman: etc.path().join("image-store"),
            image_store: None,
            program: PathBuf::from("/opt/wharf"),
            etc: etc.path().to_owned(),
            config_version: None,
            force: false,
        };
        Self {
            etc,
            order,
            installed: NEW,
        }
    }

    fn with(self, name: &str, text: &str) -> Self {
        let path = self.etc.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn plan(&self) -> Result<Plan, SetupError> {
        Plan::make(&self.order, &self.installed)
    }

    fn write(&self) {
        self.plan().unwrap().write().unwrap();
        let again = self.plan().unwrap();
        assert_eq!(again.diff(), "", "a second run changes nothing");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.etc.path().join(name)).unwrap()
    }

    fn refusal(&self) -> String {
        let before = tree(self.etc.path());
        let error = self.plan().unwrap_err().to_string();
        assert_eq!(tree(self.etc.path()), before, "nothing is written");
        error
    }
}

fn tree(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.push((path.clone(), fs::read(&path).ok()));
        }
    }
    all.sort();
    all
}

fn value(text: &str) -> ::toml::Value {
    ::toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
