//! A run in the catalog, its versions in the registry.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use flywheel_catalog::{CatalogErrorKind, Lease, RunState, Runs};
use flywheel_events::{BaseKey, ModelVersion};
use flywheel_registry::{NewVersion, Registry};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Beat, Candidate, Checkpoint, Host, PublishError};

/// Keeps the lease, reports progress, publishes: the host of a run of `flywheel-trainer`.
///
/// The lease is kept by a task of its own, so that a long read of the table does not lose it. Before a checkpoint
/// or a version is written the fence is asked for: a process that slept past its lease writes neither.
#[derive(Debug)]
pub struct RunHost {
    handle: Handle,
    runs: Runs,
    lease: Lease,
    registry: Arc<Registry>,
    base_key: BaseKey,
    progress: Arc<Mutex<Value>>,
    heard: watch::Receiver<Beat>,
    keeper: JoinHandle<()>,
    cancel: CancellationToken,
    publishing: Option<oneshot::Receiver<Result<ModelVersion, PublishError>>>,
}

impl RunHost {
    /// Begins to keep `lease`. `cancel` stops the run at its next beat, as SIGTERM should.
    pub fn start(
        handle: &Handle,
        runs: Runs,
        lease: Lease,
        registry: Arc<Registry>,
        base_key: BaseKey,
        cancel: CancellationToken,
    ) -> Self {
        let progress = Arc::new(Mutex::new(serde_json::json!({"stage": "train", "waiting": "reading the table"})));
        let (sender, heard) = watch::channel(Beat::Continue);
        let keeper = handle.spawn(keep(runs.clone(), lease.clone(), Arc::clone(&progress), sender));
        Self {
            handle: handle.clone(),
            runs,
            lease,
            registry,
            base_key,
            progress,
            heard,
            keeper,
            cancel,
            publishing: None,
        }
    }

    /// Whether somebody asked the run to stop, rather than this process.
    pub fn stop_requested(&self) -> bool {
        *self.heard.borrow() == Beat::Stop
    }

    /// Ends the lease with the last progress.
    ///
    /// # Errors
    /// If the run was taken over, or the catalog cannot be written.
    pub async fn finish(self, state: RunState, error: Option<&str>) -> Result<(), flywheel_catalog::CatalogError> {
        self.keeper.abort();
        let last = self.progress.lock().expect("nothing panics while it holds the progress").clone();
        self.runs.heartbeat(&self.lease, &last).await?;
        self.runs.finish(&self.lease, state, error).await
    }

    fn beat_of(&self, outcome: Result<(), flywheel_catalog::CatalogError>) -> Beat {
        match outcome {
            Err(error) if error.kind() == CatalogErrorKind::Fenced => Beat::Fenced,
            Err(error) => {
                // The catalog is away: the lease still runs, and the keeper finds out when it does not.
                warn!(%error, "cannot reach the catalog");
                *self.heard.borrow()
            }
            Ok(()) => *self.heard.borrow(),
        }
    }
}

