//! An archive that fails where a test says: before doing what it was asked, or after, without telling.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ArchiveError, ArchiveErrorKind, ColdStore, Held, Pieces, Put, Readiness, Temper};

/// Dies at its operation number `n`: that one may still be carried out, later ones are not.
#[derive(Debug)]
pub struct Dying {
    inner: Arc<dyn ColdStore>,
    operations: AtomicU64,
    death: u64,
    applies: bool,
}

impl Dying {
    /// `n` counts from 1; 0 never dies. With `applies` the last operation is carried out, and its answer is lost.
    pub fn at(inner: Arc<dyn ColdStore>, n: u64, applies: bool) -> Self {
        Self { inner, operations: AtomicU64::new(0), death: n, applies }
    }

    /// Whether the operation that was to be the last has been reached.
    pub fn is_dead(&self) -> bool {
        self.death != 0 && self.operations.load(SeqCst) >= self.death
    }

    pub fn operations(&self) -> u64 {
        self.operations.load(SeqCst)
    }
}

macro_rules! dying {
    ($self:ident, $work:expr) => {{
        let n = $self.operations.fetch_add(1, SeqCst) + 1;
        if $self.death != 0 && n >= $self.death {
            if n == $self.death && $self.applies {
                let _lost = $work.await;
            }
            return Err(ArchiveError::new(ArchiveErrorKind::Unavailable, "asking", "the archive", "the test said so"));
        }
        $work.await
    }};
}

#[async_trait]
impl ColdStore for Dying {
    async fn put(&self, name: &str, bytes: Bytes, sha256: &str, temper: Temper) -> Result<Put, ArchiveError> {
        dying!(self, self.inner.put(name, bytes.clone(), sha256, temper))
    }

    async fn head(&self, name: &str) -> Result<Option<Held>, ArchiveError> {
        dying!(self, self.inner.head(name))
    }

    async fn stream(&self, name: &str) -> Result<Pieces, ArchiveError> {
        dying!(self, self.inner.stream(name))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArchiveError> {
        dying!(self, self.inner.list(prefix))
    }

    async fn thaw(&self, name: &str, days: u32) -> Result<Readiness, ArchiveError> {
        dying!(self, self.inner.thaw(name, days))
    }

    async fn prepare(&self) -> Result<Vec<String>, ArchiveError> {
        dying!(self, self.inner.prepare())
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}
