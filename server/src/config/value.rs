//! The rules of single values.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{Gid, Group};

use super::ConfigError;
use crate::{metrics, traces};

/// Log filter of a bare level, which applies to layerd's own crates; libraries stay at warn.
pub(super) fn directives(level: &str) -> String {
    if level.chars().all(char::is_alphanumeric) {
        return format!("warn,layerd={level}");
    }
    level.to_owned()
}

pub(super) fn value(
    key: &'static str,
    value: impl Into<String>,
    rule: impl Into<String>,
) -> ConfigError {
    ConfigError::Value {
        key,
        value: value.into(),
        rule: rule.into(),
    }
}

pub(super) fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path)
        .map_err(|cause| value(key, path.display().to_string(), cause.to_string()))
}

pub(super) fn socket_path(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    /// As unix(7) has it: 108 bytes with the final NUL.
    const MAX: usize = 107;
    let path = absolute(key, path)?;
    let length = path.as_os_str().len();
    if length > MAX {
        let rule = format!("is {length} bytes long, a unix socket's path may have {MAX}");
        return Err(value(key, path.display().to_string(), rule));
    }
    Ok(path)
}

pub(super) fn metrics_address(text: &str) -> Result<metrics::Address, ConfigError> {
    let rule = "must be an IP address with a port such as \"127.0.0.1:9323\", or \"unix:/PATH\"";
    metrics::Address::parse(text).ok_or_else(|| value("metrics.address", text, rule))
}

pub(super) fn endpoint(text: &str) -> Result<traces::Endpoint, ConfigError> {
    let rule = "must be \"http://HOST:PORT\" of a collector that takes OTLP over gRPC without encryption, or \"unix:/PATH\"";
    traces::Endpoint::parse(text).ok_or_else(|| value("tracing.endpoint", text, rule))
}

pub(super) fn ratio(
    key: &'static str,
    given: Option<f64>,
    default: f64,
) -> Result<f64, ConfigError> {
    let ratio = given.unwrap_or(default);
    if (0.0..=1.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(value(key, ratio.to_string(), "must be from 0 to 1"))
}

/// A name of something, as others show it.
pub(super) fn label(
    key: &'static str,
    given: Option<String>,
    default: &str,
) -> Result<String, ConfigError> {
    const MAX: usize = 255;
    let name = given.unwrap_or_else(|| default.to_owned());
    if name.is_empty() || name.len() > MAX || name.chars().any(char::is_control) {
        let rule = format!("must have 1 to {MAX} bytes and no control characters");
        return Err(value(key, name, rule));
    }
    Ok(name)
}

pub(super) fn mode(text: &str) -> Result<u32, ConfigError> {
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| {
        value(
            "socket.mode",
            text,
            "must be octal permission bits such as \"0660\"",
        )
    })
}

pub(super) fn group(name: &str) -> Result<Gid, ConfigError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(value("socket.group", name, "no such group on this machine")),
        Err(cause) => Err(value("socket.group", name, cause.to_string())),
    }
}

pub(super) fn seconds(
    key: &'static str,
    given: Option<u64>,
    default: u64,
    most: u64,
) -> Result<Duration, ConfigError> {
    range(key, given, default, 1..=most).map(Duration::from_secs)
}

pub(super) fn millis(
    key: &'static str,
    given: Option<u64>,
    default: u64,
    most: u64,
) -> Result<Duration, ConfigError> {
    range(key, given, default, 1..=most).map(Duration::from_millis)
}

/// As [`range`], for a number of things.
pub(super) fn count(
    key: &'static str,
    given: Option<u64>,
    default: u64,
    allowed: RangeInclusive<u64>,
) -> Result<usize, ConfigError> {
    range(key, given, default, allowed).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

pub(super) fn range(
    key: &'static str,
    given: Option<u64>,
    default: u64,
    allowed: RangeInclusive<u64>,
) -> Result<u64, ConfigError> {
    let number = given.unwrap_or(default);
    if allowed.contains(&number) {
        return Ok(number);
    }
    let rule = format!("must be from {} to {}", allowed.start(), allowed.end());
    Err(value(key, number.to_string(), rule))
}
