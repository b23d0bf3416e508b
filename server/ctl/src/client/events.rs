//! Streaming calls without an end.

use std::error::Error as _;

use layerd_proto::layerd::v1 as admin;
use layerd_proto::layerd::v1 as volumes;
use tonic::{Status, Streaming};

use super::{Client, answer, failed};
use crate::error::Error;

/// A stream of events.
pub(crate) struct Watch<T> {
    stream: Streaming<T>,
    what: &'static str,
}

impl<T> Watch<T> {
    /// Waits for the next message, however long. None if the daemon ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Error> {
        let message = self.stream.message().await;
        message.map_err(|status| match status.source() {
            // Only what did not come from the daemon has a cause.
            Some(_) => failed(self.what, Status::unavailable("layerd has gone")),
            None => failed(self.what, status),
        })
    }
}

impl Client {
    pub(crate) async fn events(
        &mut self,
        request: admin::EventsRequest,
    ) -> Result<Watch<admin::EventsResponse>, Error> {
        let what = "watch what happens";
        let stream = answer(what, self.timeout, self.admin.events(request)).await?;
        Ok(Watch { stream, what })
    }

    /// With `progress` also how far copies into volumes are.
    pub(crate) async fn watch_volumes(
        &mut self,
        progress: bool,
    ) -> Result<Watch<volumes::VolumeEvent>, Error> {
        let what = "watch volumes";
        let call = self
            .volumes
            .watch(volumes::WatchVolumesRequest { progress });
        let stream = answer(what, self.timeout, call).await?;
        Ok(Watch { stream, what })
    }
}
