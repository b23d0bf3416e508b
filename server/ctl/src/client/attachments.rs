//! The calls about mounts and attachments.

use layerd_proto::layerd::v1 as wire;
use tonic::Code;

use super::{Client, answer, failed, within};
use crate::attachment::{Attachment, MountSpec, Owner};
use crate::error::{Error, reason};

impl Client {
    /// In the order in which they are to be mounted.
    pub(crate) async fn parse_mounts(
        &mut self,
        request: wire::ParseMountsRequest,
    ) -> Result<Vec<MountSpec>, Error> {
        let call = self.mounts.parse(request);
        let reply = answer("understand the mounts", self.timeout, call).await?;
        Ok(reply.mounts.into_iter().map(MountSpec::from).collect())
    }

    pub(crate) async fn check_mounts(
        &mut self,
        request: wire::ParseMountsRequest,
    ) -> Result<Vec<wire::CheckedMount>, Error> {
        let call = self.mounts.check(request);
        let reply = answer("check the mounts", self.timeout, call).await?;
        Ok(reply.mounts)
    }

    /// Attaches all of them, or none. `filled` names the volumes that may be filled for it.
    pub(crate) async fn attach(
        &mut self,
        owner: Owner,
        mounts: Vec<wire::AttachSpec>,
        filled: Vec<String>,
    ) -> Result<Vec<Attachment>, Error> {
        let what = format!("attach for {owner}");
        let filling = self.filling(filled, true).await?;
        let request = wire::AttachRequest {
            owner: Some(owner.into()),
            mounts,
        };
        let call = self.attachments.attach(request);
        let reply = filling.answer(&what, self.timeout, call).await;
        let reply = reply.map_err(nothing_attached)?;
        Ok(reply
            .attachments
            .into_iter()
            .map(Attachment::from)
            .collect())
    }

    /// Answers the keys that were there.
    pub(crate) async fn detach(
        &mut self,
        keys: Vec<String>,
        owner: Option<Owner>,
        lazy: bool,
    ) -> Result<Vec<String>, Error> {
        let what = match (&owner, keys.as_slice()) {
            (Some(owner), _) => format!("detach what {owner} has"),
            (None, [key]) => format!("detach \"{key}\""),
            (None, keys) => format!("detach {} attachments", keys.len()),
        };
        let request = wire::DetachRequest {
            keys,
            owner: owner.map(Into::into),
            lazy,
        };
        let reply = answer(&what, self.timeout, self.attachments.detach(request)).await?;
        Ok(reply.detached)
    }

    /// In the order of their creation; of all owners and volumes unless one is named.
    pub(crate) async fn attachments(
        &mut self,
        owner: Option<Owner>,
        volume: String,
    ) -> Result<Vec<Attachment>, Error> {
        let what = "list attachments";
        let request = wire::ListAttachmentsRequest {
            owner: owner.map(Into::into),
            volume,
        };
        let mut stream = answer(what, self.timeout, self.attachments.list(request)).await?;
        let mut all = Vec::new();
        while let Some(message) = within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))?
        {
            all.extend(message.attachments.into_iter().map(Attachment::from));
        }
        Ok(all)
    }

    /// Lets go of what an owner has under other keys than `keys`, or says what that would be.
    pub(crate) async fn reconcile(
        &mut self,
        owner: Owner,
        keys: Vec<String>,
        dry_run: bool,
    ) -> Result<wire::ReconcileResponse, Error> {
        let what = format!("reconcile what {owner} has");
        let request = wire::ReconcileRequest {
            owner: Some(owner.into()),
            keys,
            dry_run,
            ..wire::ReconcileRequest::default()
        };
        let call = self.attachments.reconcile(request);
        answer(&what, self.timeout, call).await
    }

    pub(crate) async fn holders(&mut self, volume: &str) -> Result<Vec<Attachment>, Error> {
        let what = format!("see who uses volume \"{volume}\"");
        let request = wire::HoldersRequest {
            volume: volume.to_owned(),
        };
        let call = self.attachments.holders(request);
        let reply = super::volumes::about(answer(&what, self.timeout, call).await)?;
        Ok(reply
            .attachments
            .into_iter()
            .map(Attachment::from)
            .collect())
    }
}

/// The daemon's message says how to write it so that it would be created.
fn nothing_attached(error: Error) -> Error {
    match error {
        Error::Call { what, status } if status.code() == Code::NotFound => Error::NotFound {
            why: reason(&what, &status).to_owned(),
            what,
            hint: "Nothing was attached. `layerctl mount check` with the same mounts \
                   says what each of them would do."
                .to_owned(),
        },
        other => other,
    }
}
