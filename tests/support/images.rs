//! The images in the registry: made once, kept in the cache, never changed.
//!
//! | repository:tag | what it is |
//! |---|---|
//! | library/busybox:latest, :v1 to :v5 | OCI manifest, one gzip layer; with a referrer by the fallback tag |
//! | library/busybox-schema2:latest | the same as Docker schema 2 |
//! | library/debian:bookworm | a debootstrap tree, schema 2, one big gzip layer |
//! | library/debian-zstd:bookworm | the same tree as OCI with one zstd layer |
//! | library/layers:latest | OCI, busybox and [`EXTRA_LAYERS`] more layers, with a whiteout |
//! | library/multi:latest | OCI index: amd64, arm64, and an attestation for each |
//! | team/app:latest | busybox in a repository outside `library/` |

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::curl::Curl;
use super::process::{bound_command, run_ok, shell};
use super::registry::Registry;
use super::{file_length, sha256, sha256_file};

/// Part of the cache's path: change it when the images change.
const VERSION: &str = "registry-v2";
/// What a maker leaves in its directory.
const MADE: &str = "made";
/// How many layers `library/layers` has on top of busybox's.
pub const EXTRA_LAYERS: u8 = 7;

/// The type of an image manifest of OCI.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of an index of OCI.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Returns the filled registry's directory, which is made when it is missing: in about a minute.
pub fn registry_root() -> PathBuf {
    cached(VERSION, fill)
}

/// Returns a directory of the cache, which `make` fills if it is not there: it gets the cache's root, and an
/// empty directory to work in, where it leaves what is to be kept as `made`.
pub fn cached(name: &str, make: impl FnOnce(&Path, &Path)) -> PathBuf {
    let cache = cache();
    let root = cache.join(name);
    fs::create_dir_all(&cache).expect("make the cache");
    // Tests are processes of their own: one of them fills, the others wait.
    let lock = File::create(cache.join("lock")).expect("make the cache's lock");
    lock.lock().expect("lock the cache");
    if !root.exists() {
        remove_leftovers(&cache);
        let making = tempfile::tempdir_in(&cache).expect("a directory in the cache");
        make(&cache, making.path());
        fs::rename(making.path().join(MADE), &root).expect("publish what was made");
    }
    root
}

/// Removes what a maker that was killed left; whoever holds the lock is the only maker.
fn remove_leftovers(cache: &Path) {
    for entry in fs::read_dir(cache).expect("read the cache").flatten() {
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            fs::remove_dir_all(entry.path()).expect("remove a leftover");
        }
    }
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache");
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    base.unwrap_or_else(home).join("wharf-tests")
}

/// Fills `<work>/made`.
fn fill(cache: &Path, work: &Path) {
    let root = work.join(MADE);
    fs::create_dir(&root).expect("make the registry's root");
    let registry = Registry::start(&root, "readonly: {enabled: false}");
    let mut layout = Layout::new(&work.join("layout"));

    let busybox = layout.layer(&busybox_tar(work), Compression::Gzip);
    let busybox_manifest = layout.image("busybox", "amd64", std::slice::from_ref(&busybox));
    layout.push(&registry, "busybox", "library/busybox:latest", &[]);
    layout.push(
        &registry,
        "busybox",
        "library/busybox-schema2:latest",
        &["--format", "v2s2"],
    );
    layout.push(&registry, "busybox", "team/app:latest", &[]);
    for version in 1..=5 {
        layout.push(&registry, "busybox", &format!("library/busybox:v{version}"), &[]);
    }

    let debian = debian_tar(cache);
    let debian_gzip = layout.layer(&debian, Compression::Gzip);
    layout.image("debian", "amd64", &[debian_gzip]);
    layout.push(
        &registry,
        "debian",
        "library/debian:bookworm",
        &["--format", "v2s2"],
    );
    let debian_zstd = layout.layer(&debian, Compression::Zstd);
    layout.image("debian-zstd", "amd64", &[debian_zstd]);
    layout.push(&registry, "debian-zstd", "library/debian-zstd:bookworm", &[]);

    let mut layers = vec![busybox.clone()];
    layers.extend((0..EXTRA_LAYERS).map(|number| layout.layer(&extra_tar(work, number), Compression::Gzip)));
    layout.image("layers", "amd64", &layers);
    layout.push(&registry, "layers", "library/layers:latest", &[]);

    let arm_manifest = layout.image("busybox-arm64", "arm64", &[busybox]);
    layout.push(&registry, "busybox", "library/multi:amd64", &[]);
    layout.push(&registry, "busybox-arm64", "library/multi:arm64", &[]);
    put_index(
        &registry,
        &[("amd64", busybox_manifest.clone()), ("arm64", arm_manifest)],
    );
    put_referrer(&registry, &busybox_manifest);
}

