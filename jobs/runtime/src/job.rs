use async_trait::async_trait;
use flywheel_catalog::{CatalogError, CatalogErrorKind};

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
    /// Whatever ends this attempt; [`JobError`] says whether there is to be another. It is written to the run.
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
    /// The run is somebody else's now; nothing more is written of it here.
    #[error("the run belongs to another worker now")]
    Lost,
    /// Another attempt would end alike: the run has failed until somebody resumes it.
    #[error("{0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
    /// Another attempt may get further: the run is queued again and goes on from its newest checkpoint.
    #[error("{0}")]
    Interrupted(Box<dyn std::error::Error + Send + Sync>),
}

impl JobError {
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    pub fn interrupted(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Interrupted(error.into())
    }
}

impl From<CatalogError> for JobError {
    fn from(error: CatalogError) -> Self {
        match error.kind() {
            CatalogErrorKind::Fenced => Self::Lost,
            CatalogErrorKind::Unavailable => Self::interrupted(error),
            CatalogErrorKind::NotFound | CatalogErrorKind::Conflict | CatalogErrorKind::Setting => Self::failed(error),
        }
    }
}
