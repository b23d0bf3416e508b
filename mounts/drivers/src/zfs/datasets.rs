//! Datasets below one: their names, the properties that are read, and each change as one call.
//!
//! A call that changes something returns once the transaction group that holds the change is on the disk
//! (`dsl_sync_task` waits for it). So nothing here needs a barrier, and an interrupted call has happened or
//! not.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use layerd_mounts::mount::detached;
use layerd_mounts::{Error, Slot};
use nix::errno::Errno;

use super::program::{Failure, Programs};

/// Snapshot that a committed layer has, of which clones are made.
pub(super) const SNAPSHOT: &str = "layerd";
/// Dataset for what was set aside. No slot is spelled with a hyphen.
pub(super) const LOST: &str = "layerd-lost";
/// Dataset that checks make and destroy.
pub(super) const TRIAL: &str = "layerd-check";
/// Property of the parent dataset: the root that its layers belong to.
pub(super) const OWNER: &str = "layerd:root";
/// Longest name of a parent dataset: ZFS takes 255 bytes with what is appended.
const LONGEST: usize = 200;

/// Destroys the layer that is named first with all its snapshots, and before it those of the others that are
/// clones of it, in one transaction group. Nothing is unmounted for it.
const DESTROY: &str = r#"
local names = (...)["argv"]
local wanted = {}
for _, name in ipairs(names) do wanted[name] = true end
local function all(list, name)
    local found = {}
    for one in list(name) do table.insert(found, one) end
    return ipairs(found)
end
local function destroy(layer)
    if not zfs.exists(layer) then return 0, layer end
    for _, snapshot in all(zfs.list.snapshots, layer) do
        for _, clone in all(zfs.list.clones, snapshot) do
            if wanted[clone] then
                local number, name = destroy(clone)
                if number ~= 0 then return number, name end
            end
        end
        local number = zfs.sync.destroy(snapshot)
        if number ~= 0 then return number, snapshot end
    end
    return zfs.sync.destroy(layer), layer
end
local number, name = destroy(names[1])
if number ~= 0 then return "failed " .. number .. " " .. name end
return "ok"
"#;

/// Properties of each new layer. It is mounted by those who are told to, and by no tool at boot; tools that
/// make snapshots pass it over. Programs in it may be set-user-id, and its names are bytes, whatever the
/// parent dataset says.
const PROPERTIES: [&str; 11] = [
    "mountpoint=legacy",
    "canmount=noauto",
    "com.sun:auto-snapshot=false",
    "xattr=sa",
    "acltype=posixacl",
    "devices=on",
    "setuid=on",
    "exec=on",
    "casesensitivity=sensitive",
    "normalization=none",
    "utf8only=off",
];
/// Those of [`PROPERTIES`] that a clone has of its origin, and takes at no other time.
const FIXED: usize = 3;

/// Checks the name of a dataset for layers.
///
/// # Errors
/// The rule that it breaks.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let is_plain = |part: &str| {
        let mut letters = part.chars();
        letters
            .next()
            .is_some_and(|one| one.is_ascii_alphanumeric())
            && letters.all(|one| one.is_ascii_alphanumeric() || "-_.:".contains(one))
    };
    if name.starts_with('/') {
        return Err("is a path; the name of a dataset is wanted, such as \"tank/layerd\"");
    }
    if name.len() > LONGEST {
        return Err("is longer than 200 bytes, which leaves no room for the names of layers");
    }
    if !name.split('/').all(is_plain) {
        return Err(
            "must be the name of a dataset such as \"tank/layerd\": parts of letters, digits, - _ . and :, \
             each with a letter or digit first",
        );
    }
    Ok(())
}

/// Something that lies below the parent dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dataset {
    /// Its name without the parent's.
    pub(super) name: String,
    /// Names of its snapshots.
    pub(super) snapshots: Vec<String>,
    /// Name of a dataset below it, if there is one.
    pub(super) child: Option<String>,
    /// Snapshot that it is a clone of.
    pub(super) origin: Option<String>,
    /// Set while the kernel refuses writes.
    pub(super) is_read_only: bool,
    /// Most bytes that it can hold beyond its origin.
    pub(super) quota: Option<u64>,
    /// Bytes that were written since it was made.
    pub(super) written: u64,
}

