//! A blocking client of the CRI, generated from an own description of it.

use std::fmt::Debug;
use std::path::Path;

use layerd_integration::snapshots::channel;
use layerd_integration::transcript;
use layerd_proto::cri::runtime::v1::image_service_client::ImageServiceClient;
use layerd_proto::cri::runtime::v1::runtime_service_client::RuntimeServiceClient;
use layerd_proto::cri::runtime::v1::{self as cri};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use tonic::{Response, Status};

pub(crate) struct Client {
    runtime: Runtime,
    services: Services,
}

pub(crate) struct Services {
    pub(crate) pods: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(socket.to_owned()) });
        let services = Services {
            pods: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        };
        Self { runtime, services }
    }

    pub(crate) fn run<T: Debug>(
        &mut self,
        call: impl AsyncFnOnce(&mut Services) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let answer = self.runtime.block_on(call(&mut self.services));
        let answer = answer.map(Response::into_inner);
        transcript::answer(&answer);
        answer
    }
}

/// A pod in the host's network, so that none has to be set up.
pub(crate) fn pod(name: &str, annotations: &[(&str, &str)]) -> cri::PodSandboxConfig {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
        }),
        annotations: annotations.iter().map(own).collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(host_network()),
            }),
        }),
        ..cri::PodSandboxConfig::default()
    }
}

/// A container that runs until it is ended.
pub(crate) fn container(name: &str, image: &str) -> cri::ContainerConfig {
    let command = ["sleep", "1000"].map(str::to_owned);
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
        }),
        image: Some(spec(image)),
        command: command.into(),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(host_network()),
            }),
        }),
        ..cri::ContainerConfig::default()
    }
}

pub(crate) fn spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
    }
}

fn host_network() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Node.into(),
        ..cri::NamespaceOption::default()
    }
}

/// Ids of a pod's user namespace: those from 0 on are the host's from `first` on.
pub(crate) fn ids(first: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping {
        host_id: first,
        container_id: 0,
        length: 65_536,
    }]
}

/// Namespaces of a pod with `hostUsers: false`, as kubelet asks for them.
pub(crate) fn own_users(first: u32) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: ids(first),
            gids: ids(first),
        }),
    }
}
