//! Checkpoints of a run: folders written whole or not at all, the newest two kept; and a copy in the object store, where
//! there is one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use flywheel_registry::RunCheckpoints;
use flywheel_replay::SamplerState;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    PublishError, TrainLearner, Trainer,
    elsewhere::{Elsewhere, Sent},
};

const FORMAT: u32 = 1;
const STATE: &str = "trainer.json";
const PRIORITIES: &str = "priorities.f32";
/// Earlier ones are removed.
const KEPT: usize = 2;
/// What names of folders begin with: whole, being written, on its way to the object store.
const WHOLE: &str = "step-";
const TMP: &str = "tmp-";
const SENDING: &str = "sending-";

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
    /// Of the lease under which it was made.
    #[serde(default)]
    fence: i64,
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
    /// Of the lease under which it was made: where another machine went on, the largest counts, whatever the steps.
    pub fence: i64,
}

impl Checkpoint {
    /// Where it lies on this machine, as a URI.
    pub fn uri(&self) -> String {
        let whole = self.dir.canonicalize();
        format!("file://{}", whole.as_deref().unwrap_or(&self.dir).display())
    }
}

/// Where a run's checkpoints lie.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    fence: i64,
    elsewhere: Option<Elsewhere>,
    /// Found damaged: they stay for whoever wants to look, and push out none that is whole.
    damaged: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} `{}`: {why}", path.display())]
pub struct CheckpointError {
    operation: &'static str,
    /// Or the URI of one in an object store.
    path: PathBuf,
    why: String,
}

impl CheckpointError {
    pub(crate) fn new(operation: &'static str, path: impl Into<PathBuf>, why: impl ToString) -> Self {
        Self { operation, path: path.into(), why: why.to_string() }
    }
}

