//! Connections whose `:authority` the HTTP/2 library would refuse.
//!
//! gRPC's C core (Python, C++, Ruby, PHP; since 1.57) and grpc-java send the path of a unix socket
//! as `:authority`, percent-encoded or as it is. Neither is an authority (RFC 3986, section
//! 3.2), and `h2` answers such a request with RST_STREAM. layerd serves one host and reads no
//! authority, so the bytes at fault are replaced as they come in. The length stays, hence the
//! frames and the compression state (HPACK, RFC 7541) do as well. Values in the Huffman code are
//! left alone: these clients do not use it for strings of this length.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// A client's connection, with an `:authority` in all its requests that `h2` takes.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    frames: Frames,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            frames: Frames::default(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.frames.pass(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Length of the client's connection preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Frame types and flags (RFC 9113, section 6).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Length of a frame's header, and of the priority fields of HEADERS.
const FRAME_HEADER: usize = 9;
const PRIORITY_FIELDS: usize = 5;

/// The frames of a connection, as far as they have come. Looks at the bytes of header blocks
/// alone; the others are counted.
#[derive(Debug)]
struct Frames {
    at: At,
    block: Block,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// Bytes that are passed over: the preface, or frames without header blocks.
    Other { left: usize },
    /// Within a frame's header.
    Header {
        have: usize,
        bytes: [u8; FRAME_HEADER],
    },
    /// At the first byte of a padded HEADERS, which is the length of the padding.
    Padding { left: usize, priority: bool },
    /// Within a header block; `skip` bytes before it and `after` behind it are not of it.
    Fragment {
        skip: usize,
        left: usize,
        after: usize,
    },
}

const NEXT: At = At::Header {
    have: 0,
    bytes: [0; FRAME_HEADER],
};

impl Default for Frames {
    fn default() -> Self {
        Self {
            at: At::Other { left: PREFACE },
            block: Block::Start,
        }
    }
}

impl Frames {
    /// Takes the bytes that came next, and changes those of an authority that are not allowed.
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let done = self.step(bytes);
            bytes = &mut bytes[done..];
        }
    }

    /// Passes what belongs together, and answers its length.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        match &mut self.at {
            At::Other { left } => {
                let count = bytes.len().min(*left);
                *left -= count;
                if *left == 0 {
                    self.at = NEXT;
                }
                count
            }
            At::Header {
                have,
                bytes: header,
            } => {
                let count = bytes.len().min(FRAME_HEADER - *have);
                header[*have..*have + count].copy_from_slice(&bytes[..count]);
                *have += count;
                if *have == FRAME_HEADER {
                    let header = *header;
                    self.begin(&header);
                }
                count
            }
            At::Padding { left, priority } => {
                let (length, after) = (*left - 1, usize::from(bytes[0]));
                let skip = if *priority { PRIORITY_FIELDS } else { 0 };
                self.fragment_of(skip, length, after);
                1
            }
            At::Fragment { skip, left, after } => {
                let (skip, left, after) = (*skip, *left, *after);
                let count = bytes.len().min(if skip > 0 { skip } else { left });
                if skip > 0 {
                    self.fragment(skip - count, left, after);
                } else {
                    bytes[..count]
                        .iter_mut()
                        .for_each(|byte| self.block.pass(byte));
                    self.fragment(0, left - count, after);
                }
                count
            }
        }
    }

    /// Decides by a frame's header what follows it.
    fn begin(&mut self, header: &[u8; FRAME_HEADER]) {
        let left = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (kind, flags) = (header[3], header[4]);
        match kind {
            _ if left == 0 => self.at = NEXT,
            HEADERS => {
                self.block = Block::Start;
                let priority = flags & PRIORITY != 0;
                if flags & PADDED != 0 {
                    self.at = At::Padding { left, priority };
                } else {
                    self.fragment_of(if priority { PRIORITY_FIELDS } else { 0 }, left, 0);
                }
            }
            CONTINUATION => self.fragment_of(0, left, 0),
            _ => self.at = At::Other { left },
        }
    }

    /// A frame of `length` bytes, of which the first `skip` and the last `after` are not of the
    /// block. One that is too short for these is passed over: `h2` refuses it.
    fn fragment_of(&mut self, skip: usize, length: usize, after: usize) {
        match length.checked_sub(skip + after) {
            Some(left) => self.fragment(skip, left, after),
            None => self.at = At::Other { left: length },
        }
    }

    fn fragment(&mut self, skip: usize, left: usize, after: usize) {
        self.at = match (skip, left, after) {
            (0, 0, 0) => NEXT,
            (0, 0, _) => At::Other { left: after },
            _ => At::Fragment { skip, left, after },
        };
    }
}

