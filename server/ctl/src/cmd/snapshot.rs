//! `layerctl snapshot ...`.

mod change;
mod list;
mod mount;
mod show;
mod tree;

use clap::Subcommand;

use super::Daemon;
use crate::error::Error;
use crate::output::Output;

/// Lists, inspects, makes and removes snapshots
///
/// Keys are those of the backend: containerd puts namespace and a number before the key its
/// clients use, as in k8s.io/12/sha256:... What containerd made, containerd should remove: it
/// keeps records of its own and cannot mend them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(list::Args),
    Tree(tree::Args),
    Show(show::Args),
    Prepare(change::Prepare),
    View(change::View),
    Commit(change::Commit),
    Mounts(show::Mounts),
    Rm(change::Rm),
    Label(change::Label),
    Usage(show::Usage),
    Cleanup(change::Cleanup),
    Mount(mount::Mount),
    #[command(alias = "unmount")]
    Umount(mount::Umount),
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    match args.command {
        Command::Ls(args) => list::run(args, daemon, out).await,
        Command::Tree(args) => tree::run(args, daemon, out).await,
        Command::Show(args) => show::run(&args, daemon, out).await,
        Command::Prepare(args) => change::prepare(args, daemon, out).await,
        Command::View(args) => change::view(args, daemon, out).await,
        Command::Commit(args) => change::commit(args, daemon).await,
        Command::Mounts(args) => show::mounts(&args, daemon, out).await,
        Command::Rm(args) => change::rm(args, daemon, out).await,
        Command::Label(args) => change::label(args, daemon, out).await,
        Command::Usage(args) => show::usage(args, daemon, out).await,
        Command::Cleanup(args) => change::cleanup(&args, daemon).await,
        Command::Mount(args) => mount::mount(&args, daemon, out).await,
        Command::Umount(args) => mount::umount(&args, daemon, out).await,
    }
}

/// Splits `KEY=VALUE` at the first `=`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("KEY=VALUE is wanted".to_owned()),
        Some((_, "")) => Err("labels without a value are not kept".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_label;

    #[test]
    fn labels_split_at_the_first_equals_sign() {
        let label = parse_label("a.b/c=d=e");
        assert_eq!(label, Ok(("a.b/c".to_owned(), "d=e".to_owned())));
        for bad in ["", "a", "=b", "a="] {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
    }
}
