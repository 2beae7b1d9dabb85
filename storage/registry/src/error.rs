/// What callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryErrorKind {
    NotFound,
    /// The alias moved since it was looked at.
    Conflict,
    /// Hash, shape or numbers of a version are wrong.
    Corrupt,
    Unavailable,
    /// Somebody else has taken over what was to be written.
    Fenced,
}

/// What was attempted, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} `{target}`: {source}")]
pub struct RegistryError {
    kind: RegistryErrorKind,
    operation: &'static str,
    target: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl RegistryError {
    pub(crate) fn new(
        kind: RegistryErrorKind,
        operation: &'static str,
        target: impl std::fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, target: target.to_string(), source: source.into() }
    }

    pub(crate) fn store(operation: &'static str, error: object_store::Error, target: impl std::fmt::Display) -> Self {
        let kind = match &error {
            object_store::Error::NotFound { .. } => RegistryErrorKind::NotFound,
            object_store::Error::AlreadyExists { .. } => RegistryErrorKind::Conflict,
            _ => RegistryErrorKind::Unavailable,
        };
        Self::new(kind, operation, target, error)
    }

    pub fn kind(&self) -> RegistryErrorKind {
        self.kind
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == RegistryErrorKind::NotFound
    }

    pub fn is_conflict(&self) -> bool {
        self.kind == RegistryErrorKind::Conflict
    }

    pub fn is_fenced(&self) -> bool {
        self.kind == RegistryErrorKind::Fenced
    }

    /// Whether another version, not another try, is needed.
    pub fn is_corrupt(&self) -> bool {
        self.kind == RegistryErrorKind::Corrupt
    }
}
