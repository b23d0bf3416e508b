//! The annotation that asks for mounts.

use layerd_proto::nri::v1alpha1::{Container, PodSandbox};

/// Prefix of the annotation; the name of the container follows.
const PREFIX: &str = "volumes.layerd.io/";

/// The key of a container's annotation.
pub(crate) fn key(container: &Container) -> String {
    format!("{PREFIX}{}", container.name)
}

/// The mounts that a container is to have: values of `--mount`, one a line; empty lines do not count. The
/// container's own annotation goes before the one of its pod.
pub(crate) fn mounts(pod: &PodSandbox, container: &Container) -> Vec<String> {
    let key = key(container);
    let own = container.annotations.get(&key);
    let text = own.or_else(|| pod.annotations.get(&key));
    let lines = text.map(String::as_str).unwrap_or_default().lines();
    lines
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(text: &str) -> std::collections::BTreeMap<String, String> {
        [("volumes.layerd.io/web".to_owned(), text.to_owned())].into()
    }

    #[test]
    fn a_container_gets_what_is_asked_for_by_its_name() {
        let web = Container {
            name: "web".to_owned(),
            ..Container::default()
        };
        let other = Container {
            name: "we".to_owned(),
            ..Container::default()
        };
        let pod = PodSandbox {
            annotations: annotated("type=volume,src=a,dst=/a\n\n  type=tmpfs,dst=/b \n"),
            ..PodSandbox::default()
        };
        let wanted = ["type=volume,src=a,dst=/a", "type=tmpfs,dst=/b"];
        assert_eq!(mounts(&pod, &web), wanted);
        assert!(mounts(&pod, &other).is_empty());
        let own = Container {
            annotations: annotated("type=tmpfs,dst=/c"),
            ..web
        };
        assert_eq!(mounts(&pod, &own), ["type=tmpfs,dst=/c"]);
    }
}
