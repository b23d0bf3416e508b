//! Layers of empty files, streamed to layerd as they are made, and archives.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use layerd_integration::image::tar::BLOCK;
use layerd_integration::snapshots::channel;
use layerd_proto::layerd::v1::layers_client::LayersClient;
use layerd_proto::layerd::v1::{ApplyLayer, ApplyLayerRequest};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use crate::content::write_member;

/// Files in one directory.
const IN_ONE: usize = 1000;

/// Bytes of an archive sent at once.
const PIECE: u64 = 1 << 20;

/// One who has layers unpacked.
#[derive(Debug)]
pub(crate) struct Unpacker {
    runtime: Runtime,
    layers: LayersClient<Channel>,
}

impl Unpacker {
    pub(crate) fn connect(socket: PathBuf) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("descriptors are left");
        let channel = runtime.block_on(async { channel(socket) });
        Self {
            layers: LayersClient::new(channel),
            runtime,
        }
    }

    /// Has a layer of so many empty files unpacked into an active snapshot.
    pub(crate) fn unpack(&mut self, key: &str, files: usize) {
        self.apply(key, pieces(files));
    }

    /// Has an archive unpacked into an active snapshot.
    pub(crate) fn unpack_archive(&mut self, key: &str, archive: &Path) {
        let mut file = File::open(archive).expect("it was made");
        let pieces = std::iter::from_fn(move || {
            let mut piece = Vec::new();
            let read = (&mut file).take(PIECE).read_to_end(&mut piece);
            (read.expect("it can be read") > 0).then_some(piece)
        });
        self.apply(key, pieces);
    }

    fn apply(&mut self, key: &str, pieces: impl Iterator<Item = Vec<u8>> + Send + Sync + 'static) {
        let first = ApplyLayerRequest {
            layer: Some(ApplyLayer {
                key: key.to_owned(),
                ..ApplyLayer::default()
            }),
            data: Vec::new(),
        };
        let pieces = pieces.map(|data| ApplyLayerRequest { layer: None, data });
        let messages = tokio_stream::iter(std::iter::once(first).chain(pieces));
        let reply = self.runtime.block_on(self.layers.apply(messages));
        reply.unwrap_or_else(|status| panic!("unpack {key}: {status}"));
    }
}

/// The archive, a directory at a time, and its end.
fn pieces(files: usize) -> impl Iterator<Item = Vec<u8>> {
    let directory = move |first| {
        let mut piece = Vec::new();
        let dir = format!("d{}", first / IN_ONE);
        write_member(&mut piece, &dir, b'5', &[]);
        for file in first..files.min(first + IN_ONE) {
            write_member(&mut piece, &format!("{dir}/f{file}"), b'0', &[]);
        }
        piece
    };
    let directories = (0..files).step_by(IN_ONE).map(directory);
    directories.chain([vec![0; 2 * BLOCK]])
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, pieces};

    #[test]
    fn an_archive_has_all_files_and_an_end() {
        let lengths: Vec<usize> = pieces(1001).map(|piece| piece.len() / BLOCK).collect();
        assert_eq!(lengths, [1001, 2, 2]);
    }
}
