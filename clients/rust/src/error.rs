use std::{error::Error, fmt};

/// What can be done about a [`ClientError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientErrorKind {
    /// A setting makes no sense; mend it.
    Setting,
    /// The spool file cannot be used: another emitter has it, or the disk refuses.
    Spool,
    /// The event can never be sent; it took no `seq`.
    BadEvent,
    /// The emitter is closed.
    Closed,
    /// The server is away; try again.
    Unavailable,
    /// The server has no such model or alias.
    Refused,
    /// A version's weights cannot be used.
    BadModel,
}

/// What was attempted, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} `{target}`: {why}")]
pub struct ClientError {
    kind: ClientErrorKind,
    operation: &'static str,
    target: String,
    why: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ClientError {
    pub(crate) fn new(
        kind: ClientErrorKind,
        operation: &'static str,
        target: impl fmt::Display,
        why: impl fmt::Display,
    ) -> Self {
        Self { kind, operation, target: target.to_string(), why: why.to_string(), source: None }
    }

    #[must_use]
    pub(crate) fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    pub fn kind(&self) -> ClientErrorKind {
        self.kind
    }

    /// The single place that says what may be tried again.
    pub fn is_retryable(&self) -> bool {
        self.kind == ClientErrorKind::Unavailable
    }
}
