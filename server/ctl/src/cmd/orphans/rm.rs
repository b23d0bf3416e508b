//! `layerctl orphans rm`.

use std::collections::BTreeMap;

use super::{Args, compare};
use crate::cmd::Daemon;
use crate::complete;
use crate::confirm::Confirmation;
use crate::error::{Error, all_or};
use crate::orphans::{Difference, State};
use crate::output::Output;
use crate::text::escape;

/// Removes orphans: snapshots that containerd made and has forgotten
///
/// Looks anew, shows which, and asks. Only orphans are removed, children first; those on which something
/// stands that containerd knows stay, and so do foreign snapshots. They go to the trash, as after
/// `snapshot rm`. Do not use it where several containerds share one layerd.
#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// Keys; all orphans unless given
    #[arg(value_name = "KEY", add = complete::snapshots())]
    keys: Vec<String>,

    /// Do not ask; needed where standard input is no terminal
    #[arg(short, long)]
    force: bool,
}

const QUESTION: Confirmation = Confirmation {
    what: "remove orphans",
    unasked: "Say --force if they may go to the trash; `layerctl orphans` shows them.",
    declined: "Nothing was changed.",
};

pub(super) async fn run(
    args: &Args,
    rm: &Rm,
    daemon: &Daemon,
    out: &mut Output,
) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let found = compare(args, &mut client, daemon, out.now).await?;
    let (chosen, mut failed) = choose(&found, &rm.keys);
    if chosen.is_empty() && failed.is_empty() && !out.json {
        return out.line("There are no orphans to remove.");
    }
    if !chosen.is_empty() && !rm.force {
        let keys: Vec<String> = chosen.iter().map(|key| escape(key)).collect();
        QUESTION.confirm(&format!(
            "Move {} orphans to the trash: {}?",
            keys.len(),
            keys.join(", ")
        ))?;
    }
    for key in chosen {
        match client.remove(key).await {
            Ok(()) if out.json => out.object(&BTreeMap::from([("removed", key)]))?,
            Ok(()) => out.line(&escape(key))?,
            Err(error) => failed.push(error),
        }
    }
    all_or(failed)
}

/// Keys of orphans that can go, children first, and errors for keys that name none.
fn choose<'d>(found: &'d [Difference], keys: &[String]) -> (Vec<&'d str>, Vec<Error>) {
    let orphans = found
        .iter()
        .filter(|one| one.state == State::Orphan && one.is_free);
    let orphans: Vec<&str> = orphans.map(|one| one.key.as_str()).collect();
    let is_orphan = |key: &&String| orphans.contains(&key.as_str());
    let failed = keys
        .iter()
        .filter(|key| !is_orphan(key))
        .map(|key| Error::NotFound {
            what: format!("remove orphan \"{key}\""),
            why: "it is no orphan that can be removed".to_owned(),
            hint: "`layerctl orphans` shows them.".to_owned(),
        });
    let failed = failed.collect();
    let wanted = |key: &&str| keys.is_empty() || keys.iter().any(|one| one == key);
    (orphans.iter().copied().filter(wanted).collect(), failed)
}

#[cfg(test)]
mod tests {
    use super::choose;
    use crate::orphans::{Difference, State};

    fn one(key: &str, state: State, is_free: bool) -> Difference {
        Difference {
            state,
            key: key.to_owned(),
            namespace: String::new(),
            client_key: String::new(),
            snapshot: None,
            needed_by: Vec::new(),
            in_trash: None,
            is_free,
            fix: String::new(),
            advice: String::new(),
        }
    }

    #[test]
    fn only_orphans_that_nothing_stands_on_are_chosen() {
        let found = [
            one("child", State::Orphan, true),
            one("parent", State::Orphan, true),
            one("kept", State::Orphan, false),
            one("foreign", State::Foreign, true),
            one("missing", State::Missing, false),
        ];
        let (all, failed) = choose(&found, &[]);
        assert_eq!((all, failed.len()), (vec!["child", "parent"], 0));
        let keys = ["parent", "kept", "foreign", "gone"].map(str::to_owned);
        let (chosen, failed) = choose(&found, &keys);
        assert_eq!((chosen, failed.len()), (vec!["parent"], 3));
    }
}
