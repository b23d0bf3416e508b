//! The checked settings as text, for those who compare a file with the daemon that runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_drivers::devicemapper::Options;
use layerd_engine::Durability;

use super::{Config, CsiConfig, DockerConfig};
use crate::Settings;
use crate::metrics::Address;
use crate::traces::TracingConfig;

/// Effective configuration of a daemon, by the keys of the configuration file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Effective {
    /// Every key with its value, the default where nothing else was said: "trash.keep_secs".
    pub(crate) settings: BTreeMap<String, String>,
    /// Keys that the command line set.
    pub(crate) overridden: Vec<String>,
    /// The file; none if none was named.
    pub(crate) file: Option<PathBuf>,
}

impl Effective {
    pub(crate) fn new(config: &Config, settings: &Settings, file: Option<&Path>) -> Self {
        let given = [
            ("root", settings.root.is_some()),
            ("driver", settings.driver.is_some()),
            ("socket.path", settings.socket.is_some()),
            ("csi.socket", settings.csi_socket.is_some()),
            ("csi.node_id", settings.csi_node_id.is_some()),
            ("log.level", settings.log_level.is_some()),
            ("log.format", settings.log_format.is_some()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        Self {
            settings: all(config),
            overridden: given.map(|(key, _)| key.to_owned()).collect(),
            file: file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.to_owned())),
        }
    }
}

/// One entry for each key of `deploy/config.toml`; a test holds the two together.
pub(super) fn all(config: &Config) -> BTreeMap<String, String> {
    let entries = daemon(config)
        .into_iter()
        .chain(engine(config))
        .chain(unpacking(config))
        .chain(tracing(&config.tracing))
        .chain(docker(&config.docker))
        .chain(csi(&config.csi))
        .chain(devicemapper(&config.driver.devicemapper));
    entries
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn daemon(config: &Config) -> [(&'static str, String); 16] {
    let socket = &config.socket;
    let metrics = match &config.metrics {
        None => String::new(),
        Some(Address::Tcp(address)) => address.to_string(),
        Some(Address::Unix(path)) => format!("unix:{}", path.display()),
    };
    let group = socket.group.map(|group| group.to_string());
    [
        ("root", config.root.display().to_string()),
        ("driver", config.driver.kind.to_string()),
        ("stop_timeout_secs", seconds(config.stop_timeout)),
        ("socket.path", socket.path.display().to_string()),
        ("socket.mode", format!("{:04o}", socket.mode)),
        ("socket.group", group.unwrap_or_default()),
        ("log.level", config.log.level.clone()),
        (
            "log.format",
            format!("{:?}", config.log.format).to_lowercase(),
        ),
        ("limits.call_timeout_secs", seconds(config.limits.call)),
        (
            "limits.long_call_timeout_secs",
            seconds(config.limits.long_call),
        ),
        ("metrics.address", metrics),
        ("metrics.volumes", config.metrics_volumes.to_string()),
        ("reaper.every_secs", seconds(config.reap_every)),
        (
            "overlayfs.mount_options",
            config.driver.mount_options.join(","),
        ),
        ("overlayfs.layers", config.driver.layers.name().to_owned()),
        (
            "zfs.dataset",
            config.driver.dataset.clone().unwrap_or_default(),
        ),
    ]
}

fn engine(config: &Config) -> [(&'static str, String); 14] {
    let (engine, trash) = (&config.engine, &config.engine.trash);
    let durability = match engine.durability {
        Durability::Full => "full",
        Durability::Metadata => "metadata",
    };
    [
        ("durability", durability.to_owned()),
        ("overlayfs.id_mapping", engine.id_mapping.to_string()),
        ("overlayfs.rebase", engine.rebase.to_string()),
        ("overlayfs.spare_layers", engine.layer_pool.to_string()),
        (
            "usage.patience_ms",
            engine.usage_patience.as_millis().to_string(),
        ),
        ("trash.keep_secs", seconds(trash.keep)),
        ("trash.keep_volumes_secs", seconds(trash.keep_volumes)),
        ("trash.min_free_percent", trash.min_free_percent.to_string()),
        ("trash.guard_percent", trash.guard_percent.to_string()),
        ("trash.guard_min", trash.guard_min.to_string()),
        (
            "volumes.import_keep_percent",
            engine.import_keep_percent.to_string(),
        ),
        (
            "limits.keep_free_percent",
            engine.keep_free_percent.to_string(),
        ),
        (
            "limits.container_size",
            engine
                .container_size
                .map_or_else(|| "none".to_owned(), |bytes| bytes.to_string()),
        ),
        ("limits.enforcement", engine.limits.name().to_owned()),
    ]
}

fn unpacking(config: &Config) -> [(&'static str, String); 11] {
    let (unpack, limits) = (&config.engine.unpack, &config.engine.unpack.limits);
    let root = config.content.root.as_ref();
    [
        (
            "containerd.address",
            config.content.address.display().to_string(),
        ),
        (
            "containerd.root",
            root.map_or_else(String::new, |root| root.display().to_string()),
        ),
        ("unpack.enabled", config.unpack.enabled.to_string()),
        ("unpack.at_once", config.unpack.at_once.to_string()),
        ("unpack.workers", unpack.workers.to_string()),
        ("unpack.max_layer_bytes", limits.most_bytes.to_string()),
        ("unpack.max_entries", limits.most_entries.to_string()),
        (
            "unpack.max_directories",
            limits.most_directories.to_string(),
        ),
        ("unpack.max_ratio", limits.most_ratio.to_string()),
        ("unpack.max_window_bytes", limits.most_window.to_string()),
        ("unpack.file_digests", unpack.file_digests.to_string()),
    ]
}

fn tracing(config: &TracingConfig) -> [(&'static str, String); 3] {
    let endpoint = config.endpoint.as_ref();
    [
        (
            "tracing.endpoint",
            endpoint.map_or_else(String::new, ToString::to_string),
        ),
        ("tracing.sampling_ratio", config.sampling_ratio.to_string()),
        ("tracing.service_name", config.service_name.clone()),
    ]
}

fn docker(config: &DockerConfig) -> [(&'static str, String); 3] {
    let path = |path: &Option<PathBuf>| {
        let path = path.as_ref();
        path.map_or_else(String::new, |path| path.display().to_string())
    };
    [
        ("docker.socket", path(&config.socket)),
        ("docker.api", path(&config.api)),
        ("docker.mount_grace_secs", seconds(config.mount_grace)),
    ]
}

fn csi(config: &CsiConfig) -> [(&'static str, String); 3] {
    let socket = config.socket.as_ref();
    [
        (
            "csi.socket",
            socket.map_or_else(String::new, |socket| socket.path.display().to_string()),
        ),
        ("csi.node_id", config.node_id.clone()),
        ("csi.node_expansion", config.node_expansion.to_string()),
    ]
}

fn devicemapper(options: &Options) -> [(&'static str, String); 4] {
    let percent = options.keep_free_percent.to_string();
    [
        ("devicemapper.pool", options.pool.clone()),
        ("devicemapper.file_system", options.file_system.to_string()),
        ("devicemapper.base_size", options.base_bytes.to_string()),
        ("devicemapper.keep_free_percent", percent),
    ]
}

fn seconds(duration: Duration) -> String {
    duration.as_secs().to_string()
}
