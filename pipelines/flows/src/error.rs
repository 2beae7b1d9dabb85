use flywheel_lake::{LakeError, LakeErrorKind};
use flywheel_log::LogError;
use flywheel_tables::TableError;

/// Why a flow gave up. It gives up only on what waiting cannot mend.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("a task of the flow ended by itself: {0}")]
    Task(String),
}

/// How one run over the log ended.
#[derive(Debug)]
pub(crate) enum Stop {
    /// As told.
    Cancelled,
    /// Another writer moved our positions: look where the table stands and go on from there.
    Moved(LakeError),
    /// Another process has claimed what we worked on.
    Fenced(LakeError),
    Failed(FlowError),
}

impl From<LakeError> for Stop {
    fn from(error: LakeError) -> Self {
        match error.kind() {
            LakeErrorKind::Moved => Self::Moved(error),
            LakeErrorKind::Fenced => Self::Fenced(error),
            _ => Self::Failed(error.into()),
        }
    }
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Self {
        Self::Failed(error.into())
    }
}

/// The table has spoken, and would say the same again.
pub(crate) fn is_decided(error: &LakeError) -> bool {
    matches!(error.kind(), LakeErrorKind::Moved | LakeErrorKind::Fenced) || is_final(error)
}

/// What a newer program wrote, or what this one must never write, does not mend itself. Anything else may: a
/// store comes back, a disk is emptied, a file is restored.
pub(crate) fn is_final(error: &LakeError) -> bool {
    matches!(error.kind(), LakeErrorKind::Unsupported | LakeErrorKind::InvalidData)
}
