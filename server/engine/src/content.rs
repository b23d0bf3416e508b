//! Comparison of committed layers with their file digests, and of images with their own. Reads the content of every file, so it
//! runs on request only.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use layerd_drivers::Survey;
use layerd_layers::Progress;
use layerd_layers::file_digests::{Checked, check};
use layerd_mounts::Error as MountError;
use layerd_store::{Kind, LayerId, Record, Records, Store};

use crate::call_phase::enter;
use crate::check::Problem;
use crate::layers::file_digests::DigestFiles;
use crate::{Engine, Error, Finding, Root, meta_folder, slot};

/// Files that are named of one layer.
const MOST_NAMED: usize = 20;

/// Bytes of a name that are shown.
const MOST_SHOWN: usize = 200;

/// Totals of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContentCounts {
    /// Committed layers that were compared with their manifests.
    pub layers: u64,
    /// Committed layers that have none: nothing is known of their content.
    pub without_digests: u64,
    /// Files that were looked at, each name of a file counted.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Input of a comparison.
struct Compared<'a> {
    view: &'a Records,
    digest_files: &'a DigestFiles,
    layers: &'a dyn Survey,
    /// True unless a layer was removed meanwhile.
    is_there: &'a dyn Fn(LayerId) -> bool,
    progress: &'a dyn Progress,
}

/// Compares the files of a root that no daemon serves with what was unpacked, without changing
/// anything, and hands what is wrong to `each`. The records are read as by [`survey`](crate::survey).
///
/// # Errors
/// As [`survey`](crate::survey), and as [`Engine::check_content`].
pub fn survey_content(
    root: &Path,
    drivers_layers: &dyn Survey,
    progress: &dyn Progress,
    each: &mut dyn FnMut(Problem),
) -> Result<ContentCounts, Error> {
    let (view, _) = Store::inspect(&meta_folder(root))?;
    let layers = Compared {
        view: &view,
        digest_files: &DigestFiles::of(root),
        layers: drivers_layers,
        is_there: &|_| true,
        progress,
    };
    layers.check_all(each)
}

impl Engine {
    /// Reads every file of every committed layer that has a manifest, and hands what is not as it
    /// was unpacked to `each`, a finding for each layer. With `repair`, such a layer is marked as
    /// damaged, durably: it answers DATA_LOSS from then on, until it is removed. Without, nothing
    /// is changed. Layers that are removed meanwhile are passed over.
    ///
    /// # Errors
    /// [`Error::Stopping`]; [`Error::Copy`] if `progress`, which learns of files and bytes, wants no
    /// more, or if something fails that says nothing about the layer; [`Error::Driver`].
    pub fn check_content(
        &self,
        repair: bool,
        progress: &dyn Progress,
        each: &mut dyn FnMut(Finding),
    ) -> Result<ContentCounts, Error> {
        enter("reading the files of layers");
        let watch = Watch {
            root: &self.root,
            client: progress,
        };
        let layers = Compared {
            view: &self.root.store.records(),
            digest_files: &self.layers.digest_files,
            layers: self.layers.driver.as_ref(),
            is_there: &|id| self.root.store.records().get(id).is_some(),
            progress: &watch,
        };
        let counts = layers.check_all(&mut |problem| each(self.find_content(problem, repair)));
        counts.map_err(|cause| match self.root.backlog.is_stopping() {
            true => Error::Stopping,
            false => cause,
        })
    }

    fn find_content(&self, problem: Problem, repair: bool) -> Finding {
        match problem {
            Problem::Altered { id, key, files, .. } if repair => {
                let why = format!("it does not hold what was unpacked (files: {files})");
                self.layers.bar(id, why.clone());
                let problem = Problem::Untrusted { id, key, why };
                let repaired = false; // no repair brings the content back
                Finding { problem, repaired }
            }
            problem => {
                let repaired = repair && self.repair(&problem);
                Finding { problem, repaired }
            }
        }
    }
}

