//! Answer to a message beyond the size limit.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Answers RESOURCE_EXHAUSTED, as gRPC servers do by convention, where tonic says OUT_OF_RANGE
/// of a message that is too large. layerd never uses that code itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Oversize;

impl<S> Layer<S> for Oversize {
    type Service = OversizeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OversizeService { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct OversizeService<S> {
    inner: S,
}

impl<S, I, O> Service<Request<I>> for OversizeService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
{
    type Response = Response<O>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<O>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            let status = answer.headers_mut().get_mut(Status::GRPC_STATUS);
            if let Some(status) = status
                && Code::from_bytes(status.as_bytes()) == Code::OutOfRange
            {
                *status = HeaderValue::from(Code::ResourceExhausted as i32);
            }
            Ok(answer)
        })
    }
}
