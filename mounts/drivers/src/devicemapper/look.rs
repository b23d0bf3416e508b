//! Checks of the machine and of the pool, before anything is made.

use std::path::Path;

use layerd_mounts::Error;
use layerd_mounts::sys::device_mapper::{CONTROL, Control};
use layerd_mounts::thin::{METADATA_BLOCK, Mode, PoolStatus, PoolTable, SECTOR};
use nix::errno::Errno;

use super::devices::{Devices, Pool};
use super::home::{Note, Numbers};
use super::settings::Options;
use crate::finding::{Finding, file_system};

/// Result of the checks.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) findings: Vec<Finding>,
    /// The pool, if there is one that can be used.
    pub(super) pool: Option<(Control, Pool)>,
}

const POOL: &str = "pool";
const SETUP: &str =
    "`layerctl setup devicemapper` makes a pool, and makes it active again after a boot";

impl Look {
    /// Looks at a root that is there. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn at(root: &Path, options: &Options) -> Result<Self, Error> {
        let mut findings = vec![file_system(root)?.0];
        let control = match kernel() {
            Ok((control, finding)) => {
                findings.push(finding);
                control
            }
            Err(finding) => {
                findings.push(finding);
                let pool = None;
                return Ok(Self { findings, pool });
            }
        };
        let (note, numbers) = (Note::read(root)?, Numbers::read(root)?);
        findings.extend(settings(options, note.as_ref()));
        let found = match pool(&control, &options.pool) {
            Ok(found) => found,
            Err(finding) => {
                findings.push(finding);
                let pool = None;
                return Ok(Self { findings, pool });
            }
        };
        findings.extend(state(&found, options));
        findings.push(pairing(numbers, &found.status));
        Ok(Self {
            findings,
            pool: Some((control, found.pool)),
        })
    }
}

/// Opens the device mapper, and looks for thin pools in it.
fn kernel() -> Result<(Control, Finding), Finding> {
    const NAME: &str = "device mapper";
    let control = Control::open().map_err(|cause| {
        let advice = match cause {
            Errno::EPERM | Errno::EACCES => "run layerd as root of the machine",
            _ => {
                "load the module (`modprobe dm-thin-pool`), or use a kernel that has it; \
                 the driver overlay needs none"
            }
        };
        Finding::bad(NAME, format!("no {CONTROL}: {}", cause.desc()), advice)
    })?;
    let fail = |cause: Errno| Finding::bad(NAME, cause.desc(), "run layerd as root of the machine");
    let (major, minor, patch) = control.version().map_err(fail)?;
    let targets = control.targets().map_err(fail)?;
    let thin = targets.iter().find(|(kind, _)| kind == "thin-pool");
    let Some((_, (one, two, three))) = thin else {
        let advice = "load the module: `modprobe dm-thin-pool`";
        return Err(Finding::bad(NAME, "it has no thin pools", advice));
    };
    let found = format!("version {major}.{minor}.{patch}, thin pools {one}.{two}.{three}");
    Ok((control, Finding::good(NAME, found)))
}

/// Settings that a root does not follow any more once it is made.
fn settings(options: &Options, note: Option<&Note>) -> Vec<Finding> {
    const NAME: &str = "devices";
    let Some(note) = note else {
        let kind = options.file_system;
        let new = format!("new ones hold {} bytes of {kind}", options.base_bytes);
        return vec![match kind.look() {
            Ok(()) => Finding::good(NAME, new),
            Err(cause) => Finding::bad(
                NAME,
                format!("no file system can be made: {cause}"),
                "install e2fsprogs for ext4, xfsprogs for xfs",
            ),
        }];
    };
    let (kind, bytes) = (note.file_system, note.sectors.saturating_mul(SECTOR));
    let detail = format!("of {bytes} bytes of {kind}");
    let mut all = vec![
        match (kind, bytes) == (options.file_system, options.base_bytes) {
            true => Finding::good(NAME, detail),
            false => Finding::bad(
                NAME,
                format!("{detail}, as the root was made, and not as the settings say"),
                "set `file_system` and `base_size` to that, or begin a new root on a new pool",
            )
            .tolerable(),
        },
    ];
    if !options.pool.is_empty() && note.pool != options.pool {
        let (is, was) = (&options.pool, &note.pool);
        all.push(Finding::bad(
            "root",
            format!("its layers are in the pool {was:?}, and the setting is {is:?}"),
            format!("set `pool = {was:?}`, or choose another root"),
        ));
    }
    all
}

