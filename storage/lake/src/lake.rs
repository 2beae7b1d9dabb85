use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex},
};

use flywheel_tables::TableName;
use object_store::ObjectStore;
use url::Url;

use crate::{DurableFileSystem, LakeConfig, LakeError, LakeErrorKind, Table};

/// A folder of tables.
///
/// Cloning is cheap, and clones share what is known of each table. Share one lake within a process: its writers
/// then take turns instead of racing.
#[derive(Clone)]
pub struct Lake {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    root: Url,
    config: LakeConfig,
    tables: Mutex<HashMap<TableName, Table>>,
}

impl Lake {
    /// `store` is a whole store (a bucket, a file system) and `root` says where in it the tables lie, such as
    /// `s3://bucket/lake` or `file:///var/lib/flywheel/lake`. Nothing is read or written yet.
    pub fn open(store: Arc<dyn ObjectStore>, root: Url) -> Self {
        Self::with_config(store, root, LakeConfig::default())
    }

    pub fn with_config(store: Arc<dyn ObjectStore>, mut root: Url, config: LakeConfig) -> Self {
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        crate::metrics::describe();
        Self { inner: Arc::new(Inner { store, root, config, tables: Mutex::default() }) }
    }

    /// Tables in a local folder, created when first written to; puts are synced. What killed writers left in the
    /// folder is removed, see [`DurableFileSystem::open`].
    ///
    /// # Errors
    /// `InvalidData` if the path cannot be made absolute.
    pub fn local(dir: impl AsRef<Path>) -> Result<Self, LakeError> {
        Self::local_with_config(dir, LakeConfig::default())
    }

    /// As [`Lake::local`].
    ///
    /// # Errors
    /// As [`Lake::local`].
    pub fn local_with_config(dir: impl AsRef<Path>, config: LakeConfig) -> Result<Self, LakeError> {
        let root = Self::local_url(&dir)?;
        Ok(Self::with_config(Arc::new(DurableFileSystem::open(dir)), root, config))
    }

    /// The `file:` URL of a folder, for [`Lake::open`] with a store of one's own around [`DurableFileSystem`].
    ///
    /// # Errors
    /// As [`Lake::local`].
    pub fn local_url(dir: impl AsRef<Path>) -> Result<Url, LakeError> {
        let dir = dir.as_ref();
        let invalid =
            |why: String| LakeError::new(LakeErrorKind::InvalidData, "opening the lake in", dir.display(), why);
        let absolute = std::path::absolute(dir).map_err(|e| invalid(e.to_string()))?;
        Url::from_directory_path(&absolute).map_err(|()| invalid("it has no absolute path".to_owned()))
    }

    /// A handle; the table itself is created by its first append.
    pub fn table(&self, name: TableName) -> Table {
        let mut tables = self.inner.tables.lock().expect("no panic while holding it");
        tables
            .entry(name)
            .or_insert_with(|| Table::new(&self.inner.store, &self.inner.root, name, self.inner.config.clone()))
            .clone()
    }

    pub fn root(&self) -> &Url {
        &self.inner.root
    }

    pub fn config(&self) -> &LakeConfig {
        &self.inner.config
    }
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("root", &self.inner.root.as_str()).finish_non_exhaustive()
    }
}
