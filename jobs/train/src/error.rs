use flywheel_lake::LakeError;
use flywheel_log::LogError;
use flywheel_policy::LearnError;
use flywheel_registry::RegistryError;
use flywheel_replay::ReplayError;
use flywheel_tables::TableError;

use crate::CheckpointError;

/// Why a training run ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("the settings make no sense: {0}")]
    Config(String),
    #[error("reading transitions from the table")]
    Lake(#[from] LakeError),
    #[error("a row of the table `transitions`")]
    Table(#[from] TableError),
    #[error("the table `transitions` does not fit this run: {0}; train another system or another shape")]
    Row(ReplayError),
    #[error("the log")]
    Log(#[from] LogError),
    #[error("the learner")]
    Learn(#[from] LearnError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "{0} steps in a row gave numbers that are not finite, also with smaller learning rates; look at the rewards"
    )]
    Diverged(u32),
    /// Another process trains this run now.
    #[error("another process has taken this run over; nothing more was published or kept")]
    Fenced,
    #[error("the registry")]
    Registry(#[from] RegistryError),
}

impl TrainError {
    /// Whether another attempt with the same settings and data would end alike. All else may pass: a store that is
    /// away, a disk that is full.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Diverged(_) | Self::Config(_) | Self::Row(_))
    }
}
