//! The file: made whole or not at all, checked before it is used, opened again after the disk failed.

use std::{
    fmt, fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use flywheel_log::{LogError, LogErrorKind};
use parking_lot::RwLock;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, Table};
use uuid::Uuid;

use super::{BATCHES, ENDS, FORMAT_VERSION, GROUPS, META, OLDEST_FORMAT, TOPICS};
use crate::{error::stored, path::sync_dir};

/// So file systems without hard links say it.
const EPERM: i32 = 1;
const OPENING: &str = "opening the log file";

/// What an earlier open of the file says about its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    First,
    /// A sync may have failed. The system then calls pages clean that never reached the disk: what it has cached is to
    /// be forgotten, or later appends would build on it.
    AfterFailure,
}

type Open = dyn Fn(Opening) -> Result<Database, DatabaseError> + Send + Sync;

/// An open redb file. redb refuses every call after one failure of the disk, until the file is opened again.
pub struct LogFile {
    name: String,
    open: Box<Open>,
    file: RwLock<Option<Database>>,
    broken: AtomicBool,
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LogFile {
    /// Opens the file at `path`, or makes one.
    ///
    /// # Errors
    /// `Conflict` if another process holds it, `InvalidData` if it is no log or one of a newer format, `Corrupt` if it is
    /// damaged, `Unavailable` if the disk does not let us.
    pub fn at(path: &Path, cache_bytes: usize) -> Result<Self, LogError> {
        let failed = |error: io::Error| stored(OPENING, path.display(), redb::Error::Io(error));
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, cache_bytes)?,
            Err(error) => return Err(failed(error)),
            Ok(file) if file.len() == 0 => {
                let why = "it is empty, which a log never is; if nothing in it is missed, remove it";
                return Err(LogError::new(LogErrorKind::InvalidData, OPENING, path.display(), why));
            }
            Ok(_) => {}
        }
        guarded(OPENING, path.display(), || look_first(path))?;
        let target = path.to_owned();
        let file = Self::with(path.display().to_string(), move |opening| {
            if opening == Opening::AfterFailure {
                forget_cached(&target);
            }
            Database::builder().set_cache_size(cache_bytes).open(&target)
        })?;
        file.settle(path)?;
        // The lock is ours: whoever is still making this file will find it made.
        remove_unfinished(path).map_err(failed)?;
        Ok(file)
    }

    /// With files of the caller's: tests cut the power there.
    ///
    /// # Errors
    /// Like [`LogFile::at`].
    pub fn with(
        name: String,
        open: impl Fn(Opening) -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Result<Self, LogError> {
        let log = Self { name, open: Box::new(open), file: RwLock::new(None), broken: AtomicBool::new(true) };
        log.open_anew(Opening::First)?;
        Ok(log)
    }

    /// Whether the file has to be opened again.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Closes the file and opens it again. What an append of unknown outcome has left is there after that, or is not.
    ///
    /// # Errors
    /// Like [`LogFile::at`]; the file stays closed and this can be tried again.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.open_anew(Opening::AfterFailure)
    }

    fn open_anew(&self, opening: Opening) -> Result<(), LogError> {
        // Nobody reads now. redb gives up its lock on the file only when the old one is dropped.
        let mut slot = self.file.write();
        let file = guarded(OPENING, &self.name, || {
            drop(slot.take());
            let file = (self.open)(opening).map_err(|error| stored(OPENING, &self.name, error))?;
            check(&file, &self.name)?;
            Ok(file)
        })?;
        *slot = Some(file);
        self.broken.store(false, Ordering::Release);
        Ok(())
    }

    /// Gives a file of an older format what it lacks: its number, so that older programs leave it alone from now on, and
    /// a name, which is the one that they kept beside it where they did.
    fn settle(&self, path: &Path) -> Result<(), LogError> {
        let known = fs::read_to_string(path.with_file_name("id")).ok();
        let known = known.and_then(|id| Uuid::parse_str(id.trim()).ok());
        self.using(OPENING, &self.name, |file| {
            let settle = || -> Result<(), redb::Error> {
                let meta = file.begin_read()?.open_table(META)?;
                if meta.get("format")?.is_some_and(|format| format.value() == FORMAT_VERSION) {
                    return Ok(());
                }
                let write = file.begin_write()?;
                name(&mut write.open_table(META)?, known.unwrap_or_else(Uuid::new_v4))?;
                write.commit()?;
                tracing::info!(file = self.name, format = FORMAT_VERSION, "the log file has the newest format now");
                Ok(())
            };
            settle().map_err(|error| stored(OPENING, &self.name, error))
        })
    }

    /// Does `work` with the file; notes when the disk failed meanwhile.
    ///
    /// # Errors
    /// What `work` returns; `Unavailable` while the file could not be opened again; `Corrupt` where the bytes make so
    /// little sense that redb gives up.
    pub fn using<T>(
        &self,
        operation: &'static str,
        target: &dyn fmt::Display,
        work: impl FnOnce(&Database) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let slot = self.file.read();
        let Some(file) = &*slot else {
            let why =
                "the disk failed and the file could not be opened again yet; the log goes on by itself once it can";
            return Err(LogError::new(LogErrorKind::Unavailable, operation, target, why));
        };
        let mut finished = false;
        let result = guarded(operation, target, || {
            let result = work(file);
            finished = true;
            result
        });
        // A damaged batch says nothing about the rest of the file. A panic may have left redb's locks poisoned.
        if !finished || result.as_ref().is_err_and(|error| error.kind() == LogErrorKind::Unavailable) {
            self.set_broken();
        }
        result
    }
}

