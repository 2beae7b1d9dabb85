//! A loss of power, made after `kill -9`: what the journals of the dead say was not synced is taken back, all of it, a
//! part, or torn in the middle.
//!
//! Bytes of a file count as safe up to the last sync of that file that was under way when it returned; of later ones the
//! disk keeps nothing, everything, a torn beginning or, in our own files, any sectors of 512 bytes. Names (new files,
//! links, renames, removals) count as safe once their folder was synced; of later ones each folder keeps a beginning.
//! The files of Redis are treated as an ordered file system would: a sync of anything makes earlier names safe, and the
//! tail of a file is torn, never shuffled, because Redis promises nothing about the rest.

mod journal;
mod undo;

use std::{
    fs,
    ops::AddAssign,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::process::Command;

// One source for who writes the journal and who reads it; each uses a part.
#[allow(dead_code)]
#[path = "../../powercut/src/format.rs"]
pub mod format;

pub use undo::Disk;

/// Syncs take up to so much longer, so that many cuts fall between a change and its sync.
const SLOW_US: u32 = 15_000;

/// What cuts took back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Undone {
    pub bytes: u64,
    pub files: u64,
    pub names: u64,
}

impl Undone {
    pub fn add(&mut self, other: Self) {
        self.bytes.add_assign(other.bytes);
        self.files.add_assign(other.files);
        self.names.add_assign(other.names);
    }
}

/// Journals of one process over its lives since the last cut.
#[derive(Debug)]
pub struct Journals {
    shim: PathBuf,
    root: PathBuf,
    stash: PathBuf,
    /// Journals lie here, numbered by life.
    folder: PathBuf,
    lives: u32,
    disk: Disk,
}

impl Journals {
    /// # Errors
    /// If the folders cannot be made.
    pub fn new(shim: &Path, root: &Path, beside: &Path, disk: Disk) -> anyhow::Result<Self> {
        let make = |path: PathBuf| -> anyhow::Result<PathBuf> {
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
            path.canonicalize().with_context(|| format!("finding {}", path.display()))
        };
        Ok(Self {
            shim: shim.canonicalize().with_context(|| format!("finding {}", shim.display()))?,
            root: make(root.to_owned())?,
            stash: make(beside.join("stash"))?,
            folder: make(beside.join("journals"))?,
            lives: 0,
            disk,
        })
    }

    /// The process that `command` starts is watched; it must not be before the last one is dead.
    ///
    /// # Errors
    /// If an old journal is in the way.
    pub fn watch(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let journal = self.journal(self.lives);
        anyhow::ensure!(!journal.exists(), "{} is there already", journal.display());
        self.lives += 1;
        command
            .env("LD_PRELOAD", &self.shim)
            .env(format::ROOT, &self.root)
            .env(format::STASH, &self.stash)
            .env(format::SLOW, SLOW_US.to_string())
            .env(format::JOURNAL, journal);
        Ok(())
    }

    /// Cuts the power of the dead process.
    ///
    /// # Errors
    /// If a journal makes no sense, or a file cannot be changed.
    pub fn cut(&mut self, random: &mut ChaCha8Rng) -> anyhow::Result<Undone> {
        let mut all = journal::Journal::default();
        for life in 0..self.lives {
            let path = self.journal(life);
            // A life may end before its first change.
            if path.exists() {
                all.append(&fs::read(&path).with_context(|| format!("reading {}", path.display()))?)?;
            }
        }
        let undone = undo::undo(&all, &self.root, &self.stash, self.disk, random)?;
        for entry in fs::read_dir(&self.folder)? {
            fs::remove_file(entry?.path())?;
        }
        for entry in fs::read_dir(&self.stash)? {
            fs::remove_file(entry?.path())?;
        }
        self.lives = 0;
        Ok(undone)
    }

    fn journal(&self, life: u32) -> PathBuf {
        self.folder.join(format!("{life}.journal"))
    }
}

/// What is watched in a run.
#[derive(Debug)]
pub struct Power {
    pub node: Journals,
    pub redis: Journals,
}

impl Power {
    pub(crate) fn new(shim: &Path, folder: &Path) -> anyhow::Result<Self> {
        let journals =
            |of: &str, root: &str, disk| Journals::new(shim, &folder.join(root), &folder.join("power").join(of), disk);
        Ok(Self {
            node: journals("node", "world/data", Disk::Careless)?,
            redis: journals("redis", "world/redis", Disk::Ordered)?,
        })
    }

    pub(crate) fn cut(&mut self, random: &mut ChaCha8Rng) -> anyhow::Result<Undone> {
        let mut undone = self.node.cut(random)?;
        undone.add(self.redis.cut(random)?);
        Ok(undone)
    }
}
