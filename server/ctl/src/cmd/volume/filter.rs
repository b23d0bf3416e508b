//! Filters of volumes, in Docker's words.

use layerd_proto::layerd::v1::{ListVolumesRequest, PlanPruneRequest};

use crate::error::Error;
use crate::human::When;
use crate::volume::Volume;

const NAMES: &str = "name, label, label!, driver, dangling, until";

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// Part of the name; of several, one must match.
    Name(String),
    Label(String),
    NotLabel(String),
    Driver(String),
    Dangling(bool),
    /// Created before.
    Until(When),
}

impl Filter {
    /// Reads `FILTER=VALUE`. The error names an unknown filter.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("FILTER=VALUE is wanted; filters: {NAMES}"))?;
        let value = match value {
            "" => return Err(format!("{name}: a value is wanted")),
            value => value.to_owned(),
        };
        match (name, value.as_str()) {
            ("name", _) => Ok(Self::Name(value)),
            ("label", _) => Ok(Self::Label(value)),
            ("label!", _) => Ok(Self::NotLabel(value)),
            ("driver", _) => Ok(Self::Driver(value)),
            ("dangling", "true" | "1") => Ok(Self::Dangling(true)),
            ("dangling", "false" | "0") => Ok(Self::Dangling(false)),
            ("dangling", _) => Err("dangling: true or false is wanted".to_owned()),
            ("until", _) => match When::parse(&value) {
                Ok(until) => Ok(Self::Until(until)),
                Err(why) => Err(format!("until: {why}")),
            },
            _ => Err(format!("there is no filter {name:?}: {NAMES}")),
        }
    }
}

/// The plan of a prune, of which the daemon checks all conditions.
pub(super) fn plan(filters: &[Filter], now: i64) -> Result<PlanPruneRequest, Error> {
    let mut request = PlanPruneRequest::default();
    let mut before: Option<i64> = None;
    for filter in filters {
        match filter {
            Filter::Label(label) => request.labels.push(label.clone()),
            Filter::NotLabel(label) => request.without_labels.push(label.clone()),
            Filter::Until(until) => {
                // A duration includes the second in which it began, as in lists.
                let time = until.seconds(now) + i64::from(matches!(until, When::Ago(_)));
                before = Some(before.map_or(time, |before| before.min(time)));
            }
            Filter::Name(_) | Filter::Driver(_) | Filter::Dangling(_) => {
                return Err(Error::Invalid {
                    what: "prune volumes".to_owned(),
                    why: "--filter takes label, label! and until here".to_owned(),
                    hint: "`layerctl volume ls` has the others; `volume rm` takes names."
                        .to_owned(),
                });
            }
        }
    }
    request.created_before = before.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
    Ok(request)
}

/// The conditions that the daemon checks. Of those that it takes once, a second one is refused
/// rather than forgotten.
pub(super) fn request(filters: &[Filter], deleted: bool) -> Result<ListVolumesRequest, Error> {
    let mut request = ListVolumesRequest {
        deleted,
        ..ListVolumesRequest::default()
    };
    for filter in filters {
        match filter {
            Filter::Label(label) => request.labels.push(label.clone()),
            Filter::Driver(driver) if request.driver.is_empty() => {
                request.driver.clone_from(driver);
            }
            Filter::Dangling(is) if request.dangling.is_none() => request.dangling = Some(*is),
            Filter::Driver(_) => return Err(twice("driver")),
            Filter::Dangling(_) => return Err(twice("dangling")),
            Filter::Name(_) | Filter::NotLabel(_) | Filter::Until(_) => {}
        }
    }
    Ok(request)
}

/// Checks the conditions that the daemon does not check; `now` is in seconds since 1970.
pub(super) fn lets_through(filters: &[Filter], volume: &Volume, now: i64) -> bool {
    let mut names = filters.iter().filter_map(|filter| match filter {
        Filter::Name(part) => Some(volume.name.contains(part.as_str())),
        _ => None,
    });
    let is_named = names.clone().next().is_none() || names.any(|matches| matches);
    is_named
        && filters.iter().all(|filter| match filter {
            Filter::NotLabel(label) => !has(volume, label),
            Filter::Until(When::Time(time)) => volume.created < *time,
            // Both are whole seconds.
            Filter::Until(until) => volume.created <= until.seconds(now),
            Filter::Name(_) | Filter::Label(_) | Filter::Driver(_) | Filter::Dangling(_) => true,
        })
}