impl Drop for RunHost {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Reports several times in each lease. Ends when the run belongs to somebody else.
async fn keep(runs: Runs, lease: Lease, progress: Arc<Mutex<Value>>, told: watch::Sender<Beat>) {
    let mut every = tokio::time::interval((lease.ttl / 6).clamp(Duration::from_millis(50), Duration::from_secs(1)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let latest = progress.lock().expect("nothing panics while it holds the progress").clone();
        match runs.heartbeat(&lease, &latest).await {
            Ok(control) => {
                let _ = told.send_replace(if control.stop_requested { Beat::Stop } else { Beat::Continue });
            }
            Err(error) if error.kind() == CatalogErrorKind::Fenced => {
                warn!(run = %lease.run, "another process has taken the run over");
                let _ = told.send_replace(Beat::Fenced);
                return;
            }
            Err(error) => warn!(%error, "cannot report to the catalog"),
        }
    }
}

impl Host for RunHost {
    fn beat(&mut self, progress: &Value) -> Beat {
        progress.clone_into(&mut self.progress.lock().expect("nothing panics while it holds the progress"));
        match *self.heard.borrow() {
            Beat::Continue if self.cancel.is_cancelled() => Beat::Stop,
            beat => beat,
        }
    }

    fn confirm(&mut self) -> Beat {
        self.beat_of(self.handle.block_on(self.runs.check(&self.lease)))
    }

    fn checkpointed(&mut self, checkpoint: &Checkpoint) -> Beat {
        let uri = file_uri(&checkpoint.dir);
        self.beat_of(self.handle.block_on(self.runs.checkpoint(&self.lease, &uri)))
    }

    fn publish(&mut self, candidate: Candidate) {
        let (sender, receiver) = oneshot::channel();
        self.publishing = Some(receiver);
        let (runs, lease, registry) = (self.runs.clone(), self.lease.clone(), Arc::clone(&self.registry));
        let base_key = self.base_key.clone();
        self.handle.spawn(async move {
            let new = NewVersion {
                base_key,
                weights: candidate.network.to_safetensors(),
                parent: candidate.parent,
                train_job_id: lease.run.to_string(),
                data_range: Some(candidate.data_range),
                metrics: candidate.metrics,
                metadata: candidate.metadata,
            };
            let outcome = match runs.check(&lease).await {
                Err(error) if error.kind() == CatalogErrorKind::Fenced => Err(PublishError::Fenced),
                Err(error) => Err(PublishError::Failed(error.to_string())),
                Ok(()) => {
                    let card = registry.publish(new).await;
                    card.map(|card| card.version).map_err(|error| PublishError::Failed(error.to_string()))
                }
            };
            // Nobody listens any more if the run has ended: the version is whole all the same.
            let _ = sender.send(outcome);
        });
    }

    fn published(&mut self, wait: bool) -> Option<Result<ModelVersion, PublishError>> {
        let receiver = self.publishing.as_mut()?;
        let gone = || Err(PublishError::Failed("the publishing task ended by itself".to_owned()));
        let outcome = if wait {
            self.handle.block_on(receiver).unwrap_or_else(|_| gone())
        } else {
            match receiver.try_recv() {
                Ok(outcome) => outcome,
                Err(oneshot::error::TryRecvError::Empty) => return None,
                Err(oneshot::error::TryRecvError::Closed) => gone(),
            }
        };
        self.publishing = None;
        Some(outcome)
    }
}

fn file_uri(dir: &Path) -> String {
    let whole = dir.canonicalize();
    format!("file://{}", whole.as_deref().unwrap_or(dir).display())
}

/// Finds the run to work on and leases it; waits while another process holds it or it is stopped.
///
/// With an `id` it is that run. Without one it is the newest `train` run of this base key that has not completed, or
/// a new one.
///
/// # Errors
/// If the catalog cannot be used, or there is no run of that id. `None` if cancelled meanwhile.
pub async fn take_run(
    runs: &Runs,
    id: Option<&str>,
    base_key: &BaseKey,
    spec: &Value,
    owner: &str,
    ttl: Duration,
    cancel: &CancellationToken,
) -> Result<Option<(Lease, Value)>, flywheel_catalog::CatalogError> {
    let mut said = String::new();
    loop {
        let run = match id {
            Some(id) => Some(runs.get(&id.parse()?).await?),
            None => newest(runs, base_key).await?,
        };
        let (id, spec) = match run {
            Some(run) => (run.id, run.spec),
            None => (runs.create(KIND, spec).await?, spec.clone()),
        };
        match runs.lease(&id, owner, ttl).await {
            Ok(lease) => return Ok(Some((lease, spec))),
            // Held by another process, stopped, or the database is busy: all of that passes.
            Err(error) if matches!(error.kind(), CatalogErrorKind::Conflict | CatalogErrorKind::Unavailable) => {
                let why = error.to_string();
                if why != said {
                    info!(run = %id, %why, "waiting for the run; `flywheel run resume` lets a stopped one go on");
                    said = why;
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

/// Kind of our runs in the catalog.
pub const KIND: &str = "train";

async fn newest(
    runs: &Runs,
    base_key: &BaseKey,
) -> Result<Option<flywheel_catalog::Run>, flywheel_catalog::CatalogError> {
    let filter = flywheel_catalog::RunFilter { kind: Some(KIND.to_owned()), ..Default::default() };
    let all = runs.list(filter).await?;
    let ours = all.into_iter().find(|run| run.spec["base_key"] == base_key.as_str());
    Ok(ours.filter(|run| run.state != RunState::Completed))
}
