/// What callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogErrorKind {
    NotFound,
    /// The state does not allow it.
    Conflict,
    /// The run has been leased to somebody else since.
    Fenced,
    /// A setting is wrong: the address, the user, the password, the database.
    Setting,
    Unavailable,
}

/// What was attempted, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} `{target}`: {source}")]
pub struct CatalogError {
    kind: CatalogErrorKind,
    operation: &'static str,
    target: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl CatalogError {
    pub(crate) fn new(
        kind: CatalogErrorKind,
        operation: &'static str,
        target: impl std::fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, target: target.to_string(), source: source.into() }
    }

    pub fn kind(&self) -> CatalogErrorKind {
        self.kind
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == CatalogErrorKind::NotFound
    }

    pub fn is_fenced(&self) -> bool {
        self.kind == CatalogErrorKind::Fenced
    }
}
