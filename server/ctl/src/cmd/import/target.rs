//! Layers on their way into layerd, through containerd, so that both know them.

use std::collections::BTreeMap;
use std::io::Read;

use layerd_proto::layerd::v1 as wire;
use tonic::Code;

use crate::client::{Client, Containerd, Leased, New};
use crate::containerd::BackendKey;
use crate::error::Error;

/// A layer that layerd is to have as a committed snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) name: String,
    /// Empty for none.
    pub(super) parent: String,
    /// Labels that the snapshot keeps.
    pub(super) labels: BTreeMap<String, String>,
}

/// Source of a layer's files.
pub(super) enum Filling<'a> {
    /// A directory of the host in overlayfs's form.
    Directory(&'a str),
    /// An archive with its digest.
    Archive(Box<dyn Read + Send>, &'a str),
}

/// A namespace of the containerd that calls a layerd.
pub(super) struct Target<'a> {
    /// Name of layerd in containerd's configuration.
    pub(super) own: &'a str,
    pub(super) client: &'a mut Client,
    pub(super) containerd: &'a Containerd,
    pub(super) namespace: &'a str,
}

impl Target<'_> {
    /// Makes a layer. Answers the bytes that were copied.
    pub(super) async fn layer(
        &mut self,
        lease: &Leased<'_>,
        layer: &Layer,
        filling: Filling<'_>,
    ) -> Result<u64, Error> {
        // As of a layer that is being unpacked, which no default limit holds.
        let key = format!("extract-import {}", layer.name);
        forgiving(lease.remove(self.own, &key).await, Code::NotFound)?;
        let new = New {
            key: key.clone(),
            parent: layer.parent.clone(),
            labels: layer.labels.clone(),
        };
        lease.prepare(self.own, new).await?;
        let filled = match self.backend_key(&key).await {
            Ok(backend) => self.fill(&backend, filling).await,
            Err(error) => Err(error),
        };
        let committed = match filled {
            Ok(copied) => {
                let labels = layer.labels.clone();
                let committed = lease.commit(self.own, &layer.name, &key, labels).await;
                committed.map(|()| copied)
            }
            Err(error) => Err(error),
        };
        if committed.is_err() {
            // Its failure is what matters; what is left goes with the lease.
            drop(lease.remove(self.own, &key).await);
        }
        match committed {
            // Pulled or imported by another client meanwhile.
            Err(Error::Call { status, .. }) if status.code() == Code::AlreadyExists => Ok(0),
            other => other,
        }
    }

    async fn fill(&mut self, backend: &str, filling: Filling<'_>) -> Result<u64, Error> {
        match filling {
            Filling::Directory(source) => {
                let imported = self.client.import_layer(backend, source).await?;
                Ok(imported.copied_bytes)
            }
            Filling::Archive(input, digest) => {
                let layer = wire::ApplyLayer {
                    key: backend.to_owned(),
                    compression: wire::Compression::None.into(),
                    digest: digest.to_owned(),
                };
                let applied = self.client.apply_layer(layer, input, |_| {}).await?;
                Ok(applied.bytes)
            }
        }
    }

    /// The name that layerd has for a snapshot of the namespace.
    async fn backend_key(&mut self, key: &str) -> Result<String, Error> {
        let all = self.client.list(vec!["kind==active".to_owned()]).await?;
        let named = all.into_iter().filter(|snapshot| {
            let parsed = BackendKey::parse(&snapshot.name);
            parsed.is_some_and(|name| (name.namespace, name.client_key) == (self.namespace, key))
        });
        // Of a containerd that lost its records, an older one may be left.
        let newest = named.max_by_key(|snapshot| snapshot.created);
        newest
            .map(|snapshot| snapshot.name)
            .ok_or_else(|| Error::Refused {
                what: "import images".to_owned(),
                why: "the layerd at --address is not the one that containerd calls".to_owned(),
                hint: "`layerctl doctor` compares the two.".to_owned(),
            })
    }
}

/// Success also where the call failed with `code`.
pub(super) fn forgiving(result: Result<(), Error>, code: Code) -> Result<(), Error> {
    match result {
        Err(Error::Call { status, .. }) if status.code() == code => Ok(()),
        other => other,
    }
}
