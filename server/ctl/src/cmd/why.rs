//! `layerctl why`.

use serde::Serialize;

use super::Daemon;
use crate::client::Client;
use crate::complete;
use crate::containerd::BackendKey;
use crate::error::Error;
use crate::human::{age, size};
use crate::images::Images;
use crate::output::Output;
use crate::snapshot::{Kind, Snapshot, Usage};
use crate::text::escape;

/// The label under which containerd unpacks a layer.
const REF: &str = "containerd.io/snapshot.ref";
/// Names shown before "and so many more".
const NAMES: usize = 5;

/// Says why a snapshot is here, and what would let it go
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Key or name of the snapshot
    #[arg(add = complete::snapshots())]
    key: String,
}

/// Reasons for a snapshot's existence and size.
#[derive(Debug, Serialize)]
struct Reasons {
    name: String,
    kind: Kind,
    bytes: Option<u64>,
    /// containerd's namespace, if it made the snapshot.
    namespace: Option<String>,
    /// The key that its client knows it by.
    client_key: Option<String>,
    /// The layer that was to be unpacked into it.
    unpacks: Option<String>,
    /// Layers below it.
    depth: usize,
    /// Names of those that build on it.
    children: Vec<String>,
    /// Names of the images that need it; `None` if containerd does not answer.
    images: Option<Vec<String>>,
    #[serde(skip)]
    age: String,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let snapshot = client.find(&args.key).await?;
    let usage = client.usage_if_there(&snapshot.name).await?;
    let children = client.children(&snapshot.name).await?;
    let depth = depth(&snapshot, &mut client).await?;
    let images = Images::ask(&mut client).await;
    let reasons = Reasons {
        images: images.map(|images| owned(&images.of(&snapshot.name))),
        ..Reasons::new(&snapshot, usage, children, depth, out.now)
    };
    if out.json {
        return out.object(&reasons);
    }
    for line in reasons.lines() {
        out.line(&escape(&line))?;
    }
    Ok(())
}

async fn depth(snapshot: &Snapshot, client: &mut Client) -> Result<usize, Error> {
    let mut depth = 0;
    let mut parent = snapshot.parent.clone();
    while !parent.is_empty() {
        depth += 1;
        parent = client.stat(&parent).await?.parent;
    }
    Ok(depth)
}

impl Reasons {
    fn new(
        snapshot: &Snapshot,
        usage: Option<Usage>,
        children: Vec<Snapshot>,
        depth: usize,
        now: i64,
    ) -> Self {
        let key = BackendKey::parse(&snapshot.name);
        Self {
            name: snapshot.name.clone(),
            kind: snapshot.kind,
            bytes: usage.map(|usage| usage.bytes),
            namespace: key.map(|key| key.namespace.to_owned()),
            client_key: key.map(|key| key.client_key.to_owned()),
            unpacks: snapshot.labels.get(REF).cloned(),
            depth,
            children: children.into_iter().map(|child| child.name).collect(),
            images: None,
            age: age(snapshot.created.0, now),
        }
    }

    fn lines(&self) -> Vec<String> {
        let held = self.bytes.map_or("bytes not known".to_owned(), |bytes| {
            format!("{} of its own", size(bytes))
        });
        let what = match self.kind {
            Kind::Active => "A writable layer",
            Kind::View => "A read-only view",
            Kind::Committed => "A finished layer",
            Kind::Unknown => "A snapshot of unknown kind",
        };
        let mut lines = vec![format!(
            "{what}, made {} ago, {held}, on top of {}.",
            self.age,
            count(self.depth, "layer", "layers")
        )];
        lines.extend(self.origin());
        if let Some(images) = self.images.as_ref().filter(|images| !images.is_empty()) {
            let plural = if images.len() == 1 { "" } else { "s" };
            lines.push(format!(
                "containerd needs it for the image{plural} {}.",
                some_of(images)
            ));
        }
        lines.push(self.keeper());
        lines
    }

    fn origin(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match (&self.namespace, &self.client_key) {
            (Some(namespace), Some(key)) => lines.push(format!(
                "containerd made it in its namespace {namespace}, where it is called {key}."
            )),
            _ => lines
                .push("Its key is not of containerd's form: another client made it.".to_owned()),
        }
        if let Some(layer) = &self.unpacks {
            let done = self.kind == Kind::Committed;
            let verb = if done { "was" } else { "is being" };
            lines.push(format!(
                "An image's layer {verb} unpacked into it: {layer}."
            ));
        }
        lines
    }

    fn keeper(&self) -> String {
        if self.children.is_empty() {
            return match self.kind {
                Kind::Committed => "Nothing in layerd builds on it. containerd removes it when no image, container or lease refers to it any more.".to_owned(),
                _ => "Nothing builds on it. It goes when its container, build or lease goes.".to_owned(),
            };
        }
        let names = some_of(&self.children);
        let (number, verb) = (
            self.children.len(),
            if self.children.len() == 1 { "s" } else { "" },
        );
        format!(
            "{} build{verb} on it and keep{verb} it here: {names}.",
            count(number, "snapshot", "snapshots")
        )
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The first of the names, and the number of the others.
fn some_of(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMES)].join(", ");
    if names.len() > NAMES {
        text.push_str(&format!(" and {} more", names.len() - NAMES));
    }
    text
}

fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        0 => format!("no {one}"),
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(kind: Kind, name: &str, children: &[&str]) -> String {
        let key = BackendKey::parse(name);
        let reasons = Reasons {
            name: name.to_owned(),
            kind,
            bytes: Some(2048),
            namespace: key.map(|key| key.namespace.to_owned()),
            client_key: key.map(|key| key.client_key.to_owned()),
            unpacks: None,
            depth: 2,
            children: children.iter().map(|&child| child.to_owned()).collect(),
            images: Some(vec!["app:1".to_owned(), "app:2".to_owned()]),
            age: "3h".to_owned(),
        };
        reasons.lines().join("\n")
    }

    #[test]
    fn what_builds_on_a_layer_keeps_it() {
        let text = reasons(Kind::Committed, "k8s.io/1/a", &["x"]);
        assert!(
            text.contains("1 snapshot builds on it and keeps it here: x."),
            "{text}"
        );
        let many: Vec<_> = "abcdefg"
            .split("")
            .filter(|name| !name.is_empty())
            .collect();
        let text = reasons(Kind::Committed, "k8s.io/1/a", &many);
        assert!(
            text.contains("7 snapshots build on it") && text.contains("and 2 more"),
            "{text}"
        );
    }

    #[test]
    fn one_that_nothing_needs_says_when_it_goes() {
        let text = reasons(Kind::Active, "mine", &[]);
        assert!(
            text.contains("A writable layer, made 3h ago, 2.00KiB of its own, on top of 2 layers."),
            "{text}"
        );
        assert!(text.contains("another client made it"), "{text}");
        assert!(text.contains("for the images app:1, app:2."), "{text}");
        assert!(text.contains("It goes when"), "{text}");
    }
}
