//! `layerctl volume rename` and `label`.

use super::print_name;
use crate::cmd::Daemon;
use crate::cmd::snapshot::parse_label;
use crate::complete;
use crate::error::Error;
use crate::output::Output;
use crate::text::escape;

/// Gives a volume another name, also while it is in use
///
/// Its folder and its content stay where they are.
#[derive(Debug, clap::Args)]
pub(crate) struct Rename {
    /// The volume
    #[arg(add = complete::volumes())]
    name: String,

    /// The name it is to have
    new_name: String,
}

/// Sets and removes labels of a volume, and shows those it has then
#[derive(Debug, clap::Args)]
pub(crate) struct Label {
    /// The volume
    #[arg(add = complete::volumes())]
    name: String,

    /// Labels to set
    #[arg(value_name = "KEY=VALUE", value_parser = parse_label, required_unless_present = "remove")]
    set: Vec<(String, String)>,

    /// Key of a label to remove; may be repeated
    #[arg(short, long, value_name = "KEY")]
    remove: Vec<String>,
}

/// Adds and removes labels of a volume, changes its size, and prints its name
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The volume
    #[arg(add = complete::volumes())]
    name: String,

    /// A label to add or change; may be repeated
    #[arg(
        long = "label-add",
        value_name = "KEY=VALUE",
        value_parser = parse_label,
        required_unless_present_any = ["remove", "size"]
    )]
    add: Vec<(String, String)>,

    /// Key of a label to remove; may be repeated
    #[arg(long = "label-rm", value_name = "KEY")]
    remove: Vec<String>,

    /// Another size for a volume that was created with one, also while it is in use; a smaller one if a quota
    /// holds it
    #[arg(long)]
    size: Option<String>,

    /// Take a size below what the volume holds, so that nothing more can be written to it
    #[arg(long, requires = "size")]
    force: bool,
}

pub(super) async fn rename(args: &Rename, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    print_name(
        &client.rename_volume(&args.name, &args.new_name).await?,
        out,
    )
}

pub(super) async fn update(args: Update, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let removed = args.remove.into_iter().map(|key| (key, String::new()));
    let labels = args.add.into_iter().chain(removed).collect();
    let mut client = daemon.connect().await?;
    let size = args.size.unwrap_or_default();
    let change = client.update_volume(&args.name, labels, size, args.force);
    print_name(&change.await?, out)
}

pub(super) async fn label(args: Label, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let removed = args.remove.into_iter().map(|key| (key, String::new()));
    let labels = args.set.into_iter().chain(removed).collect();
    let mut client = daemon.connect().await?;
    let volume = client.label_volume(&args.name, labels).await?;
    if out.json {
        return out.object(&volume);
    }
    let mut labels = volume.labels.iter();
    labels.try_for_each(|(key, value)| out.line(&escape(&format!("{key}={value}"))))
}
