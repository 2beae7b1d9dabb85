//! The data folder: its version, its lock, and who is running on it.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{
    exit::{Code, Failure},
    writable::{data_unwritable, is_denied, unwritable},
};

/// Version of the folder's layout that this program writes, and the newest that it reads.
pub const DATA_VERSION: u32 = 1;

/// An opened data folder.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

/// What a running loop leaves for other commands: `up.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub pid: u32,
    pub url: String,
    pub started_ms: i64,
}

/// Held while a loop runs on the folder; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataDir {
    /// Opens `root`, creating it and its `VERSION` where absent.
    ///
    /// # Errors
    /// If it was written by a newer program (nothing is touched then), or cannot be created.
    pub fn create(root: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(root).map_err(|error| match is_denied(&error) {
            true => unwritable("the data folder", root, crate::writable::DATA, error),
            false => Failure::from(
                anyhow::Error::from(error).context(format!("creating the data folder `{}`", root.display())),
            )
            .hint("name a folder that you may write to with --data DIR (`data` in flywheel.toml)"),
        })?;
        let version = root.join("VERSION");
        if !version.exists() {
            let listed = fs::read_dir(root).with_context(|| format!("listing the data folder `{}`", root.display()));
            let mut held = listed?.filter_map(Result::ok);
            let held_something = held.any(|entry| !entry.file_name().to_string_lossy().starts_with("VERSION."));
            // Another process may have made it meanwhile: whoever does writes `VERSION` before anything else.
            if held_something && !root.join("log").exists() && !version.exists() {
                return Err(Failure::msg(
                    Code::Conflict,
                    format!("`{}` is not empty and not a data folder of flywheel", root.display()),
                )
                .hint("name an empty or new folder with --data DIR"));
            }
            // Several processes may start on a new folder at once.
            let temporary = root.join(format!("VERSION.{}", uuid::Uuid::new_v4().simple()));
            let write = || {
                let mut file = File::create(&temporary)?;
                writeln!(file, "{DATA_VERSION}")?;
                file.sync_all()?;
                fs::rename(&temporary, &version)
            };
            write().map_err(|error| data_unwritable(&version, error))?;
        }
        Self::open(root)
    }

    /// Opens a folder that must be there.
    ///
    /// # Errors
    /// If it is absent or was written by a newer program.
    pub fn open(root: &Path) -> Result<Self, Failure> {
        let path = root.join("VERSION");
        let text = fs::read_to_string(&path).map_err(|error| {
            if is_denied(&error) {
                let what = format!("the data folder `{}` cannot be read", root.display());
                return Failure::new(Code::Failure, anyhow::Error::from(error).context(what))
                    .hint("let this user read it, or name another with --data DIR (`data` in flywheel.toml)");
            }
            Failure::new(
                Code::NotFound,
                anyhow::Error::from(error).context(format!("`{}` is not a data folder of flywheel", root.display())),
            )
            .hint("start the loop there first (`flywheel up`), or name the folder with --data DIR")
        })?;
        let version: u32 = text.trim().parse().map_err(|_| {
            Failure::msg(Code::CheckFailed, format!("`{}` holds `{}`, not a number", path.display(), text.trim()))
                .hint("restore the folder from a backup; nothing was changed")
        })?;
        if version > DATA_VERSION {
            return Err(Failure::msg(
                Code::Conflict,
                format!(
                    "the data folder `{}` has layout version {version}; this program knows versions up to {DATA_VERSION}",
                    root.display()
                ),
            )
            .hint("use the newer flywheel that wrote it, or another folder with --data DIR; nothing was changed"));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Takes the folder for one running loop.
    ///
    /// # Errors
    /// `Conflict` if another loop runs on it; else it cannot be written.
    pub fn lock(&self) -> Result<DataLock, Failure> {
        let path = self.root.join("up.lock");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|error| data_unwritable(&path, error))?;
        // SAFETY: the descriptor is open for the whole call; flock has no other preconditions.
        let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
        if !taken {
            let who = self.running().map_or_else(String::new, |r| format!(" (process {}, {})", r.pid, r.url));
            return Err(Failure::msg(Code::Conflict, format!("a loop already runs on `{}`{who}", self.root.display()))
                .hint("look at it with `flywheel status`, or start another with --data DIR --port P"));
        }
        Ok(DataLock { _file: file })
    }

    /// The loop that last ran here, if it said where.
    pub fn running(&self) -> Option<Running> {
        serde_json::from_slice(&fs::read(self.root.join("up.json")).ok()?).ok()
    }

    /// Whether another loop runs on the folder. Where that cannot be asked, none that could write there does.
    pub fn is_taken(&self) -> bool {
        self.lock().is_err_and(|failure| failure.code() == Code::Conflict)
    }

    /// # Errors
    /// If it cannot be written.
    pub fn set_running(&self, running: &Running) -> Result<(), Failure> {
        let path = self.root.join("up.json");
        let temporary = self.root.join("up.json.tmp");
        let written = fs::write(&temporary, serde_json::to_vec(running)?).and_then(|()| fs::rename(temporary, &path));
        written.map_err(|error| data_unwritable(&path, error))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Events that the doors took while the log was away.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    pub fn spill(&self) -> PathBuf {
        self.root.join("spill")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_newer_program_is_refused_and_left_alone() {
        let dir = std::env::temp_dir().join(format!("flywheel-data-{}", uuid::Uuid::new_v4()));
        DataDir::create(&dir).unwrap();
        fs::write(dir.join("VERSION"), "99\n").unwrap();
        assert!(DataDir::create(&dir).is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn many_that_start_on_a_new_folder_at_once_all_take_it() {
        for _ in 0..20 {
            let dir = std::env::temp_dir().join(format!("flywheel-data-{}", uuid::Uuid::new_v4()));
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                let started: Vec<_> = (0..8)
                    .map(|n| {
                        let (dir, start) = (&dir, &start);
                        scope.spawn(move || {
                            start.wait();
                            let made = DataDir::create(dir).map(|_| ()).map_err(|error| error.to_string());
                            // What a loop or a lander makes next.
                            fs::create_dir_all(dir.join(format!("lake-{n}"))).unwrap();
                            made
                        })
                    })
                    .collect();
                started.into_iter().for_each(|one| one.join().unwrap().unwrap());
            });
            assert_eq!(fs::read_to_string(dir.join("VERSION")).unwrap(), format!("{DATA_VERSION}\n"));
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn a_folder_that_nobody_may_write_is_named_with_its_setting() {
        // Neither may root make anything there.
        let folder = Path::new("/sys/flywheel");
        let said = DataDir::create(folder).unwrap_err().to_string();
        assert!(said.contains("the data folder `/sys/flywheel`"), "{said}");
        let inside = DataDir { root: "/sys/kernel".into() };
        for failure in [
            inside.lock().unwrap_err(),
            inside.set_running(&Running { pid: 1, url: String::new(), started_ms: 0 }).unwrap_err(),
        ] {
            let (said, hint) = (failure.to_string(), failure.hinted().unwrap_or_default().to_owned());
            assert!(said.contains("data folder") && said.contains("`/sys/kernel/up."), "{said}");
            assert!(hint.contains("--data DIR") && hint.contains("`data` in flywheel.toml"), "{hint}");
        }
        assert!(!inside.is_taken(), "a folder that cannot be written is not one that another loop holds");
    }

    #[test]
    fn two_loops_never_share_a_folder() {
        let dir = std::env::temp_dir().join(format!("flywheel-data-{}", uuid::Uuid::new_v4()));
        let data = DataDir::create(&dir).unwrap();
        let lock = data.lock().unwrap();
        assert!(data.lock().is_err() && data.is_taken());
        drop(lock);
        assert!(!data.is_taken());
        data.lock().unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
