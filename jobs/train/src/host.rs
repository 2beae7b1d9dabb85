//! A run in the catalog, its versions in the registry, seen from the thread that learns.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use flywheel_catalog::CatalogError;
use flywheel_events::{BaseKey, ModelVersion};
use flywheel_jobs::RunContext;
use flywheel_registry::{NewVersion, Registry};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::TryRecvError},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{Beat, Candidate, Host, PublishError};

/// Tells the learning thread that its job was dropped: it does not see that by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dropped(Arc<AtomicBool>);

impl Dropped {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Lies in the job's future; with it goes the run's right to write anything.
#[derive(Debug)]
pub(crate) struct DropGuard {
    pub(crate) dropped: Dropped,
    /// Ends the thread's waits, so that it looks up at once.
    pub(crate) halt: CancellationToken,
    /// Ends what is on its way to the object store; a stop does not.
    pub(crate) gone: CancellationToken,
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.dropped.0.store(true, Ordering::SeqCst);
        self.halt.cancel();
        self.gone.cancel();
    }
}

/// The host of a run that a [`flywheel_jobs::Worker`] keeps the lease of.
///
/// Before a checkpoint or a version is written the fence is asked for: a process that slept past its lease, or
/// whose worker has dropped the job, writes neither.
#[derive(Debug)]
pub struct RunHost {
    handle: Handle,
    context: RunContext,
    registry: Arc<Registry>,
    base_key: BaseKey,
    dropped: Dropped,
    publishing: Option<oneshot::Receiver<Result<ModelVersion, PublishError>>>,
}

impl RunHost {
    pub(crate) fn new(
        handle: Handle,
        context: RunContext,
        registry: Arc<Registry>,
        base_key: BaseKey,
        dropped: Dropped,
    ) -> Self {
        Self { handle, context, registry, base_key, dropped, publishing: None }
    }

    fn now(&self) -> Beat {
        if self.dropped.is_set() {
            Beat::Fenced
        } else if self.context.stop_requested() {
            Beat::Stop
        } else {
            Beat::Continue
        }
    }

    fn beat_of(&self, outcome: Result<(), CatalogError>) -> Beat {
        match outcome {
            Err(error) if error.is_fenced() => return Beat::Fenced,
            // The lease still runs; its keeper finds out when it does not, and drops the job.
            Err(error) => warn!(%error, "cannot reach the catalog"),
            Ok(()) => {}
        }
        self.now()
    }
}

impl Host for RunHost {
    fn beat(&mut self, progress: &Value) -> Beat {
        self.context.progress(progress.clone());
        self.now()
    }

    fn confirm(&mut self) -> Beat {
        if self.dropped.is_set() {
            return Beat::Fenced;
        }
        self.beat_of(self.handle.block_on(self.context.confirm()))
    }

    fn checkpointed(&mut self, _steps: u64, uri: &str) -> Beat {
        self.beat_of(self.handle.block_on(self.context.checkpoint(uri)))
    }

    fn publish(&mut self, candidate: Candidate) {
        let (sender, receiver) = oneshot::channel();
        self.publishing = Some(receiver);
        let (context, registry) = (self.context.clone(), Arc::clone(&self.registry));
        let (base_key, dropped) = (self.base_key.clone(), self.dropped.clone());
        self.handle.spawn(async move {
            let new = NewVersion {
                base_key,
                weights: candidate.network.to_safetensors(),
                parent: candidate.parent,
                train_job_id: context.lease().run.to_string(),
                data_range: Some(candidate.data_range),
                metrics: candidate.metrics,
                metadata: candidate.metadata,
            };
            let outcome = match context.confirm().await {
                _ if dropped.is_set() => Err(PublishError::Fenced),
                Err(error) if error.is_fenced() => Err(PublishError::Fenced),
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
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Closed) => gone(),
            }
        };
        self.publishing = None;
        Some(outcome)
    }
}
