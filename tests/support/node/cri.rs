//! The calls of Kubernetes' kubelet: the part of CRI, `runtime.v1`, that the tests need.
//!
//! Debian has no crictl. The messages are written by hand, with the numbers of CRI's `api.proto`; what they leave
//! out a reader of protobuf ignores.

use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::start::CONTAINERD_SOCKET;
use super::{Node, cgroup_parent};

/// How long any call may take.
const CALL: Duration = Duration::from_secs(120);
/// `NamespaceMode.NODE`: the host's.
const NODE: i32 = 2;

/// A kubelet's connection.
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
}

/// A pod that runs.
pub struct Pod {
    id: String,
    config: PodSandboxConfig,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, repeated, tag = "2")]
    repo_tags: Vec<String>,
    #[prost(uint64, tag = "4")]
    size: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    images: Vec<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxSandboxSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

/// The one field of many messages: an id.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainerSecurityContext {
    #[prost(message, optional, tag = "3")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainerConfig {
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxContainerSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainerConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncRequest {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, repeated, tag = "2")]
    cmd: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSyncResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}

impl Node {
    /// Connects to containerd as a kubelet does.
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.path_below_mounts(CONTAINERD_SOCKET))
    }
}

impl Cri {
    fn connect(socket: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://containerd").timeout(CALL);
        let channel = runtime.block_on(async { endpoint.connect_with_connector_lazy(connector) });
        Self { runtime, channel }
    }

    fn try_call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        let path = PathAndQuery::from_static(method);
        let answer = self.runtime.block_on(async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(
                Request::new(request),
                path,
                tonic_prost::ProstCodec::<Q, A>::default(),
            )
            .await
        })?;
        Ok(answer.into_inner())
    }

    fn call<Q, A>(&self, method: &'static str, request: Q) -> A
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.try_call(method, request)
            .unwrap_or_else(|status| panic!("{method}: {status:?}"))
    }

    /// Waits until containerd's CRI answers: it is there some time after its socket.
    pub fn wait_ready(&self) {
        crate::support::process::wait_until("CRI", CALL, || {
            self.try_call::<Empty, ListImagesResponse>("/runtime.v1.ImageService/ListImages", Empty {})
                .ok()
        });
    }

    /// Pulls an image; returns what the runtime calls it.
    pub fn pull(&self, image: &str) -> String {
        let request = PullImageRequest {
            image: Some(spec(image)),
        };
        let answer: PullImageResponse = self.call("/runtime.v1.ImageService/PullImage", request);
        answer.image_ref
    }

    /// The tags of the images that are there, and their sizes.
    pub fn images(&self) -> Vec<(String, u64)> {
        let answer: ListImagesResponse = self.call("/runtime.v1.ImageService/ListImages", Empty {});
        let tags = |image: Image| image.repo_tags.into_iter().map(move |tag| (tag, image.size));
        answer.images.into_iter().flat_map(tags).collect()
    }

    /// Removes an image.
    pub fn remove_image(&self, image: &str) {
        let request = PullImageRequest {
            image: Some(spec(image)),
        };
        let _: Empty = self.call("/runtime.v1.ImageService/RemoveImage", request);
    }

    /// Runs a pod in the host's network.
    pub fn run_pod(&self, name: &str) -> Pod {
        let options = NamespaceOption { network: NODE };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
            }),
            log_directory: String::new(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: cgroup_parent(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                }),
            }),
        };
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
        };
        let answer: Id = self.call("/runtime.v1.RuntimeService/RunPodSandbox", request);
        Pod {
            id: answer.id,
            config,
        }
    }

    /// Creates and starts a container that sleeps; returns its id.
    pub fn run_container(&self, pod: &Pod, name: &str, image: &str) -> String {
        let options = NamespaceOption { network: NODE };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
            }),
            image: Some(spec(image)),
            command: ["sleep", "1000000"].map(str::to_owned).to_vec(),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(options),
                }),
            }),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let created: Id = self.call("/runtime.v1.RuntimeService/CreateContainer", request);
        let _: Empty = self.call("/runtime.v1.RuntimeService/StartContainer", created.clone());
        created.id
    }

    /// Runs a shell line in a container; returns what it prints.
    pub fn exec(&self, container: &str, script: &str) -> String {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: ["sh", "-euc", script].map(str::to_owned).to_vec(),
            timeout: 60,
        };
        let answer: ExecSyncResponse = self.call("/runtime.v1.RuntimeService/ExecSync", request);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(answer.exit_code, 0, "{script}: {}", text(&answer.stderr));
        text(&answer.stdout)
    }

    /// Stops and removes a container.
    pub fn remove_container(&self, container: &str) {
        let id = Id {
            id: container.to_owned(),
        };
        let _: Empty = self.call("/runtime.v1.RuntimeService/StopContainer", id.clone());
        let _: Empty = self.call("/runtime.v1.RuntimeService/RemoveContainer", id);
    }

    /// Stops and removes a pod.
    pub fn remove_pod(&self, pod: &Pod) {
        let id = Id { id: pod.id.clone() };
        let _: Empty = self.call("/runtime.v1.RuntimeService/StopPodSandbox", id.clone());
        let _: Empty = self.call("/runtime.v1.RuntimeService/RemovePodSandbox", id);
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
    }
}
