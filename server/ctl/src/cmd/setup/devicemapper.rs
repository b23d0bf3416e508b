//! `layerctl setup devicemapper`: a thin pool for the driver of that name.

mod disks;

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use layerd_mounts::sys::device_mapper::{self, Control};
use layerd_mounts::thin::{PoolTable, SECTOR};
use nix::errno::Errno;

use super::{absolute, edited, failed};
use crate::error::Error;
use crate::managed_file::{self, Done, Owner};
use crate::output::Output;
use crate::text::escape;
use disks::{Disk, Source};

/// Shows, makes or takes away the thin pool of the driver devicemapper
///
/// Without --write the plan is shown. With --write the pool is made, or made active again after a boot: what is
/// in it stays, and disks that became larger are taken into use. The unit layerd-pool-NAME.service does that
/// before layerd starts, once it is enabled; a rule has udev leave the devices of layers alone. Files are for trying: each write passes two file systems. Use two
/// block devices, such as partitions or logical volumes, for anything else. --remove makes the pool inactive and
/// removes unit and rule; files and devices keep what is on them.
#[derive(Debug, clap::Args)]
pub(super) struct Devicemapper {
    /// Name of the pool in /dev/mapper
    #[arg(long, value_name = "NAME", default_value = "layerd", value_parser = name)]
    pool: String,

    /// Keep the data in a file of this size, such as 20g; a larger one enlarges it
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "data_device")]
    data_file: Option<u64>,

    /// Keep the metadata in a file of this size; a share of the data's by default
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "data_file")]
    metadata_file: Option<u64>,

    /// Folder for the files
    #[arg(long, value_name = "DIR", default_value = "/var/lib/layerd/pool")]
    dir: PathBuf,

    /// Keep the data on this block device, all of it
    #[arg(long, value_name = "DEVICE", requires = "metadata_device")]
    data_device: Option<PathBuf>,

    /// Keep the metadata on this block device
    #[arg(long, value_name = "DEVICE", requires = "data_device")]
    metadata_device: Option<PathBuf>,

    /// Size of a block of a new pool, from 64k to 1g, a multiple of 64k
    #[arg(long, value_name = "SIZE", value_parser = block, default_value = "64k")]
    block_size: u64,

    /// Make it, or make it active
    #[arg(long, conflicts_with = "remove")]
    write: bool,

    /// Make it inactive, and remove unit and rule
    #[arg(long)]
    remove: bool,

    /// Folder for the unit
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    units: PathBuf,

    /// Folder for the rule of udev
    #[arg(long, value_name = "DIR", default_value = "/etc/udev/rules.d")]
    rules: PathBuf,
}

pub(super) fn run(args: &Devicemapper, out: &mut Output) -> Result<(), Error> {
    if args.remove {
        return args.take_away(out);
    }
    let (data, metadata) = args.sources()?;
    if !args.write {
        return args.show(&data, &metadata, out);
    }
    let control = control()?;
    let disks = (Disk::ready(&data)?, Disk::ready(&metadata)?);
    match args.active(&control)? {
        Some(table) => args.enlarge(&control, &table, &disks, out)?,
        None => args.make_active(&control, &disks, out)?,
    }
    args.write_rule(out)?;
    args.write_unit(out)?;
    out.line(&format!(
        "layerd's configuration needs `driver = \"devicemapper\"`, and under [devicemapper] `pool = \"{}\"`.",
        args.pool
    ))
}

impl Devicemapper {
    fn sources(&self) -> Result<(Source, Source), Error> {
        if let (Some(data), Some(metadata)) = (&self.data_device, &self.metadata_device) {
            absolute("--data-device", data)?;
            absolute("--metadata-device", metadata)?;
            let device = |path: &PathBuf| Source::Device(path.clone());
            return Ok((device(data), device(metadata)));
        }
        let Some(bytes) = self.data_file else {
            return Err(Error::Invalid {
                what: "make a pool".to_owned(),
                why: "it has no disks".to_owned(),
                hint: "Name --data-device and --metadata-device, or --data-file SIZE to try it."
                    .to_owned(),
            });
        };
        absolute("--dir", &self.dir)?;
        let file = |name: &str, bytes: u64| Source::File {
            path: self.dir.join(format!("{}.{name}", self.pool)),
            bytes,
        };
        let share = metadata_bytes(bytes, self.block_size);
        let metadata = self.metadata_file.unwrap_or(share);
        Ok((file("data", bytes), file("metadata", metadata)))
    }

