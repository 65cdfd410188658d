//! Starts and stops the servers that are compared, and lays out what they serve.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that is stopped when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

/// What the registry holds: an image of one layer, under `library/big:latest`.
pub struct Image {
    pub manifest: String,
    pub layer: String,
    pub layer_bytes: u64,
}

impl Server {
    fn start(mut command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        let shown = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut server = Self {
            address,
            child: child.with_context(|| format!("cannot start {shown}"))?,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if server.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{shown} does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Returns a line of `/proc/PID/status` in KiB: `VmRSS`, `VmHWM`.
    pub fn memory_kib(&self, line: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = status
            .lines()
            .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let number = value
            .and_then(|text| text.split_whitespace().next())
            .context("no such line")?;
        Ok(number.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let term = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let told = term.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let deadline = Instant::now() + PATIENCE;
        while told && matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Ended already, or too slow to be asked once more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Starts wharf without an access log, with docker.io at `upstream` and its store in the same directory.
pub fn wharf(program: &Path, directory: &Path, upstream: SocketAddr) -> anyhow::Result<Server> {
    wharf_with_store(program, directory, &directory.join("store"), upstream)
}

/// The same with a store elsewhere.
pub fn wharf_with_store(
    program: &Path,
    directory: &Path,
    store: &Path,
    upstream: SocketAddr,
) -> anyhow::Result<Server> {
    let address = free_address()?;
    fs::create_dir_all(directory)?;
    let config = directory.join("wharf.toml");
    fs::write(&config, "[log]\naccess = false\nlevel = \"error\"\n")?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(&config);
    command.args([
        "--listen",
        &address.to_string(),
        "--upstream",
        &format!("http://{upstream}"),
    ]);
    command
        .arg("--store")
        .arg(store)
        .arg("--index")
        .arg(directory.join("index"));
    Server::start(command, address)
}

/// Starts Debian's docker-registry over `root`, with its cache of blobs' sizes and without an access log.
pub fn docker_registry(directory: &Path, root: &Path) -> anyhow::Result<Server> {
    start_docker_registry(directory, root, "")
}

/// Starts the same as a pull-through cache of `upstream`.
pub fn docker_registry_cache(directory: &Path, root: &Path, upstream: SocketAddr) -> anyhow::Result<Server> {
    start_docker_registry(
        directory,
        root,
        &format!("proxy: {{remoteurl: \"http://{upstream}\"}}\n"),
    )
}

fn start_docker_registry(directory: &Path, root: &Path, more: &str) -> anyhow::Result<Server> {
    let address = free_address()?;
    let config = directory.join("registry.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {root:?}}}, cache: {{blobdescriptor: inmemory}}}}\n\
             http: {{addr: \"{address}\"}}\n{more}"
        ),
    )?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&config);
    Server::start(command, address)
}

/// Starts nginx with sendfile over `root`.
pub fn nginx(directory: &Path, root: &Path) -> anyhow::Result<Server> {
    let address = free_address()?;
    let config = directory.join("nginx.conf");
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(
        &config,
        format!(
            "daemon off; worker_processes auto; pid {}; error_log {};\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;\n\
             client_body_temp_path {}; proxy_temp_path {}; fastcgi_temp_path {}; uwsgi_temp_path {}; scgi_temp_path {};\n\
             server {{ listen {address}; root {}; default_type application/octet-stream; }} }}\n",
            path("nginx.pid"),
            path("nginx.error"),
            path("t1"),
            path("t2"),
            path("t3"),
            path("t4"),
            path("t5"),
            root.display(),
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&config).args(["-g", "user root;"]);
    Server::start(command, address)
}

/// Writes a registry's directory, as distribution 2 lays it out, with a layer of `layer_bytes` random bytes.
pub fn write_registry(root: &Path, layer_bytes: u64) -> anyhow::Result<Image> {
    let base = root.join("docker/registry/v2");
    let layer = write_random(&base, layer_bytes)?;
    let layers = [Blob {
        media_type: "application/vnd.oci.image.layer.v1.tar",
        digest: layer.clone(),
        bytes: layer_bytes,
    }];
    let manifest = write_image(&base, "big", b"{}", &layers)?;
    Ok(Image {
        manifest,
        layer,
        layer_bytes,
    })
}

/// A layer in a registry's directory.
struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: u64,
}

/// Writes into a registry's directory `library/<name>:latest`, an image of compressed layers, which are given with
/// the digests of their tar streams.
pub fn write_layers(root: &Path, name: &str, layers: &[(PathBuf, String)]) -> anyhow::Result<()> {
    let base = root.join("docker/registry/v2");
    let mut blobs = Vec::new();
    for (path, _) in layers {
        let bytes = fs::read(path)?;
        blobs.push(Blob {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
            digest: write_blob(&base, &bytes)?,
            bytes: bytes.len() as u64,
        });
    }
    let diff_ids: Vec<&String> = layers.iter().map(|(_, diff_id)| diff_id).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    write_image(&base, name, config.to_string().as_bytes(), &blobs)?;
    Ok(())
}

/// Writes the config and the manifest of an image, and returns the manifest's digest.
fn write_image(base: &Path, name: &str, config: &[u8], layers: &[Blob]) -> anyhow::Result<String> {
    let repository = base.join("repositories/library").join(name);
    let config_bytes = config.len();
    let config = write_blob(base, config)?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let described: Vec<_> = layers
        .iter()
        .map(|layer| json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.bytes}))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_bytes,
        },
        "layers": described,
    });
    let manifest = write_blob(base, manifest.to_string().as_bytes())?;
    for digest in layers
        .iter()
        .map(|layer| &layer.digest)
        .chain([&config, &manifest])
    {
        link(&repository.join("_layers").join(digest.replace(':', "/")), digest)?;
    }
    let manifests = repository.join("_manifests");
    link(
        &manifests.join("revisions").join(manifest.replace(':', "/")),
        &manifest,
    )?;
    link(&manifests.join("tags/latest/current"), &manifest)?;
    link(
        &manifests
            .join("tags/latest/index")
            .join(manifest.replace(':', "/")),
        &manifest,
    )?;
    Ok(manifest)
}

fn link(directory: &Path, digest: &str) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    Ok(fs::write(directory.join("link"), digest)?)
}

/// Returns the path of a blob below a registry's root.
pub fn registry_path(digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])
}

fn write_blob(base: &Path, bytes: &[u8]) -> anyhow::Result<String> {
    let hash = Sha256::digest(bytes);
    publish(base, hash.as_slice(), |path| fs::write(path, bytes))
}

fn write_random(base: &Path, length: u64) -> anyhow::Result<String> {
    fs::create_dir_all(base)?;
    let temporary = base.join("random");
    let mut file = fs::File::create(&temporary)?;
    let mut hasher = Sha256::new();
    // xorshift64: any bytes will do that nothing can compress.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut piece = vec![0_u8; 1 << 20];
    for _ in 0..length / piece.len() as u64 {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hasher.update(&piece);
        file.write_all(&piece)?;
    }
    publish(base, hasher.finalize().as_slice(), |path| {
        fs::rename(&temporary, path)
    })
}

fn publish(
    base: &Path,
    hash: &[u8],
    write: impl FnOnce(&PathBuf) -> std::io::Result<()>,
) -> anyhow::Result<String> {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let directory = base.join("blobs/sha256").join(&hex[..2]).join(&hex);
    fs::create_dir_all(&directory)?;
    write(&directory.join("data"))?;
    Ok(format!("sha256:{hex}"))
}
