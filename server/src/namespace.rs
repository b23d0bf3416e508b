//! containerd's namespaces, as they come with calls and keys.

use layerd_store::Key;

/// Metadata of calls that has the namespace.
pub(crate) const NAMESPACE: &str = "containerd-namespace";

/// containerd's keys are `<namespace>/<number>/<key of its client>`.
pub(crate) fn of_key(key: &Key) -> Option<&str> {
    let mut parts = key.as_str().splitn(3, '/');
    let (namespace, number) = (parts.next()?, parts.next()?);
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    (is_number && parts.next().is_some()).then_some(namespace)
}
