//! Manifests of images: Docker's graph drivers keep none.

use serde::Serialize;
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
}

/// The same manifest for the same image: of its configuration and the archives of its layers, each by digest and
/// length.
pub(super) fn manifest(config: (&str, u64), layers: &[(&str, u64)]) -> Vec<u8> {
    let descriptor = |media_type, (digest, size)| Descriptor {
        media_type,
        digest,
        size,
    };
    let layers = layers.iter().map(|layer| descriptor(LAYER, *layer));
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config: descriptor(CONFIG, config),
        layers: layers.collect(),
    };
    // Strings and numbers alone: nothing of it can fail.
    serde_json::to_vec(&manifest).unwrap_or_default()
}

/// Its descriptor in containerd.
pub(super) fn target(manifest: &[u8]) -> layerd_proto::containerd::types::Descriptor {
    layerd_proto::containerd::types::Descriptor {
        media_type: MANIFEST.to_owned(),
        digest: digest(manifest),
        size: i64::try_from(manifest.len()).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

pub(super) fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

#[cfg(test)]
mod tests {
    use super::{manifest, target};

    #[test]
    fn a_manifest_names_configuration_and_layers() {
        let made = manifest(("sha256:c", 7), &[("sha256:a", 1024), ("sha256:b", 2048)]);
        let text = String::from_utf8(made.clone()).unwrap();
        let begin = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":"#;
        assert!(text.starts_with(begin), "{text}");
        let last = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:b","size":2048}]}"#;
        assert!(text.ends_with(last), "{text}");
        assert_eq!(target(&made).size, i64::try_from(text.len()).unwrap());
    }
}
