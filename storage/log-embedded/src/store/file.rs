//! The file: made whole or not at all, checked before it is used, opened again after the disk failed.

use std::{
    fmt, fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use flywheel_log::{LogError, LogErrorKind};
use parking_lot::RwLock;
use redb::{Database, DatabaseError, ReadableDatabase};

use super::{BATCHES, ENDS, FORMAT_VERSION, GROUPS, META, TOPICS};
use crate::{error::stored, path::sync_dir};

const OPENING: &str = "opening the log file";

/// An open redb file. redb refuses every call after one failure of the disk, until the file is opened again.
pub struct LogFile {
    name: String,
    open: Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>,
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
            // Nothing was ever written to it.
            Ok(file) if file.len() == 0 => {
                fs::remove_file(path).map_err(failed)?;
                make(path, cache_bytes)?;
            }
            Ok(_) => {}
        }
        let target = path.to_owned();
        let open = move || Database::builder().set_cache_size(cache_bytes).open(&target);
        let file = Self::with(path.display().to_string(), open)?;
        // The lock is ours, so nobody is making this file now.
        remove_unfinished(path).map_err(failed)?;
        Ok(file)
    }

    /// With files of the caller's: tests cut the power there.
    ///
    /// # Errors
    /// Like [`LogFile::at`].
    pub fn with(
        name: String,
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Result<Self, LogError> {
        let log = Self { name, open: Box::new(open), file: RwLock::new(None), broken: AtomicBool::new(true) };
        log.reopen()?;
        Ok(log)
    }

    /// Whether the disk failed since the file was opened.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Closes the file and opens it again. What an append of unknown outcome has left is there after that, or is not.
    ///
    /// # Errors
    /// Like [`LogFile::at`]; the file stays closed and this can be tried again.
    pub fn reopen(&self) -> Result<(), LogError> {
        let mut slot = self.file.write();
        *slot = None;
        let file = guarded(OPENING, &self.name, || {
            let file = (self.open)().map_err(|error| stored(OPENING, &self.name, error))?;
            check(&file, &self.name)?;
            Ok(file)
        })?;
        *slot = Some(file);
        self.broken.store(false, Ordering::Release);
        Ok(())
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
            let why = "the disk failed and the file could not be opened again yet";
            return Err(LogError::new(LogErrorKind::Unavailable, operation, target, why));
        };
        let result = guarded(operation, target, || work(file));
        if let Err(error) = &result
            && matches!(error.kind(), LogErrorKind::Unavailable | LogErrorKind::Corrupt)
        {
            self.broken.store(true, Ordering::Release);
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

/// Refuses files of newer formats before anything is written to them.
fn check(file: &Database, name: &str) -> Result<(), LogError> {
    let fail = |error: redb::Error| stored(OPENING, name, error);
    let read = file.begin_read().map_err(|e| fail(e.into()))?;
    let known = match read.open_table(META) {
        Ok(meta) => meta.get("format").map_err(|e| fail(e.into()))?.map(|v| v.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(fail(error.into())),
    };
    let why = match known {
        Some(FORMAT_VERSION) => return Ok(()),
        Some(newer) => {
            format!("it has format {newer}; this program knows formats up to {FORMAT_VERSION}; nothing was changed")
        }
        None => "it is a redb file, but not a log; nothing was changed".to_owned(),
    };
    Err(LogError::new(LogErrorKind::InvalidData, OPENING, name, why))
}

/// An empty log in `file`.
pub fn initialise(file: &Database) -> Result<(), redb::Error> {
    let write = file.begin_write()?;
    write.open_table(META)?.insert("format", FORMAT_VERSION)?;
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
    let (folder, prefix) = unfinished(path);
    let new = folder.join(format!("{prefix}{}", std::process::id()));
    let fail = |error: redb::Error| stored("making the log file", path.display(), error);
    let io = |error: io::Error| fail(redb::Error::Io(error));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let file = Database::builder().set_cache_size(cache_bytes).create(&new).map_err(|e| fail(e.into()))?;
    initialise(&file).map_err(fail)?;
    drop(file);
    match fs::hard_link(&new, path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(_) if path.exists() => {}
        Err(error) => return Err(io(error)),
        Ok(()) => {}
    }
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
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
