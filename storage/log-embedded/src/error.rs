//! redb's errors in the words of the log.

use std::{fmt::Display, io::ErrorKind};

use flywheel_log::{LogError, LogErrorKind};

/// An error of the file with what was attempted on what.
pub fn stored(operation: &'static str, target: impl Display, error: impl Into<redb::Error>) -> LogError {
    let error = error.into();
    let (kind, hint) = match &error {
        redb::Error::DatabaseAlreadyOpen => {
            let why = "another process holds it; stop that process, or use its socket";
            return LogError::new(LogErrorKind::Conflict, operation, target, why);
        }
        redb::Error::PreviousIo => {
            let why = "the disk failed before; the file is opened again with the next call";
            return LogError::new(LogErrorKind::Unavailable, operation, target, why);
        }
        redb::Error::Corrupted(_) => (LogErrorKind::Corrupt, "; the file is damaged"),
        redb::Error::UpgradeRequired(_) => (LogErrorKind::InvalidData, "; nothing was changed"),
        redb::Error::Io(io) => match io.kind() {
            // So redb says it when the file is something else.
            ErrorKind::InvalidData => (LogErrorKind::InvalidData, "; nothing was changed"),
            ErrorKind::UnexpectedEof => (LogErrorKind::Corrupt, "; the file is cut short"),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                (LogErrorKind::Unavailable, "; free some disk space, the log then goes on by itself")
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                (LogErrorKind::Unavailable, "; let this user write there")
            }
            _ => (LogErrorKind::Unavailable, "; look at the disk, the log goes on by itself once it works again"),
        },
        _ => (LogErrorKind::Internal, ""),
    };
    LogError::new(kind, operation, target, format!("{error}{hint}"))
}

/// The writer is gone: the log is being closed, or its disk failed for good.
pub fn closed(operation: &'static str, target: impl Display) -> LogError {
    LogError::new(LogErrorKind::Unavailable, operation, target, "the log is closed")
}