    fn show(&self, data: &Source, metadata: &Source, out: &mut Output) -> Result<(), Error> {
        out.line(&format!("pool:     {} (/dev/mapper/{0})", self.pool))?;
        out.line(&format!("data:     {data}"))?;
        out.line(&format!("metadata: {metadata}"))?;
        out.line(&format!("blocks:   {} bytes", self.block_size))?;
        for (what, path) in [("unit:    ", self.unit()), ("rule:    ", self.rule())] {
            out.line(&format!("{what} {}", escape(&path.display().to_string())))?;
        }
        out.line("Nothing was changed; --write makes it, or makes it active if it is there.")
    }

    /// Table of the pool, if it is active.
    fn active(&self, control: &Control) -> Result<Option<PoolTable>, Error> {
        let fail = |cause: Errno| failed("look at", &self.path(), cause.into());
        let state = control.state(&self.pool).map_err(fail)?;
        if !state.is_some_and(|state| state.has_table) {
            return Ok(None);
        }
        let lines = control.table(&self.pool).map_err(fail)?;
        let table = lines.first().and_then(PoolTable::of);
        table.map(Some).ok_or_else(|| Error::Refused {
            what: format!("make the pool {}", self.pool),
            why: format!("{} is a device of another kind", self.path().display()),
            hint: "Choose another name: --pool NAME.".to_owned(),
        })
    }

