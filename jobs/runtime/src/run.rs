//! Leasing a run, keeping the lease, and writing down how it ended.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use flywheel_catalog::{CatalogError, CatalogErrorKind, Lease, RunId, RunState, Runs};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use crate::{Job, JobError, Outcome, RunContext};

/// How a worker takes runs.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Shown as the holder of a run, such as `host:pid`.
    pub owner: String,
    /// A run is taken over so long after its worker was last heard of.
    pub ttl: Duration,
    /// Pause between two looks for work when there is none.
    pub idle: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            owner: format!("pid:{}", std::process::id()),
            ttl: Duration::from_secs(10),
            idle: Duration::from_secs(1),
        }
    }
}

/// How the work on a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Completed,
    /// At the request of somebody; it waits for a resume.
    Stopped,
    /// Because this process ends; whoever comes next goes on.
    Released,
    /// With an error that another attempt would meet again; it is written to the run, which waits for a resume.
    Failed,
    /// With an error that another attempt may get past; it is written to the run, which is queued again.
    Interrupted,
    /// The lease was lost and the job dropped; nothing was written.
    Lost,
}

/// What the catalog keeps of it.
fn state_of(ended: Ended) -> RunState {
    match ended {
        Ended::Completed => RunState::Completed,
        Ended::Stopped => RunState::Stopped,
        Ended::Failed => RunState::Failed,
        Ended::Released | Ended::Interrupted | Ended::Lost => RunState::Queued,
    }
}

/// Why a run could not be taken or ended.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RunJobError(#[from] CatalogError);

impl RunJobError {
    pub fn kind(&self) -> CatalogErrorKind {
        self.0.kind()
    }
}

/// Runs jobs under leases.
#[derive(Debug, Clone)]
pub struct Worker {
    runs: Runs,
    config: WorkerConfig,
}

impl Worker {
    pub fn new(runs: Runs, config: WorkerConfig) -> Self {
        Self { runs, config }
    }

    /// Takes runs of the job's kind, one after the other, until cancelled.
    ///
    /// # Errors
    /// If the catalog cannot be used.
    pub async fn serve(&self, job: &mut dyn Job, cancel: &CancellationToken) -> Result<(), RunJobError> {
        while !cancel.is_cancelled() {
            let ended = match self.runs.lease_next(job.kind(), &self.config.owner, self.config.ttl).await? {
                Some(lease) => Some(self.work(lease, job, cancel).await?),
                None => None,
            };
            // What interrupted a run may need a while to pass.
            if matches!(ended, None | Some(Ended::Interrupted)) {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(self.config.idle) => {}
                }
            }
        }
        Ok(())
    }

    /// Takes one run, for [`Worker::work`].
    ///
    /// # Errors
    /// `Conflict` if somebody else holds it or it has ended, `NotFound` if there is none of that id.
    pub async fn lease(&self, id: &RunId) -> Result<Lease, RunJobError> {
        Ok(self.runs.lease(id, &self.config.owner, self.config.ttl).await?)
    }

    /// Works on one run.
    ///
    /// # Errors
    /// `Conflict` if somebody else holds it or it has ended.
    pub async fn run(&self, id: &RunId, job: &mut dyn Job, cancel: &CancellationToken) -> Result<Ended, RunJobError> {
        self.work(self.lease(id).await?, job, cancel).await
    }

    /// Works on a run that this worker has leased just now, until it ends or the lease is lost.
    ///
    /// # Errors
    /// If the catalog cannot be read at the start or written at the end; the run is then free when its lease ends.
    pub async fn work(
        &self,
        lease: Lease,
        job: &mut dyn Job,
        cancel: &CancellationToken,
    ) -> Result<Ended, RunJobError> {
        let run = Arc::new(self.runs.get(&lease.run).await?);
        let context = RunContext {
            runs: self.runs.clone(),
            progress: Arc::new(Mutex::new(run.progress.clone())),
            run,
            lease: lease.clone(),
            // A child: a stop of this run must not stop the process, the other way round it must.
            stop: cancel.child_token(),
        };
        info!(run = %lease.run, fence = lease.fence, "working on the run");
        // A task of its own: a job that keeps its thread for a while does not lose its lease by that.
        let ended = CancellationToken::new();
        let mut keeper = AbortOnDropHandle::new(tokio::spawn(keep(context.clone(), ended.clone())));
        let outcome = tokio::select! {
            biased;
            _ = &mut keeper => {
                warn!(run = %lease.run, "the lease is lost; its job was dropped");
                return Ok(Ended::Lost);
            }
            outcome = job.run(&context) => outcome,
        };
        // A beat under way is waited for: its older progress must not be written after the last one.
        ended.cancel();
        let _lost_or_not_the_next_call_says = keeper.await;
        let (mut ended, error) = match outcome {
            Ok(Outcome::Completed) => (Ended::Completed, None),
            // The process ends, nobody asked for this run to stop: it is for the next worker.
            Ok(Outcome::Stopped) if cancel.is_cancelled() => (Ended::Released, None),
            Ok(Outcome::Stopped) => (Ended::Stopped, None),
            Err(JobError::Lost) => return Ok(Ended::Lost),
            Err(JobError::Failed(error)) => (Ended::Failed, Some(error.to_string())),
            Err(JobError::Interrupted(error)) => (Ended::Interrupted, Some(error.to_string())),
        };
        let written = async {
            let control = self.runs.heartbeat(&lease, &context.latest_progress()).await?;
            // Asked to stop while it ended for another reason that would let it go on: the request wins.
            if control.stop_requested && state_of(ended) == RunState::Queued {
                ended = Ended::Stopped;
            }
            self.runs.finish(&lease, state_of(ended), error.as_deref()).await
        };
        match written.await {
            Ok(()) => {
                info!(run = %lease.run, ?ended, error, "the run has ended here");
                Ok(ended)
            }
            Err(error) if error.is_fenced() => Ok(Ended::Lost),
            Err(error) => Err(error.into()),
        }
    }
}

/// Renews the lease several times within its length; returns when it is lost, or at the first pause after `ended`.
async fn keep(context: RunContext, ended: CancellationToken) {
    let ttl = context.lease.ttl;
    let mut every = tokio::time::interval((ttl / 5).clamp(Duration::from_millis(10), Duration::from_secs(2)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            _ = every.tick() => {}
        }
        let asked = Instant::now();
        match context.runs.heartbeat(&context.lease, &context.latest_progress()).await {
            Ok(control) => {
                renewed = asked;
                if control.stop_requested {
                    context.stop.cancel();
                }
            }
            Err(error) if error.is_fenced() => return,
            // The catalog is away. As long as the lease lasts nobody else can have taken the run.
            Err(error) if renewed.elapsed() < ttl => warn!(%error, "cannot renew the lease yet"),
            Err(error) => {
                warn!(%error, "could not renew the lease for as long as it lasts");
                return;
            }
        }
    }
}
