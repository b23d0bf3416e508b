//! `layerctl volume create`, `snapshot` and `clone`: what makes volumes.

use layerd_proto::layerd::v1::CreateVolumeRequest;
use serde::Serialize;

use super::print_name;
use crate::cmd::Daemon;
use crate::cmd::snapshot::parse_label;
use crate::complete;
use crate::error::Error;
use crate::output::Output;
use crate::volume::Volume;

/// Creates a volume and prints its name
///
/// Saying the same again is no error: the volume is there. If it has other settings than those
/// given, the command fails and names the one that differs.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name; without one it is anonymous and gets 64 hexadecimal digits
    name: Option<String>,

    #[command(flatten)]
    settings: Settings,

    /// Begin as a copy of this volume, as `volume clone` makes it
    #[arg(long, value_name = "VOLUME", add = complete::volumes())]
    clone_of: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// A label for it; may be repeated
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = parse_volume_label)]
    labels: Vec<(String, String)>,

    /// An option of the driver; may be repeated. `local` has uid and gid (decimal) and mode
    /// (octal) of the top folder; without them it is root's, and 0755. size and inodes are as --size
    /// and --inodes; nocopy=true keeps an image from filling it
    #[arg(long = "opt", value_name = "KEY=VALUE", value_parser = parse_label)]
    options: Vec<(String, String)>,

    /// Most that it can hold, such as 10g (4 MiB to 16 TiB): it is a file system of its own then, of which a
    /// small part is taken by that file system. Writes are slower, and no blocks are shared with copies
    #[arg(long)]
    size: Option<String>,

    /// Most files and folders that it can have, rounded up; with --size
    #[arg(long, requires = "size", value_name = "NUMBER")]
    inodes: Option<u64>,

    /// Volume driver
    #[arg(short, long, default_value = "local")]
    driver: String,
}

/// Makes a read-only copy of a volume as it is now, and prints the copy's name
///
/// The copy is a volume of its own: it stays when the first one is written to or removed. It is
/// exact for programs that do not write meanwhile; what others find in it is as after a power cut.
/// It is mounted read-only (`:ro`, `readonly`) or not at all; `volume clone` makes a copy to write to.
#[derive(Debug, clap::Args)]
pub(crate) struct Snapshot {
    /// The volume
    #[arg(add = complete::volumes())]
    name: String,

    /// Name of the copy; without one, that of the volume and the time
    snapshot_name: Option<String>,
}

/// Makes a writable copy of a volume
///
/// It shares disk blocks with the first one where the file system can (xfs, btrfs) and is a full
/// copy elsewhere. It appears whole or not at all. --timeout begins anew as long as files come.
#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// The volume to copy
    #[arg(add = complete::volumes())]
    source: String,

    /// Name of the copy
    name: String,

    #[command(flatten)]
    settings: Settings,
}

/// As Docker has them: a volume keeps a label without a value.
fn parse_volume_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("KEY or KEY=VALUE is wanted".to_owned()),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

#[derive(Serialize)]
struct Created<'a> {
    #[serde(flatten)]
    volume: &'a Volume,
    created: bool,
}

pub(super) async fn create(args: Create, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let name = args.name.unwrap_or_default();
    let request = args.settings.request(name, args.clone_of);
    send(request, daemon, out).await
}

pub(super) async fn copy(args: Copy, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let request = args.settings.request(args.name, Some(args.source));
    send(request, daemon, out).await
}

pub(super) async fn snapshot(
    args: &Snapshot,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let copy = args.snapshot_name.as_deref().unwrap_or_default();
    let mut client = daemon.connect().await?;
    print_name(&client.snapshot_volume(&args.name, copy).await?, out)
}

async fn send(
    request: CreateVolumeRequest,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let (volume, created) = daemon.connect().await?.create_volume(request).await?;
    if out.json {
        let volume = &volume;
        return out.object(&Created { volume, created });
    }
    print_name(&volume, out)
}

impl Settings {
    pub(super) fn request(self, name: String, clone_of: Option<String>) -> CreateVolumeRequest {
        CreateVolumeRequest {
            name,
            driver: self.driver,
            options: self
                .options
                .into_iter()
                .chain(self.size.map(|size| ("size".to_owned(), size)))
                .chain(
                    self.inodes
                        .map(|number| ("inodes".to_owned(), number.to_string())),
                )
                .collect(),
            labels: self.labels.into_iter().collect(),
            clone_of: clone_of.unwrap_or_default(),
        }
    }
}
