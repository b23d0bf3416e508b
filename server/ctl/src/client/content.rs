//! The comparison of layers with what was unpacked.

use layerd_proto::layerd::v1 as wire;

use super::{Client, answer, failed, within};
use crate::error::Error;

/// Result of a whole comparison.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) findings: Vec<wire::Finding>,
    pub(crate) counts: wire::ContentCounts,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Client {
    /// Has the daemon read the files of layers; `told` learns how many files and bytes it has read.
    /// The time limit begins anew with each message.
    pub(crate) async fn check_content(
        &mut self,
        repair: bool,
        mut told: impl FnMut(u64, u64),
    ) -> Result<Compared, Error> {
        let what = "compare layers with what was unpacked";
        let request = wire::CheckContentRequest { repair };
        let mut stream = answer(what, self.timeout, self.admin.check_content(request)).await?;
        let mut findings = Vec::new();
        while let Some(message) = within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))?
        {
            told(message.files, message.bytes);
            findings.extend(message.findings);
            if let Some(counts) = message.counts {
                return Ok(Compared {
                    findings,
                    counts,
                    files: message.files,
                    bytes: message.bytes,
                });
            }
        }
        let (what, lacks) = (what.to_owned(), "its end");
        Err(Error::Malformed { what, lacks })
    }
}
