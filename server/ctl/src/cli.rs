//! The command line. The help texts here are also the man pages.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::cmd::{
    attach, attachments, backup, completions, doctor, du, events, fsck, info, layer, man, mount,
    oci_apply, oci_hook, orphans, restore, setup, snapshot, trash, volume, why,
};
use crate::human;

/// Looks into layerd and changes what it keeps
///
/// layerd keeps container layers on disk for containerd. This program asks the running daemon
/// over its socket; it opens none of the daemon's files.
#[derive(Debug, Parser)]
#[command(
    name = "layerctl",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes and the form of the JSON output: layerctl --help",
    after_long_help = AFTER_HELP
)]
pub(crate) struct Cli {
    /// Socket of the daemon; `unix://` may stand before the path
    #[arg(
        long,
        global = true,
        env = "LAYERD_ADDRESS",
        value_name = "PATH",
        default_value = "/run/layerd/layerd.sock",
        value_parser = parse_address
    )]
    pub(crate) address: PathBuf,

    /// Form of the output: columns for people, or one JSON object a line for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORM",
        default_value = "table"
    )]
    pub(crate) output: Format,

    /// Never colour the output (it is coloured only on terminals, and not if NO_COLOR is set)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,

    /// Limit for each answer, such as 500ms, 30s or 2m; 0 waits forever
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        default_value = "30s",
        value_parser = human::parse_duration
    )]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Info(info::Args),
    #[command(alias = "snapshots", alias = "snap")]
    Snapshot(snapshot::Args),
    #[command(alias = "volumes", alias = "vol")]
    Volume(volume::Args),
    #[command(alias = "layers")]
    Layer(layer::Args),
    Mount(mount::Args),
    Attach(attach::Attach),
    Detach(attach::Detach),
    Attachments(attachments::Args),
    WhoUses(attachments::WhoUses),
    OciApply(oci_apply::Args),
    OciHook(oci_hook::Args),
    Doctor(doctor::Args),
    Du(du::Args),
    Events(events::Args),
    Orphans(orphans::Args),
    Why(why::Args),
    Trash(trash::Args),
    Fsck(fsck::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Setup(setup::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Accepts a path, or a path after `unix://`.
pub(crate) fn parse_address(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://").unwrap_or(text) {
        "" => Err("the path of a socket is wanted".to_owned()),
        path if path.contains("://") => Err("only unix sockets are served".to_owned()),
        path => Ok(PathBuf::from(path)),
    }
}

const AFTER_HELP: &str = "\
Exit codes:
  0   done
  1   failed for a reason not listed here; doctor: there are warnings
  2   the command line is wrong; doctor: there are errors
  3   no such snapshot or volume, or what a mount wants is missing and not to be created
  4   the key or name is taken, or is there with other settings
  5   refused in the present state: the snapshot has children, is committed, is not active, a
      file exists or was edited since, the records are sound, the volume is in use,
      or it was not confirmed
  6   an argument or filter breaks a rule
  7   the daemon cannot be reached, is stopping, or has lost its records and waits for
      `layerctl restore`
  8   no answer in time; a change may have been made all the same
  9   data on disk is damaged
  10  the disk or a quota is full
  11  fsck: problems are left; orphans: there are differences
With several operands all are tried, and the first failure decides.

JSON output (-o json): one object a line, nothing if there is nothing to show. Names stay as they
are between releases; new ones may be added. Sizes are bytes, times are RFC 3339 in UTC.
  snapshot ls     name, parent (\"\" for none), kind (active, view, committed), created_at,
                  updated_at, labels (an object); with --usage also bytes, inodes
  snapshot tree   as ls --usage, and depth (0 for the bottom layer), children (a number)
  snapshot show   as ls --usage, and children (names), mounts (as below; [] if committed)
  snapshot mounts, prepare, view
                  type, source, target, options (an array)
  snapshot usage  name, bytes, inodes
  snapshot label  as ls
  snapshot rm     removed (the key), one object for each
  doctor          severity (ok, info, warning, error), check, found, impact (what follows), fix (a
                  command that a shell runs; \"\" for none), safe (whether --fix may run it), advice
                  (for people; \"\" if there is a fix), one object for each finding, troubles first
  du              name, kind, layers, own_bytes, shared_bytes
  why             name, kind, bytes (null if not known), namespace, client_key, unpacks (null for
                  none), depth, children (names)
  orphans         state (orphan, foreign, missing), key, namespace and client_key (\"\" for what is not
                  containerd's), kind, created_at and bytes (null for missing ones), needed_by (an
                  array of what needs a missing one), fix (a command; \"\" for none), advice (for
                  people; \"\" if there is a fix)
  events          at (null if events were missed), topic, what, subject, missed (how many were since
                  the line before; topic is \"\" then)
  layer apply     key, diff_id, size (of the archive), bytes, inodes
  layer diff      key, file, digest, size, diff_id, uncompressed, changed (files); nothing if the
                  layer itself goes to standard output
  volume ls, inspect, undelete, rename, label, snapshot
                  id, name, driver, path, created_at, updated_at, labels and options (objects),
                  anonymous, attachments (a number), filled_from (\"\" for nothing), snapshot_of
                  and deleted_at (null for none), bytes (null if never measured)
  volume create, clone
                  as ls, and created (false if it was there already)
  volume rm       removed (the name), existed, id (0 if it did not), one object for each
  volume purge    purged (the name), id, left (volumes in the trash then), one object for each
  volume export   name, file, bytes, files, left_out (sockets), changed (files written to
                  meanwhile), sha256; nothing if the archive itself goes to standard output
  volume import   as ls, and files, bytes, verified (whether there was a checksum)
  volume usage    name, bytes, inodes, as_of
  volume prune    id, name, skipped (why it was passed over; \"\" if it is in the trash), one
                  object for each; with --dry-run: id, name, reason, bytes (null if not known)
  volume watch    at, what, subject, files, bytes, files_expected (0 but for \"filling\")
  mount parse     canonical, type, source, target, access, on_missing, policy_origin
  mount check     as parse, and decision (use, create, fail), detail
  attach, attachments, who-uses, oci-apply
                  id, key, owner, mount (as parse), volume (its name; \"\" for none), state,
                  oci_mounts (destination, type, source, options), mounted_at (\"\" if layerd did
                  not mount it), effective_access (rw, ro or ro-recursive; \"\" likewise), created,
                  filled, created_at, notes (an array of sentences: what the call goes without)
  attachments reconcile
                  key, outcome (keep; detach or, with --execute, detached; failed; unknown), why
  detach          detached (the key), one object for each that was there
  oci-hook        nothing
  info            alarms (an array of sentences), version, root, driver, backing_filesystem,
                  kernel, features (name, value), durability, active, views, committed,
                  quarantined, trash, bytes, unmeasured, disk_bytes, disk_free_bytes,
                  uptime_seconds, layers_unpacked, layers_packed; while the records are lost, driver is \"\"
  trash ls        id, key, parent (\"\" for none), kind, removed_at, bytes (null if not known)
  trash restore   id, key, one object for each that is back
  trash empty     layers and volumes (how many are in the trash at that moment)
  fsck            problem, remedy, repaired, quarantined, one object for each problem; with
                  --content in the end also layers, without_digests, files, bytes
  backup          file, bytes; nothing if the backup itself goes to standard output
  restore         snapshots, set_aside
A snapshot that vanished while it was looked at has null for bytes and inodes.

Keys and labels come from others: control characters in them are printed as escapes such as
\\u{1b}, and a backslash as two. JSON and `ls -q -0` carry them unchanged.";

#[cfg(test)]
mod tests {
    use super::{Cli, parse_address};
    use clap::CommandFactory;
    use std::path::PathBuf;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_are_paths() {
        assert_eq!(
            parse_address("unix:///run/x.sock"),
            Ok(PathBuf::from("/run/x.sock"))
        );
        assert_eq!(
            parse_address("/run/x.sock"),
            Ok(PathBuf::from("/run/x.sock"))
        );
        assert!(parse_address("").is_err());
        assert!(parse_address("unix://").is_err());
        assert!(parse_address("tcp://1.2.3.4").is_err());
    }
}