impl Dataset {
    /// True if it has the snapshot of a committed layer.
    pub(super) fn is_frozen(&self) -> bool {
        self.snapshots.iter().any(|name| name == SNAPSHOT)
    }
}

/// The datasets below one.
#[derive(Debug, Clone)]
pub(super) struct Datasets {
    programs: Programs,
    parent: String,
}

impl Datasets {
    /// Those below `parent`, whose name was checked. Looks at nothing.
    pub(super) fn new(programs: Programs, parent: &str) -> Self {
        Self {
            programs,
            parent: parent.to_owned(),
        }
    }

    pub(super) fn programs(&self) -> &Programs {
        &self.programs
    }

    pub(super) fn parent(&self) -> &str {
        &self.parent
    }

    pub(super) fn pool(&self) -> &str {
        self.parent.split('/').next().unwrap_or_default()
    }

    /// Name of a dataset below the parent.
    pub(super) fn below(&self, name: &str) -> String {
        format!("{}/{name}", self.parent)
    }

    /// Name of the dataset of a layer.
    pub(super) fn layer(&self, slot: Slot) -> String {
        self.below(&slot.to_string())
    }

    /// Name of the snapshot of a committed layer.
    pub(super) fn frozen(&self, slot: Slot) -> String {
        format!("{}/{slot}@{SNAPSHOT}", self.parent)
    }

    /// Reads all that lies below the parent: one call, whatever the number.
    pub(super) fn all(&self) -> Result<Vec<Dataset>, Error> {
        let said = self.list(&self.parent, "2");
        let said = said.map_err(|cause| cause.to_error("list the datasets of", &self.parent))?;
        self.read(&said)
    }

    /// Reads one layer with its snapshots; `None` if there is none.
    pub(super) fn look(&self, slot: Slot) -> Result<Option<Dataset>, Error> {
        let dataset = self.layer(slot);
        match self.list(&dataset, "1") {
            Ok(said) => {
                let name = slot.to_string();
                let mut found = self.read(&said)?.into_iter();
                Ok(found.find(|found| found.name == name))
            }
            Err(cause) if cause.is_missing() => Ok(None),
            Err(cause) => Err(cause.to_error("look at", &dataset)),
        }
    }

    fn list(&self, of: &str, depth: &str) -> Result<String, Failure> {
        let arguments = [
            "list",
            "-Hp",
            "-r",
            "-d",
            depth,
            "-t",
            "filesystem,volume,snapshot",
        ];
        let columns = ["-o", "name,origin,readonly,quota,written", of];
        self.programs.zfs(&[&arguments[..], &columns[..]].concat())
    }

    /// Reads what `zfs list` prints: a line for each dataset, and behind it those below and its snapshots.
    fn read(&self, said: &str) -> Result<Vec<Dataset>, Error> {
        let mut all: BTreeMap<String, Dataset> = BTreeMap::new();
        for line in said.lines() {
            let row = Row::parse(line).ok_or_else(|| self.odd())?;
            let Some(name) = row.name.strip_prefix(&self.parent) else {
                return Err(self.odd());
            };
            // The parent itself, and snapshots of it.
            let Some(name) = name.strip_prefix('/') else {
                continue;
            };
            let (top, below) = match name.find(['/', '@']) {
                Some(end) => (&name[..end], &name[end..]),
                None => (name, ""),
            };
            let new = || Dataset {
                name: top.to_owned(),
                ..Dataset::default()
            };
            all.entry(top.to_owned())
                .or_insert_with(new)
                .add(below, &row);
        }
        Ok(all.into_values().collect())
    }

    fn odd(&self) -> Error {
        let failure = Failure::Odd {
            program: "zfs list".to_owned(),
            problem: "its answer is not understood",
        };
        failure.to_error("list the datasets of", &self.parent)
    }

