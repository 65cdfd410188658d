//! Layers by the tools that people make layers with.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::clients::Docker;
use crate::support::images::{cached, debian_tar};
use crate::support::process::{free_address, shell};

/// Part of the cache's path: change it when the layers change.
const VERSION: &str = "layers-v1";
/// Who builds images.
pub const BUILDERS: [&str; 3] = ["docker", "buildah", "umoci"];

/// Fills a root directory with what tools have to keep.
const FILL: &str = r#"
mkdir -p usr/lib etc/app.d srv/data/deep srv/replaced opt/empty tmp var/log
chmod 1777 tmp; chmod 0750 srv/data; chown 1000:2000 srv/data
echo setuid > usr/lib/su; chmod 4755 usr/lib/su
echo one > srv/data/one; ln srv/data/one srv/data/same; ln srv/data/one etc/same
ln -s ../srv/data/one etc/link; ln -s /nowhere etc/dangling
echo deep > srv/data/deep/file; echo old > srv/replaced/old; echo gone > var/log/gone
mkfifo etc/fifo; mknod etc/zero c 1 5
truncate -s 1M etc/hole; printf end >> etc/hole
echo "high owner" > etc/owned; chown 3000000000:3000000001 etc/owned
"#;
/// What only some tools keep.
const FILL_ATTRIBUTES: &str = r#"
echo raw > usr/lib/ping; setcap cap_net_raw+ep usr/lib/ping
setfattr -n user.note -v kept etc/owned
setfacl -m u:1234:r etc/owned; setfacl -d -m g:77:rx srv/data
"#;
/// Changes what [`FILL`] has made.
const CHANGE: &str = r#"
rm var/log/gone srv/data/same; rm -r opt/empty srv/replaced
mkdir srv/replaced; echo new > srv/replaced/new
rm -r srv/data/deep; echo "now a file" > srv/data/deep
chmod 0700 srv/data; echo more >> usr/lib/su; chmod 4755 usr/lib/su
"#;

/// Returns the tars of an image's layers, the bottom one first, as one of [`BUILDERS`] has made them.
pub fn built_by(builder: &str) -> Vec<PathBuf> {
    let root = cached(VERSION, |_, work| {
        build_by_docker(work);
        build_by_buildah(work);
        build_by_umoci(work);
    });
    let directory = root.join(builder);
    let layers: Vec<PathBuf> = (0..)
        .map(|number| directory.join(format!("{number}.tar")))
        .take_while(|path| path.exists())
        .collect();
    assert!(layers.len() >= 2, "layers by {builder}");
    layers
}

/// Returns the tar of a debootstrap tree: 10,000 entries in 200 MB.
pub fn debian() -> PathBuf {
    cached("debian-v1", |cache, work| {
        let made = work.join("made");
        fs::create_dir(&made).expect("make a directory");
        // It is there already, but for the first time.
        fs::hard_link(debian_tar(cache), made.join("0.tar")).expect("link the tree");
    })
    .join("0.tar")
}

/// Archives one tree in every format that GNU tar and bsdtar know; returns each with its name.
pub fn archives(directory: &Path) -> Vec<(String, PathBuf)> {
    let source = directory.join("source");
    fs::create_dir(&source).expect("make a directory");
    in_directory(&source, &[FILL, FILL_ATTRIBUTES].concat());
    let gnu = "tar --numeric-owner --sort=name";
    let commands = [
        ("gnu", format!("{gnu} --format=gnu")),
        ("gnu-sparse", format!("{gnu} --format=gnu --sparse")),
        ("oldgnu-sparse", format!("{gnu} --format=oldgnu --sparse")),
        (
            "posix",
            format!("{gnu} --format=posix --xattrs --xattrs-include='*'"),
        ),
        (
            "posix-sparse-0.0",
            format!("{gnu} --format=posix --sparse --sparse-version=0.0"),
        ),
        (
            "posix-sparse-0.1",
            format!("{gnu} --format=posix --sparse --sparse-version=0.1"),
        ),
        (
            "posix-sparse-1.0",
            format!("{gnu} --format=posix --sparse --sparse-version=1.0"),
        ),
        ("bsd-pax", "bsdtar --numeric-owner --format pax".to_owned()),
        ("bsd-gnu", "bsdtar --numeric-owner --format gnutar".to_owned()),
        (
            "bsd-ustar",
            "bsdtar --numeric-owner --exclude ./etc/owned --format ustar".to_owned(),
        ),
    ];
    let archive = |(name, command): (&str, String)| {
        let tar = directory.join(format!("{name}.tar"));
        in_directory(&source, &format!("{command} -cf {} .", tar.display()));
        (name.to_owned(), tar)
    };
    commands.into_iter().map(archive).collect()
}

