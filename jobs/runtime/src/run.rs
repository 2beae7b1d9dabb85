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
    /// With an error, which is written to the run.
    Failed,
    /// The lease was lost and the job dropped; nothing was written.
    Lost,
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
            match self.runs.lease_next(job.kind(), &self.config.owner, self.config.ttl).await? {
                Some(lease) => {
                    self.work(lease, job, cancel).await?;
                }
                None => {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => {}
                        () = tokio::time::sleep(self.config.idle) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Works on one run.
    ///
    /// # Errors
    /// `Conflict` if somebody else holds it or it has ended.
    pub async fn run(&self, id: &RunId, job: &mut dyn Job, cancel: &CancellationToken) -> Result<Ended, RunJobError> {
        let lease = self.runs.lease(id, &self.config.owner, self.config.ttl).await?;
        self.work(lease, job, cancel).await
    }

    async fn work(&self, lease: Lease, job: &mut dyn Job, cancel: &CancellationToken) -> Result<Ended, RunJobError> {
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
        let (state, ended, error) = match outcome {
            Ok(Outcome::Completed) => (RunState::Completed, Ended::Completed, None),
            // The process ends, nobody asked for this run to stop: it is for the next worker.
            Ok(Outcome::Stopped) if cancel.is_cancelled() => (RunState::Queued, Ended::Released, None),
            Ok(Outcome::Stopped) => (RunState::Stopped, Ended::Stopped, None),
            Err(JobError::Catalog(error)) if error.is_fenced() => return Ok(Ended::Lost),
            Err(error) => (RunState::Failed, Ended::Failed, Some(error.to_string())),
        };
        let written = match self.runs.heartbeat(&lease, &context.latest_progress()).await {
            // Asked to stop while the process was ending: the request wins.
            Ok(control) if control.stop_requested && state == RunState::Queued => {
                self.runs.finish(&lease, RunState::Stopped, None).await.map(|()| Ended::Stopped)
            }
            Ok(_) => self.runs.finish(&lease, state, error.as_deref()).await.map(|()| ended),
            Err(error) => Err(error),
        };
        match written {
            Ok(ended) => {
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
