//! Checkpoints of a run: folders written whole or not at all, the newest two kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use flywheel_replay::SamplerState;
use serde::{Deserialize, Serialize};

use crate::{TrainLearner, Trainer};

const FORMAT: u32 = 1;
const STATE: &str = "trainer.json";
const PRIORITIES: &str = "priorities.f32";
/// Earlier ones are removed.
const KEPT: usize = 2;

/// What a trainer holds besides the learner and the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    pub steps: u64,
    pub sampled: u64,
    pub inserted: u64,
    pub sampler: SamplerState,
    pub loss: Option<f64>,
    pub q_mean: f64,
    pub grad_norm: f64,
    pub version: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    state: TrainerState,
    /// The `transitions` version that was loaded.
    table_version: Option<u64>,
    /// Length and CRC-32C of every other file: one that was cut or changed is found out.
    files: Vec<FileMark>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FileMark {
    name: String,
    len: u64,
    crc32c: u32,
}

/// A whole checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub dir: PathBuf,
    pub state: TrainerState,
    pub table_version: Option<u64>,
    pub priorities: Option<Vec<f32>>,
}

/// Where a run's checkpoints lie.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} `{}`: {why}", path.display())]
pub struct CheckpointError {
    operation: &'static str,
    path: PathBuf,
    why: String,
}

impl CheckpointError {
    fn new(operation: &'static str, path: &Path, why: impl ToString) -> Self {
        Self { operation, path: path.to_owned(), why: why.to_string() }
    }
}

impl Checkpoints {
    /// Those of one run, in a folder of its own, which is made if needed. Leftovers of an interrupted write go.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|error| CheckpointError::new("making the checkpoint folder", &dir, error))?;
        let checkpoints = Self { dir };
        for (_, path) in checkpoints.entries("tmp-")? {
            // Another process may be writing one: only a run's own lease holder opens it, so this is a leftover.
            let _ = fs::remove_dir_all(path);
        }
        Ok(checkpoints)
    }

    /// Writes one and removes old ones. It is there whole when this returns, also after a loss of power.
    ///
    /// # Errors
    /// If something cannot be written; earlier checkpoints are untouched.
    pub fn save<L: TrainLearner>(
        &self,
        trainer: &Trainer<L>,
        table_version: Option<u64>,
    ) -> Result<Checkpoint, CheckpointError> {
        let state = trainer.state();
        let name = format!("{:012}", state.steps);
        let (whole, part) = (self.dir.join(format!("step-{name}")), self.dir.join(format!("tmp-{name}")));
        let failed = |error: &dyn std::fmt::Display| {
            CheckpointError::new("writing the checkpoint", &whole, format!("{error}; the one before is kept"))
        };
        let priorities = trainer.priorities();
        let write = || -> Result<(), Box<dyn std::error::Error>> {
            match fs::remove_dir_all(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => fs::create_dir(&part)?,
            }
            trainer.learner().save(&part)?;
            if let Some(priorities) = &priorities {
                let bytes: Vec<u8> = priorities.iter().flat_map(|priority| priority.to_le_bytes()).collect();
                write_synced(&part.join(PRIORITIES), &bytes)?;
            }
            let files = marks(&part)?;
            let manifest = Manifest { format: FORMAT, state: state.clone(), table_version, files };
            write_synced(&part.join(STATE), &serde_json::to_vec_pretty(&manifest)?)?;
            sync_dir(&part)?;
            // The same step saved again (a stop right after a checkpoint): the old folder makes room.
            let _ = fs::remove_dir_all(&whole);
            fs::rename(&part, &whole)?;
            Ok(sync_dir(&self.dir)?)
        };
        write().map_err(|error| failed(&error))?;
        for (_, path) in self.entries("step-")?.into_iter().rev().skip(KEPT) {
            let _ = fs::remove_dir_all(path);
        }
        Ok(Checkpoint { dir: whole, state, table_version, priorities })
    }

    /// The newest whole checkpoint, and why newer ones were passed over.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn newest(&self) -> Result<(Option<Checkpoint>, Vec<CheckpointError>), CheckpointError> {
        let mut passed = Vec::new();
        for (_, path) in self.entries("step-")?.into_iter().rev() {
            match read(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), passed)),
                Err(why) => passed.push(CheckpointError::new("reading the checkpoint", &path, why)),
            }
        }
        Ok((None, passed))
    }

    /// Folders that begin with `prefix`, by step.
    fn entries(&self, prefix: &str) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let failed = |error| CheckpointError::new("reading the checkpoint folder", &self.dir, error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let step = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            found.extend(step.map(|step| (step, entry.path())));
        }
        found.sort();
        Ok(found)
    }
}

fn read(dir: &Path) -> Result<Checkpoint, String> {
    let text = fs::read(dir.join(STATE)).map_err(|error| format!("`{STATE}`: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("`{STATE}` is cut or damaged: {error}"))?;
    if manifest.format != FORMAT {
        return Err(format!("format {} is unknown, this program reads {FORMAT}; use a newer one", manifest.format));
    }
    let found = marks(dir).map_err(|error| error.to_string())?;
    for mark in &manifest.files {
        match found.iter().find(|file| file.name == mark.name) {
            None => return Err(format!("`{}` is missing", mark.name)),
            Some(file) if file.len != mark.len => {
                return Err(format!("`{}` has {} bytes of {}: it was cut", mark.name, file.len, mark.len));
            }
            Some(file) if file != mark => return Err(format!("`{}` has changed since it was written", mark.name)),
            Some(_) => {}
        }
    }
    let priorities = match fs::read(dir.join(PRIORITIES)) {
        Ok(bytes) => Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("`{PRIORITIES}`: {error}")),
    };
    Ok(Checkpoint { dir: dir.to_owned(), state: manifest.state, table_version: manifest.table_version, priorities })
}

/// Every file but the manifest, by name.
fn marks(dir: &Path) -> io::Result<Vec<FileMark>> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != STATE && entry.file_type()?.is_file() {
            let bytes = fs::read(entry.path())?;
            marks.push(FileMark { name, len: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes) });
        }
    }
    marks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(marks)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}
