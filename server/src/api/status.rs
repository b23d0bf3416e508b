//! The one table from kinds of errors to gRPC codes (contract: containerd's errdefs).

use layerd_engine::{Error, ErrorKind};
use layerd_store::BadInput;
use tonic::{Code, Status};
use tracing::error;

use crate::tasks::Lost;
use crate::with_causes;

/// The status of a failed call. What is not the caller's doing is logged here, once.
pub(crate) fn of(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Missing => Code::NotFound,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Refused => Code::FailedPrecondition,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Full => Code::ResourceExhausted,
        ErrorKind::Stopping => Code::Unavailable,
        ErrorKind::Damaged => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    };
    let message = with_causes(error);
    if matches!(
        code,
        Code::Internal | Code::DataLoss | Code::ResourceExhausted
    ) {
        error!(%code, "{message}");
    }
    Status::new(code, message)
}

/// The status of a call that has no outcome.
pub(crate) fn lost(lost: &Lost) -> Status {
    let code = match lost {
        Lost::Panicked => Code::Internal,
        Lost::Stopping => Code::Unavailable,
    };
    Status::new(code, lost.to_string())
}

/// The status of a request that breaks a rule.
pub(crate) fn bad(input: BadInput) -> Status {
    of(&Error::Bad(input))
}