fn has(volume: &Volume, label: &str) -> bool {
    match label.split_once('=') {
        None => volume.labels.contains_key(label),
        Some((key, value)) => volume.labels.get(key).is_some_and(|has| has == value),
    }
}

fn twice(filter: &str) -> Error {
    Error::Invalid {
        what: "list volumes".to_owned(),
        why: format!("--filter {filter}=... was given twice"),
        hint: "name, label, label! and until can be repeated.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use layerd_proto::layerd::v1 as wire;

    use super::{Filter, lets_through, plan, request};
    use crate::error::Exit;
    use crate::volume::Volume;

    fn filters(texts: &[&str]) -> Vec<Filter> {
        let filters = texts.iter().map(|text| Filter::parse(text).unwrap());
        filters.collect()
    }

    #[test]
    fn the_daemon_checks_its_part() {
        let texts = [
            "name=a",
            "label=k",
            "label=k=v=w",
            "driver=local",
            "dangling=true",
        ];
        let request = request(&filters(&texts), true).unwrap();
        assert_eq!(
            (request.name.as_str(), request.driver.as_str()),
            ("", "local")
        );
        assert_eq!(request.labels, ["k", "k=v=w"]);
        assert_eq!((request.dangling, request.deleted), (Some(true), true));
    }

    #[test]
    fn the_rest_is_checked_here() {
        let volume = Volume::from(wire::Volume {
            name: "web-data".to_owned(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            created_at: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            ..wire::Volume::default()
        });
        let table: [(&[&str], bool); 10] = [
            (&["name=data"], true),
            (&["name=log"], false),
            (&["name=log", "name=web"], true),
            (&["label!=app"], false),
            (&["label!=app=db"], true),
            (&["label!=app=web", "name=web"], false),
            (&["until=1h"], true),
            (&["until=3h"], false),
            (&["until=2023-11-14T22:13:20Z"], false),
            (&["until=2023-11-14T22:13:21Z"], true),
        ];
        for (texts, wanted) in table {
            let now = 1_700_000_000 + 7200;
            assert_eq!(
                lets_through(&filters(texts), &volume, now),
                wanted,
                "{texts:?}"
            );
        }
    }

    #[test]
    fn a_prune_has_conditions_of_its_own() {
        let texts = [
            "label=k",
            "label!=l=v",
            "until=1h",
            "until=2000-01-01T00:00:00Z",
        ];
        let planned = plan(&filters(&texts), 7200).unwrap();
        assert_eq!(
            (&planned.labels[..], &planned.without_labels[..]),
            (&["k".to_owned()][..], &["l=v".to_owned()][..])
        );
        assert_eq!(planned.created_before.map(|time| time.seconds), Some(3601));
        assert_eq!(plan(&[], 0).unwrap().created_before, None);
        let refused = plan(&filters(&["name=a"]), 0).unwrap_err();
        assert_eq!(refused.exit(), Exit::Invalid);
    }

    #[test]
    fn an_unknown_filter_is_refused_by_name() {
        let table = [
            ("size=1", "\"size\""),
            ("name", "name, label"),
            ("name=", "name"),
            ("label!=", "label!"),
            ("dangling=maybe", "dangling"),
            ("until=yesterday", "until"),
        ];
        for (bad, part) in table {
            let error = Filter::parse(bad).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }

    #[test]
    fn a_second_filter_is_not_forgotten() {
        for twice in [["driver=a", "driver=b"], ["dangling=true", "dangling=true"]] {
            let error = request(&filters(&twice), false).unwrap_err();
            assert_eq!(error.exit(), Exit::Invalid);
        }
    }
}
