//! Writes OCI image layouts: as one tar file with uncompressed layers, so that a layer's digest is
//! its diff id too, or the index of layers made elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Entry, Kind, Layer, tar};
use crate::process::output;

/// A layer's blob, for the descriptions of an image.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Compression, as the suffix of its media type: empty or `+gzip`.
    pub compression: &'static str,
    /// SHA-256 in hex.
    pub digest: String,
    /// SHA-256 of the archive in it.
    pub diff_id: String,
    /// Bytes.
    pub size: u64,
}

/// Returns the file and the chain ids.
pub(super) fn write(dir: &Path, reference: &str, layers: &[Layer]) -> (PathBuf, Vec<String>) {
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| tar::archive(layer)).collect();
    let digests = sha256(dir, &blobs);
    let described = digests.iter().zip(&blobs).map(|(digest, bytes)| Blob {
        compression: "",
        digest: digest.clone(),
        diff_id: digest.clone(),
        size: bytes.len() as u64,
    });
    let (_, mut entries) = describe(dir, reference, &described.collect::<Vec<_>>());
    let named = digests.iter().zip(blobs);
    entries.extend(named.map(|(digest, bytes)| blob(digest, bytes)));
    let file = dir.join(format!("{}.tar", reference.replace(['/', ':'], "_")));
    std::fs::write(&file, tar::archive(&entries)).expect("the archive can be written");
    (file, chain(dir, &digests))
}

/// Writes what describes an image into `dir`, beside the blobs in its `blobs/sha256`, and returns
/// the digest of the manifest.
///
/// # Panics
/// If `dir` cannot be written.
#[must_use]
pub fn write_descriptions(dir: &Path, reference: &str, blobs: &[Blob]) -> String {
    let (digest, entries) = describe(dir, reference, blobs);
    for entry in entries {
        let Kind::File(bytes) = entry.kind else {
            continue;
        };
        std::fs::write(dir.join(entry.path), bytes).expect("the folder can be written");
    }
    format!("sha256:{digest}")
}

/// The digest of the manifest, and all files but the layers.
fn describe(dir: &Path, reference: &str, blobs: &[Blob]) -> (String, Vec<Entry>) {
    let config = config(blobs).to_string().into_bytes();
    let config_digest = sha256(dir, std::slice::from_ref(&config)).remove(0);
    let manifest = manifest(&config, &config_digest, blobs);
    let manifest = manifest.to_string().into_bytes();
    let manifest_digest = sha256(dir, std::slice::from_ref(&manifest)).remove(0);
    let index = index(reference, &manifest, &manifest_digest);
    let entries = vec![
        Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        Entry::file("index.json", index.to_string()),
        blob(&manifest_digest, manifest),
        blob(&config_digest, config),
    ];
    (manifest_digest, entries)
}

fn blob(digest: &str, bytes: Vec<u8>) -> Entry {
    Entry::file(format!("blobs/sha256/{digest}"), bytes)
}

fn config(layers: &[Blob]) -> Value {
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("sha256:{}", layer.diff_id))
        .collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": ids },
    })
}

fn manifest(config: &[u8], config_digest: &str, blobs: &[Blob]) -> Value {
    let layer = |blob: &Blob| {
        let kind = format!("layer.v1.tar{}", blob.compression);
        descriptor(&kind, blob.size, &blob.digest)
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config.len() as u64, config_digest),
        "layers": blobs.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn index(reference: &str, manifest: &[u8], digest: &str) -> Value {
    let mut entry = descriptor("manifest.v1+json", manifest.len() as u64, digest);
    entry["annotations"] = json!({ "io.containerd.image.name": reference });
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    })
}

fn descriptor(kind: &str, size: u64, digest: &str) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{digest}"),
        "size": size,
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
