//! The change of containerd's config.toml that has it read the drop-in, and its undoing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use tempfile::NamedTempFile;

use super::{failed, told_lines};
use crate::atomic_file;
use crate::containerd::{Version, import};
use crate::error::Error;
use crate::host_file;
use crate::managed_file::{self, Owner};
use crate::output::Output;
use crate::text::escape;

/// Change that is needed so that containerd reads the drop-in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// There is no file: make one of this text.
    Make(String),
    Edit {
        old: String,
        new: String,
    },
}

impl Change {
    /// `text` is that of `main`, if it is there.
    pub(super) fn plan(
        version: Version,
        text: Option<&str>,
        main: &Path,
        drop_in: &Path,
    ) -> Result<Self, Error> {
        let Some(old) = text else {
            return Ok(Self::Make(managed_file::sealed(&import::made(
                version, drop_in,
            ))));
        };
        let new =
            import::added(old, version, main, drop_in).map_err(|why| unreadable(main, why))?;
        Ok(new.map_or(Self::Nothing, |new| Self::Edit {
            old: old.to_owned(),
            new,
        }))
    }

    /// Change of `main` by `--write`, as lines of a patch; empty without one.
    pub(super) fn patch(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Make(new) => managed_file::difference("", new),
            Self::Edit { old, new } => managed_file::difference(old, new),
        }
    }

    /// Has containerd read the new text first, if it is on the search path, also if nothing is
    /// changed, and keeps the old file beside the new one. `is_there` tells from the dumped
    /// configuration that the drop-in is in force. Durable on return.
    pub(super) fn apply(
        &self,
        main: &Path,
        is_there: &dyn Fn(&str) -> bool,
        out: &mut Output,
    ) -> Result<(), Error> {
        let name = escape(&main.display().to_string());
        let (new, done) = match self {
            Self::Nothing => {
                return super::read_main(main)?
                    .map_or(Ok(()), |text| try_out(&text, main, is_there));
            }
            Self::Make(new) => (new, format!("Made {name}, as containerd had none:")),
            Self::Edit { new, .. } => {
                let kept = import::backup(main);
                let done = format!(
                    "Changed {name} (before: {}):",
                    escape(&kept.display().to_string())
                );
                (new, done)
            }
        };
        try_out(new, main, is_there)?;
        let is_new = matches!(self, Self::Edit { .. }) && keep(main)?;
        if let Err(cause) = atomic_file::replace(main, new.as_bytes()) {
            if is_new {
                let _ = fs::remove_file(import::backup(main)); // the first error counts
            }
            return Err(failed("write", main, cause));
        }
        out.line(&done)?;
        out.raw(told_lines(&self.patch()).as_bytes())
    }
}

pub(super) fn unreadable(main: &Path, why: String) -> Error {
    Error::Invalid {
        what: format!("read {}", main.display()),
        why,
        hint: "containerd would not start with it either; mend it first.".to_owned(),
    }
}

/// Copies `main`, mode included, to its backup; false if that was there. A file of that name with
/// other content gets a number behind its name.
fn keep(main: &Path) -> Result<bool, Error> {
    let kept = import::backup(main);
    let is_there = fs::symlink_metadata(&kept).is_ok_and(|meta| meta.is_file());
    let copy = || -> io::Result<bool> {
        if is_there && host_file::read(&kept)? == host_file::read(main)? {
            return Ok(false);
        }
        if fs::symlink_metadata(&kept).is_ok() {
            fs::rename(&kept, numbered(&kept))?;
        }
        fs::copy(main, &kept)?;
        File::open(&kept)?.sync_all()?;
        Ok(true)
    };
    copy().map_err(|cause| failed("write", &kept, cause))
}

/// The first free name of `kept` with a number behind it.
fn numbered(kept: &Path) -> PathBuf {
    let name = kept.file_name().unwrap_or_default();
    let with = |number: u32| {
        let mut name = name.to_owned();
        name.push(format!(".{number}"));
        kept.with_file_name(name)
    };
    let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    (1..).map(with).find(is_free).expect("some number is free")
}

