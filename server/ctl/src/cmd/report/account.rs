//! What a page is made of, and who holds how many bytes of it.

use std::collections::{BTreeMap, HashMap};

use layerd_proto::layerd::v1::{EventsResponse, InfoResponse, Removed};

use crate::attachment::Attachment;
use crate::images::Images;
use crate::snapshot::{Kind, Snapshot, Usage};
use crate::volume::Volume;

/// Everything that was asked for.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Seconds since 1970.
    pub(super) now: i64,
    pub(super) info: InfoResponse,
    /// `None` for one that went meanwhile.
    pub(super) snapshots: Vec<(Snapshot, Option<Usage>)>,
    pub(super) images: Images,
    pub(super) volumes: Vec<Volume>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) trash: Vec<Removed>,
    pub(super) deleted: Vec<Volume>,
    pub(super) events: Vec<EventsResponse>,
}

/// Kind of holder of a share of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Containers,
    Images,
    Shared,
    Volumes,
    Trash,
}

impl Group {
    pub(super) const ALL: [Self; 5] = [
        Self::Containers,
        Self::Images,
        Self::Shared,
        Self::Volumes,
        Self::Trash,
    ];

    /// Class in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::Images => "images",
            Self::Shared => "shared",
            Self::Volumes => "volumes",
            Self::Trash => "trash",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Containers => "Containers and views",
            Self::Images => "Images",
            Self::Shared => "Shared layers",
            Self::Volumes => "Volumes",
            Self::Trash => "Trash",
        }
    }
}

/// A holder of bytes that no other holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) group: Group,
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// Bytes that a group holds.
pub(super) fn sum(shares: &[Share], group: Group) -> u64 {
    let own = shares.iter().filter(|one| one.group == group);
    own.map(|one| one.bytes).sum()
}

/// The layers, each below its parent.
#[derive(Debug)]
pub(super) struct Forest<'a> {
    pub(super) all: &'a [(Snapshot, Option<Usage>)],
    /// Indexes of those whose parent is not there.
    pub(super) roots: Vec<usize>,
    children: HashMap<usize, Vec<usize>>,
}

impl<'a> Forest<'a> {
    fn new(all: &'a [(Snapshot, Option<Usage>)]) -> Self {
        let by_name: HashMap<&str, usize> = (all.iter().enumerate())
            .map(|(index, (snapshot, _))| (snapshot.name.as_str(), index))
            .collect();
        let mut forest = Self {
            all,
            roots: Vec::new(),
            children: HashMap::new(),
        };
        for (index, (snapshot, _)) in all.iter().enumerate() {
            match by_name.get(snapshot.parent.as_str()) {
                Some(parent) => forest.children.entry(*parent).or_default().push(index),
                None => forest.roots.push(index),
            }
        }
        forest
    }

    pub(super) fn bytes(&self, index: usize) -> u64 {
        self.all[index].1.as_ref().map_or(0, |usage| usage.bytes)
    }

    pub(super) fn children(&self, index: usize) -> &[usize] {
        self.children.get(&index).map_or(&[], Vec::as_slice)
    }

    /// A root and all above it with their heights, each before its children.
    pub(super) fn above(&self, root: usize) -> Vec<(usize, usize)> {
        let (mut found, mut next) = (Vec::new(), vec![(root, 0)]);
        while let Some((index, height)) = next.pop() {
            found.push((index, height));
            let children = self.children(index).iter().rev();
            next.extend(children.map(|child| (*child, height + 1)));
        }
        found
    }

    /// For each layer the one on top that alone needs it, if there is one.
    fn owners(&self) -> Vec<Option<usize>> {
        let mut owners = vec![None; self.all.len()];
        for root in &self.roots {
            // Those above come later.
            for (index, _) in self.above(*root).into_iter().rev() {
                owners[index] = match self.children(index) {
                    [] => Some(index),
                    [one] => owners[*one],
                    _ => None,
                };
            }
        }
        owners
    }
}

