//! Checkpoints of runs, where every machine finds them.
//!
//! Files lie in a folder that is written once; `newest/{number}.json` says which folders count, with the SHA-256 of every
//! file, and is moved by creating the next number, which only one writer can. Who takes a run over claims it that way
//! under the run's fence; from then on every other writer finds an entry that is not its own and is refused. So a
//! checkpoint is there whole or not at all, and a trainer that slept past its lease changes nothing.

mod files;

use std::{
    io::{self, Write},
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use object_store::{ObjectStore, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;
use uuid::Uuid;

use self::files::{FILES, blocking, fence_of, files_of, is_plain, parts, read_part};
use crate::{
    RegistryError, RegistryErrorKind,
    objects::{Objects, numbered},
    registry::{now_ms, written},
};

const FORMAT: u32 = 1;
/// Checkpoints of a run that stay; earlier ones are removed.
const KEPT: usize = 2;
/// Entries that stay, so that a damaged one has others before it.
const ENTRIES_KEPT: usize = 4;
/// Claims that may come between before that is an error.
const ATTEMPTS: usize = 64;
const NEWEST: &str = "newest";

/// The checkpoints of all runs.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    objects: Objects,
    place: String,
}

/// A checkpoint in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCheckpoint {
    pub steps: u64,
    /// Of the lease under which it was made: among several, the largest fence and then the most steps counts.
    pub fence: i64,
    folder: String,
    files: Vec<StoredFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoredFile {
    name: String,
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    format: u32,
    fence: i64,
    /// One claim: what another holder wrote after it says that the run was taken over.
    holder: String,
    moved_at_ms: i64,
    /// Newest first.
    checkpoints: Vec<StoredCheckpoint>,
}

/// The checkpoints of one run, held under its fence.
#[derive(Debug)]
pub struct RunCheckpoints {
    objects: Objects,
    run: String,
    place: String,
    number: u64,
    entry: Entry,
    passed: Vec<RegistryError>,
}

fn corrupt(operation: &'static str, target: impl std::fmt::Display, why: impl Into<String>) -> RegistryError {
    RegistryError::new(RegistryErrorKind::Corrupt, operation, target, why.into())
}

impl CheckpointStore {
    /// Those below `prefix`, which people know as `place`.
    pub fn open(store: Arc<dyn ObjectStore>, prefix: &str, place: impl Into<String>) -> Self {
        Self { objects: Objects::new(store, prefix), place: place.into() }
    }

    /// Takes a run's checkpoints over under `fence`; whoever held them before can change nothing from then on.
    ///
    /// # Errors
    /// `Fenced` if a larger fence has claimed them; `Corrupt` if nothing says any more which checkpoints count.
    pub async fn claim(&self, run: &str, fence: i64) -> Result<RunCheckpoints, RegistryError> {
        const OPERATION: &str = "claiming the checkpoints";
        let holder = Uuid::new_v4().simple().to_string();
        let none = Entry { format: FORMAT, fence, holder: holder.clone(), moved_at_ms: 0, checkpoints: Vec::new() };
        let mut held = RunCheckpoints {
            objects: self.objects.clone(),
            run: run.to_owned(),
            place: format!("{}/{run}", self.place),
            number: 0,
            entry: none,
            passed: Vec::new(),
        };
        for _ in 0..ATTEMPTS {
            let (number, newest, passed) = held.newest(OPERATION).await?;
            let checkpoints = match newest {
                Some(newest) if newest.fence > fence => return Err(held.fenced(OPERATION, fence, &newest)),
                Some(newest) => newest.checkpoints,
                None if number == 0 => Vec::new(),
                None => {
                    let why = passed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    let what = "nothing says which checkpoints count, and nothing was removed; put one of these back \
                                from a copy, or make a new run";
                    return Err(corrupt(OPERATION, &held.place, format!("{what} ({why})")));
                }
            };
            let entry = Entry { holder: holder.clone(), checkpoints, ..held.entry.clone() };
            if held.create(OPERATION, number + 1, entry).await? {
                // Whoever looked long ago may have been given a number that was in use and is free again.
                if held.newest(OPERATION).await?.0 != held.number {
                    continue;
                }
                // What an entry that cannot be read names is not known to be litter.
                if passed.is_empty() {
                    held.sweep().await;
                }
                held.passed = passed;
                return Ok(held);
            }
        }
        let why = "too many claim them at once; try again";
        Err(RegistryError::new(RegistryErrorKind::Conflict, OPERATION, &held.place, why))
    }
}

impl RunCheckpoints {
    /// Newest first.
    pub fn checkpoints(&self) -> &[StoredCheckpoint] {
        &self.entry.checkpoints
    }

    /// Does not count any more, from the next one that is stored on: it was found damaged, and would push out one that is
    /// whole.
    pub fn pass_over(&mut self, checkpoint: &StoredCheckpoint) {
        self.entry.checkpoints.retain(|one| one != checkpoint);
    }

    /// Entries that could not be read when the run was claimed; the ones before were taken.
    pub fn passed(&self) -> &[RegistryError] {
        &self.passed
    }

    /// Where they lie, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Under which they are held.
    pub fn fence(&self) -> i64 {
        self.entry.fence
    }

    /// Where a checkpoint lies, for people.
    pub fn uri(&self, checkpoint: &StoredCheckpoint) -> String {
        format!("{}/{}", self.place, checkpoint.folder)
    }

    /// Writes the files of `dir` as the newest checkpoint, made under `fence`, and removes old ones. When this returns, it
    /// is there whole.
    ///
    /// # Errors
    /// `Fenced` if somebody else has claimed the run: nothing of what counts was touched. After `Unavailable` it counts or
    /// does not; the one before is kept either way.
    pub async fn save(&mut self, steps: u64, dir: &FsPath) -> Result<StoredCheckpoint, RegistryError> {
        const OPERATION: &str = "storing the checkpoint";
        let nonce = Uuid::new_v4().simple().to_string();
        let folder = format!("step-{steps:012}-{:06}-{}", self.entry.fence, &nonce[..8]);
        let mut saved = StoredCheckpoint { steps, fence: self.entry.fence, folder, files: Vec::new() };
        for (name, bytes) in files_of(dir).await.map_err(|error| self.local(OPERATION, dir, error))? {
            saved.files.push(self.upload(OPERATION, &saved.folder, dir.join(&name), name, bytes).await?);
        }
        let mut checkpoints = vec![saved.clone()];
        // The same step again (a stop right after a checkpoint) takes the place of the one before.
        let others = self.entry.checkpoints.iter().filter(|one| (one.steps, one.fence) != (steps, saved.fence));
        checkpoints.extend(others.take(KEPT - 1).cloned());
        for _ in 0..ATTEMPTS {
            let entry = Entry { checkpoints: checkpoints.clone(), ..self.entry.clone() };
            let created = self.create(OPERATION, self.number + 1, entry).await?;
            // Also where it was created: of entries that were removed a number is free again.
            let (number, newest, _) = self.newest(OPERATION).await?;
            match newest {
                Some(newest) if newest.holder != self.entry.holder => {
                    self.remove(|folder| folder == saved.folder).await;
                    return Err(self.fenced(OPERATION, self.entry.fence, &newest));
                }
                _ if created && number == self.number => {
                    self.sweep().await;
                    return Ok(saved);
                }
                // One of ours, whose answer was lost.
                _ => self.number = number,
            }
        }
        let why = "its own entries keep coming between; try again";
        Err(RegistryError::new(RegistryErrorKind::Conflict, OPERATION, &self.place, why))
    }

    /// Writes a checkpoint's files into the folder `into`, each verified by length and SHA-256, and synced.
    ///
    /// # Errors
    /// `Corrupt` if one was cut or has changed; the message names it. What was written into the folder is not to be used.
    pub async fn fetch(&self, checkpoint: &StoredCheckpoint, into: &FsPath) -> Result<(), RegistryError> {
        const OPERATION: &str = "fetching the checkpoint";
        let uri = self.uri(checkpoint);
        if checkpoint.files.len() > FILES {
            return Err(corrupt(OPERATION, uri, format!("it names {} files", checkpoint.files.len())));
        }
        for file in &checkpoint.files {
            let target = format!("{uri}/{}", file.name);
            if !is_plain(&file.name) {
                return Err(corrupt(OPERATION, &uri, "it names a file that is none of ours"));
            }
            let local = into.join(&file.name);
            let wrong = |error| self.local(OPERATION, &local, error);
            let mut written = std::fs::File::create(&local).map_err(wrong)?;
            let mut hasher = Sha256::new();
            for (part, (_, length)) in parts(file.bytes).enumerate() {
                let path = self.part(&checkpoint.folder, &file.name, part);
                let bytes = match self.objects.get_sized(OPERATION, &path, length).await? {
                    Some(Ok(bytes)) => bytes,
                    Some(Err(found)) => {
                        let why =
                            format!("part {part} has {found} bytes of {length}: it was cut; nothing of it is used");
                        return Err(corrupt(OPERATION, target, why));
                    }
                    None => return Err(corrupt(OPERATION, target, format!("part {part} is missing"))),
                };
                (written, hasher) = blocking(move || {
                    written.write_all(&bytes)?;
                    hasher.update(&bytes);
                    Ok((written, hasher))
                })
                .await
                .map_err(wrong)?;
            }
            blocking(move || written.sync_all()).await.map_err(wrong)?;
            let found = hex::encode(hasher.finalize());
            if found != file.sha256 {
                let why = format!("its SHA-256 is {found}, not {}: it has changed; nothing of it is used", file.sha256);
                return Err(corrupt(OPERATION, target, why));
            }
        }
        Ok(())
    }

    async fn upload(
        &self,
        operation: &'static str,
        folder: &str,
        from: PathBuf,
        name: String,
        bytes: u64,
    ) -> Result<StoredFile, RegistryError> {
        let mut hasher = Sha256::new();
        for (number, (start, length)) in parts(bytes).enumerate() {
            let file = from.clone();
            let (part, hashed) = blocking(move || {
                let part = read_part(&file, start, length)?;
                hasher.update(&part);
                Ok((part, hasher))
            })
            .await
            .map_err(|error| self.local(operation, &from, error))?;
            hasher = hashed;
            let path = self.part(folder, &name, number);
            if !self.objects.create(operation, &path, part).await? {
                return Err(corrupt(operation, path, "something else lies there"));
            }
        }
        Ok(StoredFile { name, bytes, sha256: hex::encode(hasher.finalize()) })
    }

    fn part(&self, folder: &str, name: &str, part: usize) -> Path {
        self.objects.path(&[&self.run, folder, &format!("{name}.{part:04}")])
    }

    fn entries(&self) -> Path {
        self.objects.path(&[&self.run, NEWEST])
    }

    /// Makes `entry` the one of this number, unless one is there.
    async fn create(&mut self, operation: &'static str, number: u64, entry: Entry) -> Result<bool, RegistryError> {
        let entry = Entry { moved_at_ms: now_ms(), ..entry };
        let created = self.objects.create(operation, &self.entries().join(numbered(number)), written(&entry)).await?;
        if created {
            (self.number, self.entry) = (number, entry);
        }
        Ok(created)
    }

    /// The largest number there is, the newest entry that can be read, and why later ones cannot.
    async fn newest(&self, operation: &'static str) -> Result<(u64, Option<Entry>, Vec<RegistryError>), RegistryError> {
        let numbers = self.objects.numbers(operation, &self.entries()).await?;
        let (last, mut passed) = (numbers.last().copied().unwrap_or(0), Vec::new());
        for number in numbers.into_iter().rev() {
            let path = self.entries().join(numbered(number));
            let Some(bytes) = self.objects.get(operation, &path).await? else { continue };
            match serde_json::from_slice::<Entry>(&bytes) {
                Ok(entry) if entry.format > FORMAT => {
                    let why = format!("it was written by a newer program (format {}); use that one", entry.format);
                    return Err(corrupt(operation, path, why));
                }
                Ok(entry) => return Ok((last, Some(entry), passed)),
                Err(error) => {
                    let why = format!("it is cut or damaged ({error}); the one before is taken");
                    passed.push(corrupt(operation, path, why));
                }
            }
        }
        Ok((last, None, passed))
    }

    /// Removes what no longer counts and what killed uploads left. Whoever has a larger fence is left alone; a failure
    /// leaves it for the next time.
    async fn sweep(&self) {
        let (fence, listed) = (self.entry.fence, &self.entry.checkpoints);
        self.remove(|folder| {
            fence_of(folder).is_some_and(|its| its <= fence) && !listed.iter().any(|one| one.folder == folder)
        })
        .await;
        let removed = async {
            for number in self.objects.numbers("listing", &self.entries()).await? {
                if number + (ENTRIES_KEPT as u64) <= self.number {
                    self.objects.delete("removing", &self.entries().join(numbered(number))).await?;
                }
            }
            Ok::<_, RegistryError>(())
        };
        if let Err(error) = removed.await {
            warn!(%error, "old entries of a run's checkpoints stay for now");
        }
    }

    async fn remove(&self, which: impl Fn(&str) -> bool) {
        let root = self.objects.path(&[&self.run]);
        let removed = async {
            for object in self.objects.files("listing", &root).await? {
                let folder = object.location.prefix_match(&root).and_then(|mut rest| rest.next());
                if folder.is_some_and(|folder| which(folder.as_ref())) {
                    self.objects.delete("removing", &object.location).await?;
                }
            }
            Ok::<_, RegistryError>(())
        };
        if let Err(error) = removed.await {
            warn!(%error, "old checkpoints of a run stay for now");
        }
    }

    fn fenced(&self, operation: &'static str, ours: i64, newest: &Entry) -> RegistryError {
        let why = format!(
            "another process has claimed them (fence {}, this one has {ours}); nothing was changed. If the catalog was put \
             back from a backup, make a new run",
            newest.fence
        );
        RegistryError::new(RegistryErrorKind::Fenced, operation, &self.place, why)
    }

    fn local(&self, operation: &'static str, path: &FsPath, error: io::Error) -> RegistryError {
        RegistryError::new(RegistryErrorKind::Unavailable, operation, path.display(), error)
    }
}
