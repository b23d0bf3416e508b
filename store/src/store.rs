//! The store: what callers use.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use nix::fcntl::{Flock, FlockArg};

use crate::db::{Db, io_error};
use crate::error::{Error, Refusal};
use crate::model::{Key, LabelChange, LayerId, Record, Timestamp, Usage};
use crate::state::{self, Commit, Create};
use crate::view::View;
use crate::writer::Writer;

/// Newest layout of the store's folder that this program knows.
const FORMAT: u32 = 1;

/// Makes everything durable that records written after it rely on.
pub(crate) type Barrier =
    Box<dyn Fn() -> Result<(), Arc<dyn std::error::Error + Send + Sync>> + Send>;

/// How a store is opened.
pub struct Options {
    /// Called on the writer's thread before the records of new layers are written; once for all
    /// that wait. It makes their directories durable.
    pub barrier: Barrier,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}

/// What callers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) view: ArcSwap<View>,
    /// The next id to hand out.
    pub(crate) next_id: AtomicU64,
    /// Ids below this one are reserved on disk.
    pub(crate) ids_below: AtomicU64,
    /// Whether a write failed.
    pub(crate) failed: AtomicBool,
    claims: Mutex<BTreeMap<Key, LayerId>>,
}

/// The records of one root.
///
/// All calls block: those that change something until it is durable, one flush shared by all who
/// wait; those that read not at all. Dropping it writes what waits and closes the database.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    writer: Writer,
    fresh: bool,
    first_id: u64,
    _lock: Flock<File>,
}

impl Store {
    /// Opens the store in `folder`, or creates it there. Reads every record: about 0.5 s for a
    /// million rows.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Newer`] and [`Error::Damaged`] leave everything as it was;
    /// [`Error::Io`] says which file could not be used.
    pub fn open(folder: &Path, options: Options) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let lock = lock(folder)?;
        let has_format = check_format(folder)?;
        let fresh = !has_format && !Db::exists(folder);
        let (db, records) = Db::open(folder, fresh)?;
        if !has_format {
            write_format(folder)?;
        }
        let mut view = View::default();
        for record in records {
            view.put(Arc::new(record));
        }
        let next = db.meta().ids_below;
        let shared = Arc::new(Shared {
            view: ArcSwap::from_pointee(view),
            next_id: AtomicU64::new(next),
            ids_below: AtomicU64::new(next),
            failed: AtomicBool::new(false),
            claims: Mutex::default(),
        });
        let writer = Writer::start(db, shared.clone(), options.barrier);
        Ok(Self {
            writer: writer.map_err(io_error("start the writer of", folder))?,
            shared,
            fresh,
            first_id: next,
            _lock: lock,
        })
    }

    /// Whether [`open`](Self::open) made the store.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Whether a write failed, so that only reads are answered until the store is opened anew.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// All records as of the last durable change. Costs nothing and blocks nobody.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// The first id that this process may hand out; those below were handed out by earlier ones.
    #[must_use]
    pub fn first_id(&self) -> LayerId {
        LayerId(self.first_id)
    }

    /// Ids of layers that are being made: claimed, not yet recorded. To tell abandoned
    /// directories from new ones, read directories first, then this, then the view.
    #[must_use]
    pub fn claimed(&self) -> Vec<LayerId> {
        self.claims().values().copied().collect()
    }

    /// Takes a key and a fresh id for a new snapshot; in memory, unless ids ran out. Dropping the
    /// claim gives the key back.
    ///
    /// # Errors
    /// [`Error::Refused`] if the parent is missing or not committed, or the key is taken or being
    /// made; [`Error::Write`] if new ids could not be reserved.
    pub fn claim(&self, create: Create) -> Result<Claim, Error> {
        let id = self.fresh_id()?;
        let mut claims = self.claims();
        let parent = state::check_create(&self.view(), &create)?;
        if claims.contains_key(&create.key) {
            return Err(Refusal::Taken { key: create.key }.into());
        }
        claims.insert(create.key.clone(), id);
        Ok(Claim {
            shared: self.shared.clone(),
            create,
            id,
            parent,
        })
    }

    /// Records a claimed snapshot, whose directories exist if `has_directories`; they are made
    /// durable first.
    ///
    /// # Errors
    /// [`Error::Refused`] if the parent was removed meanwhile; [`Error::Barrier`],
    /// [`Error::Write`]: the snapshot does not exist.
    pub fn record(&self, claim: Claim, has_directories: bool) -> Result<Arc<Record>, Error> {
        let (create, id) = (claim.create.clone(), claim.id);
        let now = Timestamp::now();
        self.writer.write(has_directories, move |view| {
            state::create(view, create, id, now)
        })
    }

    /// Turns an active snapshot into a committed one; a repeated call answers the same.
    ///
    /// # Errors
    /// [`Error::Refused`] as [`Refusal`] lists; [`Error::Write`].
    pub fn commit(&self, commit: Commit) -> Result<Arc<Record>, Error> {
        let now = Timestamp::now();
        self.writer
            .write(false, move |view| state::commit(view, commit, now))
    }

    /// Frees a key and marks its record as retired; the directory is the caller's to deal with.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing or has children; [`Error::Write`].
    pub fn remove(&self, key: &Key) -> Result<Arc<Record>, Error> {
        let (key, now) = (key.clone(), Timestamp::now());
        self.writer
            .write(false, move |view| state::remove(view, &key, now))
    }

    /// Changes labels, in order.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing or its labels would exceed their limit;
    /// [`Error::Write`].
    pub fn update(&self, key: &Key, changes: Vec<LabelChange>) -> Result<Arc<Record>, Error> {
        let (key, now) = (key.clone(), Timestamp::now());
        self.writer
            .write(false, move |view| state::update(view, &key, &changes, now))
    }

    /// Keeps what a committed layer holds on disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn set_usage(&self, id: LayerId, usage: Usage) -> Result<(), Error> {
        self.writer
            .write(false, move |view| state::measured(view, id, usage))
    }

    /// Drops the records of retired layers whose directories are gone.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn forget(&self, ids: Vec<LayerId>) -> Result<(), Error> {
        self.writer
            .write(false, move |view| state::forget(view, &ids))
    }

    /// Waits until the writer's thread has answered, which it cannot while the disk hangs.
    ///
    /// # Errors
    /// [`Error::Write`] or [`Error::Poisoned`] if writes fail.
    pub fn ping(&self) -> Result<(), Error> {
        self.writer.reserve()
    }

    /// Ids are reserved with every commit; only when a burst of claims outruns the reserve does
    /// one of them write.
    fn fresh_id(&self) -> Result<LayerId, Error> {
        let id = self.shared.next_id.fetch_add(1, Ordering::AcqRel);
        if id >= self.shared.ids_below.load(Ordering::Acquire) {
            self.writer.reserve()?;
        }
        Ok(LayerId(id))
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<Key, LayerId>> {
        lock_claims(&self.shared)
    }
}

