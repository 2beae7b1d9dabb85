//! redb's errors in the words of the log.

use std::fmt::Display;

use flywheel_log::{LogError, LogErrorKind};

/// An error of the file with what was attempted on what.
pub fn stored(operation: &'static str, target: impl Display, error: impl Into<redb::Error>) -> LogError {
    let error = error.into();
    let kind = match &error {
        redb::Error::DatabaseAlreadyOpen => LogErrorKind::Conflict,
        redb::Error::Corrupted(_) => LogErrorKind::Corrupt,
        redb::Error::UpgradeRequired(_) => LogErrorKind::InvalidData,
        // A full or failing disk: nothing was acknowledged, and it may work later.
        redb::Error::Io(_) | redb::Error::PreviousIo => LogErrorKind::Unavailable,
        _ => LogErrorKind::Internal,
    };
    if kind == LogErrorKind::Conflict {
        return LogError::new(
            kind,
            operation,
            target,
            "another process holds it; stop that process, or use its socket",
        );
    }
    LogError::new(kind, operation, target, error)
}

/// The writer is gone: the log is being closed, or its disk failed for good.
pub fn closed(operation: &'static str, target: impl Display) -> LogError {
    LogError::new(LogErrorKind::Unavailable, operation, target, "the log is closed")
}
