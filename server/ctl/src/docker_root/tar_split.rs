//! The archive of a layer, made again as it was when Docker unpacked it.
//!
//! Docker keeps what is not content of files (headers, padding) in `tar-split.json.gz`, one JSON object a
//! line, in the order of the archive. With the files of the layer that is the archive, byte for byte.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use nix::fcntl::OFlag;
use serde::Deserialize;

use super::images::Layer;
use super::{AS_ROOT, Damaged, Root, open};

/// Bytes of a line: a piece of padding is one MiB, and base64 makes a third more of it.
const MOST_OF_A_LINE: u64 = 16 << 20;
const FILE: u8 = 1;
const SEGMENT: u8 = 2;

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    /// Base64 of a name that is not UTF-8.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    payload: Option<String>,
}

/// A piece of an archive.
enum Piece {
    Bytes(Vec<u8>),
    File { path: PathBuf, size: u64 },
}

/// An archive, to be read.
#[derive(Debug)]
pub(crate) struct Archive {
    lines: BufReader<MultiGzDecoder<BufReader<File>>>,
    files: File,
    /// Where its files and the rest are, relative to the root.
    paths: (String, String),
    current: Current,
}

#[derive(Debug)]
enum Current {
    Bytes(io::Cursor<Vec<u8>>),
    File {
        file: File,
        path: PathBuf,
        left: u64,
    },
}

impl Archive {
    /// # Errors
    /// If its parts are not there.
    pub(crate) fn open(root: &Root, layer: &Layer) -> Result<Self, Damaged> {
        let missing = |path: &str| Damaged::new(path, "is missing");
        let split = root.file(&layer.tar_split)?;
        let split = split.ok_or_else(|| missing(&layer.tar_split))?;
        let files = root.directory(&layer.files)?;
        Ok(Self {
            lines: BufReader::new(MultiGzDecoder::new(BufReader::new(split))),
            files: files.ok_or_else(|| missing(&layer.files))?,
            paths: (layer.files.clone(), layer.tar_split.clone()),
            current: Current::Bytes(io::Cursor::default()),
        })
    }

    /// Length of the archive. Each file of it is looked at, and none is read.
    ///
    /// # Errors
    /// If a file is missing or has another length.
    pub(crate) fn length(mut self) -> Result<u64, Damaged> {
        let mut length: u64 = 0;
        while let Some(piece) = self.piece()? {
            let size = match piece {
                Piece::Bytes(bytes) => bytes.len() as u64,
                Piece::File { path, size } => self.find(&path, size).map(|_| size)?,
            };
            let sum = length
                .checked_add(size)
                .filter(|sum| i64::try_from(*sum).is_ok());
            length = sum.ok_or_else(|| self.damaged("is longer than an archive can be"))?;
        }
        Ok(length)
    }

    fn damaged(&self, problem: impl Into<String>) -> Damaged {
        Damaged::new(self.paths.1.as_str(), problem)
    }

    fn piece(&mut self) -> Result<Option<Piece>, Damaged> {
        let mut line = Vec::new();
        let read = (&mut self.lines)
            .take(MOST_OF_A_LINE)
            .read_until(b'\n', &mut line);
        read.map_err(|cause| self.damaged(format!("cannot be read: {cause}")))?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() as u64 == MOST_OF_A_LINE {
            return Err(self.damaged(format!("has a line of more than {MOST_OF_A_LINE} bytes")));
        }
        let line: Line = super::parsed(&self.paths.1, &line)?;
        let decoded = |text: &str| {
            let decoded = STANDARD.decode(text);
            decoded.map_err(|cause| self.damaged(format!("is not what Docker writes: {cause}")))
        };
        match line.kind {
            SEGMENT => {
                decoded(&line.payload.unwrap_or_default()).map(|bytes| Some(Piece::Bytes(bytes)))
            }
            FILE => {
                let name = match line.name_raw.filter(|raw| !raw.is_empty()) {
                    Some(raw) => decoded(&raw)?,
                    None => line.name.unwrap_or_default().into_bytes(),
                };
                let size = u64::try_from(line.size);
                let size = size.map_err(|_| self.damaged("has a file of less than no bytes"))?;
                // A path from the top: the directory of the layer is `/` to it.
                let path = PathBuf::from(std::ffi::OsString::from_vec(name));
                Ok(Some(Piece::File { path, size }))
            }
            other => Err(self.damaged(format!("has a piece of the unknown type {other}"))),
        }
    }

    /// The file `path` of the layer; none is needed where it has no content.
    fn find(&self, path: &std::path::Path, size: u64) -> Result<Option<File>, Damaged> {
        if size == 0 {
            return Ok(None);
        }
        let shown = || format!("{}/{}", self.paths.0, path.display());
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        let found = open(self.files.as_fd(), path, flags, AS_ROOT);
        let found = found.map_err(|damaged| Damaged::new(shown(), damaged.problem))?;
        let file = found.ok_or_else(|| Damaged::new(shown(), "is missing"))?;
        let metadata = file.metadata();
        let metadata = metadata.map_err(|cause| Damaged::new(shown(), cause.to_string()))?;
        if !metadata.is_file() || metadata.len() != size {
            let problem = format!("is no file of {size} bytes any more");
            return Err(Damaged::new(shown(), problem));
        }
        Ok(Some(file))
    }

