use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let header = [connection.to_be_bytes(), length.to_be_bytes()].concat();
    [&header[..], payload].concat()
}

/// Hands the bytes to the multiplexer in pieces, and answers what arrived on both connections.
async fn received(pieces: Vec<Vec<u8>>) -> (Result<(), MuxError>, Vec<u8>, Vec<u8>) {
    let (socket, mut peer) = duplex(100);
    let (connections, mux) = multiplex(socket);
    let Connections {
        mut plugin,
        mut runtime,
    } = connections;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let (ended, ..) = tokio::join!(
        mux.run(),
        async move {
            for piece in pieces {
                // It may have given up.
                let _ = peer.write_all(&piece).await;
            }
        },
        async { plugin.read_to_end(&mut first).await.unwrap() },
        async { runtime.read_to_end(&mut second).await.unwrap() },
    );
    (ended, first, second)
}

#[test]
fn frames_go_to_their_connections_and_others_nowhere() {
    let pieces = vec![
        frame(PLUGIN, b"one "),
        frame(7, b"unknown"),
        frame(RUNTIME, b"other"),
        frame(PLUGIN, b""),
        frame(PLUGIN, b"stream"),
    ];
    let (ended, plugin, to_runtime) = runtime().block_on(received(pieces));
    ended.unwrap();
    assert_eq!(plugin, b"one stream");
    assert_eq!(to_runtime, b"other");
}

#[test]
fn a_frame_that_is_cut_or_too_long_ends_it() {
    let whole = frame(PLUGIN, b"payload");
    for cut in 1..whole.len() {
        let (ended, ..) = runtime().block_on(received(vec![whole[..cut].to_vec()]));
        assert!(matches!(ended, Err(MuxError::Read(_))), "{cut}: {ended:?}");
    }
    let long = u32::try_from(RECEIVED_MAX + 1).unwrap();
    let header = [PLUGIN.to_be_bytes(), long.to_be_bytes()].concat();
    let (ended, ..) = runtime().block_on(received(vec![header]));
    assert!(matches!(ended, Err(MuxError::TooLong { .. })), "{ended:?}");
}

/// A peer in Go has 4096 bytes for a frame.
#[test]
fn what_is_sent_goes_in_short_frames() {
    let text: Vec<u8> = (0..100_000_u32).map(|n| n.to_be_bytes()[3]).collect();
    let sent = runtime().block_on(async {
        let (socket, mut peer) = duplex(1 << 20);
        let (mut connections, mux) = multiplex(socket);
        let writing = async {
            connections.plugin.write_all(&text).await.unwrap();
            connections.runtime.write_all(b"other").await.unwrap();
            let mut sent = vec![0; text.len() + 5 + HEADER * 26];
            peer.read_exact(&mut sent).await.unwrap();
            sent
        };
        tokio::select! {
            ended = mux.run() => panic!("{ended:?}"),
            sent = writing => sent,
        }
    });
    let (mut rest, mut plugin, mut other) = (&sent[..], Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (header, after) = rest.split_at(HEADER);
        let length = u32::from_be_bytes(header[4..].try_into().unwrap());
        let length = usize::try_from(length).unwrap();
        assert!(length <= SENT_MAX, "{length}");
        let (payload, after) = after.split_at(length);
        match header[3] {
            1 => plugin.extend_from_slice(payload),
            _ => other.extend_from_slice(payload),
        }
        rest = after;
    }
    assert!(plugin == text, "in order");
    assert_eq!(other, b"other");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_in_any_pieces_end_it_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..40,
    ) {
        let pieces = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
        let _ = runtime().block_on(received(pieces));
    }

    #[test]
    fn streams_are_whole_however_they_are_cut(
        payloads in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..50)), 0..20),
        piece in 1_usize..40,
    ) {
        let (mut all, mut plugin, mut other) = (Vec::new(), Vec::new(), Vec::new());
        for (is_plugin, payload) in &payloads {
            all.extend(frame(if *is_plugin { PLUGIN } else { RUNTIME }, payload));
            if *is_plugin { plugin.extend_from_slice(payload) } else { other.extend_from_slice(payload) }
        }
        let pieces = all.chunks(piece).map(<[u8]>::to_vec).collect();
        let (ended, first, second) = runtime().block_on(received(pieces));
        prop_assert_eq!(ended.is_ok(), true);
        prop_assert_eq!(first, plugin);
        prop_assert_eq!(second, other);
    }
}
