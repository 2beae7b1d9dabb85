use std::fmt;

/// What callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogErrorKind {
    NotFound,
    /// The position lies before the oldest record still kept.
    Trimmed,
    /// The backend cannot be reached or is full; the outcome of an append is unknown.
    Unavailable,
    /// Somebody else owns this now.
    Fenced,
    Conflict,
    InvalidData,
    /// The stored bytes are damaged; the target names where.
    Corrupt,
    Internal,
}

impl LogErrorKind {
    /// The single place that says what may be tried again.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// What was attempted, on what, and why it failed.
#[derive(Debug)]
pub struct LogError {
    kind: LogErrorKind,
    operation: &'static str,
    target: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl LogError {
    pub fn new(
        kind: LogErrorKind,
        operation: &'static str,
        target: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, target: target.to_string(), source: source.into() }
    }

    pub fn kind(&self) -> LogErrorKind {
        self.kind
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`: {}", self.operation, self.target, self.source)
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
