//! `layerctl mount parse` and `check`, and the flags that say mounts.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use layerd_proto::layerd::v1 as wire;
use serde::Serialize;

use super::Daemon;
use crate::attachment::MountSpec;
use crate::error::{Error, all_or};
use crate::output::Output;
use crate::table::{Cell, Colour, Table};
use crate::text::escape;

/// Explains mount flags: their meaning and their effect
///
/// The owner of the data decides the type:
///
///   volume   the application's data, kept by layerd under a name, shared by all that mount it
///              -v data:/var/lib/db            creates the volume if it is missing
///              --mount type=volume,src=data,dst=/var/lib/db
///                                             fails if it is missing: no typing error makes an
///                                             empty database; on-missing=create changes that
///              --mount type=volume,src=data,dst=/in,volume-subpath=sub,readonly
///   bind     a folder or file of the host, as it is there; what the container may write, it
///            writes on the host
///              -v /srv/www:/www:ro            -v ./src:/src
///              --mount type=bind,src=/srv/www,dst=/www,readonly
///   tmpfs    memory of one container, gone with it; for secrets and scratch files
///              --tmpfs /run:size=64m          --mount type=tmpfs,dst=/run,tmpfs-size=64m
///   image    the content of a committed snapshot, read-only
///              --mount type=image,src=SNAPSHOT,dst=/opt/tools
///              --mount type=image,src=SNAPSHOT,dst=/etc/app,image-subpath=usr/share/app
///
/// A name without a slash is a volume, a path that begins with / or . is a bind mount. To keep data,
/// take a volume; to show the host's files, a bind mount; to forget, tmpfs.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Parse(Parse),
    Check(Check),
}

/// Prints each mount in the one form that means it, in the order of mounting
///
/// Every line is a value of --mount. Looks at nothing but the flags.
#[derive(Debug, clap::Args)]
struct Parse {
    #[command(flatten)]
    flags: Flags,
}

/// Says for each mount whether attaching it would use, create or fail
///
/// Changes nothing. The exit code is 3 if one would fail.
#[derive(Debug, clap::Args)]
struct Check {
    #[command(flatten)]
    flags: Flags,
}

/// Mounts as a person types them.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    mounts: Mounts,

    /// Rules to apply: layerd's own, or Docker's exactly
    #[arg(long, value_enum, value_name = "WHOSE", default_value = "strict")]
    dialect: Dialect,

    /// Folder that sources beginning with a dot are relative to; the current one unless given
    #[arg(long, value_name = "DIR")]
    base_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Mounts {
    /// SOURCE:TARGET or SOURCE:TARGET:OPTIONS; a missing volume or host folder is created. May be repeated
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,

    /// KEY=VALUE,...; what is missing is not created unless on-missing=create is among them. May
    /// be repeated
    #[arg(long, value_name = "KEY=VALUE,...")]
    mount: Vec<String>,

    /// TARGET or TARGET:OPTIONS; memory for one container, such as /run:size=64m. May be repeated
    #[arg(long, value_name = "TARGET")]
    tmpfs: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Strict,
    Docker,
}

impl Flags {
    pub(super) fn request(self) -> Result<wire::ParseMountsRequest, Error> {
        let invalid = |why: String| Error::Invalid {
            what: "understand the mounts".to_owned(),
            why,
            hint: "Name an absolute folder with --base-dir.".to_owned(),
        };
        let base_dir = match self.base_dir {
            None => std::env::current_dir(),
            Some(dir) => std::path::absolute(dir),
        }
        .map_err(|cause| invalid(format!("the current folder is not known: {cause}")))?;
        let base_dir = base_dir
            .into_os_string()
            .into_string()
            .map_err(|_| invalid("the path of the current folder is not UTF-8".to_owned()))?;
        let dialect = match self.dialect {
            Dialect::Strict => wire::Dialect::Strict,
            Dialect::Docker => wire::Dialect::Docker,
        };
        Ok(wire::ParseMountsRequest {
            dialect: dialect.into(),
            volumes: self.mounts.volume,
            mounts: self.mounts.mount,
            tmpfs: self.mounts.tmpfs,
            base_dir,
        })
    }
}

#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    mount: MountSpec,
    decision: String,
    detail: String,
}

impl From<wire::CheckedMount> for Checked {
    fn from(checked: wire::CheckedMount) -> Self {
        Self {
            mount: checked.mount.unwrap_or_default().into(),
            decision: checked.decision,
            detail: checked.detail,
        }
    }
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    match args.command {
        Command::Parse(args) => parse(args.flags, daemon, out).await,
        Command::Check(args) => check(args.flags, daemon, out).await,
    }
}

async fn parse(flags: Flags, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let request = flags.request()?;
    let mounts = daemon.connect().await?.parse_mounts(request).await?;
    mounts.iter().try_for_each(|mount| match out.json {
        true => out.object(mount),
        false => out.line(&escape(&mount.canonical)),
    })
}

async fn check(flags: Flags, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let request = flags.request()?;
    let checked = daemon.connect().await?.check_mounts(request).await?;
    let checked: Vec<Checked> = checked.into_iter().map(Checked::from).collect();
    if out.json {
        checked.iter().try_for_each(|one| out.object(one))?;
    } else {
        out.table(&table(&checked))?;
    }
    all_or(checked.iter().filter_map(failure).collect())
}

fn table(checked: &[Checked]) -> Table {
    let mut table = Table::new(&["WOULD", "TYPE", "SOURCE", "TARGET", "BECAUSE"]);
    for one in checked {
        let source = match one.mount.source.as_str() {
            "" => Cell::left("-").coloured(Colour::Dim),
            source => Cell::left(escape(source)),
        };
        table.push(vec![
            Cell::left(escape(&one.decision)),
            Cell::left(escape(&one.mount.kind)),
            source,
            Cell::left(escape(&one.mount.target)),
            Cell::left(escape(&one.detail)),
        ]);
    }
    table
}

fn failure(one: &Checked) -> Option<Error> {
    (one.decision == "fail").then(|| Error::NotFound {
        what: format!("attach what is to be at {}", one.mount.target),
        why: one.detail.clone(),
        hint: "Nothing was changed.".to_owned(),
    })
}
