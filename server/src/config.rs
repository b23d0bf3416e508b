//! The configuration: `Raw` as the file has it, [`Config`] as the daemon trusts it.
//!
//! Every key is documented in `deploy/config.toml`; a test holds the two together.

mod csi;
mod devicemapper;
mod effective;
mod places;
mod raw;
mod value;
mod zfs;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use layerd_drivers::{LayerForm, factory};
use layerd_engine::layerd_layers::apply;
use layerd_engine::{Durability, TrashOptions, UnpackOptions};
use layerd_mounts::limit::Method;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::Settings;
use crate::api::admission::Limits;
use crate::content::ContentConfig;
use crate::listener::SocketConfig;
use crate::metrics;
use crate::traces::TracingConfig;
pub(crate) use csi::CsiConfig;
pub(crate) use effective::Effective;
use places::Places;
use raw::{
    Raw, RawContainerd, RawDocker, RawDurability, RawLimits, RawLog, RawSocket, RawTracing,
    RawTrash, RawUnpack, RawVolumes,
};
use value::{
    absolute, count, directives, endpoint, group, label, metrics_address, millis, mode, range,
    ratio, seconds, socket_path, value,
};

/// A terabyte in a layer, and ten million names, are mistakes or malice.
const MOST_BYTES: u64 = 1 << 40;
const MOST_ENTRIES: u64 = 10_000_000;

/// Checked settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) socket: SocketConfig,
    pub(crate) log: LogConfig,
    pub(crate) driver: factory::Settings,
    pub(crate) engine: layerd_engine::Options,
    /// Interval of the reaper's own passes.
    pub(crate) reap_every: Duration,
    /// Where layers come from and go to.
    pub(crate) content: ContentConfig,
    pub(crate) unpack: UnpackConfig,
    /// Limits for calls.
    pub(crate) limits: Limits,
    /// Where metrics are served, if anywhere.
    pub(crate) metrics: Option<metrics::Address>,
    /// Largest number of volumes that have metrics of their own.
    pub(crate) metrics_volumes: usize,
    /// Where traces go, if anywhere.
    pub(crate) tracing: TracingConfig,
    pub(crate) docker: DockerConfig,
    /// The Container Storage Interface.
    pub(crate) csi: CsiConfig,
    /// Limit for calls to finish during a stop.
    pub(crate) stop_timeout: Duration,
    /// All of this in the words of the file.
    pub(crate) effective: Effective,
}

