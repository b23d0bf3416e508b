use std::collections::BTreeMap;

use layerd_store::{Key, Labels};

use super::*;

fn create(key: &str, parent: Option<&str>, labels: &[(&str, &str)]) -> Create {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let labels: BTreeMap<_, _> = labels.iter().map(owned).collect();
    Create {
        key: Key::parse("key", key).unwrap(),
        kind: Kind::Active,
        parent: parent.map(|name| Key::parse("parent", name).unwrap()),
        labels: Labels::parse(labels).unwrap(),
    }
}

#[test]
fn a_container_stands_on_an_image_that_nothing_is_unpacked_into() {
    for (key, parent, labels, wanted) in [
        ("k8s.io/12/c0ffee", Some("image"), &[][..], true),
        ("c0ffee", Some("image"), &[], true),
        ("k8s.io/12/c0ffee", None, &[], false),
        ("k8s.io/12/extract-1 sha256:0f", Some("image"), &[], false),
        ("extract-1 sha256:0f", Some("image"), &[], false),
        ("k8s.io/12/my-extract-1", Some("image"), &[], true),
        ("k8s.io/12/1", Some("image"), &[(REF, "sha256:0f")], false),
    ] {
        assert_eq!(is_container(&create(key, parent, labels)), wanted, "{key}");
    }
}

#[test]
fn sizes_are_spelled_as_those_of_volumes() {
    for (text, bytes) in [
        ("4194304", 4 << 20),
        ("64m", 64 << 20),
        ("1.5g", 3 << 29),
        ("10GiB", 10 << 30),
    ] {
        assert_eq!(layer_size(text), Ok(bytes), "{text}");
    }
    for (text, rule) in [
        ("", "is not a size"),
        ("10q", "is not a size"),
        ("-1", "is not a size"),
        (
            "4194303",
            "4194303 bytes, and a layer can be held to 4194304",
        ),
        ("17t", "to 17592186044416"),
    ] {
        let error = size(text).unwrap_err().to_string();
        assert!(error.contains(rule), "{error}");
        assert!(error.contains(&format!("labels[{SIZE:?}]")), "{error}");
    }
}
