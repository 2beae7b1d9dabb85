//! The few things that a spill does with a disk, so that tests can take the disk away.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// A folder of files that only grow.
pub trait Folder: fmt::Debug + Send + Sync + 'static {
    /// Names and sizes of the files.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// A new, empty file; its name is safe only after [`Folder::sync`].
    ///
    /// # Errors
    /// If it is there already, or cannot be made.
    fn create(&self, name: &str) -> io::Result<Box<dyn Growing>>;

    /// A whole file.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// # Errors
    /// If it is not there, or the disk refuses.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// # Errors
    /// If it is not there, or the disk refuses.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Names that were made, changed or removed so far survive a loss of power.
    ///
    /// # Errors
    /// If the disk refuses; nothing is known of the names then.
    fn sync(&self) -> io::Result<()>;
}

/// An open file that is written at its end.
pub trait Growing: Write + fmt::Debug + Send + Sync {
    /// What was written so far survives a loss of power.
    ///
    /// # Errors
    /// If the disk refuses; nothing is known then of what was written since the last sync.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the system.
#[derive(Debug)]
pub struct OsFolder(PathBuf);

impl OsFolder {
    /// Makes the folder if it is not there, and sees to it that its own name is safe.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let was_there = dir.is_dir();
        fs::create_dir_all(dir)?;
        // Also where it was there: whoever made it may have been killed before this.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            match File::open(parent).and_then(|parent| parent.sync_all()) {
                // Whoever may not look into it has not made it, and others see to it.
                Err(error) if was_there && error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
        Ok(Self(dir.to_owned()))
    }
}

impl Folder for OsFolder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let entries = fs::read_dir(&self.0)?;
        entries
            .map(|entry| {
                entry.and_then(|entry| Ok((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len())))
            })
            .collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Growing>> {
        let file = OpenOptions::new().create_new(true).append(true).open(self.0.join(name))?;
        Ok(Box::new(file))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.0.join(name))?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Growing for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