struct FoundPool {
    pool: Pool,
    table: PoolTable,
    status: PoolStatus,
}

fn pool(control: &Control, name: &str) -> Result<FoundPool, Finding> {
    if name.is_empty() {
        let advice = format!("name it in the setting `devicemapper.pool`; {SETUP}");
        return Err(Finding::bad(POOL, "none is named", advice));
    }
    let fail = |cause: Errno| {
        let advice = "run layerd as root of the machine";
        Finding::bad(POOL, format!("look at {name:?}: {}", cause.desc()), advice)
    };
    let state = control.state(name).map_err(fail)?;
    let Some(state) = state.filter(|state| state.has_table) else {
        return Err(Finding::bad(POOL, format!("{name:?} is not active"), SETUP));
    };
    let table = control.table(name).map_err(fail)?;
    let table = match table.as_slice() {
        [line] => PoolTable::of(line),
        _ => None,
    };
    let table =
        table.ok_or_else(|| Finding::bad(POOL, format!("{name:?} is no thin pool"), SETUP))?;
    if state.uuid.starts_with("LVM-") {
        return Err(Finding::bad(
            POOL,
            format!(
                "{name:?} belongs to LVM, which would not take it back after others changed it"
            ),
            SETUP,
        ));
    }
    let lines = control.status(name).map_err(fail)?;
    let text = lines.first().map_or("", |line| line.text.as_str());
    let status: PoolStatus = text.parse().map_err(|_| {
        let advice = "see dmesg(1), and thin_check(8) and thin_repair(8) for its metadata device";
        Finding::bad(POOL, format!("{name:?} does not work: {text:?}"), advice)
    })?;
    let (name, number) = (name.to_owned(), state.number);
    Ok(FoundPool {
        pool: Pool { name, number },
        table,
        status,
    })
}

/// Findings about a pool: service, room, and what happens without room.
fn state(found: &FoundPool, options: &Options) -> Vec<Finding> {
    let (status, name) = (&found.status, &found.pool.name);
    let block = found.table.block.saturating_mul(SECTOR);
    let mut all = Vec::new();
    all.push(match (status.mode, status.needs_check) {
        (Mode::ReadOnly, _) | (_, true) => Finding::bad(
            POOL,
            format!("{name:?} takes no changes: its metadata has to be checked, or is full"),
            "make it inactive (`dmsetup remove`), run thin_check(8), if need be thin_repair(8), or \
             enlarge its metadata device, and make it active again",
        ),
        (Mode::OutOfDataSpace, _) => Finding::bad(
            POOL,
            format!("{name:?} is full"),
            "remove layers, or enlarge its data device",
        )
        .tolerable(),
        (Mode::Writable, false) => {
            Finding::good(POOL, format!("{name:?}, in blocks of {block} bytes"))
        }
    });
    all.push(room(found, options));
    all.extend(writes(found));
    all
}

/// Finding about the room in a pool.
fn room(found: &FoundPool, options: &Options) -> Finding {
    let (status, block) = (&found.status, found.table.block.saturating_mul(SECTOR));
    let share = |used: u64, total: u64, what: &str| format!("{used} of {total} bytes of {what}");
    let (data, metadata) = (status.data, status.metadata);
    let detail = format!(
        "{} and {} are used",
        share(
            data.used.saturating_mul(block),
            data.total.saturating_mul(block),
            "data"
        ),
        share(
            metadata.used.saturating_mul(METADATA_BLOCK),
            metadata.total.saturating_mul(METADATA_BLOCK),
            "metadata"
        ),
    );
    let percent = options.keep_free_percent;
    let is_reached = data.leaves_less_than(percent) || metadata.leaves_less_than(percent);
    match is_reached {
        false => Finding::good("pool space", detail),
        true => Finding::bad(
            "pool space",
            format!("{detail}: no new layers are made"),
            "remove layers, or enlarge the pool",
        )
        .tolerable(),
    }
}

/// Findings about writes to a pool, besides its room.
fn writes(found: &FoundPool) -> Vec<Finding> {
    const FULL: &str = "full pool";
    let mut all = Vec::new();
    all.push(match found.status.fails_when_full {
        true => Finding::good(FULL, "writes fail at once"),
        false => Finding::bad(
            FULL,
            "containers that write to it hang for a minute before they fail",
            "give the pool the feature `error_if_no_space`, as `layerctl setup devicemapper` does",
        )
        .tolerable(),
    });
    if !found.table.zeroes {
        all.push(
            Finding::bad(
                "zeroing",
                "blocks are used without being zeroed (`skip_block_zeroing`): a file system may find \
                 there what another one wrote",
                "leave the feature out of the table of the pool",
            )
            .tolerable(),
        );
    }
    all
}

