//! Objects that are written once, found by number.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path};

use crate::RegistryError;

/// Puts of one object that a store leaves undecided before that is an error.
const UNDECIDED: u32 = 8;

/// The store below a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Objects {
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, prefix: Path::from(prefix) }
    }

    pub fn path(&self, parts: &[&str]) -> Path {
        parts.iter().flat_map(|part| part.split('/')).fold(self.prefix.clone(), |path, part| path.clone().join(part))
    }

    /// Writes an object that must not be there yet; `Ok(false)` if somebody else's is.
    ///
    /// `bytes` must differ from what anybody else would write. An error, and `AlreadyExists` too, can mean that
    /// our own bytes arrived and the answer was lost: what lies there decides, not the answer.
    pub async fn create(&self, operation: &'static str, path: &Path, bytes: Bytes) -> Result<bool, RegistryError> {
        for attempt in 1.. {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let payload = PutPayload::from_bytes(bytes.clone());
            let Err(error) = self.store.put_opts(path, payload, options).await else { return Ok(true) };
            match self.get(operation, path).await {
                Ok(Some(found)) => return Ok(found == bytes),
                // "It exists", and it does not: S3 says so (409) while puts of one name race. Nothing is decided.
                Ok(None) if matches!(error, object_store::Error::AlreadyExists { .. }) && attempt < UNDECIDED => {}
                // Nothing there: it never arrived. Nobody answers: the outcome is unknown, and so is the caller's.
                Ok(None) | Err(_) => return Err(RegistryError::store(operation, error, path)),
            }
            tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
        }
        unreachable!("the last attempt returns")
    }

    /// Writes an object whether or not it is there.
    pub async fn put(&self, operation: &'static str, path: &Path, bytes: Bytes) -> Result<(), RegistryError> {
        let written = self.store.put(path, PutPayload::from_bytes(bytes)).await;
        written.map(drop).map_err(|error| RegistryError::store(operation, error, path))
    }

    /// When an object was last written, milliseconds since 1970-01-01 UTC.
    pub async fn written_ms(&self, operation: &'static str, path: &Path) -> Result<i64, RegistryError> {
        let head = self.store.head(path).await.map_err(|error| RegistryError::store(operation, error, path))?;
        Ok(head.last_modified.timestamp_millis())
    }

    pub async fn is_there(&self, operation: &'static str, path: &Path) -> Result<bool, RegistryError> {
        match self.store.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(RegistryError::store(operation, error, path)),
        }
    }

    pub async fn get(&self, operation: &'static str, path: &Path) -> Result<Option<Bytes>, RegistryError> {
        let result = async { self.store.get(path).await?.bytes().await }.await;
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(RegistryError::store(operation, error, path)),
        }
    }

    /// An object that should have `bytes` bytes; its own length if it has others, of which nothing is read then.
    pub async fn get_sized(
        &self,
        operation: &'static str,
        path: &Path,
        bytes: u64,
    ) -> Result<Option<Result<Bytes, u64>>, RegistryError> {
        let result = async {
            let found = self.store.get(path).await?;
            if found.meta.size != bytes { Ok(Err(found.meta.size)) } else { found.bytes().await.map(Ok) }
        };
        match result.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(RegistryError::store(operation, error, path)),
        }
    }

    /// Numbers of the objects `{number}.json` below `folder`, ascending.
    pub async fn numbers(&self, operation: &'static str, folder: &Path) -> Result<Vec<u64>, RegistryError> {
        let objects: Vec<_> = self
            .store
            .list(Some(folder))
            .try_collect()
            .await
            .map_err(|error| RegistryError::store(operation, error, folder))?;
        let number = |path: &Path| path.filename()?.strip_suffix(".json")?.parse().ok();
        let mut numbers: Vec<u64> = objects.iter().filter_map(|object| number(&object.location)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Names of the folders directly below `folder`.
    pub async fn folders(&self, operation: &'static str, folder: &Path) -> Result<Vec<String>, RegistryError> {
        let listed = self
            .store
            .list_with_delimiter(Some(folder))
            .await
            .map_err(|error| RegistryError::store(operation, error, folder))?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Objects below `folder` with their age.
    pub async fn files(
        &self,
        operation: &'static str,
        folder: &Path,
    ) -> Result<Vec<object_store::ObjectMeta>, RegistryError> {
        self.store
            .list(Some(folder))
            .try_collect()
            .await
            .map_err(|error| RegistryError::store(operation, error, folder))
    }

    pub async fn delete(&self, operation: &'static str, path: &Path) -> Result<(), RegistryError> {
        self.store.delete(path).await.map_err(|error| RegistryError::store(operation, error, path))
    }
}

/// Ten digits, so that names sort as numbers do.
pub(crate) fn numbered(number: u64) -> String {
    format!("{number:010}.json")
}