    /// Makes the dataset of a layer: a clone of a committed one, or an empty one.
    pub(super) fn create(
        &self,
        slot: Slot,
        origin: Option<Slot>,
        is_read_only: bool,
        limit: Option<u64>,
    ) -> Result<(), Failure> {
        let dataset = self.layer(slot);
        let limit = limit.map(|bytes| format!("quota={bytes}"));
        let access = match is_read_only {
            true => "readonly=on",
            false => "readonly=off",
        };
        let own = [access].into_iter().chain(limit.as_deref());
        let common = match origin {
            Some(_) => &PROPERTIES[..PROPERTIES.len() - FIXED],
            None => &PROPERTIES[..],
        };
        let verb = if origin.is_some() { "clone" } else { "create" };
        let mut arguments = vec![verb];
        let properties = common.iter().copied().chain(own);
        arguments.extend(properties.flat_map(|property| ["-o", property]));
        let origin = origin.map(|origin| self.frozen(origin));
        arguments.extend(origin.as_deref());
        arguments.push(&dataset);
        self.programs.zfs(&arguments).map(drop)
    }

    /// Has the kernel refuse writes to a layer, also through mounts that are there, and makes its snapshot.
    pub(super) fn freeze(&self, slot: Slot, is_read_only: bool) -> Result<(), Error> {
        let dataset = self.layer(slot);
        if !is_read_only {
            let set = self.programs.zfs(&["set", "readonly=on", &dataset]);
            set.map_err(|cause| cause.to_error("set read-only", &dataset))?;
        }
        match self.programs.zfs(&["snapshot", &self.frozen(slot)]) {
            Ok(_) => Ok(()),
            Err(cause) if cause.is_taken() => Ok(()),
            Err(cause) => {
                // It stays writable.
                let _ = self.programs.zfs(&["set", "readonly=off", &dataset]);
                Err(cause.to_error("make a snapshot of", &dataset))
            }
        }
    }

    /// Lets a layer be written again: its snapshot goes, and then the property.
    pub(super) fn thaw(&self, slot: Slot) -> Result<(), Error> {
        let dataset = self.layer(slot);
        match self.programs.zfs(&["destroy", &self.frozen(slot)]) {
            Err(cause) if !cause.is_missing() => {
                return Err(cause.to_error("destroy the snapshot of", &dataset));
            }
            _ => {}
        }
        let set = self.programs.zfs(&["set", "readonly=off", &dataset]);
        set.map_err(|cause| cause.to_error("set writable", &dataset))
            .map(drop)
    }