/// Docker's and Podman's volume plugin.
#[derive(Debug, Clone)]
pub(crate) struct DockerConfig {
    /// Socket to make where systemd hands none over; `None` for no plugin there.
    pub(crate) socket: Option<PathBuf>,
    /// dockerd's API, which tells what containers there are; `None` to ask nothing.
    pub(crate) api: Option<PathBuf>,
    /// Age from which a mount id is let go that no container of dockerd's list accounts for.
    pub(crate) mount_grace: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct UnpackConfig {
    /// Enables containerd's diff service.
    pub(crate) enabled: bool,
    /// Layers at a time.
    pub(crate) at_once: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct LogConfig {
    /// Directives in tracing's filter syntax, already checked.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people, on standard error
    #[default]
    Text,
    /// One JSON object a line, on standard error
    Json,
    /// The systemd journal, with fields
    Journald,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read the configuration {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("configuration {}: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("setting `{key}` is {value:?}: {rule}")]
    Value {
        key: &'static str,
        value: String,
        rule: String,
    },
}

impl Config {
    /// Reads the file, if one is named or a user's is in its place, puts the command line over it and checks
    /// all of it.
    pub(crate) fn load(settings: &Settings) -> Result<Self, ConfigError> {
        let file = file(settings);
        let mut raw = file.as_deref().map_or_else(|| Ok(Raw::default()), read)?;
        let over = |target: &mut Option<PathBuf>, value: &Option<PathBuf>| {
            if value.is_some() {
                target.clone_from(value);
            }
        };
        over(&mut raw.root, &settings.root);
        over(&mut raw.socket.path, &settings.socket);
        if settings.driver.is_some() {
            raw.driver.clone_from(&settings.driver);
        }
        over(&mut raw.csi.socket, &settings.csi_socket);
        raw.csi.node_id = settings.csi_node_id.clone().or(raw.csi.node_id);
        raw.log.level = settings.log_level.clone().or(raw.log.level);
        raw.log.format = settings.log_format.or(raw.log.format);
        let mut config = Self::try_from(raw)?;
        config.effective = Effective::new(&config, settings, file.as_deref());
        Ok(config)
    }

    /// Has the daemon run on another root than the settings say.
    pub(crate) fn set_root(&mut self, root: &Path) {
        root.clone_into(&mut self.root);
        let key = "root".to_owned();
        self.effective
            .settings
            .insert(key, root.display().to_string());
    }
}

/// The configuration file that counts, if any.
fn file(settings: &Settings) -> Option<PathBuf> {
    let usual = || Places::new().config.filter(|path| path.exists());
    settings.config.clone().or_else(usual)
}

fn read(path: &Path) -> Result<Raw, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

impl TryFrom<Raw> for Config {
    type Error = ConfigError;

    fn try_from(raw: Raw) -> Result<Self, ConfigError> {
        let driver = driver(raw.driver.as_deref())?;
        let root = match raw.root {
            Some(root) if !driver.is_persistent() => {
                let rule = format!("must not be set, since the driver {driver} keeps nothing");
                return Err(value("root", root.to_string_lossy(), rule));
            }
            Some(root) => root,
            None if driver.is_persistent() => Places::new().root,
            // The daemon makes a folder there for the time it runs.
            None => std::env::temp_dir(),
        };
        let socket: SocketConfig = raw.socket.try_into()?;
        let limits = enforcement(raw.limits.enforcement.as_deref())?;
        Ok(Self {
            root: absolute("root", root)?,
            log: raw.log.try_into()?,
            driver: factory::Settings {
                kind: driver,
                mount_options: raw.overlayfs.mount_options.unwrap_or_default(),
                layers: layer_form(raw.overlayfs.layers.as_deref())?,
                limits,
                devicemapper: raw.devicemapper.try_into()?,
                dataset: zfs::dataset(raw.zfs.dataset, driver)?,
            },
            engine: layerd_engine::Options {
                socket: Some(socket.path.clone()),
                durability: match raw.durability {
                    None | Some(RawDurability::Full) => Durability::Full,
                    Some(RawDurability::Metadata) => Durability::Metadata,
                },
                trash: raw.trash.try_into()?,
                usage_patience: millis("usage.patience_ms", raw.usage.patience_ms, 500, 60_000)?,
                id_mapping: raw.overlayfs.id_mapping.unwrap_or(true),
                rebase: raw.overlayfs.rebase.unwrap_or(false),
                layer_pool: count(
                    "overlayfs.spare_layers",
                    raw.overlayfs.spare_layers,
                    128,
                    0..=1024,
                )?,
                unpack: (&raw.unpack).try_into()?,
                import_keep_percent: import_keep_percent(&raw.volumes)?,
                keep_free_percent: keep_free_percent(&raw.limits)?,
                container_size: container_size(&raw.limits, driver)?,
                limits,
            },
            socket,
            limits: raw.limits.try_into()?,
            metrics_volumes: count("metrics.volumes", raw.metrics.volumes, 100, 0..=10_000)?,
            metrics: metrics(raw.metrics.address.as_deref())?,
            tracing: raw.tracing.try_into()?,
            csi: raw.csi.try_into()?,
            content: raw.containerd.try_into()?,
            docker: raw.docker.try_into()?,
            unpack: (&raw.unpack).try_into()?,
            reap_every: seconds("reaper.every_secs", raw.reaper.every_secs, 60, 86_400)?,
            stop_timeout: seconds("stop_timeout_secs", raw.stop_timeout_secs, 30, 3_600)?,
            effective: Effective::default(),
        })
    }
}

impl TryFrom<RawTrash> for TrashOptions {
    type Error = ConfigError;

    fn try_from(raw: RawTrash) -> Result<Self, ConfigError> {
        Ok(Self {
            keep: range("trash.keep_secs", raw.keep_secs, 2, 0..=31_536_000)
                .map(Duration::from_secs)?,
            keep_volumes: range(
                "trash.keep_volumes_secs",
                raw.keep_volumes_secs,
                604_800,
                0..=31_536_000,
            )
            .map(Duration::from_secs)?,
            min_free_percent: range("trash.min_free_percent", raw.min_free_percent, 10, 0..=100)?,
            guard_percent: range("trash.guard_percent", raw.guard_percent, 30, 0..=100)?,
            guard_min: count("trash.guard_min", raw.guard_min, 600, 1..=1_000_000)?,
        })
    }
}

impl TryFrom<RawSocket> for SocketConfig {
    type Error = ConfigError;

    fn try_from(raw: RawSocket) -> Result<Self, ConfigError> {
        Ok(Self {
            path: socket_path(
                "socket.path",
                raw.path.unwrap_or_else(|| Places::new().socket),
            )?,
            mode: mode(raw.mode.as_deref().unwrap_or("0600"))?,
            group: raw.group.as_deref().map(group).transpose()?,
        })
    }
}

impl TryFrom<RawTracing> for TracingConfig {
    type Error = ConfigError;

    fn try_from(raw: RawTracing) -> Result<Self, ConfigError> {
        let given = raw.endpoint.filter(|text| !text.is_empty());
        Ok(Self {
            endpoint: given.as_deref().map(endpoint).transpose()?,
            sampling_ratio: ratio("tracing.sampling_ratio", raw.sampling_ratio, 1.0)?,
            service_name: label("tracing.service_name", raw.service_name, "layerd")?,
        })
    }
}

impl TryFrom<RawLimits> for Limits {
    type Error = ConfigError;

    fn try_from(raw: RawLimits) -> Result<Self, ConfigError> {
        let (call, long_call) = (raw.call_timeout_secs, raw.long_call_timeout_secs);
        Ok(Self {
            call: seconds("limits.call_timeout_secs", call, 60, 3_600)?,
            long_call: seconds("limits.long_call_timeout_secs", long_call, 3_600, 86_400)?,
        })
    }
}

impl TryFrom<RawContainerd> for ContentConfig {
    type Error = ConfigError;

    fn try_from(raw: RawContainerd) -> Result<Self, ConfigError> {
        let places = Places::new();
        let address = raw.address.unwrap_or(places.containerd);
        let root = raw.root.map_or(places.containerd_root, PathBuf::from);
        let root = Some(root).filter(|root| !root.as_os_str().is_empty());
        let root = root
            .map(|root| absolute("containerd.root", root))
            .transpose()?;
        let address = socket_path("containerd.address", address)?;
        Ok(Self { address, root })
    }
}

impl TryFrom<RawDocker> for DockerConfig {
    type Error = ConfigError;

    fn try_from(raw: RawDocker) -> Result<Self, ConfigError> {
        let path = |key, given: Option<String>, default: PathBuf| {
            let given = given.map_or(default, PathBuf::from);
            let given = Some(given).filter(|path| !path.as_os_str().is_empty());
            given.map(|path| socket_path(key, path)).transpose()
        };
        let grace = range(
            "docker.mount_grace_secs",
            raw.mount_grace_secs,
            600,
            0..=86_400,
        )?;
        Ok(Self {
            socket: path("docker.socket", raw.socket, PathBuf::new())?,
            api: path("docker.api", raw.api, Places::new().docker_api)?,
            mount_grace: Duration::from_secs(grace),
        })
    }
}

impl TryFrom<&RawUnpack> for UnpackConfig {
    type Error = ConfigError;

    fn try_from(raw: &RawUnpack) -> Result<Self, ConfigError> {
        Ok(Self {
            enabled: raw.enabled.unwrap_or(true),
            at_once: count("unpack.at_once", raw.at_once, 8, 1..=32)?,
        })
    }
}

fn import_keep_percent(raw: &RawVolumes) -> Result<u64, ConfigError> {
    let key = "volumes.import_keep_percent";
    range(key, raw.import_keep_percent, 5, 0..=100)
}

fn keep_free_percent(raw: &RawLimits) -> Result<u64, ConfigError> {
    let key = "limits.keep_free_percent";
    range(key, raw.keep_free_percent, 0, 0..=50)
}

/// Bytes that the layer of each container can hold.
fn container_size(raw: &RawLimits, driver: factory::Kind) -> Result<Option<u64>, ConfigError> {
    let key = "limits.container_size";
    let given = raw.container_size.as_deref();
    let Some(text) = given.filter(|text| *text != "none") else {
        return Ok(None);
    };
    if !driver.has_limits() {
        let rule = format!("the driver {driver} holds no layer to a size; overlay does");
        return Err(value(key, text, rule));
    }
    let bytes = layerd_engine::layer_size(text);
    bytes.map(Some).map_err(|rule| value(key, text, rule))
}

fn driver(name: Option<&str>) -> Result<factory::Kind, ConfigError> {
    let Some(name) = name else {
        return Ok(factory::Kind::default());
    };
    name.parse()
        .map_err(|cause: factory::UnknownDriver| value("driver", name, cause.to_string()))
}

/// Address at which metrics are read; none by default.
fn metrics(address: Option<&str>) -> Result<Option<metrics::Address>, ConfigError> {
    let given = address.filter(|address| !address.is_empty());
    given.map(metrics_address).transpose()
}

fn enforcement(name: Option<&str>) -> Result<Method, ConfigError> {
    let Some(name) = name else {
        return Ok(Method::default());
    };
    let mut all = Method::ALL.into_iter();
    let rule = r#"must be "auto" or "images""#;
    all.find(|method| method.name() == name)
        .ok_or_else(|| value("limits.enforcement", name, rule))
}

fn layer_form(name: Option<&str>) -> Result<LayerForm, ConfigError> {
    let Some(name) = name else {
        return Ok(LayerForm::default());
    };
    let mut all = LayerForm::ALL.into_iter();
    let rule = r#"must be "directories", "images" or "auto""#;
    all.find(|form| form.name() == name)
        .ok_or_else(|| value("overlayfs.layers", name, rule))
}

fn limits(raw: &RawUnpack) -> Result<apply::Limits, ConfigError> {
    let usual = apply::Limits::default();
    let limit = |key, given, default, most| range(key, given, default, 1..=most);
    Ok(apply::Limits {
        most_bytes: limit(
            "unpack.max_layer_bytes",
            raw.max_layer_bytes,
            MOST_BYTES,
            u64::MAX,
        )?,
        most_entries: limit(
            "unpack.max_entries",
            raw.max_entries,
            MOST_ENTRIES,
            u64::MAX,
        )?,
        most_directories: limit(
            "unpack.max_directories",
            raw.max_directories,
            usual.most_directories,
            u32::MAX.into(),
        )?,
        most_ratio: limit(
            "unpack.max_ratio",
            raw.max_ratio,
            usual.most_ratio,
            u64::MAX,
        )?,
        most_window: limit(
            "unpack.max_window_bytes",
            raw.max_window_bytes,
            usual.most_window,
            1 << 31,
        )?,
    })
}

impl TryFrom<&RawUnpack> for UnpackOptions {
    type Error = ConfigError;

    fn try_from(raw: &RawUnpack) -> Result<Self, ConfigError> {
        let limits = limits(raw)?;
        let workers = count("unpack.workers", raw.workers, 0, 0..=64)?;
        let usual = Self::default();
        Ok(Self {
            limits,
            workers: if workers == 0 { usual.workers } else { workers },
            file_digests: raw.file_digests.unwrap_or(usual.file_digests),
        })
    }
}

impl TryFrom<RawLog> for LogConfig {
    type Error = ConfigError;

    fn try_from(raw: RawLog) -> Result<Self, ConfigError> {
        let given = raw.level.unwrap_or_else(|| "info".into());
        let level = directives(&given);
        if let Err(cause) = EnvFilter::try_new(&level) {
            return Err(value("log.level", &given, cause.to_string()));
        }
        let format = raw.format.unwrap_or_default();
        Ok(Self { level, format })
    }
}

#[cfg(test)]
mod tests;
