//! The images that are unpacked. Made once and kept below target/: compressing them takes longer
//! than all else. They are compressed by gzip -6, as most images that are found anywhere.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use layerd_integration::Scratch;
use layerd_integration::image::layout::{Blob, write_descriptions};
use layerd_integration::image::tar::BLOCK;
use layerd_integration::process::output;

use crate::content::write_member;

/// Raise it when what is written here changes.
const VERSION: u32 = 1;

/// Content of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// 5 layers, 46,000 files, about 215 MiB compressed
    Mix,
    /// 3 layers, 40,000 files of up to 8 KiB
    Small,
    /// 2 layers, 8 files of 64 MiB
    Large,
    /// 40 layers of 250 files of up to 16 KiB
    Deep,
    /// One layer of 1 GiB: 8 files of 128 MiB
    Huge,
    /// 2 layers of 20 files, whose figures mean nothing
    Tiny,
}

/// Files of one layer: how many, and the bounds of their sizes in bytes.
#[derive(Debug, Clone, Copy)]
struct Files {
    count: usize,
    least: usize,
    most: usize,
}

impl Shape {
    fn layers(self) -> Vec<Vec<Files>> {
        let files = |count, least, most| Files { count, least, most };
        match self {
            // A distribution, two runtimes of many files, a program, its settings.
            Self::Mix => vec![
                vec![files(6_000, 100, 24 << 10), files(30, 256 << 10, 4 << 20)],
                vec![files(20_000, 50, 12 << 10), files(10, 1 << 20, 12 << 20)],
                vec![files(16_000, 50, 16 << 10), files(20, 512 << 10, 6 << 20)],
                vec![files(3_900, 100, 20 << 10), files(2, 24 << 20, 48 << 20)],
                vec![files(40, 20, 4 << 10)],
            ],
            Self::Small => vec![
                vec![files(15_000, 20, 8 << 10)],
                vec![files(15_000, 20, 8 << 10)],
                vec![files(10_000, 20, 8 << 10)],
            ],
            Self::Large => vec![vec![files(4, 64 << 20, 64 << 20)]; 2],
            Self::Deep => vec![vec![files(250, 20, 16 << 10)]; 40],
            Self::Huge => vec![vec![files(8, 128 << 20, 128 << 20)]],
            Self::Tiny => vec![vec![files(20, 20, 4 << 10)]; 2],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mix => "mix",
            Self::Small => "small",
            Self::Large => "large",
            Self::Deep => "deep",
            Self::Huge => "huge",
            Self::Tiny => "tiny",
        }
    }
}

/// An image in a folder, as an OCI layout.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) dir: PathBuf,
    /// Of the manifest.
    pub(crate) digest: String,
    /// Files with the layers' blobs, the base first.
    pub(crate) blobs: Vec<PathBuf>,
    about: String,
}

impl Image {
    /// Finds it below target/, or makes it there.
    pub(crate) fn of(shape: Shape) -> Self {
        let own = std::env::current_exe().expect("a running program has a path");
        let target = own
            .ancestors()
            .nth(2)
            .expect("it lies in a profile's folder");
        let dir = target.join(format!("bench/images/{}-{VERSION}", shape.name()));
        if !dir.exists() {
            let scratch = Scratch::new();
            let new = scratch.dir("image");
            make(shape, &new);
            fs::create_dir_all(dir.with_file_name("")).expect("target/ can be written");
            fs::rename(&new, &dir).expect("target/ can be written");
        }
        let said = |name: &str| fs::read_to_string(dir.join(name)).expect("it was written whole");
        let digest = said("digest");
        let blobs = said("layers")
            .lines()
            .map(|hex| dir.join("blobs/sha256").join(hex))
            .collect();
        let about = said("about");
        Self {
            dir,
            digest,
            blobs,
            about,
        }
    }

    /// Its description, in a few words.
    pub(crate) fn about(&self) -> &str {
        &self.about
    }
}