    /// Destroys a layer with its snapshots, other programs' included, and clones of it that are among
    /// `others`. None there is success. Their space comes back in the background.
    pub(super) fn destroy(
        &self,
        slot: Slot,
        others: impl Iterator<Item = Slot>,
    ) -> Result<(), Error> {
        let dataset = self.layer(slot);
        let others = others.filter(|other| *other != slot).take(MOST_AT_ONCE);
        let names = [dataset.clone()].into_iter();
        let names: Vec<String> = names.chain(others.map(|other| self.layer(other))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said = self.programs.script(self.pool(), DESTROY, &names);
        let said = said.map_err(|cause| cause.to_error("destroy", &dataset))?;
        let mut words = said.split(' ');
        let (word, number, of) = (words.next(), words.next(), words.next());
        match (word, number.map(str::parse::<i32>), of) {
            (Some("ok"), None, None) => Ok(()),
            (Some("failed"), Some(Ok(number)), Some(of)) => Err(self.refused(slot, number, of)),
            _ => Err(self.odd()),
        }
    }

    /// Why something of a layer cannot be destroyed, as far as the kernel's number tells.
    fn refused(&self, slot: Slot, number: i32, of: &str) -> Error {
        let dataset = self.layer(slot);
        let child = self.look(slot).ok().flatten().and_then(|found| found.child);
        let problem = match (Errno::from_raw(number), child) {
            (Errno::EBUSY | Errno::EEXIST, Some(child)) if of == dataset => {
                format!("{child} lies below it, which is not layerd's; destroy or rename that")
            }
            (Errno::EBUSY, _) => format!(
                "{of} is in use: unmount it where it is mounted, and release holds of its snapshots"
            ),
            (Errno::EEXIST, _) => format!("{of} has clones; destroy or promote them first"),
            (number, _) => return Error::io("destroy", std::path::Path::new(of), number),
        };
        let kind = std::io::ErrorKind::ResourceBusy;
        let cause = std::io::Error::new(kind, problem);
        Error::io("destroy", std::path::Path::new(&dataset), cause)
    }

    /// Moves a dataset out of the way of layers, below [`LOST`]. Answers its new name.
    pub(super) fn set_aside(&self, name: &str) -> Result<String, Error> {
        let (from, lost) = (self.below(name), self.below(LOST));
        let failed = |cause: Failure| cause.to_error("move", &from);
        let made = self.programs.zfs(&[
            "create",
            "-o",
            "mountpoint=none",
            "-o",
            "canmount=off",
            "-o",
            "com.sun:auto-snapshot=false",
            &lost,
        ]);
        match made {
            Err(cause) if !cause.is_taken() => return Err(failed(cause)),
            _ => {}
        }
        let mut target = format!("{lost}/{name}");
        for number in 1..=MOST_TRIES {
            match self.programs.zfs(&["rename", &from, &target]) {
                Ok(_) => return Ok(target),
                Err(cause) if cause.is_taken() && number < MOST_TRIES => {
                    target = format!("{lost}/{name}.{number}");
                }
                Err(cause) => return Err(failed(cause)),
            }
        }
        Ok(target)
    }

    /// Waits until all that was written to the pool before is on the disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let synced = self.programs.zpool(&["sync", self.pool()]);
        synced
            .map_err(|cause| cause.to_error("sync the pool of", &self.parent))
            .map(drop)
    }

    /// Opens the top directory of a dataset or snapshot, which is mounted in no place of the mount table.
    pub(super) fn open(&self, dataset: &str, is_read_only: bool) -> Result<OwnedFd, Error> {
        let options: &[&str] = if is_read_only { &["ro"] } else { &[] };
        let path = std::path::Path::new(dataset);
        detached("zfs", path, options, is_read_only)
            .map_err(|cause| Error::io("mount", path, cause))
    }
}

/// Layers that are named in one call: all names have room among its arguments.
const MOST_AT_ONCE: usize = 2000;
/// Names that are tried for something that is set aside.
const MOST_TRIES: u32 = 100;

impl Dataset {
    /// Adds a line of the list: its own, if `below` is empty, or that of something below.
    fn add(&mut self, below: &str, row: &Row<'_>) {
        match below.chars().next() {
            None => {
                self.origin = row.origin.map(str::to_owned);
                self.is_read_only = row.is_read_only;
                self.quota = row.quota;
                self.written = self.written.saturating_add(row.written);
            }
            Some('@') => {
                self.snapshots.push(below[1..].to_owned());
                self.written = self.written.saturating_add(row.written);
            }
            Some(_) => self.child = Some(row.name.to_owned()),
        }
    }
}

/// A line of the list.
struct Row<'a> {
    name: &'a str,
    origin: Option<&'a str>,
    is_read_only: bool,
    quota: Option<u64>,
    written: u64,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split('\t');
        let name = fields.next()?;
        let origin = fields.next()?;
        let is_read_only = match fields.next()? {
            "on" => true,
            "off" | "-" => false,
            _ => return None,
        };
        // A snapshot and a volume have none.
        let number = |text: &str| match text {
            "-" | "none" => Some(0),
            text => text.parse().ok(),
        };
        let quota: u64 = number(fields.next()?)?;
        let written = number(fields.next()?)?;
        fields.next().is_none().then_some(Self {
            name,
            origin: (origin != "-").then_some(origin),
            is_read_only,
            quota: (quota > 0).then_some(quota),
            written,
        })
    }
}