    fn path(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.pool)
    }

    fn table(&self, (data, metadata): &(Disk, Disk), block: u64) -> PoolTable {
        PoolTable {
            metadata: metadata.number(),
            data: data.number(),
            sectors: data.sectors / block * block,
            block,
            zeroes: true,
        }
    }

    /// Makes the pool of disks that hold nothing, or of those that were a pool before.
    fn make_active(
        &self,
        control: &Control,
        disks: &(Disk, Disk),
        out: &mut Output,
    ) -> Result<(), Error> {
        let (data, metadata) = disks;
        let block = match metadata.superblock()? {
            Some(superblock) => {
                check(&metadata.path, out)?;
                superblock.block
            }
            None => {
                data.must_be_blank()?;
                self.block_size / SECTOR
            }
        };
        let fail = |cause: Errno| failed("make active", &self.path(), cause.into());
        let _ = control.remove(&self.pool); // one without a table, of a call that was interrupted
        let number = control.create(&self.pool).map_err(fail)?.number;
        let target = self.table(disks, block).target();
        let loaded = control.load(&self.pool, &target, false);
        if let Err(cause) = loaded.and_then(|()| control.resume(&self.pool)) {
            let _ = control.remove(&self.pool); // the first error counts
            return Err(fail(cause));
        }
        name_it(&self.path(), number)?;
        out.line(&format!(
            "The pool {} is active: {} bytes in blocks of {}",
            self.pool,
            target.sectors.saturating_mul(SECTOR),
            block.saturating_mul(SECTOR)
        ))
    }

    /// Takes disks into use that are larger than the table of an active pool says.
    fn enlarge(
        &self,
        control: &Control,
        table: &PoolTable,
        disks: &(Disk, Disk),
        out: &mut Output,
    ) -> Result<(), Error> {
        let (data, metadata) = disks;
        if (&table.data, &table.metadata) != (&data.number(), &metadata.number()) {
            return Err(Error::Refused {
                what: format!("make the pool {}", self.pool),
                why: "it is active on other disks".to_owned(),
                hint: "Choose another name: --pool NAME.".to_owned(),
            });
        }
        let wanted = self.table(disks, table.block);
        let fail = |cause: Errno| failed("enlarge", &self.path(), cause.into());
        if wanted.sectors > table.sectors || metadata.has_grown {
            let target = wanted.target();
            control.load(&self.pool, &target, false).map_err(fail)?;
            control.suspend(&self.pool).map_err(fail)?;
            control.resume(&self.pool).map_err(fail)?;
            let bytes = wanted.sectors.saturating_mul(SECTOR);
            return out.line(&format!("The pool {} has {bytes} bytes now", self.pool));
        }
        out.line(&format!("The pool {} is active", self.pool))
    }

    fn unit(&self) -> PathBuf {
        self.units
            .join(format!("layerd-pool-{}.service", self.pool))
    }

    fn rule(&self) -> PathBuf {
        let name = format!("09-layerd-pool-{}.rules", self.pool);
        self.rules.join(name)
    }

    /// Writes the rule by which udev leaves the devices of layers alone: all have the identity of one file system,
    /// of which /dev/disk has one name. It counts for events from then on.
    fn write_rule(&self, out: &mut Output) -> Result<(), Error> {
        if !self.rules.is_dir() {
            return Ok(());
        }
        let text = format!(
            "SUBSYSTEM==\"block\", KERNEL==\"dm-[0-9]*\", ATTR{{dm/name}}==\"layerd-{}-*\", \
             ENV{{DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG}}=\"1\", \
             ENV{{DM_UDEV_DISABLE_DISK_RULES_FLAG}}=\"1\", \
             ENV{{DM_UDEV_DISABLE_OTHER_RULES_FLAG}}=\"1\"\n",
            self.pool
        );
        let path = self.rule();
        match super::write(&path, &managed_file::sealed(&text))? {
            Done::Already => Ok(()),
            Done::Now => out.line(&format!("Wrote {}", escape(&path.display().to_string()))),
        }
    }

    /// Writes the unit that runs this command before layerd starts.
    fn write_unit(&self, out: &mut Output) -> Result<(), Error> {
        let path = self.unit();
        let shown = escape(&path.display().to_string());
        if !self.units.is_dir() {
            let folder = escape(&self.units.display().to_string());
            return out.line(&format!(
                "There is no {folder}: run the same command after each boot, before layerd starts."
            ));
        }
        // Wherever it was installed.
        let program = std::env::current_exe()
            .map_err(|cause| failed("read", Path::new("/proc/self/exe"), cause))?;
        let text = managed_file::sealed(&self.unit_text(&program)?);
        match super::write(&path, &text)? {
            Done::Already => out.line(&format!("{shown} is up to date")),
            Done::Now => out.line(&format!(
                "Wrote {shown}\nTo have the pool active after a boot: systemctl enable layerd-pool-{}",
                self.pool
            )),
        }
    }

    /// Unit that runs this program anew after a boot.
    fn unit_text(&self, program: &Path) -> Result<String, Error> {
        let mut words = vec!["--pool".to_owned(), self.pool.clone()];
        match (&self.data_device, &self.metadata_device, self.data_file) {
            (Some(data), Some(metadata), _) => {
                words.extend(["--data-device".to_owned(), quoted("--data-device", data)?]);
                let metadata = quoted("--metadata-device", metadata)?;
                words.extend(["--metadata-device".to_owned(), metadata]);
            }
            (_, _, Some(bytes)) => {
                let metadata = self.metadata_file;
                let share = metadata_bytes(bytes, self.block_size);
                let metadata = metadata.unwrap_or(share).to_string();
                words.extend(["--dir".to_owned(), quoted("--dir", &self.dir)?]);
                words.extend(["--data-file".to_owned(), bytes.to_string()]);
                words.extend(["--metadata-file".to_owned(), metadata]);
            }
            _ => {}
        }
        words.extend(["--units".to_owned(), quoted("--units", &self.units)?]);
        words.extend(["--rules".to_owned(), quoted("--rules", &self.rules)?]);
        Ok(format!(
            "[Unit]\nDescription=thin pool {0} of layerd\nAfter=local-fs.target\nBefore=layerd.service\n\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart={2} setup devicemapper {1} --write\n\n\
             [Install]\nRequiredBy=layerd.service\n",
            self.pool,
            words.join(" "),
            quoted("layerctl", program)?
        ))
    }

    fn take_away(&self, out: &mut Output) -> Result<(), Error> {
        for path in [self.unit(), self.rule()] {
            match managed_file::owner(&path).map_err(|cause| failed("read", &path, cause))? {
                Owner::Absent => {}
                Owner::Foreign(_) => return Err(edited("remove", &path, "")),
                Owner::Us(_) => {
                    managed_file::remove(&path).map_err(|cause| failed("remove", &path, cause))?;
                    out.line(&format!("Removed {}", escape(&path.display().to_string())))?;
                }
            }
        }
        let control = control()?;
        if self.active(&control)?.is_none() {
            return out.line(&format!("The pool {} is not active", self.pool));
        }
        match control.remove(&self.pool) {
            Ok(()) => {}
            Err(Errno::EBUSY) => {
                return Err(Error::Refused {
                    what: format!("make the pool {} inactive", self.pool),
                    why: "it is in use".to_owned(),
                    hint: "Stop layerd and the containers on it first.".to_owned(),
                });
            }
            Err(cause) => return Err(failed("make inactive", &self.path(), cause.into())),
        }
        let _ = std::fs::remove_file(self.path()); // udev may have been faster
        out.line(&format!(
            "The pool {} is inactive; its disks keep what is on them",
            self.pool
        ))
    }
}