/// A root with busybox, as `<work>/busybox.tar`.
pub fn busybox_tar(work: &Path) -> PathBuf {
    let tar = work.join("busybox.tar");
    shell(&format!(
        "cd {work}; mkdir -p busybox/bin busybox/tmp; cp -L \"$(command -v busybox)\" busybox/bin/busybox; \
         for name in sh echo cat ls sleep sha256sum; do ln -s busybox busybox/bin/$name; done; \
         chmod 1777 busybox/tmp; ln busybox/bin/busybox busybox/bin/hard-link; {TAR} -C busybox -cf {tar} .",
        work = work.display(),
        tar = tar.display(),
    ));
    tar
}

/// GNU tar, told to write the same bytes for the same files.
const TAR: &str = "tar --numeric-owner --owner=0 --group=0 --mtime=@0 --sort=name";

/// One more layer: 1 MiB that does not compress, and the removal of the layer's before.
fn extra_tar(work: &Path, number: u8) -> PathBuf {
    let directory = work.join(format!("extra{number}"));
    fs::create_dir_all(directory.join("extra")).expect("make a directory");
    let mut state = u64::from(number) + 1;
    let noise: Vec<u8> = (0..1 << 20)
        .map(|_| {
            // xorshift64: any bytes will do, as long as they are always the same.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    fs::write(directory.join(format!("extra/noise{number}")), noise).expect("write a file");
    if let Some(before) = number.checked_sub(1) {
        fs::write(directory.join(format!("extra/.wh.noise{before}")), "").expect("write a whiteout");
    }
    let tar = work.join(format!("extra{number}.tar"));
    shell(&format!(
        "{TAR} -C {} -cf {} .",
        directory.display(),
        tar.display()
    ));
    tar
}

/// Where debootstrap gets Debian's packages from.
pub fn debian_mirror() -> String {
    std::env::var("DEBIAN_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned())
}

/// The debootstrap tree's tar, kept in the cache since it comes over the network.
pub fn debian_tar(cache: &Path) -> PathBuf {
    let tar = cache.join("debian-bookworm.tar");
    if !tar.exists() {
        let mirror = debian_mirror();
        let work = tempfile::tempdir_in(cache).expect("a directory in the cache");
        let path = work.path().display();
        let mut command = bound_command("/bin/sh");
        command.arg("-euc").arg(format!(
            "debootstrap --variant=minbase bookworm {path}/root {mirror}; \
             tar -C {path}/root --numeric-owner --one-file-system -cf {path}/root.tar .",
        ));
        run_ok(command);
        fs::rename(work.path().join("root.tar"), &tar).expect("publish the tree");
    }
    tar
}

/// How a layer is packed.
#[derive(Clone, Copy)]
pub enum Compression {
    Gzip,
    Zstd,
}

/// A layer in a layout.
#[derive(Clone)]
pub struct Layer {
    descriptor: Value,
    diff_id: String,
}

/// An OCI image layout, from which skopeo copies and umoci unpacks.
pub struct Layout {
    root: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Makes an empty one.
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root.join("blobs/sha256")).expect("make a layout");
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write a layout");
        Self {
            root: root.to_owned(),
            manifests: Vec::new(),
        }
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(':', "/"))
    }

    /// Packs a tar as a layer.
    pub fn layer(&self, tar: &Path, compression: Compression) -> Layer {
        let (command, suffix) = match compression {
            Compression::Gzip => ("gzip -nc", "gzip"),
            Compression::Zstd => ("zstd -qc", "zstd"),
        };
        let packed = self.root.join("packed");
        shell(&format!("{command} {} > {}", tar.display(), packed.display()));
        let digest = sha256_file(&packed);
        let size = file_length(&packed);
        fs::rename(packed, self.blob_path(&digest)).expect("publish a blob");
        Layer {
            descriptor: json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar+{suffix}"),
                "digest": digest,
                "size": size,
            }),
            diff_id: sha256_file(tar),
        }
    }

    fn json(&self, media_type: &str, value: &Value) -> Value {
        let bytes = value.to_string();
        let digest = sha256(bytes.as_bytes());
        fs::write(self.blob_path(&digest), &bytes).expect("write a blob");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds an image under a name, and returns its manifest's descriptor.
    pub fn image(&mut self, name: &str, architecture: &str, layers: &[Layer]) -> Value {
        self.image_that_runs(&["/bin/sh"], name, architecture, layers)
    }

    /// Adds an image with a command of its own.
    pub fn image_that_runs(
        &mut self,
        program: &[&str],
        name: &str,
        architecture: &str,
        layers: &[Layer],
    ) -> Value {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        // Buildah 1.28 builds on nothing that has layers without a history.
        let created_by = |number| json!({"created_by": format!("layer {number}")});
        let history: Vec<Value> = (1..=layers.len()).map(created_by).collect();
        let config = self.json(
            OCI_CONFIG,
            &json!({
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": program, "Env": ["PATH=/usr/bin:/bin"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": history,
            }),
        );
        let descriptors: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
        let descriptor = self.json(
            OCI_MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": descriptors}),
        );
        let mut named = descriptor.clone();
        named["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(named);
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        fs::write(self.root.join("index.json"), index.to_string()).expect("write a layout's index");
        descriptor
    }

    /// Copies an image into a registry, with more arguments for skopeo.
    pub fn push(&self, registry: &Registry, name: &str, target: &str, arguments: &[&str]) {
        let mut command = bound_command("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .args(arguments);
        command.arg(format!("oci:{}:{name}", self.root.display()));
        command.arg(format!("docker://{}/{target}", registry.address()));
        run_ok(command);
    }
}

/// Puts `library/multi:latest`: an attestation has the platform `unknown/unknown`, as BuildKit makes it.
fn put_index(registry: &Registry, images: &[(&str, Value)]) {
    let repository = "library/multi";
    let mut manifests = Vec::new();
    let mut attestations = Vec::new();
    for (architecture, descriptor) in images {
        let mut image = descriptor.clone();
        image["platform"] = json!({"os": "linux", "architecture": architecture});
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [{"name": "multi", "digest": {"sha256": descriptor["digest"]}}],
        });
        let layer = put_blob(registry, repository, IN_TOTO, &statement);
        let config = put_blob(
            registry,
            repository,
            OCI_CONFIG,
            &json!({
                "architecture": "unknown", "os": "unknown", "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            }),
        );
        let mut attestation = put_manifest(
            registry,
            repository,
            None,
            OCI_MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}),
        );
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": descriptor["digest"],
        });
        manifests.push(image);
        attestations.push(attestation);
    }
    manifests.extend(attestations);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    put_manifest(registry, repository, Some("latest"), OCI_INDEX, &index);
}