/// Compares the pool's transaction with the one that the root saw last. A crash may come between the two
/// writes, the pool's being the first.
fn pairing(numbers: Option<Numbers>, status: &PoolStatus) -> Finding {
    const NAME: &str = "pairing";
    let found = status.transaction;
    match numbers {
        None if found == 0 && status.data.used == 0 => Finding::good(NAME, "a new pool"),
        None => Finding::bad(
            NAME,
            "the pool holds something already, and this root has no layers",
            "name a new pool, or the root that the pool belongs to",
        ),
        Some(Numbers { transaction, .. })
            if found == transaction || found == transaction.saturating_add(1) =>
        {
            Finding::good(
                NAME,
                format!("transaction {found} of the pool is the root's"),
            )
        }
        Some(Numbers { transaction, .. }) => Finding::bad(
            NAME,
            format!(
                "the pool is at transaction {found}, and this root saw {transaction} last: another \
                 root or program changed the pool, or one of the two is an older copy"
            ),
            "bring back the pool and the root of the same moment; if the layers may go, begin with a \
             new root and a new pool",
        ),
    }
}

impl Look {
    /// The finding that refuses a root, as an error.
    pub(super) fn refusal(&self, root: &Path) -> Option<Error> {
        let refusing = self.findings.iter().find(|finding| finding.refuses());
        refusing.map(|finding| finding.to_error(root))
    }
}

/// The pool that a root was made with, for tools that look at layers while no daemon runs.
///
/// # Errors
/// [`Error::Unsuitable`] if it is not active; [`Error::Io`].
pub(super) fn offline(root: &Path) -> Result<Option<Devices>, Error> {
    let Some(note) = Note::read(root)? else {
        return Ok(None);
    };
    let control = kernel().map_err(|finding| finding.to_error(root))?.0;
    let found = pool(&control, &note.pool).map_err(|finding| finding.to_error(root))?;
    let (kind, sectors) = (note.file_system, note.sectors);
    Ok(Some(Devices::new(control, found.pool, kind, sectors)))
}

#[cfg(test)]
mod tests {
    use layerd_mounts::thin::PoolStatus;

    use super::{Numbers, Options, pairing, settings};
    use crate::devicemapper::home::Note;
    use crate::devicemapper::settings::FileSystem;

    fn status(transaction: u64, used: u64) -> PoolStatus {
        let text = format!("{transaction} 1/100 {used}/100 - rw discard_passdown - 10");
        text.parse().expect("a status")
    }

    #[test]
    fn a_pool_and_a_root_of_different_moments_are_refused() {
        let saw = |transaction| {
            Some(Numbers {
                transaction,
                ids_below: 0,
            })
        };
        for (numbers, found, is_good) in [
            (None, status(0, 0), true),
            (None, status(0, 1), false),
            (None, status(1, 0), false),
            (saw(0), status(0, 1), true),
            (saw(7), status(7, 1), true),
            (saw(7), status(8, 1), true),
            (saw(7), status(9, 1), false),
            (saw(7), status(6, 1), false),
            (saw(u64::MAX), status(0, 0), false),
        ] {
            let finding = pairing(numbers, &found);
            assert_eq!(finding.ok, is_good, "{numbers:?}: {finding:?}");
            assert_eq!(finding.refuses(), !is_good);
        }
    }

    #[test]
    fn another_pool_is_refused_and_another_size_is_told() {
        let options = Options {
            pool: "one".to_owned(),
            ..Options::default()
        };
        let mut note = Note {
            pool: "one".to_owned(),
            file_system: FileSystem::Ext4,
            sectors: options.base_bytes / 512,
            base: None,
        };
        let bad = |note: &Note| {
            let found = settings(&options, Some(note)).into_iter();
            let bad = found.filter(|finding| !finding.ok);
            bad.map(|finding| (finding.name, finding.needed))
                .collect::<Vec<_>>()
        };
        assert_eq!(bad(&note), []);
        note.sectors += 1;
        assert_eq!(bad(&note), [("devices", false)]);
        note.pool = "other".to_owned();
        assert_eq!(bad(&note), [("devices", false), ("root", true)]);
    }
}
