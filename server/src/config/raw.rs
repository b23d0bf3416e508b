//! The configuration as its file has it, before anything is checked.

use std::path::PathBuf;

use serde::Deserialize;

use super::LogFormat;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) root: Option<PathBuf>,
    pub(super) durability: Option<RawDurability>,
    pub(super) stop_timeout_secs: Option<u64>,
    pub(super) socket: RawSocket,
    pub(super) log: RawLog,
    pub(super) limits: RawLimits,
    pub(super) metrics: RawMetrics,
    pub(super) tracing: RawTracing,
    pub(super) driver: Option<String>,
    pub(super) overlayfs: RawOverlayfs,
    pub(super) devicemapper: RawDevicemapper,
    pub(super) zfs: RawZfs,
    pub(super) usage: RawUsage,
    pub(super) containerd: RawContainerd,
    pub(super) docker: RawDocker,
    pub(super) unpack: RawUnpack,
    pub(super) reaper: RawReaper,
    pub(super) trash: RawTrash,
    pub(super) volumes: RawVolumes,
    pub(super) csi: RawCsi,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawDurability {
    Full,
    Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTrash {
    pub(super) keep_secs: Option<u64>,
    pub(super) keep_volumes_secs: Option<u64>,
    pub(super) min_free_percent: Option<u64>,
    pub(super) guard_percent: Option<u64>,
    pub(super) guard_min: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSocket {
    pub(super) path: Option<PathBuf>,
    pub(super) mode: Option<String>,
    pub(super) group: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) level: Option<String>,
    pub(super) format: Option<LogFormat>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOverlayfs {
    pub(super) mount_options: Option<Vec<String>>,
    pub(super) layers: Option<String>,
    pub(super) id_mapping: Option<bool>,
    pub(super) rebase: Option<bool>,
    pub(super) spare_layers: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDevicemapper {
    pub(super) pool: Option<String>,
    pub(super) file_system: Option<String>,
    pub(super) base_size: Option<String>,
    pub(super) keep_free_percent: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawZfs {
    pub(super) dataset: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUsage {
    pub(super) patience_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    pub(super) address: Option<String>,
    pub(super) volumes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTracing {
    pub(super) endpoint: Option<String>,
    pub(super) sampling_ratio: Option<f64>,
    pub(super) service_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) call_timeout_secs: Option<u64>,
    pub(super) long_call_timeout_secs: Option<u64>,
    pub(super) keep_free_percent: Option<u64>,
    pub(super) container_size: Option<String>,
    pub(super) enforcement: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawContainerd {
    pub(super) address: Option<PathBuf>,
    pub(super) root: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDocker {
    pub(super) socket: Option<String>,
    pub(super) api: Option<String>,
    pub(super) mount_grace_secs: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUnpack {
    pub(super) enabled: Option<bool>,
    pub(super) at_once: Option<u64>,
    pub(super) workers: Option<u64>,
    pub(super) max_layer_bytes: Option<u64>,
    pub(super) max_entries: Option<u64>,
    pub(super) max_directories: Option<u64>,
    pub(super) max_ratio: Option<u64>,
    pub(super) max_window_bytes: Option<u64>,
    pub(super) file_digests: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReaper {
    pub(super) every_secs: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawVolumes {
    pub(super) import_keep_percent: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCsi {
    pub(super) socket: Option<PathBuf>,
    pub(super) node_id: Option<String>,
    pub(super) node_expansion: Option<bool>,
}
