//! Prost over gRPC, with the codes that containerd's own servers give for what cannot be decoded.
//!
//! A request that is no message (a string that is not UTF-8, a cut varint) is the caller's
//! mistake: tonic's own codec would call it INTERNAL, which operators take for a bug of ours.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes `T`, decodes `U`.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<fn() -> (T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

/// tonic's buffers, made small: each call has two of them, and most messages are small as well. One
/// that is not gets as much as it needs. The second figure is tonic's own.
fn buffers() -> BufferSettings {
    BufferSettings::new(512, 32 * 1024)
}

impl<T: Message, U> Encoder for Codec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.encoded_len());
        item.encode(buf)
            .map_err(|cause| Status::internal(format!("encode reply: {cause}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl<T, U: Message + Default> Decoder for Codec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buf)
            .map(Some)
            .map_err(|cause| Status::invalid_argument(format!("malformed message: {cause}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
