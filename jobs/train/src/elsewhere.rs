//! The copy of a run's checkpoints in the object store: sent by a task, so that learning waits for no network.
//!
//! What is sent is a second name of the files (hard links, or a copy where there are none): the checkpoint may make room
//! for a later one meanwhile. One is on its way and one waits; a newer one takes the place of the one that waits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use flywheel_registry::{RegistryError, RunCheckpoints, StoredCheckpoint};
use tokio::{
    runtime::Handle,
    sync::{
        Mutex,
        oneshot::{self, error::TryRecvError},
    },
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{Checkpoint, CheckpointError, PublishError, checkpoint::remove};

/// First and longest pause before what could not be sent is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A checkpoint that others find now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub steps: u64,
    pub uri: String,
}

/// Files to be sent; they go with it.
#[derive(Debug)]
struct Parcel {
    steps: u64,
    dir: PathBuf,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let _what_stays_goes_when_the_run_is_opened = remove(&self.dir);
    }
}

type Outcome = (Parcel, Result<Sent, PublishError>);

#[derive(Debug)]
pub(crate) struct Elsewhere {
    store: Arc<Mutex<RunCheckpoints>>,
    handle: Handle,
    gone: CancellationToken,
    sending: Option<(oneshot::Receiver<Outcome>, AbortOnDropHandle<()>)>,
    waiting: Option<Parcel>,
    /// Nothing is sent before that; how long the pause was.
    pause: Option<(Instant, Duration)>,
}

impl Elsewhere {
    pub fn new(store: RunCheckpoints, handle: Handle, gone: CancellationToken) -> Self {
        Self { store: Arc::new(Mutex::new(store)), handle, gone, sending: None, waiting: None, pause: None }
    }

    fn held<T>(&self, look: impl FnOnce(&RunCheckpoints) -> T) -> T {
        let held = self.handle.block_on(self.store.lock());
        look(&held)
    }

    /// Newest first.
    pub fn checkpoints(&self) -> Vec<StoredCheckpoint> {
        self.held(|held| held.checkpoints().to_vec())
    }

    /// What could not be read when the run was claimed.
    pub fn passed(&self) -> Vec<CheckpointError> {
        self.held(|held| {
            let of = |error: &RegistryError| CheckpointError::new("reading the checkpoints of", held.place(), error);
            held.passed().iter().map(of).collect()
        })
    }

    pub fn uri(&self, stored: &StoredCheckpoint) -> String {
        self.held(|held| held.uri(stored))
    }

    /// Writes its files into a folder, verified.
    pub fn fetch(&self, stored: &StoredCheckpoint, into: &Path) -> Result<(), RegistryError> {
        self.handle.block_on(async { self.store.lock().await.fetch(stored, into).await })
    }

    /// It was found damaged, and does not count from the next one on.
    pub fn pass_over(&self, stored: &StoredCheckpoint) {
        self.handle.block_on(self.store.lock()).pass_over(stored);
    }

    /// Has it sent when nothing else is on its way.
    pub fn send(&mut self, checkpoint: &Checkpoint, parcel: PathBuf) -> Result<(), CheckpointError> {
        let failed = |error: io::Error| {
            let why = format!("{error}; the object store does not get this one");
            CheckpointError::new("preparing to send the checkpoint", &checkpoint.dir, why)
        };
        // An older one of this step may still be on its way.
        if self.sending.is_some() && parcel.exists() {
            return Ok(());
        }
        self.waiting = None;
        remove(&parcel).map_err(failed)?;
        let parcel = Parcel { steps: checkpoint.state.steps, dir: parcel };
        fs::create_dir(&parcel.dir).map_err(failed)?;
        for entry in fs::read_dir(&checkpoint.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let to = parcel.dir.join(entry.file_name());
            if fs::hard_link(entry.path(), &to).is_err() {
                fs::copy(entry.path(), &to).map_err(failed)?;
            }
        }
        self.waiting = Some(parcel);
        self.begin();
        Ok(())
    }

    /// Sends what waits, if nothing is on its way and no pause holds it up.
    fn begin(&mut self) {
        if self.sending.is_some() || self.pause.is_some_and(|(until, _)| Instant::now() < until) {
            return;
        }
        let Some(parcel) = self.waiting.take() else { return };
        let (store, gone, (tell, told)) = (Arc::clone(&self.store), self.gone.clone(), oneshot::channel());
        let task = self.handle.spawn(async move {
            let sent = async {
                let mut store = store.lock().await;
                match store.save(parcel.steps, &parcel.dir).await {
                    Ok(stored) => Ok(Sent { steps: parcel.steps, uri: store.uri(&stored) }),
                    Err(error) if error.is_fenced() => Err(PublishError::Fenced),
                    Err(error) => Err(PublishError::Failed(error.to_string())),
                }
            };
            let sent = tokio::select! {
                biased;
                () = gone.cancelled() => return,
                sent = sent => sent,
            };
            let _nobody_listens_if_the_run_has_ended = tell.send((parcel, sent));
        });
        self.sending = Some((told, AbortOnDropHandle::new(task)));
    }

    /// What became of one that was sent. What failed is tried again after a pause, unless a newer one waits.
    pub fn sent(&mut self, wait: Option<Duration>) -> Option<Result<Sent, PublishError>> {
        let until = wait.map(|wait| Instant::now() + wait);
        loop {
            self.begin();
            let (parcel, outcome) = match (&mut self.sending, until) {
                (Some((told, _)), None) => match told.try_recv() {
                    Ok(outcome) => outcome,
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Closed) => return self.ended(),
                },
                (Some((told, _)), Some(until)) => {
                    let left = until.saturating_duration_since(Instant::now());
                    match self.handle.block_on(async { tokio::time::timeout(left, told).await }) {
                        Ok(Ok(outcome)) => outcome,
                        Ok(Err(_)) => return self.ended(),
                        Err(_) => return Some(Err(late())),
                    }
                }
                (None, Some(until)) if self.waiting.is_some() => match self.pause {
                    Some((next, _)) if next < until => {
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                        continue;
                    }
                    _ => return Some(Err(late())),
                },
                (None, _) => return None,
            };
            self.sending = None;
            match &outcome {
                Ok(_) => self.pause = None,
                Err(_) => {
                    let pause = self.pause.map_or(PAUSES.0, |(_, pause)| (pause * 2).min(PAUSES.1));
                    self.pause = Some((Instant::now() + pause, pause));
                    self.waiting.get_or_insert(parcel);
                }
            }
            return Some(outcome);
        }
    }

    /// The task is gone without a word: the run has ended here.
    fn ended(&mut self) -> Option<Result<Sent, PublishError>> {
        self.sending = None;
        Some(Err(PublishError::Fenced))
    }
}

fn late() -> PublishError {
    PublishError::Failed("the object store took too long; this machine has it, and sends a later one".to_owned())
}
