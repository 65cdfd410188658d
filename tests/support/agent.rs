//! `wharf agent`, and a client that calls it as containerd does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use wharf::snapshotter::proto::snapshots::snapshots_client::SnapshotsClient;
use wharf::snapshotter::proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest,
    UsageResponse, ViewSnapshotRequest,
};
use wharf::snapshotter::proto::types::Mount;

use super::mirror::wharf;
use super::process::Service;

/// How long any call may take.
const CALL: Duration = Duration::from_secs(30);

/// The label of a Prepare that the store may answer.
pub const CHAIN: &str = "containerd.io/snapshot.ref";

/// A running agent, with a root of its own.
pub struct Agent {
    service: Service,
    directory: TempDir,
    root: PathBuf,
    arguments: Vec<String>,
}

impl Agent {
    /// Starts an agent on a store, which need not be there, and waits until it serves.
    pub fn start(store: &Path, mirrors: &[SocketAddr]) -> Self {
        Self::start_with(store, mirrors, &["--content-links=false"])
    }

    /// The same with further arguments.
    pub fn start_with(store: &Path, mirrors: &[SocketAddr], more: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        Self::start_in(directory, root, store, mirrors, more)
    }

    /// The same with its snapshots and records in `root`.
    pub fn start_at(root: &Path, store: &Path, mirrors: &[SocketAddr]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::start_in(
            directory,
            root.to_owned(),
            store,
            mirrors,
            &["--content-links=false"],
        )
    }

    fn start_in(
        directory: TempDir,
        root: PathBuf,
        store: &Path,
        mirrors: &[SocketAddr],
        more: &[&str],
    ) -> Self {
        let mut arguments = vec!["--store".to_owned(), store.display().to_string()];
        arguments.extend(["--root".to_owned(), root.display().to_string()]);
        for mirror in mirrors {
            arguments.extend(["--mirror".to_owned(), format!("http://{mirror}")]);
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Self {
            service: serve(directory.path(), &arguments),
            directory,
            root,
            arguments,
        }
    }

    /// Starts it again, after it has ended.
    pub fn start_again(&mut self) {
        assert!(self.service.status().is_some(), "the agent still runs");
        self.service = serve(self.directory.path(), &self.arguments);
    }

    /// The directory of its snapshots and records.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.service.stderr()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Sends SIGTERM and asserts that it exits with 0.
    pub fn stop(&mut self) {
        self.service.signal(rustix::process::Signal::TERM);
        let status = self.service.wait(Duration::from_secs(10));
        assert!(status.success(), "after SIGTERM: {status}\n{}", self.log());
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::connect(&self.directory.path().join("agent.sock"))
    }
}

fn serve(directory: &Path, arguments: &[String]) -> Service {
    let socket = directory.join("agent.sock");
    let mut command = wharf();
    command.arg("agent").arg("--socket").arg(&socket).args(arguments);
    let mut service = Service::start("agent", directory, command);
    service.wait_ready(Duration::from_secs(20), || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    service
}

/// Calls an agent; every call is bounded.
pub struct Client {
    runtime: Runtime,
    client: SnapshotsClient<tonic::transport::Channel>,
}

impl Client {
    fn connect(socket: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = runtime.block_on(async {
            Endpoint::from_static("http://agent")
                .timeout(CALL)
                .connect_with_connector_lazy(connector)
        });
        Self {
            runtime,
            client: SnapshotsClient::new(channel),
        }
    }

    /// Prepares a snapshot without labels.
    pub fn prepare(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        self.prepare_with(key, parent, &[])
    }

    /// Prepares a snapshot.
    pub fn prepare_with(
        &mut self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: map(labels),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.client.prepare(request))?;
        Ok(answer.into_inner().mounts)
    }

    /// Unpacks nothing for a layer that is on the store, as containerd's unpacker does it: returns its name.
    ///
    /// An error is that of Prepare, where it is not the one that is hoped for.
    pub fn share(&mut self, chain_id: &str, parent: &str, labels: &[(&str, &str)]) -> Result<String, Status> {
        let mut all = vec![(CHAIN, chain_id)];
        all.extend(labels);
        let key = format!("moby/1/extract-1-abcd {chain_id}");
        match self.prepare_with(&key, parent, &all) {
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(status),
            Ok(mounts) => return Err(Status::ok(format!("it is to be unpacked: {mounts:?}"))),
        }
        let filter = format!("labels.\"{CHAIN}\"=={chain_id},parent==\"{parent}\"");
        let found = self.list(&[&filter]);
        let [info] = found.as_slice() else {
            panic!("{} snapshots for {filter}", found.len())
        };
        assert_eq!((info.kind(), &*info.parent), (Kind::Committed, parent));
        assert_eq!(info.labels[CHAIN], chain_id);
        self.stat(&info.name).expect("a snapshot that was listed");
        Ok(info.name.clone())
    }

    /// Unpacks nothing for a whole stack, the lowest first: returns the names.
    pub fn share_all(&mut self, chain_ids: &[String]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for chain_id in chain_ids {
            let parent = names.last().cloned().unwrap_or_default();
            let name = self.share(chain_id, &parent, &[]);
            names.push(name.unwrap_or_else(|status| panic!("{chain_id}: {status:?}")));
        }
        names
    }

    pub fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let request = ViewSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        Ok(self
            .runtime
            .block_on(self.client.view(request))?
            .into_inner()
            .mounts)
    }

