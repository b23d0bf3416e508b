//! `layerctl du`.

use std::collections::HashMap;

use serde::Serialize;

use super::Daemon;
use crate::client::Client;
use crate::error::Error;
use crate::fullness::{self, Fullness, Limits};
use crate::human::size;
use crate::images::Images;
use crate::output::Output;
use crate::snapshot::{Kind, Snapshot};
use crate::table::{Cell, Table};
use crate::text::escape;

/// Shows who holds the bytes of the disk
///
/// With each, what would go with it and what it shares.
///
/// One line for each snapshot that nothing builds on: a container, a view, or the top layer of an
/// image. OWN goes when it is removed together with the layers that only it needs; SHARED is
/// held by layers below it that others need too, and counts once in the total. IMAGE is as containerd
/// names it; the column is left out where containerd does not answer. LIMIT is what a container's layer is
/// held to, and FULL how much of that is used; both are left out where none has a limit. Costs a call for each snapshot.
/// Volumes have `layerctl volume usage`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show only so many, the largest first; 0 shows all
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
}

/// Snapshots that nothing builds on, with the bytes that would go with each, the largest first.
/// Costs a call for each snapshot.
pub(super) async fn largest(client: &mut Client) -> Result<Vec<(String, u64)>, Error> {
    let snapshots = measured(client).await?;
    let holders = holders(&snapshots).into_iter();
    let mut held: Vec<_> = holders.map(|one| (one.name, one.own_bytes)).collect();
    held.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Ok(held)
}

/// Disk usage of a snapshot without children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Holder {
    name: String,
    kind: Kind,
    /// Layers, itself included.
    layers: usize,
    own_bytes: u64,
    shared_bytes: u64,
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    holder: &'a Holder,
    images: Option<Vec<&'a str>>,
    fullness: Option<Fullness>,
}

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let snapshots = measured(&mut client).await?;
    let mut holders = holders(&snapshots);
    holders
        .sort_by(|left, right| (right.own_bytes, &left.name).cmp(&(left.own_bytes, &right.name)));
    let all = holders.len();
    if args.limit > 0 {
        holders.truncate(args.limit);
    }
    let images = Images::ask(&mut client).await;
    let limits = Limits::of_snapshots(&mut client).await?;
    if out.json {
        return holders.iter().try_for_each(|holder| {
            out.object(&Json {
                holder,
                images: images.as_ref().map(|images| images.of(&holder.name)),
                fullness: limits.get(&holder.name),
            })
        });
    }
    out.table(&table(&holders, images.as_ref(), &limits))?;
    let info = client.info().await?;
    let trash = client.trash().await?;
    let in_trash: u64 = trash.iter().filter_map(|removed| removed.bytes).sum();
    let total: u64 = snapshots.iter().map(|(_, bytes)| bytes).sum();
    for line in [
        format!("{} of {all} shown", holders.len()),
        format!("Snapshots: {} in {}", size(total), snapshots.len()),
        format!("Trash: {} in {}", size(in_trash), trash.len()),
        format!(
            "Disk: {} free of {}",
            size(info.disk_free_bytes),
            size(info.disk_bytes)
        ),
    ] {
        out.line(&line)?;
    }
    Ok(())
}

fn table(holders: &[Holder], images: Option<&Images>, limits: &Limits) -> Table {
    let mut heading = vec!["OWN", "SHARED", "LAYERS", "KIND", "NAME"];
    if images.is_some() {
        heading.insert(4, "IMAGE");
    }
    let has_limits = limits.any(holders.iter().map(|holder| holder.name.as_str()));
    if has_limits {
        heading.splice(2..2, ["LIMIT", "FULL"]);
    }
    let mut table = Table::new(&heading);
    for holder in holders {
        let mut row = vec![
            Cell::right(size(holder.own_bytes)),
            Cell::right(size(holder.shared_bytes)),
            Cell::right(holder.layers.to_string()),
            holder.kind.cell(),
        ];
        row.extend(images.map(|images| images.cell(&holder.name, false)));
        row.push(Cell::left(escape(&holder.name)));
        if has_limits {
            let used = limits.get(&holder.name);
            let limit = used.map_or_else(|| "-".to_owned(), |used| size(used.limit_bytes));
            row.splice(2..2, [Cell::right(limit), fullness::cell(used)]);
        }
        table.push(row);
    }
    table
}

/// All snapshots with their bytes; those that vanish meanwhile are passed over.
async fn measured(client: &mut Client) -> Result<Vec<(Snapshot, u64)>, Error> {
    let found = client.list(Vec::new()).await?;
    let all = client.measure(found).await?.into_iter();
    Ok(all
        .filter_map(|(snapshot, usage)| Some((snapshot, usage?.bytes)))
        .collect())
}

/// Splits all bytes among those that nothing builds on.
fn holders(snapshots: &[(Snapshot, u64)]) -> Vec<Holder> {
    let by_name: HashMap<&str, usize> = (snapshots.iter().enumerate())
        .map(|(index, (snapshot, _))| (snapshot.name.as_str(), index))
        .collect();
    let parent = |index: usize| by_name.get(snapshots[index].0.parent.as_str()).copied();
    let chain = |top: usize| std::iter::successors(Some(top), |&index| parent(index));
    let mut is_parent = vec![false; snapshots.len()];
    (0..snapshots.len())
        .filter_map(parent)
        .for_each(|index| is_parent[index] = true);
    let tops: Vec<usize> = (0..snapshots.len())
        .filter(|&index| !is_parent[index])
        .collect();
    let mut needed_by = vec![0_usize; snapshots.len()];
    for &top in &tops {
        chain(top).for_each(|index| needed_by[index] += 1);
    }
    let bytes_of = |top: usize, is_own: bool| {
        let layers = chain(top).filter(|&index| (needed_by[index] == 1) == is_own);
        layers.map(|index| snapshots[index].1).sum()
    };
    tops.iter()
        .map(|&top| Holder {
            name: snapshots[top].0.name.clone(),
            kind: snapshots[top].0.kind,
            layers: chain(top).count(),
            own_bytes: bytes_of(top, true),
            shared_bytes: bytes_of(top, false),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use layerd_proto::containerd::services::snapshots::v1::Info;

    use super::*;

    fn snapshot(name: &str, parent: &str, bytes: u64) -> (Snapshot, u64) {
        let info = Info {
            name: name.to_owned(),
            parent: parent.to_owned(),
            ..Info::default()
        };
        (Snapshot::from(info), bytes)
    }

    #[test]
    fn layers_that_others_need_are_shared() {
        let all = [
            snapshot("base", "", 100),
            snapshot("app", "base", 10),
            snapshot("web-1", "app", 1),
            snapshot("other", "base", 20),
            snapshot("lone", "gone", 7),
        ];
        let mut found: Vec<_> = holders(&all)
            .into_iter()
            .map(|holder| {
                let Holder {
                    name,
                    layers,
                    own_bytes,
                    shared_bytes,
                    ..
                } = holder;
                (name, layers, own_bytes, shared_bytes)
            })
            .collect();
        found.sort();
        let wanted = [
            ("lone".to_owned(), 1, 7, 0),
            ("other".to_owned(), 2, 20, 100),
            ("web-1".to_owned(), 3, 11, 100),
        ];
        assert_eq!(found, wanted);
    }
}