impl Compared<'_> {
    fn check_all(&self, each: &mut dyn FnMut(Problem)) -> Result<ContentCounts, Error> {
        let mut counts = ContentCounts::default();
        let committed = self
            .view
            .iter()
            .filter(|record| record.kind == Kind::Committed);
        for record in committed {
            if self.check_image(record, &mut counts, each)? {
                continue;
            }
            let found = self.digest_files.find(record.id);
            match found.map_err(Error::driver("open the manifest of a layer"))? {
                Some(digests) => self.check_one(record, &digests, &mut counts, each)?,
                None if (self.is_there)(record.id) => counts.without_digests += 1,
                None => {}
            }
        }
        Ok(counts)
    }

    /// Compares a layer that is an image with its digest; false for another one.
    fn check_image(
        &self,
        record: &Record,
        counts: &mut ContentCounts,
        each: &mut dyn FnMut(Problem),
    ) -> Result<bool, Error> {
        let keep_going = |bytes| {
            self.progress.advanced(0, bytes);
            !self.progress.cancelled()
        };
        let image = match self.layers.check_image(slot(record.id), &keep_going) {
            Ok(None) => return Ok(false),
            Ok(Some(image)) => image,
            Err(MountError::Stopped) => return Err(unchecked(layerd_layers::Error::Stopped)),
            // Removed, or missing, which the other checks say.
            Err(cause) if cause.io_kind() == Some(std::io::ErrorKind::NotFound) => return Ok(true),
            Err(cause) => return Err(Error::driver("read the image of a layer")(cause)),
        };
        if !(self.is_there)(record.id) {
            return Ok(true);
        }
        self.progress.advanced(image.inodes, 0);
        counts.layers += 1;
        counts.files += image.inodes;
        counts.bytes += image.bytes;
        if let Some(problem) = image.problem {
            each(Problem::Altered {
                id: record.id,
                key: record.key.clone(),
                files: image.inodes.max(1),
                what: format!("of its image, {problem}"),
            });
        }
        Ok(true)
    }

    fn check_one(
        &self,
        record: &Record,
        digests: &File,
        counts: &mut ContentCounts,
        each: &mut dyn FnMut(Problem),
    ) -> Result<(), Error> {
        let (id, key) = (record.id, record.key.clone());
        let layer = match self.layers.open_layer(slot(id)) {
            // Removed, or missing, which the other checks say.
            Err(cause) if cause.io_kind() == Some(std::io::ErrorKind::NotFound) => return Ok(()),
            layer => layer.map_err(Error::driver("open a layer"))?,
        };
        let checked = check(layer.as_fd(), digests, MOST_NAMED, self.progress);
        let is_gone = !(self.is_there)(id);
        match checked {
            Err(cause @ layerd_layers::Error::Stopped) => return Err(unchecked(cause)),
            _ if is_gone => {}
            Ok(checked) => {
                counts.layers += 1;
                counts.files += checked.files;
                counts.bytes += checked.bytes;
                if checked.wrong > 0 {
                    let (files, what) = (checked.wrong, said(&checked));
                    each(Problem::Altered {
                        id,
                        key,
                        files,
                        what,
                    });
                }
            }
            Err(layerd_layers::Error::BadFileDigests { problem }) => {
                counts.without_digests += 1;
                let (path, why) = (self.digest_files.path(id), problem.to_owned());
                each(Problem::BadFileDigests { path, key, why });
            }
            Err(cause) => return Err(unchecked(cause)),
        }
        Ok(())
    }
}

fn unchecked(cause: layerd_layers::Error) -> Error {
    let attempt = "check the content of a layer";
    Error::Copy { attempt, cause }
}

/// The files that are wrong, safe to print.
fn said(checked: &Checked) -> String {
    let mut text = String::new();
    for (path, wrong) in &checked.named {
        let path = path.to_string_lossy();
        let shown: String = path.chars().take(MOST_SHOWN).collect();
        let dots = if shown.len() < path.len() { "..." } else { "" };
        let comma = if text.is_empty() { "" } else { ", " };
        let shown = shown.escape_debug();
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{shown}{dots} {wrong}");
    }
    match checked.wrong - checked.named.len() as u64 {
        0 => text,
        more => format!("{text}, and {more} more"),
    }
}

/// Ends when the client or the daemon goes.
struct Watch<'a> {
    root: &'a Root,
    client: &'a dyn Progress,
}

impl Progress for Watch<'_> {
    fn advanced(&self, files: u64, bytes: u64) {
        self.client.advanced(files, bytes);
    }

    fn cancelled(&self) -> bool {
        self.client.cancelled() || self.root.backlog.is_stopping()
    }
}