/// redb trusts its pages: damaged ones can make it panic. That must not take the process along.
fn guarded<T>(
    operation: &'static str,
    target: impl fmt::Display,
    work: impl FnOnce() -> Result<T, LogError>,
) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let why = "the file's pages make no sense; it is damaged";
        Err(LogError::new(LogErrorKind::Corrupt, operation, target, why))
    })
}

/// Refuses what is no log or a newer one while the file is still untouched: opening it for writing changes bytes.
fn look_first(path: &Path) -> Result<(), LogError> {
    match Database::builder().open_read_only(path) {
        Ok(file) => check(&file, &path.display().to_string()),
        // It was not closed, so it has to be mended before anything in it can be read.
        Err(DatabaseError::RepairAborted) => Ok(()),
        Err(error) => Err(stored(OPENING, path.display(), error)),
    }
}

/// Makes sure that the next reads come from the disk. Best effort: not every file system lets go of its pages.
fn forget_cached(path: &Path) {
    if let Ok(file) = fs::File::open(path) {
        let _best_effort = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Refuses files that are no logs or newer ones.
fn check(file: &impl ReadableDatabase, name: &str) -> Result<(), LogError> {
    let fail = |error: redb::Error| stored(OPENING, name, error);
    let read = file.begin_read().map_err(|e| fail(e.into()))?;
    let known = match read.open_table(META) {
        Ok(meta) => meta.get("format").map_err(|e| fail(e.into()))?.map(|v| v.value()),
        Err(redb::TableError::TableDoesNotExist(_) | redb::TableError::TableTypeMismatch { .. }) => None,
        Err(error) => return Err(fail(error.into())),
    };
    let why = match known {
        Some(OLDEST_FORMAT..=FORMAT_VERSION) => return Ok(()),
        Some(newer) => {
            format!("it has format {newer}; this program knows formats up to {FORMAT_VERSION}; nothing was changed")
        }
        None => "it is a redb file, but not a log; nothing was changed".to_owned(),
    };
    Err(LogError::new(LogErrorKind::InvalidData, OPENING, name, why))
}

fn name(meta: &mut Table<'_, &'static str, u64>, id: Uuid) -> Result<(), redb::Error> {
    let (high, low) = id.as_u64_pair();
    meta.insert("format", FORMAT_VERSION)?;
    meta.insert("id_high", high)?;
    meta.insert("id_low", low)?;
    Ok(())
}

/// The log's name, if it has one.
pub fn identity(meta: &impl ReadableTable<&'static str, u64>) -> Result<Option<Uuid>, redb::Error> {
    let half = |key| -> Result<_, redb::Error> { Ok(meta.get(key)?.map(|half| half.value())) };
    Ok(half("id_high")?.zip(half("id_low")?).map(|(high, low)| Uuid::from_u64_pair(high, low)))
}

/// An empty log in `file`.
pub fn initialise(file: &Database) -> Result<(), redb::Error> {
    let write = file.begin_write()?;
    name(&mut write.open_table(META)?, Uuid::new_v4())?;
    write.open_table(TOPICS)?;
    write.open_table(BATCHES)?;
    write.open_table(ENDS)?;
    write.open_table(GROUPS)?;
    write.commit()?;
    Ok(())
}

fn unfinished(path: &Path) -> (PathBuf, String) {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (folder, format!("{name}.new-"))
}

/// Makes the log beside its place and links it there: a crash leaves a whole log or none, and of two processes that make
/// one at once, one wins.
fn make(path: &Path, cache_bytes: usize) -> Result<(), LogError> {
    const MAKING: &str = "making the log file";
    let (folder, prefix) = unfinished(path);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let new = folder.join(format!("{prefix}{}-{nanos}", std::process::id()));
    let fail = |error: redb::Error| stored(MAKING, path.display(), error);
    let io = |error: io::Error| fail(redb::Error::Io(error));
    let empty = fs::File::options().read(true).write(true).create_new(true).open(&new).map_err(io)?;
    let made = || -> Result<(), redb::Error> {
        let file = Database::builder().set_cache_size(cache_bytes).create_file(empty)?;
        initialise(&file)
    };
    let linked = made().map_err(fail).and_then(|()| match fs::hard_link(&new, path) {
        // Somebody else was faster, and may have tidied up behind us.
        Err(_) if path.exists() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(EPERM) => {
            let why = format!("{error}; the log needs a file system with hard links, put its folder on one");
            Err(LogError::new(LogErrorKind::Internal, MAKING, path.display(), why))
        }
        other => other.map_err(io),
    });
    let _or_later = fs::remove_file(&new);
    linked?;
    sync_dir(&folder).map_err(io)?;
    // The folder itself may be new.
    folder.parent().map_or(Ok(()), sync_dir).map_err(io)
}

/// What processes that died in [`make`] have left.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    let (folder, prefix) = unfinished(path);
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