/// Name of the field, where it is spelled out; its number in the static table is 1 (RFC 7541,
/// appendix A).
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_INDEX: usize = 1;

/// A header block, as far as it has come.
#[derive(Debug, Clone, Copy)]
enum Block {
    /// Before a field.
    Start,
    /// Within an integer whose first bits were all ones (RFC 7541, section 5.1).
    Integer {
        then: Then,
        value: usize,
        shift: u32,
    },
    /// Before the length of a name.
    NameLength,
    /// Before the length of a value.
    ValueLength {
        authority: bool,
    },
    Name {
        left: usize,
        authority: bool,
    },
    Value {
        left: usize,
        authority: bool,
    },
}

/// Meaning of an integer.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// A field that needs nothing more, or the size of the dynamic table.
    Start,
    /// The name of a field whose value follows; 0 where the name does, too.
    Literal,
    Name {
        plain: bool,
    },
    Value {
        authority: bool,
    },
}

impl Block {
    fn pass(&mut self, byte: &mut u8) {
        let first = *byte;
        *self = match *self {
            Self::Start => match first {
                0x80.. => Self::integer(first, 7, Then::Start),
                0x40.. => Self::integer(first, 6, Then::Literal),
                0x20.. => Self::integer(first, 5, Then::Start),
                _ => Self::integer(first, 4, Then::Literal),
            },
            Self::Integer { then, value, shift } => {
                let value = value.saturating_add(usize::from(first & 0x7f) << shift);
                match first & 0x80 {
                    0 => then.with(value),
                    // Longer ones than this `h2` refuses.
                    _ => Self::Integer {
                        then,
                        value,
                        shift: (shift + 7).min(28),
                    },
                }
            }
            Self::NameLength => {
                let plain = first & 0x80 == 0;
                Self::integer(first, 7, Then::Name { plain })
            }
            Self::ValueLength { authority } => {
                let authority = authority && first & 0x80 == 0;
                Self::integer(first, 7, Then::Value { authority })
            }
            Self::Name { left, authority } => {
                let wanted = AUTHORITY.len().checked_sub(left).map(|at| AUTHORITY[at]);
                let authority = authority && wanted == Some(first);
                match left {
                    1 => Self::ValueLength { authority },
                    _ => Self::Name {
                        left: left - 1,
                        authority,
                    },
                }
            }
            Self::Value { left, authority } => {
                if authority && !first.is_ascii_alphanumeric() && first != b'.' {
                    *byte = b'-';
                }
                match left {
                    1 => Self::Start,
                    _ => Self::Value {
                        left: left - 1,
                        authority,
                    },
                }
            }
        };
    }

    fn integer(first: u8, bits: u32, then: Then) -> Self {
        let most = (1_u8 << bits) - 1;
        let value = usize::from(first & most);
        if first & most == most {
            Self::Integer {
                then,
                value,
                shift: 0,
            }
        } else {
            then.with(value)
        }
    }
}

