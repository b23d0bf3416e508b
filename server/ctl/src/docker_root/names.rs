//! Names of images: Docker's short ones, and those that containerd has for the same images.

/// Bytes of a name.
const MOST: usize = 512;
/// Registry of names without one.
const REGISTRY: &str = "docker.io";

/// The whole name of `NAME:TAG`, such as docker.io/library/busybox:latest for busybox:latest.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn whole(name: &str) -> Result<String, String> {
    let broken = |rule: &str| Err(format!("{name:?} is no name of an image: {rule}"));
    if name.len() > MOST {
        return Err(format!("a name of an image has more than {MOST} bytes"));
    }
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => return broken("it has no tag"),
    };
    let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(is_tag) || tag.starts_with(['.', '-'])
    {
        return broken("its tag has other characters than letters, digits, \"_\", \".\" and \"-\"");
    }
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, rest) = match path.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (REGISTRY, path),
    };
    let is_part = |part: &str| {
        let is_char = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        !part.is_empty() && part.bytes().all(is_char) && part != "." && part != ".."
    };
    if !rest.split('/').all(is_part) {
        return broken(
            "its parts have other characters than small letters, digits, \"_\", \".\" and \"-\"",
        );
    }
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte);
    if registry.is_empty() || !registry.bytes().all(is_host) {
        return broken("its registry is no host");
    }
    let library = match registry == REGISTRY && !rest.contains('/') {
        true => "library/",
        false => "",
    };
    Ok(format!("{registry}/{library}{rest}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn names_are_made_whole_as_docker_does() {
        let table = [
            ("busybox:latest", "docker.io/library/busybox:latest"),
            ("me/app:V1.2_a-b", "docker.io/me/app:V1.2_a-b"),
            ("localhost/app:1", "localhost/app:1"),
            ("host:5000/app:1", "host:5000/app:1"),
            ("a.example/b/c:1", "a.example/b/c:1"),
            ("docker.io/library/x:1", "docker.io/library/x:1"),
        ];
        for (short, wanted) in table {
            assert_eq!(whole(short).unwrap(), wanted);
        }
        let long = format!("{}:1", "a".repeat(600));
        for bad in [
            "", "app", "app:", "App:1", "a/../b:1", "a//b:1", "a:b/c", "a\n:1", ":1", &long,
        ] {
            assert!(whole(bad).is_err(), "{bad:?}");
        }
    }
}