/// Puts a signature of busybox, found by the fallback tag since distribution 2.8 knows no referrers.
fn put_referrer(registry: &Registry, subject: &Value) {
    let repository = "library/busybox";
    let config = put_blob(
        registry,
        repository,
        "application/vnd.example.signature",
        &json!({}),
    );
    let layer = put_blob(registry, repository, "text/plain", &json!("signed"));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.example.signature",
        "config": config, "layers": [layer], "subject": subject,
    });
    let mut signature = put_manifest(registry, repository, None, OCI_MANIFEST, &manifest);
    signature["artifactType"] = json!("application/vnd.example.signature");
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [signature]});
    let tag = subject["digest"].as_str().expect("a digest").replace(':', "-");
    put_manifest(registry, repository, Some(&tag), OCI_INDEX, &index);
}

fn put_blob(registry: &Registry, repository: &str, media_type: &str, value: &Value) -> Value {
    let bytes = value.to_string();
    let digest = sha256(bytes.as_bytes());
    let started = Curl::new(&registry.url(&format!("{repository}/blobs/uploads/")))
        .method("POST")
        .send();
    let location = started.header("location").expect("an upload's location");
    let answer = Curl::new(&format!("{location}&digest={digest}"))
        .method("PUT")
        .header("Content-Type", "application/octet-stream")
        .argument("--data-binary")
        .argument(&bytes)
        .send();
    assert_eq!(answer.status, 201, "put a blob");
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

/// Puts a manifest by tag, or by its digest if there is none; returns its descriptor.
fn put_manifest(
    registry: &Registry,
    repository: &str,
    tag: Option<&str>,
    media_type: &str,
    value: &Value,
) -> Value {
    let bytes = value.to_string();
    let digest = sha256(bytes.as_bytes());
    let reference = tag.unwrap_or(&digest);
    let answer = Curl::new(&registry.url(&format!("{repository}/manifests/{reference}")))
        .method("PUT")
        .header("Content-Type", media_type)
        .argument("--data-binary")
        .argument(&bytes)
        .send();
    assert_eq!(
        answer.status,
        201,
        "put a manifest: {}",
        String::from_utf8_lossy(&answer.body)
    );
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}