fn control() -> Result<Control, Error> {
    Control::open().map_err(|cause| Error::Refused {
        what: "reach the device mapper".to_owned(),
        why: format!("open {}: {}", device_mapper::CONTROL, cause.desc()),
        hint: "Run this as root, and `modprobe dm-thin-pool` first; not every kernel has it."
            .to_owned(),
    })
}

/// Has thin_check(8) look at the metadata of a pool that is about to be used again, if it is installed.
fn check(metadata: &Path, out: &mut Output) -> Result<(), Error> {
    let mut check = Process::new("thin_check");
    let checked = match check
        .args([OsStr::new("-q"), metadata.as_os_str()])
        .output()
    {
        Ok(checked) => checked,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return out
                .line("The metadata was not checked: thin-provisioning-tools has thin_check");
        }
        Err(cause) => return Err(failed("run thin_check for", metadata, cause)),
    };
    if checked.status.success() {
        return out.line("thin_check finds the metadata in order");
    }
    let said = String::from_utf8_lossy(&checked.stderr);
    Err(Error::Refused {
        what: format!("use the pool of {}", metadata.display()),
        why: format!(
            "thin_check finds its metadata damaged: {}",
            escape(said.trim())
        ),
        hint: "thin_repair(8) writes what it can save to another device; name that one then."
            .to_owned(),
    })
}

/// Makes the name of a device in /dev/mapper, where udev does not.
fn name_it(path: &Path, number: (u32, u32)) -> Result<(), Error> {
    let node = PathBuf::from(device_mapper::node(number));
    let name = node.file_name().unwrap_or_default();
    match symlink(Path::new("..").join(name), path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("make the name", path, cause))
        }
        _ => Ok(()),
    }
}

/// Room for the metadata of so much data: what thin_metadata_size(8) answers for as many blocks as there
/// are, three times over for snapshots.
fn metadata_bytes(data: u64, block: u64) -> u64 {
    const LEAST: u64 = 16 << 20;
    /// The kernel uses no more.
    const MOST: u64 = 15 << 30;
    let blocks = data / block.max(1);
    (blocks.saturating_mul(3 * 48)).clamp(LEAST, MOST) & !4095
}

/// A path as a word of a unit.
fn quoted(option: &str, path: &Path) -> Result<String, Error> {
    let text = absolute(option, path)?;
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!(
        "\"{}\"",
        text.replace('%', "%%").replace('$', "$$")
    ))
}

fn name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    let is_good = (1..=96).contains(&text.len()) && !text.starts_with(['.', '-']);
    match is_good && text.bytes().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("1 to 96 letters, digits, - _ . or + are wanted".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let units = [
        ("", 1_u64),
        ("k", 1 << 10),
        ("m", 1 << 20),
        ("g", 1 << 30),
        ("t", 1 << 40),
    ];
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let unit = units.iter().find(|(name, _)| *name == unit);
    let bytes = digits.parse::<u64>().ok().zip(unit);
    let bytes = bytes.and_then(|(number, (_, unit))| number.checked_mul(*unit));
    bytes
        .filter(|bytes| *bytes >= 1 << 16)
        .ok_or_else(|| "a size such as 20g is wanted".to_owned())
}

fn block(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    match bytes % (64 << 10) == 0 && bytes <= 1 << 30 {
        true => Ok(bytes),
        false => Err("64k to 1g, a multiple of 64k, is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests;
