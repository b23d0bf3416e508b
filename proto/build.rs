//! Compiles the .proto files with protox, a compiler in Rust, so that no protoc is needed.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message as _;

/// Services that layerd serves, and describes by reflection.
const SERVED: [&str; 6] = [
    "containerd/services/diff/v1/diff.proto",
    "containerd/services/snapshots/v1/snapshots.proto",
    "layerd/v1/admin.proto",
    "layerd/v1/layers.proto",
    "layerd/v1/volumes.proto",
    "layerd/v1/mounts.proto",
];
/// Services on a socket of their own, without reflection.
const CSI: &str = "csi/v1/csi.proto";
/// Messages of layerd-nri, called over ttrpc.
const NRI: &str = "nri/v1alpha1/nri.proto";
/// Services that the tests call.
const CRI: &str = "cri/runtime/v1/cri.proto";
/// Services that layerd and layerctl call.
const CALLED: [&str; 7] = [
    "containerd/services/containers/v1/containers.proto",
    "containerd/services/content/v1/content.proto",
    "containerd/services/images/v1/images.proto",
    "containerd/services/introspection/v1/introspection.proto",
    "containerd/services/leases/v1/leases.proto",
    "containerd/services/namespaces/v1/namespace.proto",
    "containerd/services/version/v1/version.proto",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    for dir in ["containerd", "cri", "csi", "layerd", "nri"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    let served = protox::compile(SERVED, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), served.encode_to_vec())?;
    let all = protox::compile(
        SERVED.iter().chain(&CALLED).chain([&CSI, &NRI, &CRI]),
        ["."],
    )?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .btree_map(".")
        .compile_fds(all)?;
    Ok(())
}
