use std::sync::{Arc, Mutex, PoisonError};

use flywheel_catalog::{CatalogError, Lease, Run, Runs};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// What a job sees of the run that it works on.
#[derive(Debug, Clone)]
pub struct RunContext {
    pub(crate) runs: Runs,
    pub(crate) run: Arc<Run>,
    pub(crate) lease: Lease,
    pub(crate) stop: CancellationToken,
    pub(crate) progress: Arc<Mutex<Value>>,
}

impl RunContext {
    /// The run as it was when it was leased: its spec, its newest checkpoint.
    pub fn run(&self) -> &Run {
        &self.run
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether to stop after the next checkpoint: somebody asked for it, or the process is ending.
    pub fn stop_requested(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Becomes cancelled when [`RunContext::stop_requested`] turns true, for `select!`.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Replaces the progress; it reaches the catalog with the next beat.
    pub fn progress(&self, progress: Value) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    pub(crate) fn latest_progress(&self) -> Value {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the newest checkpoint, already durable, lies at `uri`.
    ///
    /// # Errors
    /// `Fenced` if the run is somebody else's.
    pub async fn checkpoint(&self, uri: &str) -> Result<(), CatalogError> {
        self.runs.checkpoint(&self.lease, uri).await
    }

    /// Asks the catalog whether the lease still holds; to be asked before every effect that others see.
    ///
    /// # Errors
    /// `Fenced` if it does not.
    pub async fn confirm(&self) -> Result<(), CatalogError> {
        self.runs.check(&self.lease).await
    }
}
