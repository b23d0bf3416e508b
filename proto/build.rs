//! Compiles the .proto files with protox, a compiler in Rust, so that no protoc is needed.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message as _;

const FILES: [&str; 4] = [
    "containerd/services/snapshots/v1/snapshots.proto",
    "layerd/v1/admin.proto",
    "layerd/volumes/v1/volumes.proto",
    "layerd/volumes/v1/mounts.proto",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    for dir in ["containerd", "layerd"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
