use async_trait::async_trait;
use flywheel_catalog::CatalogError;

use crate::RunContext;

/// Work that can be stopped at a checkpoint and gone on with from there, by this process or another.
#[async_trait]
pub trait Job: Send {
    /// Kind of the runs that this job works on, such as `compact`.
    fn kind(&self) -> &'static str;

    /// Works on the run of `context`, from its newest checkpoint on.
    ///
    /// Checkpoints at least every few seconds and returns [`Outcome::Stopped`] after one when
    /// [`RunContext::stop_requested`]. It may be dropped at any `.await`, when the lease is lost: what must not
    /// happen without the lease (publishing, committing) is preceded by [`RunContext::confirm`].
    ///
    /// # Errors
    /// Whatever makes going on pointless; it is written to the run.
    async fn run(&mut self, context: &RunContext) -> Result<Outcome, JobError>;
}

/// How a job ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is done.
    Completed,
    /// Stopped after a checkpoint, because it was asked to.
    Stopped,
}

/// Why a job could not go on.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The run is somebody else's now.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("{0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl JobError {
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}
