use std::fmt;

/// What callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveErrorKind {
    NotFound,
    /// It is there, and has to be thawed before it can be read.
    Frozen,
    /// No answer; a put may have been carried out. Again is safe.
    Unavailable,
    /// The store does not let us, or a setting does not fit.
    Refused,
    /// What lies there is not what was put; the target names it.
    Corrupt,
    Internal,
}

impl ArchiveErrorKind {
    /// The single place that says what may be tried again as it is.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// What was attempted, on what, and why it failed.
#[derive(Debug)]
pub struct ArchiveError {
    kind: ArchiveErrorKind,
    operation: &'static str,
    target: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl ArchiveError {
    pub fn new(
        kind: ArchiveErrorKind,
        operation: &'static str,
        target: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, target: target.to_string(), source: source.into() }
    }

    pub fn kind(&self) -> ArchiveErrorKind {
        self.kind
    }
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`: {}", self.operation, self.target, self.source)
    }
}

impl std::error::Error for ArchiveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