/// Asks containerd for the configuration that `text` in the place of `main` would give.
fn try_out(text: &str, main: &Path, is_there: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let dir = main.parent().unwrap_or(Path::new("/"));
    let candidate = || -> io::Result<NamedTempFile> {
        fs::create_dir_all(dir)?;
        let mut file = NamedTempFile::new_in(dir)?; // relative imports begin here
        file.write_all(text.as_bytes())?;
        Ok(file)
    };
    let candidate = candidate().map_err(|cause| failed("write", main, cause))?;
    let mut dump = Process::new("containerd");
    dump.arg("--config").arg(candidate.path());
    let dumped = match dump.args(["config", "dump"]).output() {
        Ok(dumped) => dumped,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed("run `containerd config dump` for", main, cause)),
    };
    let said = String::from_utf8_lossy(&dumped.stdout);
    if dumped.status.success() && is_there(&said) {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&dumped.stderr);
    let complaint = complaint
        .lines()
        .last()
        .unwrap_or("the drop-in is not in its configuration, or another file says otherwise");
    Err(Error::Refused {
        what: format!("have containerd read the drop-in by {}", main.display()),
        why: format!("`containerd config dump` does not take it: {complaint}"),
        hint: "Nothing was changed in it. Remove what it complains of and try again.".to_owned(),
    })
}

/// Undoes [`Change::apply`], unless other drop-ins rely on it by now. Manual changes made meanwhile
/// stay. Where `main` was made, so were its directories, which go if they are empty.
pub(super) fn undo(main: &Path, drop_in: &Path, out: &mut Output) -> Result<(), Error> {
    let kept = import::backup(main);
    let owner = managed_file::owner(main).map_err(|cause| failed("read", main, cause))?;
    let is_edited = fs::symlink_metadata(&kept).is_ok();
    let (is_made, text) = match owner {
        Owner::Absent => return Ok(()),
        Owner::Us(text) => (true, text),
        Owner::Foreign(text) => (false, text),
    };
    if !is_made && !is_edited {
        return Ok(());
    }
    let name = escape(&main.display().to_string());
    if has_neighbours(drop_in) {
        let dir = drop_in.parent().unwrap_or(drop_in).display().to_string();
        return out.line(&format!(
            "{name} still imports {}, as other files are there",
            escape(&dir)
        ));
    }
    if is_made {
        managed_file::remove(main).map_err(|cause| failed("remove", main, cause))?;
        for dir in [drop_in.parent(), main.parent()].into_iter().flatten() {
            let _ = fs::remove_dir(dir);
        }
        return out.line(&format!("Removed {name}, which layerctl had made"));
    }
    restore(main, &kept, &text, drop_in)?;
    out.line(&format!("Changed {name} back"))
}

fn restore(main: &Path, kept: &Path, text: &str, drop_in: &Path) -> Result<(), Error> {
    let old = host_file::read_to_string(kept).map_err(|cause| failed("read", kept, cause))?;
    let is_ours = import::with_line(&old, drop_in).as_deref() == Ok(text);
    let new = match is_ours {
        true => Some(old),
        false => import::removed(text, drop_in).map_err(|why| unreadable(main, why))?,
    };
    if let Some(new) = new {
        atomic_file::replace(main, new.as_bytes()).map_err(|cause| failed("write", main, cause))?;
    }
    managed_file::remove(kept).map_err(|cause| failed("remove", kept, cause))
}

/// True if there are other drop-ins than ours.
fn has_neighbours(drop_in: &Path) -> bool {
    let dir = drop_in.parent().unwrap_or(drop_in);
    let listed = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut others =
        listed.filter(|entry| entry.file_name() != drop_in.file_name().unwrap_or_default());
    others.any(|entry| entry.path().extension().is_some_and(|end| end == "toml"))
}