    pub fn mounts(&mut self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = MountsRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(self
            .runtime
            .block_on(self.client.mounts(request))?
            .into_inner()
            .mounts)
    }

    pub fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        let request = CommitSnapshotRequest {
            name: name.to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        self.runtime.block_on(self.client.commit(request)).map(drop)
    }

    pub fn remove(&mut self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        self.runtime.block_on(self.client.remove(request)).map(drop)
    }

    pub fn stat(&mut self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.client.stat(request))?;
        Ok(answer.into_inner().info.expect("a snapshot"))
    }

    pub fn update(&mut self, name: &str, labels: &[(&str, &str)], paths: &[&str]) -> Result<Info, Status> {
        let request = UpdateSnapshotRequest {
            info: Some(Info {
                name: name.to_owned(),
                labels: map(labels),
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.client.update(request))?;
        Ok(answer.into_inner().info.expect("a snapshot"))
    }

    pub fn list(&mut self, filters: &[&str]) -> Vec<Info> {
        let request = ListSnapshotsRequest {
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
            ..Default::default()
        };
        let client = &mut self.client;
        self.runtime.block_on(async {
            let mut pages = client.list(request).await.expect("a list").into_inner();
            let mut infos = Vec::new();
            while let Some(page) = pages.message().await.expect("a page") {
                infos.extend(page.info);
            }
            infos
        })
    }

    pub fn usage(&mut self, key: &str) -> Result<UsageResponse, Status> {
        let request = UsageRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(self.runtime.block_on(self.client.usage(request))?.into_inner())
    }

    pub fn cleanup(&mut self) {
        let request = CleanupRequest::default();
        self.runtime
            .block_on(self.client.cleanup(request))
            .expect("clean up");
    }
}

fn map(labels: &[(&str, &str)]) -> HashMap<String, String> {
    let labels = labels
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    labels.collect()
}

/// Returns the value of an option `name=value`.
pub fn option<'a>(mounts: &'a [Mount], name: &str) -> &'a str {
    let [mount] = mounts else { panic!("{mounts:?}") };
    let prefix = format!("{name}=");
    let mut values = mount
        .options
        .iter()
        .filter_map(|option| option.strip_prefix(&prefix));
    values.next().unwrap_or_else(|| panic!("no {name}: {mounts:?}"))
}

/// Returns where the lower directories lead, the topmost first.
pub fn lowerdirs(mounts: &[Mount]) -> Vec<PathBuf> {
    let links = option(mounts, "lowerdir").split(':');
    links
        .map(|link| {
            // Who walks through it must not end at the link.
            let link = link.strip_suffix('/').expect("a slash at the end");
            std::fs::read_link(link).expect("a link")
        })
        .collect()
}