impl Account {
    pub(super) fn forest(&self) -> Forest<'_> {
        Forest::new(&self.snapshots)
    }

    /// All bytes that are known, each once, the largest first.
    pub(super) fn shares(&self) -> Vec<Share> {
        let forest = self.forest();
        let mut of_tops: BTreeMap<usize, u64> = BTreeMap::new();
        let mut shares = Vec::new();
        for (index, owner) in forest.owners().into_iter().enumerate() {
            let bytes = forest.bytes(index);
            match owner {
                Some(top) => *of_tops.entry(top).or_default() += bytes,
                None => shares.push(Share {
                    group: Group::Shared,
                    name: self.snapshots[index].0.name.clone(),
                    bytes,
                }),
            }
        }
        shares.extend(of_tops.into_iter().map(|(top, bytes)| {
            let snapshot = &self.snapshots[top].0;
            Share {
                group: match snapshot.kind {
                    Kind::Committed => Group::Images,
                    _ => Group::Containers,
                },
                name: snapshot.name.clone(),
                bytes,
            }
        }));
        let volumes = self.volumes.iter();
        shares.extend(volumes.map(|volume| Share {
            group: Group::Volumes,
            name: volume.name.clone(),
            bytes: volume.bytes.unwrap_or_default(),
        }));
        let removed = self.trash.iter().map(|one| (&one.key, one.bytes));
        let removed = removed.chain(self.deleted.iter().map(|one| (&one.name, one.bytes)));
        shares.extend(removed.map(|(name, bytes)| Share {
            group: Group::Trash,
            name: name.clone(),
            bytes: bytes.unwrap_or_default(),
        }));
        shares.sort_by(|left, right| (right.bytes, &left.name).cmp(&(left.bytes, &right.name)));
        shares
    }

    /// Owners of the attachments that hold a volume, each once.
    pub(super) fn holders(&self, volume: &str) -> Vec<&str> {
        let holding = self.attachments.iter().filter(|one| one.volume == volume);
        let mut owners: Vec<&str> = holding.map(|one| one.owner.as_str()).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }
}

#[cfg(test)]
mod tests {
    use layerd_proto::containerd::services::snapshots::v1::{Info, Kind as WireKind};

    use super::*;

    fn layer(name: &str, parent: &str, kind: WireKind, bytes: u64) -> (Snapshot, Option<Usage>) {
        let info = Info {
            name: name.to_owned(),
            parent: parent.to_owned(),
            kind: kind.into(),
            ..Info::default()
        };
        (info.into(), Some(Usage { bytes, inodes: 1 }))
    }

    #[test]
    fn each_byte_is_one_holder_s() {
        let account = Account {
            snapshots: vec![
                layer("base", "", WireKind::Committed, 100),
                layer("app", "base", WireKind::Committed, 20),
                layer("web", "app", WireKind::Active, 3),
                layer("lone", "base", WireKind::Committed, 7),
                layer("orphan", "gone", WireKind::View, 1),
            ],
            trash: vec![Removed {
                key: "old".to_owned(),
                bytes: Some(9),
                ..Removed::default()
            }],
            ..Account::default()
        };
        let shares = account.shares();
        let found: Vec<_> = shares
            .iter()
            .map(|share| (share.group, share.name.as_str(), share.bytes))
            .collect();
        assert_eq!(
            found,
            [
                (Group::Shared, "base", 100),
                (Group::Containers, "web", 23),
                (Group::Trash, "old", 9),
                (Group::Images, "lone", 7),
                (Group::Containers, "orphan", 1),
            ]
        );
    }

    #[test]
    fn a_chain_of_any_length_is_walked() {
        let name = |number: usize| format!("layer-{number}");
        let layers = (0..20_000_usize).map(|number| {
            let parent = number.checked_sub(1).map_or(String::new(), name);
            layer(&name(number), &parent, WireKind::Committed, 1)
        });
        let account = Account {
            snapshots: layers.collect(),
            ..Account::default()
        };
        assert_eq!(account.forest().above(0).len(), 20_000);
        assert_eq!(account.shares().len(), 1);
    }
}