fn in_directory(directory: &Path, script: &str) {
    shell(&format!("cd {}; {script}", directory.display()));
}

/// Makes `<work>/made/<builder>`.
fn target(work: &Path, builder: &str) -> PathBuf {
    let target = work.join("made").join(builder);
    fs::create_dir_all(&target).expect("make a directory");
    target
}

fn build_by_docker(work: &Path) {
    let docker = Docker::start(free_address());
    let context = work.join("context");
    fs::create_dir(&context).expect("make a directory");
    let busybox = "mkdir root root/bin; cp -L \"$(command -v busybox)\" root/bin/busybox; \
                   root/bin/busybox --install -s root/bin; for f in root/bin/*; do [ ! -L \"$f\" ] || \
                   ln -sf busybox \"$f\"; done; tar -C root -cf root.tar .";
    in_directory(&context, busybox);
    docker.import(&context.join("root.tar"), "wharf/base");
    fs::write(context.join("fill.sh"), FILL).expect("write a script");
    fs::write(context.join("change.sh"), CHANGE).expect("write a script");
    let dockerfile =
        "FROM wharf/base\nCOPY fill.sh change.sh /\nRUN sh -eu /fill.sh\nRUN sh -eu /change.sh\n";
    fs::write(context.join("Dockerfile"), dockerfile).expect("write a Dockerfile");
    docker.build("wharf/built", &context);
    let saved = work.join("saved");
    docker.save("wharf/built", &saved);
    let manifest = json(&saved.join("manifest.json"));
    let layers = manifest[0]["Layers"].as_array().expect("layers");
    let target = target(work, "docker");
    for (number, layer) in layers.iter().enumerate() {
        let layer = saved.join(layer.as_str().expect("a path"));
        fs::copy(layer, target.join(format!("{number}.tar"))).expect("copy a layer");
    }
}

fn build_by_buildah(work: &Path) {
    let directory = work.join("buildah");
    fs::create_dir(&directory).expect("make a directory");
    let steps = [
        ("scratch", [FILL, FILL_ATTRIBUTES].concat()),
        ("oci:layout:1", CHANGE.to_owned()),
    ];
    for (number, (from, script)) in steps.into_iter().enumerate() {
        in_directory(
            &directory,
            &format!(
                "b() {{ buildah --root $PWD/root --runroot $PWD/run --storage-driver overlay \"$@\"; }}
                c=$(b from {from}); m=$(b mount $c); (cd $m; {script})
                b umount $c >/dev/null; b commit -q $c oci:layout:{}; b rm $c >/dev/null",
                number + 1
            ),
        );
    }
    in_directory(&directory, "umount -l root/overlay 2>/dev/null || true");
    copy_layers(&directory.join("layout"), "2", &target(work, "buildah"));
}

fn build_by_umoci(work: &Path) {
    let directory = work.join("umoci");
    fs::create_dir(&directory).expect("make a directory");
    in_directory(
        &directory,
        "umoci init --layout layout; umoci new --image layout:0",
    );
    for (number, script) in [[FILL, FILL_ATTRIBUTES].concat(), CHANGE.to_owned()]
        .iter()
        .enumerate()
    {
        in_directory(
            &directory,
            &format!(
                "umoci unpack --image layout:{number} {number}; (cd {number}/rootfs; {script})
                umoci repack --image layout:{} {number}",
                number + 1
            ),
        );
    }
    copy_layers(&directory.join("layout"), "2", &target(work, "umoci"));
}

/// Copies the layers of an image out of a layout, and unpacks those that are gzip.
fn copy_layers(layout: &Path, tag: &str, target: &Path) {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let index = json(&layout.join("index.json"));
    let manifests = index["manifests"].as_array().expect("manifests");
    let tagged = |manifest: &&Value| manifest["annotations"]["org.opencontainers.image.ref.name"] == tag;
    let manifest = json(&blob(manifests.iter().find(tagged).expect("the tag")));
    let layers = manifest["layers"].as_array().expect("layers");
    for (number, layer) in layers.iter().enumerate() {
        let tar = target.join(format!("{number}.tar"));
        shell(&format!(
            "gzip -dcf < {} > {}",
            blob(layer).display(),
            tar.display()
        ));
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("read a file")).expect("JSON")
}