    /// Goes on to the next piece with bytes; false at the end.
    fn advance(&mut self) -> Result<bool, Damaged> {
        self.current = match self.piece()? {
            None => return Ok(false),
            Some(Piece::Bytes(bytes)) => Current::Bytes(io::Cursor::new(bytes)),
            Some(Piece::File { path, size }) => match self.find(&path, size)? {
                Some(file) => Current::File {
                    file,
                    path,
                    left: size,
                },
                None => Current::Bytes(io::Cursor::default()),
            },
        };
        Ok(true)
    }
}

impl Read for Archive {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let read = match &mut self.current {
                Current::Bytes(bytes) => bytes.read(into)?,
                Current::File { left: 0, .. } => 0,
                Current::File { file, path, left } => {
                    let most =
                        usize::try_from(*left).map_or(into.len(), |left| left.min(into.len()));
                    let read = file.read(&mut into[..most])?;
                    if read == 0 {
                        let shown = format!("{}/{}: became shorter", self.paths.0, path.display());
                        return Err(io::Error::other(shown));
                    }
                    *left -= read as u64;
                    read
                }
            };
            if read > 0 {
                return Ok(read);
            }
            if !self.advance().map_err(io::Error::other)? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::Archive;
    use crate::docker_root::Root;
    use crate::docker_root::images::Layer;

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        fn new(lines: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = std::fs::File::create(dir.path().join("split")).unwrap();
            let mut split = GzEncoder::new(file, Compression::fast());
            for line in lines {
                writeln!(split, "{line}").unwrap();
            }
            split.finish().unwrap();
            std::fs::create_dir_all(dir.path().join("tree/usr")).unwrap();
            Self { dir }
        }

        fn open(&self) -> Archive {
            let layer = Layer {
                chain_id: String::new(),
                parent: String::new(),
                diff_id: String::new(),
                files: "tree".to_owned(),
                tar_split: "split".to_owned(),
            };
            Archive::open(&Root::open(self.dir.path()).unwrap(), &layer).unwrap()
        }

        fn refused(&self) -> String {
            let refused = self.open().length().unwrap_err().to_string();
            let read = self.open().read_to_end(&mut Vec::new());
            assert!(read.is_err(), "{refused}");
            refused
        }
    }

    fn segment(bytes: &[u8]) -> String {
        format!(
            r#"{{"type":2,"payload":"{}","position":0}}"#,
            STANDARD.encode(bytes)
        )
    }

    #[test]
    fn pieces_and_files_make_the_archive() {
        let lines = [
            &segment(b"head"),
            r#"{"type":1,"name":"usr/","payload":"AAAAAAAAAAA=","position":1}"#,
            r#"{"type":1,"name":"./lib/file","size":4,"payload":"AAAAAAAAAAA=","position":2}"#,
            &segment(b"tail"),
            r#"{"type":1,"name_raw":"dXNyL/8=","size":2,"payload":null,"position":3}"#,
        ];
        let world = World::new(&lines);
        let tree = world.dir.path().join("tree");
        std::fs::write(tree.join("usr/file"), "DATA").unwrap();
        // As of an image that unpacks through a symlink of a lower layer.
        std::os::unix::fs::symlink("/usr", tree.join("lib")).unwrap();
        let name = std::os::unix::ffi::OsStrExt::from_bytes(b"usr/\xff");
        let name: &std::ffi::OsStr = name;
        std::fs::write(tree.join(name), "xy").unwrap();
        let mut made = String::new();
        world.open().read_to_string(&mut made).unwrap();
        assert_eq!(made, "headDATAtailxy");
        assert_eq!(world.open().length().unwrap(), 14);
    }

    #[test]
    fn what_does_not_belong_to_the_layer_is_refused() {
        let file = |name: &str| format!(r#"{{"type":1,"name":"{name}","size":4}}"#);
        for (name, wanted) in [
            ("../outside", "tree/../outside: is missing"),
            ("link", "tree/link: is a symlink"),
            ("away/outside", "tree/away/outside: is missing"),
            ("short", "tree/short: is no file of 4 bytes"),
            ("usr", "tree/usr: is no file of 4 bytes"),
        ] {
            let world = World::new(&[&file(name)]);
            let tree = world.dir.path().join("tree");
            std::fs::write(world.dir.path().join("outside"), "DATA").unwrap();
            std::fs::write(tree.join("short"), "DAT").unwrap();
            std::os::unix::fs::symlink("short", tree.join("link")).unwrap();
            std::os::unix::fs::symlink("..", tree.join("away")).unwrap();
            let said = world.refused();
            assert!(said.starts_with(wanted), "{said}");
        }
        for (line, wanted) in [
            ("{", "split: is not what Docker writes"),
            (r#"{"type":3}"#, "split: has a piece of the unknown type 3"),
            (
                r#"{"type":1,"name":"a","size":-1}"#,
                "split: has a file of less",
            ),
            (
                r#"{"type":2,"payload":"?"}"#,
                "split: is not what Docker writes",
            ),
        ] {
            let said = World::new(&[line]).refused();
            assert!(said.starts_with(wanted), "{said}");
        }
        let world = World::new(&["x"]);
        std::fs::write(world.dir.path().join("split"), "no gzip").unwrap();
        assert!(world.refused().starts_with("split: cannot be read"));
    }
}
