//! The dataset of the driver zfs.

use layerd_drivers::factory::Kind;
use layerd_drivers::zfs::check_name;

use super::ConfigError;
use super::value::value;

/// Name of the dataset for layers, which that driver needs.
pub(super) fn dataset(given: Option<String>, driver: Kind) -> Result<Option<String>, ConfigError> {
    let key = "zfs.dataset";
    match given.filter(|name| !name.is_empty()) {
        None if driver == Kind::Zfs => {
            let rule =
                "must name the dataset for layers, such as \"tank/layerd\", with the driver zfs";
            Err(value(key, "", rule))
        }
        None => Ok(None),
        Some(name) => match check_name(&name) {
            Ok(()) => Ok(Some(name)),
            Err(rule) => Err(value(key, name, rule)),
        },
    }
}

#[cfg(test)]
mod tests {
    use layerd_drivers::factory::Kind;

    use super::dataset;

    #[test]
    fn the_driver_needs_a_dataset() {
        let check = |name: Option<&str>, driver| dataset(name.map(str::to_owned), driver);
        let named = check(Some("tank/layerd"), Kind::Zfs).unwrap();
        assert_eq!(named.as_deref(), Some("tank/layerd"));
        assert_eq!(check(None, Kind::Overlay).unwrap(), None);
        assert_eq!(check(Some(""), Kind::Overlay).unwrap(), None);
        for (name, says) in [
            (None, "must name the dataset"),
            (Some(""), "must name the dataset"),
            (Some("/tank/layerd"), "is a path"),
            (Some("tank/layerd@now"), "must be the name of a dataset"),
        ] {
            let refused = check(name, Kind::Zfs).unwrap_err().to_string();
            assert!(
                refused.starts_with("setting `zfs.dataset` is "),
                "{refused}"
            );
            assert!(refused.contains(says), "{refused}");
        }
        check(Some("-r"), Kind::Overlay).expect_err("a wrong name is one with any driver");
    }
}