impl Checkpoints {
    /// Those of one run, in a folder of its own, which is made if needed. Leftovers of an interrupted write go.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let dir = dir.into();
        // The names of the run's folder and of that of all runs are synced, also where they were there: whoever made them may
        // have been killed before that.
        let mut above = dir.ancestors().skip(1).take(2).filter(|above| !above.as_os_str().is_empty());
        fs::create_dir_all(&dir)
            .and_then(|()| above.try_for_each(sync_dir))
            .map_err(|error| CheckpointError::new("making the checkpoint folder", &dir, error))?;
        let checkpoints = Self { dir, fence: 0, elsewhere: None, damaged: Vec::new() };
        for prefix in [TMP, SENDING] {
            for (_, path) in checkpoints.entries(prefix)? {
                // Another process may be writing one: only a run's own lease holder opens it, so this is a leftover.
                let _ = fs::remove_dir_all(path);
            }
        }
        Ok(checkpoints)
    }

    /// Each goes to the object store too, off this thread, and the newest of both places counts. Nothing more is sent once
    /// `gone` is cancelled.
    #[must_use]
    pub fn and_in(self, store: RunCheckpoints, handle: Handle, gone: CancellationToken) -> Self {
        Self { fence: store.fence(), elsewhere: Some(Elsewhere::new(store, handle, gone)), ..self }
    }

    /// Whether others find them in an object store.
    pub fn are_stored(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// What became of what was sent to the object store, once for each; `wait` is how long at most to wait for all of it.
    pub fn sent(&mut self, wait: Option<Duration>) -> Option<Result<Sent, PublishError>> {
        self.elsewhere.as_mut()?.sent(wait)
    }

    /// Writes one and removes old ones. It is there whole when this returns, also after a loss of power; to the object
    /// store it is sent from then on.
    ///
    /// # Errors
    /// If something cannot be written; earlier checkpoints are untouched.
    pub fn save<L: TrainLearner>(
        &mut self,
        trainer: &Trainer<L>,
        table_version: Option<u64>,
    ) -> Result<Checkpoint, CheckpointError> {
        let state = trainer.state();
        let name = format!("{:012}", state.steps);
        let (whole, part) = (self.dir.join(format!("{WHOLE}{name}")), self.dir.join(format!("{TMP}{name}")));
        let failed = |error: &dyn std::fmt::Display| {
            CheckpointError::new("writing the checkpoint", &whole, format!("{error}; the one before is kept"))
        };
        let priorities = trainer.priorities();
        let write = || -> Result<(), Box<dyn std::error::Error>> {
            remove(&part)?;
            fs::create_dir(&part)?;
            trainer.learner().save(&part)?;
            if let Some(priorities) = &priorities {
                let bytes: Vec<u8> = priorities.iter().flat_map(|priority| priority.to_le_bytes()).collect();
                write_synced(&part.join(PRIORITIES), &bytes)?;
            }
            let files = marks(&part)?;
            let manifest = Manifest { format: FORMAT, state: state.clone(), table_version, files, fence: self.fence };
            write_synced(&part.join(STATE), &serde_json::to_vec_pretty(&manifest)?)?;
            Ok(self.name(&part, &whole)?)
        };
        write().map_err(|error| failed(&error))?;
        // Another of this name has taken its place.
        self.damaged.retain(|path| *path != whole);
        let found = self.entries(WHOLE)?.into_iter().rev().filter(|(_, path)| !self.damaged.contains(path));
        for (_, path) in found.skip(KEPT) {
            let _ = fs::remove_dir_all(path);
        }
        let checkpoint = Checkpoint { dir: whole, state, table_version, priorities, fence: self.fence };
        if let Some(elsewhere) = &mut self.elsewhere
            && let Err(error) = elsewhere.send(&checkpoint, self.dir.join(format!("{SENDING}{name}")))
        {
            warn!(%error, "a checkpoint stays on this machine");
        }
        Ok(checkpoint)
    }

    /// The newest whole checkpoint of both places, and why newer ones were passed over. One that lies in the object store
    /// alone is fetched, verified by SHA-256.
    ///
    /// # Errors
    /// If the folder or the object store cannot be read.
    pub fn newest(&mut self) -> Result<(Option<Checkpoint>, Vec<CheckpointError>), CheckpointError> {
        let (here, mut passed) = self.newest_here()?;
        let Some(elsewhere) = &self.elsewhere else { return Ok((here, passed)) };
        passed.extend(elsewhere.passed());
        let age = here.as_ref().map(|here| (here.fence, here.state.steps));
        for stored in elsewhere.checkpoints().into_iter().filter(|stored| Some((stored.fence, stored.steps)) > age) {
            let name = format!("{:012}", stored.steps);
            let (whole, part) = (self.dir.join(format!("{WHOLE}{name}")), self.dir.join(format!("{TMP}{name}")));
            let failed = |error: io::Error| CheckpointError::new("fetching the checkpoint into", &part, error);
            remove(&part).and_then(|()| fs::create_dir(&part)).map_err(failed)?;
            let fetched = elsewhere.fetch(&stored, &part);
            // A store that does not answer says nothing about the checkpoint: an older one is no answer to that.
            let away = fetched.as_ref().is_err_and(|error| !error.is_corrupt());
            if let Err(why) = fetched.map_err(|error| error.to_string()).and_then(|()| read(&part).map(drop)) {
                let _ = fs::remove_dir_all(&part);
                let error = CheckpointError::new("reading the checkpoint", elsewhere.uri(&stored), why);
                if away {
                    return Err(error);
                }
                elsewhere.pass_over(&stored);
                passed.push(error);
                continue;
            }
            // What this machine made beyond it belongs to a history that another machine did not go on with.
            for (steps, path) in self.entries(WHOLE)? {
                if steps > stored.steps && read(&path).is_ok_and(|older| older.fence < stored.fence) {
                    let _ = fs::remove_dir_all(path);
                }
            }
            self.name(&part, &whole).map_err(failed)?;
            self.damaged.retain(|path| *path != whole);
            let fetched = read(&whole).map_err(|why| CheckpointError::new("reading the checkpoint", &whole, why))?;
            return Ok((Some(fetched), passed));
        }
        Ok((here, passed))
    }

    /// The newest whole checkpoint of this machine: by fence, then by steps.
    fn newest_here(&mut self) -> Result<(Option<Checkpoint>, Vec<CheckpointError>), CheckpointError> {
        let (mut newest, mut passed): (Option<Checkpoint>, _) = (None, Vec::new());
        for (_, path) in self.entries(WHOLE)?.into_iter().rev() {
            match read(&path) {
                Ok(found) if newest.as_ref().is_none_or(|newest| newest.fence < found.fence) => newest = Some(found),
                Ok(_) => {}
                Err(why) => {
                    if newest.is_none() {
                        passed.push(CheckpointError::new("reading the checkpoint", &path, why));
                    }
                    self.damaged.push(path);
                }
            }
        }
        Ok((newest, passed))
    }

    /// Gives what was written as `part` its name.
    fn name(&self, part: &Path, whole: &Path) -> io::Result<()> {
        sync_dir(part)?;
        // The same step saved again (a stop right after a checkpoint): the old folder makes room.
        let _ = fs::remove_dir_all(whole);
        fs::rename(part, whole)?;
        sync_dir(&self.dir)
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

/// What becomes of one that is damaged, and what to do.
const USE: &str = "nothing of it is used; put it back from a copy, or leave it: a later one takes its place";

fn read(dir: &Path) -> Result<Checkpoint, String> {
    let text = fs::read(dir.join(STATE)).map_err(|error| format!("`{STATE}`: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("`{STATE}` is cut or damaged: {error}; {USE}"))?;
    if manifest.format != FORMAT {
        return Err(format!("format {} is unknown, this program reads {FORMAT}; use a newer one", manifest.format));
    }
    let found = marks(dir).map_err(|error| error.to_string())?;
    for mark in &manifest.files {
        match found.iter().find(|file| file.name == mark.name) {
            None => return Err(format!("`{}` is missing; {USE}", mark.name)),
            Some(file) if file.len != mark.len => {
                return Err(format!("`{}` has {} bytes of {}: it was cut; {USE}", mark.name, file.len, mark.len));
            }
            Some(file) if file != mark => {
                return Err(format!("`{}` has changed since it was written; {USE}", mark.name));
            }
            Some(_) => {}
        }
    }
    let priorities = match fs::read(dir.join(PRIORITIES)) {
        Ok(bytes) => Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("`{PRIORITIES}`: {error}")),
    };
    let Manifest { state, table_version, fence, .. } = manifest;
    Ok(Checkpoint { dir: dir.to_owned(), state, table_version, priorities, fence })
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

/// Removes a folder, if it is there.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}