fn make(shape: Shape, dir: &Path) {
    fs::create_dir_all(dir.join("blobs/sha256")).expect("target/ can be written");
    let mut blobs = Vec::new();
    let (mut files, mut bytes) = (0, 0);
    for (index, layer) in shape.layers().iter().enumerate() {
        let archive = dir.join("archive");
        write_archive(&archive, index, layer);
        files += layer.iter().map(|files| files.count).sum::<usize>();
        bytes += fs::metadata(&archive).expect("it was written").len();
        blobs.push(compress(dir, &archive));
        fs::remove_file(&archive).expect("it is ours");
    }
    let compressed = blobs.iter().map(|blob| blob.size).sum::<u64>();
    let about = format!(
        "{} layers, {files} files, {} MiB, {} MiB compressed",
        blobs.len(),
        bytes >> 20,
        compressed >> 20
    );
    let reference = format!("docker.io/bench/{}:1", shape.name());
    let digest = write_descriptions(dir, &reference, &blobs);
    let layers: Vec<String> = blobs.into_iter().map(|blob| blob.digest).collect();
    for (name, content) in [
        ("digest", digest),
        ("about", about),
        ("layers", layers.join("\n")),
    ] {
        fs::write(dir.join(name), content).expect("target/ can be written");
    }
}

fn compress(dir: &Path, archive: &Path) -> Blob {
    let new = dir.join("blob");
    let mut gzip = Command::new("gzip");
    let status = gzip
        .args(["-6nc"])
        .stdin(File::open(archive).expect("it was written"))
        .stdout(File::create(&new).expect("target/ can be written"))
        .stderr(Stdio::inherit())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "gzip failed");
    let blob = Blob {
        compression: "+gzip",
        digest: sha256(&new),
        diff_id: sha256(archive),
        size: fs::metadata(&new).expect("it was written").len(),
    };
    fs::rename(&new, dir.join("blobs/sha256").join(&blob.digest)).expect("both are ours");
    blob
}

fn sha256(file: &Path) -> String {
    let said = output(Command::new("sha256sum").arg(file));
    said.split(' ').next().expect("a hash comes first").into()
}

/// A directory to every 50 small files, and one to each size.
fn write_archive(file: &Path, layer: usize, all: &[Files]) {
    let out = File::create(file).expect("target/ can be written");
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut words = Words::new(layer);
    let mut content = Vec::new();
    for (group, files) in all.iter().enumerate() {
        let top = format!("usr/lib/layer{layer}-{group}");
        write_member(&mut out, &top, b'5', &[]);
        for index in 0..files.count {
            let dir = format!("{top}/part-{}", index / 50);
            if index % 50 == 0 {
                write_member(&mut out, &dir, b'5', &[]);
            }
            // Small files are many and large ones few: the square of an even spread.
            let part = (index * 7919 + layer * 104_729) % 1000;
            let size = files.least + (files.most - files.least) / 1000 * part / 1000 * part;
            words.fill(&mut content, size);
            write_member(&mut out, &format!("{dir}/file-{index}.txt"), b'0', &content);
        }
    }
    out.write_all(&[0; 2 * BLOCK]).expect("target/ has room");
    out.flush().expect("target/ has room");
}

/// Text that compresses about as well as programs and their libraries do: words of a small
/// language, and numbers that do not compress.
#[derive(Debug)]
struct Words {
    state: u64,
    language: Vec<Vec<u8>>,
}

impl Words {
    fn new(seed: usize) -> Self {
        let mut words = Self {
            state: (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            language: Vec::new(),
        };
        words.language = (0..4096).map(|_| words.word()).collect();
        words
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn word(&mut self) -> Vec<u8> {
        let bits = self.next();
        let letters = bits.to_le_bytes();
        let length = 2 + usize::from(letters[7] % 6);
        letters[..length.min(7)]
            .iter()
            .map(|byte| b'a' + byte % 26)
            .collect()
    }

    fn fill(&mut self, out: &mut Vec<u8>, size: usize) {
        out.clear();
        while out.len() < size {
            let bits = self.next();
            let [low, middle, high, kind, ..] = bits.to_le_bytes();
            if kind < 24 {
                out.extend(bits.to_be_bytes());
            }
            // Some words are used far more than others.
            let spread = usize::from(low) * usize::from(middle) / 16;
            out.extend(&self.language[spread % 4096]);
            out.push(if high < 20 { b'\n' } else { b' ' });
        }
        out.truncate(size);
    }
}
