//! Compiles containerd's API, which the agent serves and uses, to Rust.

const PROTO_DIR: &str = "src/snapshotter/proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO_DIR}");
    println!("cargo::rerun-if-changed=build.rs");
    let services = [
        "services/snapshots/v1/snapshots.proto",
        "services/content/v1/content.proto",
        "services/introspection/v1/introspection.proto",
    ];
    let files = protox::compile(services, [PROTO_DIR])?;
    tonic_prost_build::configure()
        .include_file("containerd.rs")
        .compile_fds(files)?;
    Ok(())
}
