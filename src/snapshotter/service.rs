//! The gRPC calls of containerd's snapshots service, from and to its types.

use std::pin::Pin;

use tokio_stream::Stream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::error::SnapshotError;
use super::filter::Filters;
use super::proto::snapshots::snapshots_server::Snapshots as SnapshotsApi;
use super::proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
    MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use super::record::{Kind, Record};
use super::snapshots::{Commit, NewSnapshot, Snapshots};

/// How many snapshots one message of a list tells: gRPC's messages are bounded.
const LIST_PAGE: usize = 100;

/// Serves snapshots to containerd.
pub struct Service {
    snapshots: Snapshots,
    calls: TaskTracker,
}

impl Service {
    /// Takes the snapshots; `calls` tracks the calls under way.
    pub fn new(snapshots: Snapshots, calls: TaskTracker) -> Self {
        Self { snapshots, calls }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Logs what a call came to, and turns it into an answer.
fn answer<T>(call: &'static str, key: &str, result: Result<T, SnapshotError>) -> Answer<T> {
    match result {
        Ok(message) => {
            tracing::debug!(call, key, "done");
            Ok(Response::new(message))
        }
        Err(error) => {
            let status = Status::from(error);
            match status.code() {
                // What containerd asks in order to find out.
                tonic::Code::AlreadyExists | tonic::Code::NotFound => {
                    tracing::debug!(call, key, answer = status.message(), "told");
                }
                code => tracing::warn!(call, key, ?code, error = status.message(), "a call fails"),
            }
            Err(status)
        }
    }
}

/// An empty text means none, in these messages.
fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[tonic::async_trait]
impl SnapshotsApi for Service {
    async fn prepare(&self, request: Request<PrepareSnapshotRequest>) -> Answer<PrepareSnapshotResponse> {
        let _call = self.calls.token();
        let request = request.into_inner();
        let new = NewSnapshot {
            kind: Kind::Active,
            key: request.key.clone(),
            parent: given(request.parent),
            labels: request.labels,
        };
        let mounts = self.snapshots.prepare(new).await;
        answer(
            "prepare",
            &request.key,
            mounts.map(|mounts| PrepareSnapshotResponse { mounts }),
        )
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let _call = self.calls.token();
        let request = request.into_inner();
        let new = NewSnapshot {
            kind: Kind::View,
            key: request.key.clone(),
            parent: given(request.parent),
            labels: request.labels,
        };
        let mounts = self.snapshots.prepare(new).await;
        answer(
            "view",
            &request.key,
            mounts.map(|mounts| ViewSnapshotResponse { mounts }),
        )
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Answer<MountsResponse> {
        let _call = self.calls.token();
        let key = request.into_inner().key;
        let mounts = self.snapshots.mounts(&key).await;
        answer("mounts", &key, mounts.map(|mounts| MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Answer<()> {
        let _call = self.calls.token();
        let request = request.into_inner();
        let commit = Commit {
            name: request.name.clone(),
            key: request.key,
            labels: request.labels,
            parent: given(request.parent),
        };
        answer("commit", &request.name, self.snapshots.commit(commit).await)
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Answer<()> {
        let _call = self.calls.token();
        let key = request.into_inner().key;
        answer("remove", &key, self.snapshots.remove(&key).await)
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let _call = self.calls.token();
        let key = request.into_inner().key;
        let found = self.snapshots.stat(&key).await;
        let told = |record: Record| StatSnapshotResponse {
            info: Some(record.info()),
        };
        answer("stat", &key, found.map(told))
    }

    async fn update(&self, request: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        let _call = self.calls.token();
        let request = request.into_inner();
        let info = request.info.unwrap_or_default();
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let updated = self.snapshots.update(&info.name, info.labels, paths).await;
        let told = |record: Record| UpdateSnapshotResponse {
            info: Some(record.info()),
        };
        answer("update", &info.name, updated.map(told))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send>>;

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let _call = self.calls.token();
        let filters = Filters::parse(&request.into_inner().filters).map_err(SnapshotError::from)?;
        let infos: Vec<_> = self.snapshots.list(&filters).iter().map(Record::info).collect();
        let pages: Vec<_> = infos
            .chunks(LIST_PAGE)
            .map(|page| Ok(ListSnapshotsResponse { info: page.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pages))))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Answer<UsageResponse> {
        let _call = self.calls.token();
        let key = request.into_inner().key;
        let usage = self.snapshots.usage(&key).await;
        let told = usage.map(|usage| UsageResponse {
            size: i64::try_from(usage.size_bytes).unwrap_or(i64::MAX),
            inodes: i64::try_from(usage.inodes).unwrap_or(i64::MAX),
        });
        answer("usage", &key, told)
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        let _call = self.calls.token();
        answer("cleanup", "", self.snapshots.cleanup().await)
    }
}
