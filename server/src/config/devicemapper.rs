//! `[devicemapper]`: the pool, and the devices in it.

use layerd_drivers::devicemapper::{FileSystem, Options};

use super::ConfigError;
use super::raw::RawDevicemapper;
use super::value::{range, value};

impl TryFrom<RawDevicemapper> for Options {
    type Error = ConfigError;

    fn try_from(raw: RawDevicemapper) -> Result<Self, ConfigError> {
        let usual = Self::default();
        let file_system = match raw.file_system {
            None => usual.file_system,
            Some(name) => {
                let mut all = FileSystem::ALL.into_iter();
                let found = all.find(|file_system| file_system.name() == name);
                let rule = "must be \"ext4\" or \"xfs\"";
                found.ok_or_else(|| value("devicemapper.file_system", name, rule))?
            }
        };
        Ok(Self {
            pool: pool(raw.pool.unwrap_or_default())?,
            file_system,
            base_bytes: base_bytes(raw.base_size.as_deref(), file_system)?,
            keep_free_percent: range(
                "devicemapper.keep_free_percent",
                raw.keep_free_percent,
                usual.keep_free_percent,
                0..=50,
            )?,
        })
    }
}

/// Name of a device; empty for none. Names of layers' devices are made of it.
fn pool(name: String) -> Result<String, ConfigError> {
    const MAX: usize = 96;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    if name.len() <= MAX && !name.starts_with('.') && name.bytes().all(is_plain) {
        return Ok(name);
    }
    let rule = "must be the name of a device in /dev/mapper: 1 to 96 letters, digits, - _ . or +";
    Err(value("devicemapper.pool", name, rule))
}

fn base_bytes(given: Option<&str>, file_system: FileSystem) -> Result<u64, ConfigError> {
    let Some(text) = given else {
        return Ok(Options::default().base_bytes);
    };
    let (least, most) = (file_system.min_bytes(), Options::MAX_BYTES);
    let bytes = layerd_spec::size(text).filter(|bytes| (least..=most).contains(bytes));
    // Blocks of a file system.
    bytes.map(|bytes| bytes & !4095).ok_or_else(|| {
        let rule = format!(
            "must be a size such as \"10g\", from {least} bytes for {file_system} to {most}"
        );
        value("devicemapper.base_size", text, rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(raw: RawDevicemapper) -> Result<Options, String> {
        Options::try_from(raw).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_checked() {
        let pool = |name: &str| {
            options(RawDevicemapper {
                pool: Some(name.to_owned()),
                ..RawDevicemapper::default()
            })
        };
        assert_eq!(pool("pool-1.a_b+").unwrap().pool, "pool-1.a_b+");
        let long = "a".repeat(97);
        for bad in ["/dev/mapper/pool", "..", "a b", "a\n", &long] {
            assert!(
                pool(bad).unwrap_err().contains("devicemapper.pool"),
                "{bad:?}"
            );
        }
        let size = |size: &str, file_system: &str| {
            options(RawDevicemapper {
                base_size: Some(size.to_owned()),
                file_system: Some(file_system.to_owned()),
                ..RawDevicemapper::default()
            })
        };
        assert_eq!(size("64m", "ext4").unwrap().base_bytes, 64 << 20);
        assert_eq!(size("20g", "xfs").unwrap().base_bytes, 20 << 30);
        for (bytes, file_system) in [
            ("64m", "xfs"),
            ("1m", "ext4"),
            ("99999g", "ext4"),
            ("x", "ext4"),
        ] {
            let refused = size(bytes, file_system).unwrap_err();
            assert!(refused.contains("devicemapper.base_size"), "{refused}");
        }
        let refused = size("1g", "btrfs").unwrap_err();
        assert!(refused.contains("must be \"ext4\" or \"xfs\""), "{refused}");
    }
}