impl Then {
    fn with(self, value: usize) -> Block {
        match (self, value) {
            (Self::Start, _) | (Self::Value { .. }, 0) => Block::Start,
            (Self::Literal, 0) => Block::NameLength,
            (Self::Literal, index) => Block::ValueLength {
                authority: index == AUTHORITY_INDEX,
            },
            (Self::Name { .. }, 0) => Block::ValueLength { authority: false },
            (Self::Name { plain }, left) => Block::Name {
                left,
                authority: plain && left == AUTHORITY.len(),
            },
            (Self::Value { authority }, left) => Block::Value { left, authority },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn text(bytes: &[u8]) -> Vec<u8> {
        let mut text = vec![u8::try_from(bytes.len()).expect("short")];
        text.extend(bytes);
        text
    }

    /// Passes a connection in pieces of each size; all answers must be the same.
    fn passed(frames: &[Vec<u8>]) -> Vec<u8> {
        let all: Vec<u8> = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frames.concat(),
        ]
        .concat();
        let in_pieces = |size: usize| {
            let (mut all, mut state) = (all.clone(), Frames::default());
            all.chunks_mut(size).for_each(|piece| state.pass(piece));
            all[PREFACE..].to_vec()
        };
        let whole = in_pieces(all.len());
        for size in [1, 2, 3, 7, 10, 24, 25] {
            assert_eq!(in_pieces(size), whole, "in pieces of {size}");
        }
        whole
    }

    /// The block of a request: an indexed field, a path, and the authority as it is given.
    fn block(authority: &[Vec<u8>]) -> Vec<u8> {
        let path = [vec![0x44], text(b"/containerd.services/%2F")].concat();
        [
            vec![0x3f, 0xe1, 0x1f, 0x83],
            path,
            authority.concat(),
            vec![0x86],
        ]
        .concat()
    }

    fn in_all_forms(authority: &[u8]) -> [Vec<u8>; 3] {
        [
            block(&[vec![0x41], text(authority)]),
            block(&[vec![0x40], text(AUTHORITY), text(authority)]),
            block(&[vec![0x10], text(AUTHORITY), text(authority)]),
        ]
    }

    #[test]
    fn an_authority_is_made_one_wherever_it_stands() {
        let before = in_all_forms(b"%2Frun%2Flayerd/layerd.sock:1");
        let after = in_all_forms(b"-2Frun-2Flayerd-layerd.sock-1");
        for (before, after) in before.iter().zip(&after) {
            let padded = |block: &[u8]| [&[3], &[0; 5][..], block, b"%%%"].concat();
            let (one, two) = before.split_at(20);
            let (three, four) = after.split_at(20);
            let sent = [
                frame(4, 0, b"\x41\x01%"),
                frame(HEADERS, 4, before),
                frame(0, 1, b"\x41\x01%"),
                frame(HEADERS, 4 | PADDED | PRIORITY, &padded(before)),
                frame(HEADERS, 0, one),
                frame(CONTINUATION, 4, two),
            ];
            let wanted = [
                sent[0].clone(),
                frame(HEADERS, 4, after),
                sent[2].clone(),
                frame(HEADERS, 4 | PADDED | PRIORITY, &padded(after)),
                frame(HEADERS, 0, three),
                frame(CONTINUATION, 4, four),
            ];
            assert_eq!(passed(&sent), wanted.concat());
        }
    }

    #[test]
    fn what_is_no_authority_stays_as_it_is() {
        let long = [vec![0x7f, 0x80, 0x01], vec![0x7f, 0x49], vec![b'%'; 200]].concat();
        for sent in [
            block(&[vec![0x41], text(b"localhost")]),
            block(&[vec![0x40], text(b":authoritx"), text(b"%")]),
            block(&[vec![0x41, 0x81], vec![b'%']]),
            block(&[long]),
            vec![],
        ] {
            let sent = [
                frame(HEADERS, 4, &sent),
                frame(HEADERS, PADDED, &[9]),
                frame(6, 0, b"%"),
            ];
            assert_eq!(passed(&sent), sent.concat());
        }
    }
}
