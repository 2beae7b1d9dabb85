use std::fmt;

use deltalake::{DeltaTableError, kernel::transaction::TransactionError};

use crate::sums::Damage;

/// What callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LakeErrorKind {
    /// No such version, or its files are gone.
    NotFound,
    /// The positions in the table are neither those that the writer started from nor those it wanted to reach:
    /// somebody else writes for the same application id. Read the positions again and start from there.
    Moved,
    /// Somebody else has claimed what this writer wrote for. Nothing was added; it has to claim again before it may.
    Fenced,
    /// The store cannot be reached or is full; whether a commit landed is unknown. Trying again is safe for
    /// appends with positions.
    Unavailable,
    /// The table was written by a newer program, or has other columns.
    Unsupported,
    InvalidData,
    /// Stored bytes are damaged; the target names where.
    Corrupt,
    Internal,
}

impl LakeErrorKind {
    /// The single place that says what may be tried again as it is.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// What was attempted, on what, and why it failed.
#[derive(Debug)]
pub struct LakeError {
    kind: LakeErrorKind,
    operation: &'static str,
    target: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl LakeError {
    pub fn new(
        kind: LakeErrorKind,
        operation: &'static str,
        target: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, target: target.to_string(), source: source.into() }
    }

    pub fn kind(&self) -> LakeErrorKind {
        self.kind
    }

    pub(crate) fn delta(operation: &'static str, target: impl fmt::Display, source: DeltaTableError) -> Self {
        let kind = match &source {
            DeltaTableError::ObjectStore { source } => store_kind(source),
            DeltaTableError::Transaction { source: TransactionError::ObjectStore { source } } => store_kind(source),
            DeltaTableError::Transaction { source: TransactionError::UnsupportedTableFeatures(_) } => {
                LakeErrorKind::Unsupported
            }
            DeltaTableError::InvalidVersion(_) | DeltaTableError::NotATable(_) => LakeErrorKind::NotFound,
            DeltaTableError::InvalidJsonLog { .. } => LakeErrorKind::Corrupt,
            DeltaTableError::Kernel { source } if source.to_string().contains("nsupported") => {
                LakeErrorKind::Unsupported
            }
            // The library wraps failures of the store in several ways; its own logic errors are deterministic and
            // show again on a retry.
            _ => LakeErrorKind::Unavailable,
        };
        Self::new(kind, operation, target, source)
    }

    pub(crate) fn store(operation: &'static str, target: impl fmt::Display, source: object_store::Error) -> Self {
        Self::new(store_kind(&source), operation, target, source)
    }

    /// A read that fails may be tried again; bytes that are not those that were written stay what they are.
    pub(crate) fn damaged(target: impl fmt::Display, damage: Damage) -> Self {
        let kind = match damage {
            Damage::Io(_) | Damage::Passing => LakeErrorKind::Unavailable,
            _ => LakeErrorKind::Corrupt,
        };
        Self::new(kind, "reading file", target, damage)
    }

    pub(crate) fn parquet(
        operation: &'static str,
        target: impl fmt::Display,
        source: parquet::errors::ParquetError,
    ) -> Self {
        Self::new(LakeErrorKind::Corrupt, operation, target, source)
    }
}

fn store_kind(error: &object_store::Error) -> LakeErrorKind {
    match error {
        object_store::Error::NotFound { .. } => LakeErrorKind::NotFound,
        _ => LakeErrorKind::Unavailable,
    }
}

impl fmt::Display for LakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`: {}", self.operation, self.target, self.source)
    }
}

impl std::error::Error for LakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
