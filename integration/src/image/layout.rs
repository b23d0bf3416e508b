//! Writes an OCI image layout as one tar file. The layers are not compressed, so a layer's digest
//! is its diff id too.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Entry, Layer, tar};
use crate::process::output;

/// Returns the file and the chain ids.
pub(super) fn write(dir: &Path, reference: &str, layers: &[Layer]) -> (PathBuf, Vec<String>) {
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| tar::archive(layer)).collect();
    let digests = sha256(dir, &blobs);
    let config = config(&digests).to_string().into_bytes();
    let config_digest = sha256(dir, std::slice::from_ref(&config)).remove(0);
    let manifest = manifest(&config, &config_digest, &blobs, &digests);
    let manifest = manifest.to_string().into_bytes();
    let manifest_digest = sha256(dir, std::slice::from_ref(&manifest)).remove(0);
    let index = index(reference, &manifest, &manifest_digest);
    let mut entries = vec![
        Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        Entry::file("index.json", index.to_string()),
        blob(&manifest_digest, manifest),
        blob(&config_digest, config),
    ];
    entries.extend(
        digests
            .iter()
            .zip(blobs)
            .map(|(digest, bytes)| blob(digest, bytes)),
    );
    let file = dir.join(format!("{}.tar", reference.replace(['/', ':'], "_")));
    std::fs::write(&file, tar::archive(&entries)).expect("the archive can be written");
    (file, chain(dir, &digests))
}

fn blob(digest: &str, bytes: Vec<u8>) -> Entry {
    Entry::file(format!("blobs/sha256/{digest}"), bytes)
}

fn config(layers: &[String]) -> Value {
    let ids: Vec<String> = layers
        .iter()
        .map(|digest| format!("sha256:{digest}"))
        .collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": ids },
    })
}

fn manifest(config: &[u8], config_digest: &str, blobs: &[Vec<u8>], digests: &[String]) -> Value {
    let layers: Vec<Value> = blobs
        .iter()
        .zip(digests)
        .map(|(bytes, digest)| descriptor("layer.v1.tar", bytes, digest))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config, config_digest),
        "layers": layers,
    })
}

fn index(reference: &str, manifest: &[u8], digest: &str) -> Value {
    let mut entry = descriptor("manifest.v1+json", manifest, digest);
    entry["annotations"] = json!({ "io.containerd.image.name": reference });
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    })
}

fn descriptor(kind: &str, bytes: &[u8], digest: &str) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{digest}"),
        "size": bytes.len(),
    })
}

/// This machine, in the words of the specification.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A layer's chain id is the hash of the one below and its own diff id.
fn chain(dir: &Path, digests: &[String]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for digest in digests {
        let id = match ids.last() {
            None => digest.clone(),
            Some(below) => {
                sha256(dir, &[format!("{below} sha256:{digest}").into_bytes()]).remove(0)
            }
        };
        ids.push(format!("sha256:{id}"));
    }
    ids
}

/// The hashes of some byte strings, in hex, by coreutils: one process for all.
fn sha256(dir: &Path, blobs: &[Vec<u8>]) -> Vec<String> {
    let scratch = tempfile::tempdir_in(dir).expect("the directory can be written");
    let files: Vec<PathBuf> = (0..blobs.len())
        .map(|n| scratch.path().join(n.to_string()))
        .collect();
    for (file, bytes) in files.iter().zip(blobs) {
        std::fs::write(file, bytes).expect("the directory can be written");
    }
    output(Command::new("sha256sum").args(&files))
        .lines()
        .map(|line| line.split(' ').next().expect("a hash comes first").into())
        .collect()
}