/// A snapshot being made: its key and id are taken.
#[derive(Debug)]
pub struct Claim {
    shared: Arc<Shared>,
    create: Create,
    id: LayerId,
    parent: Option<Arc<Record>>,
}

impl Claim {
    /// The new snapshot's id.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// Its parent, as it was when the key was claimed.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Record>> {
        self.parent.as_ref()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock_claims(&self.shared).remove(&self.create.key);
    }
}

/// The map is whole even if a holder panicked: each use is one insert, remove or read.
fn lock_claims(shared: &Shared) -> MutexGuard<'_, BTreeMap<Key, LayerId>> {
    shared.claims.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the lock that keeps a second layerd out, and notes who holds it.
fn lock(folder: &Path) -> Result<Flock<File>, Error> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = file.map_err(io_error("open", &path))?;
    let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => locked,
        Err((mut file, nix::Error::EWOULDBLOCK)) => {
            let mut holder = String::new();
            // The text only helps people; without it the error still says what is wrong.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim().to_owned();
            return Err(Error::Locked { path, holder });
        }
        Err((_, errno)) => return Err(io_error("lock", &path)(errno.into())),
    };
    let noted = locked
        .set_len(0)
        .and_then(|()| writeln!(locked, "process {}", std::process::id()));
    noted.map_err(io_error("write", &path))?;
    Ok(locked)
}

/// Whether the folder has a format this program knows; `false` if it has none yet.
fn check_format(folder: &Path) -> Result<bool, Error> {
    let path = format_file(folder);
    let found = match fs::read_to_string(&path) {
        Ok(found) => found.trim().to_owned(),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(io_error("read", &path)(cause)),
    };
    match found.parse::<u32>() {
        Ok(FORMAT) => Ok(true),
        _ => Err(Error::Newer {
            path,
            found,
            known: FORMAT,
        }),
    }
}

fn write_format(folder: &Path) -> Result<(), Error> {
    let (path, temporary) = (format_file(folder), folder.join("format.new"));
    let write = || {
        let mut file = File::create(&temporary)?;
        writeln!(file, "{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(io_error("write", &path))
}

fn format_file(folder: &Path) -> PathBuf {
    folder.join("format")
}
