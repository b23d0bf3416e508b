//! The runtime's calls.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use layerd_proto::layerd::v1::OciMount;
use layerd_proto::nri::v1alpha1 as nri;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::annotation;
use crate::layerd::{Layerd, within};
use crate::releases::Releases;

/// Time in which runtimes that do not tell theirs want an answer.
const RUNTIME_LIMIT: Duration = Duration::from_secs(2);
/// A call that came too late for the runtime may have been begun by layerd: what it attached is let go then.
const AFTERMATH: Duration = Duration::from_secs(30);
/// Events that the plugin is told of, as the runtime's bits.
const EVENTS: i32 =
    1 << (nri::Event::CreateContainer as i32 - 1) | 1 << (nri::Event::RemoveContainer as i32 - 1);

/// State of the plugin; outlives connections to the runtime.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) layerd: Layerd,
    pub(crate) releases: Releases,
    allow_binds: bool,
    /// Milliseconds to wait for layerd.
    limit: AtomicU64,
    /// Containers of the messages of a Synchronize that goes on.
    listed: Mutex<BTreeSet<String>>,
}

impl Plugin {
    pub(crate) fn new(layerd: Layerd, allow_binds: bool) -> Self {
        let plugin = Self {
            layerd,
            releases: Releases::default(),
            allow_binds,
            limit: AtomicU64::new(0),
            listed: Mutex::default(),
        };
        plugin.set_limit(RUNTIME_LIMIT);
        plugin
    }

    /// Answers before the runtime gives up: it would disconnect the plugin, and start the container without
    /// its mounts.
    fn set_limit(&self, runtimes: Duration) {
        let limit = runtimes.mul_f32(0.8).as_millis();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.limit.load(Ordering::Relaxed))
    }

    /// Begins a connection.
    pub(crate) fn configure(&self, request: &nri::ConfigureRequest) -> nri::ConfigureResponse {
        let told = u64::try_from(request.request_timeout).unwrap_or(0);
        self.set_limit(match told {
            0 => RUNTIME_LIMIT,
            told => Duration::from_millis(told),
        });
        self.listed.lock().clear();
        let (runtime, version) = (&request.runtime_name, &request.runtime_version);
        info!(runtime, version, "registered");
        crate::tell(NotifyState::Status(&format!(
            "registered with {runtime} {version}"
        )));
        nri::ConfigureResponse { events: EVENTS }
    }

    /// Has what containers have let go that the runtime does not list any more.
    pub(crate) fn synchronize(&self, request: nri::SynchronizeRequest) -> nri::SynchronizeResponse {
        let mut listed = self.listed.lock();
        listed.extend(request.containers.into_iter().map(|one| one.id));
        if !request.more {
            self.releases.living(std::mem::take(&mut *listed));
        }
        nri::SynchronizeResponse { more: request.more }
    }

    /// Attaches what the annotation asks for.
    ///
    /// # Errors
    /// A sentence for the pod's events: the container is not created then, and nothing stays attached.
    pub(crate) async fn create_container(
        &self,
        request: nri::CreateContainerRequest,
    ) -> Result<nri::CreateContainerResponse, String> {
        let (pod, container) = (
            request.pod.unwrap_or_default(),
            request.container.unwrap_or_default(),
        );
        let mounts = annotation::mounts(&pod, &container);
        if mounts.is_empty() {
            return Ok(nri::CreateContainerResponse::default());
        }
        self.releases.born(&container.id);
        let attach = self.layerd.attach(&container.id, mounts, self.allow_binds);
        match within(self.limit(), attach).await {
            Ok(mounts) => {
                info!(
                    container = container.id,
                    pod = pod.name,
                    namespace = pod.namespace,
                    mounts = mounts.len(),
                    "attached"
                );
                let mounts = mounts.into_iter().map(mount).collect();
                let adjust = Some(nri::ContainerAdjustment { mounts });
                Ok(nri::CreateContainerResponse { adjust })
            }
            Err(failed) => {
                self.releases.gone(&container.id, AFTERMATH);
                let text = format!("annotation {}: {failed}", annotation::key(&container));
                warn!(
                    container = container.id,
                    pod = pod.name,
                    reason = text,
                    "cannot attach"
                );
                Err(text)
            }
        }
    }

    /// Lets go of what a container had.
    pub(crate) async fn remove_container(&self, container: Option<nri::Container>) {
        let id = container.unwrap_or_default().id;
        // The volume is free when the runtime's call ends, where layerd answers.
        if let Err(failed) = within(self.limit(), self.layerd.detach(&id)).await {
            warn!(container = id, reason = %failed, "cannot let go of what a container had; trying on");
            self.releases.gone(&id, Duration::ZERO);
        }
    }
}

fn mount(mount: OciMount) -> nri::Mount {
    nri::Mount {
        destination: mount.destination,
        r#type: mount.r#type,
        source: mount.source,
        options: mount.options,
    }
}
