//! Unique prefixes: a person types the beginning of a key, the daemon knows whole keys only.

use crate::containerd::BackendKey;
use crate::error::{Error, Exit};
use crate::snapshot::Snapshot;
use crate::text::escape;

use super::Client;

/// Candidates named in an error.
const SHOWN: usize = 5;

impl Client {
    /// The snapshot with this key, or the one whose key or containerd's part of it begins so. For
    /// commands that change nothing: a mistyped key of those that remove must not find another.
    ///
    /// # Errors
    /// Those of [`Client::stat`] if there is none; [`Error::Invalid`] if there are several.
    pub(crate) async fn find(&mut self, text: &str) -> Result<Snapshot, Error> {
        match self.stat(text).await {
            Err(error) if error.exit() == Exit::NotFound && !text.is_empty() => {
                let mut all = self.list(Vec::new()).await?;
                all.retain(|one| begins(&one.name, text));
                all.sort_by(|left, right| left.name.cmp(&right.name));
                choose(all, text).unwrap_or(Err(error))
            }
            outcome => outcome,
        }
    }
}

/// True if the key begins so: as a whole, after containerd's namespace and number, or after the name
/// of the digest's algorithm.
fn begins(key: &str, text: &str) -> bool {
    let client_key = BackendKey::parse(key).map_or(key, |key| key.client_key);
    let digits = client_key.strip_prefix("sha256:").unwrap_or(client_key);
    [key, client_key, digits]
        .iter()
        .any(|part| part.starts_with(text))
}

/// The only candidate; `None` if there is none.
fn choose(mut found: Vec<Snapshot>, text: &str) -> Option<Result<Snapshot, Error>> {
    match found.len() {
        0 => None,
        1 => found.pop().map(Ok),
        count => {
            let names: Vec<String> = found
                .iter()
                .take(SHOWN)
                .map(|one| escape(&one.name))
                .collect();
            Some(Err(Error::Invalid {
                what: format!("find snapshot \"{text}\""),
                why: format!("{count} keys begin so: {}", names.join(", ")),
                hint: "Type more of the key.".to_owned(),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{begins, choose};
    use crate::error::Exit;
    use crate::snapshot::Snapshot;
    use layerd_proto::containerd::services::snapshots::v1::Info;

    fn named(name: &str) -> Snapshot {
        Snapshot::from(Info {
            name: name.to_owned(),
            ..Info::default()
        })
    }

    #[test]
    fn keys_begin_in_three_ways() {
        let key = "k8s.io/12/sha256:0123456789ab";
        for text in ["k8s.io/12", "sha256:0123", "0123", key] {
            assert!(begins(key, text), "{text}");
        }
        for text in ["12/", "123", "8s", "sha256:1"] {
            assert!(!begins(key, text), "{text}");
        }
        assert!(begins("work", "wo"));
    }

    #[test]
    fn a_prefix_must_be_unique() {
        assert!(choose(Vec::new(), "a").is_none());
        let one = choose(vec![named("ab")], "a").unwrap().unwrap();
        assert_eq!(one.name, "ab");
        let error = choose(vec![named("ab"), named("ac")], "a")
            .unwrap()
            .unwrap_err();
        assert_eq!(error.exit(), Exit::Invalid);
        assert!(
            error.to_string().contains("2 keys begin so: ab, ac"),
            "{error}"
        );
    }
}
