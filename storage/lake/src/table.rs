use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Instant,
};

use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use deltalake::{
    DeltaTable,
    kernel::{DataType, StructField, Version, transaction::CommitProperties},
    logstore::{LogStoreRef, StorageConfig, default_logstore},
    protocol::SaveMode,
};
use flywheel_tables::{PARTITION_COLUMNS, TableName, schema, stats_columns};
use object_store::{ObjectStore, path::Path, prefix::PrefixStore};
use url::Url;

use crate::{DataFile, LakeConfig, LakeError, LakeErrorKind, state::State};

/// The layout of tables that this program writes; a higher one is refused.
pub(crate) const FORMAT: u32 = 1;

/// One Delta table of a lake. Clones share what is known of it.
#[derive(Clone)]
pub struct Table {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub name: TableName,
    pub config: LakeConfig,
    pub log: LogStoreRef,
    /// Rooted at the table's folder.
    pub store: Arc<dyn ObjectStore>,
    /// The newest state that was seen, absent before the first look and while there is no table.
    state: Mutex<Option<Arc<State>>>,
    /// Writers of this process take turns; the store decides between processes.
    pub turn: tokio::sync::Mutex<()>,
}

impl Table {
    pub(crate) fn new(root_store: &Arc<dyn ObjectStore>, root: &Url, name: TableName, config: LakeConfig) -> Self {
        let location = root.join(&format!("{name}/")).expect("a table name is a path segment");
        let prefix = Path::from_url_path(location.path()).expect("a URL's path is an object path");
        let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(Arc::clone(root_store), prefix));
        let log = default_logstore(Arc::clone(&store), Arc::clone(root_store), &location, &StorageConfig::default());
        let inner = Inner { name, config, log, store, state: Mutex::default(), turn: tokio::sync::Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    pub fn name(&self) -> TableName {
        self.inner.name
    }

    /// Where the table lies.
    pub fn url(&self) -> &Url {
        self.inner.log.root_url()
    }

    /// The newest version, or `None` before the first append.
    ///
    /// # Errors
    /// If the log cannot be read, or the table is of a newer format.
    pub async fn version(&self) -> Result<Option<Version>, LakeError> {
        Ok(self.follow().await?.map(|state| state.version))
    }

    /// How far `app_id` has come, by the newest commit.
    ///
    /// # Errors
    /// As [`Table::version`].
    pub async fn position(&self, app_id: &str) -> Result<Option<i64>, LakeError> {
        let Some(state) = self.follow().await? else { return Ok(None) };
        self.position_at(&state, app_id).await
    }

    /// The files of the newest version, by day, then by when their rows were committed.
    ///
    /// # Errors
    /// As [`Table::version`].
    pub async fn files(&self) -> Result<Vec<DataFile>, LakeError> {
        let Some(state) = self.follow().await? else { return Ok(Vec::new()) };
        Ok(in_order(state.files.values().map(|file| DataFile::clone(file)).collect()))
    }

    /// The number of rows of the newest version, from file statistics.
    ///
    /// # Errors
    /// As [`Table::version`].
    pub async fn rows(&self) -> Result<u64, LakeError> {
        Ok(self.follow().await?.map_or(0, |state| state.files.values().map(|file| file.rows).sum()))
    }

    /// The newest state, read on from the last one that was seen.
    pub(crate) async fn follow(&self) -> Result<Option<Arc<State>>, LakeError> {
        let known = self.inner.state.lock().expect("no panic while holding it").clone();
        let Some(mut state) = known.filter(|s| s.followed_at.elapsed() < self.inner.config.reload_after) else {
            return self.reload().await;
        };
        // Never list to find the newest version: the next number is asked for until it is absent.
        let started = Instant::now();
        loop {
            let next = state.version + 1;
            let entry =
                self.inner.log.read_commit_entry(next).await.map_err(|e| self.failed("reading the log of", e))?;
            let Some(bytes) = entry else { break };
            let actions = deltalake::logstore::get_actions(next, &bytes)
                .map_err(|e| LakeError::new(LakeErrorKind::Corrupt, "reading commit", self.commit_name(next), e))?;
            if !Arc::make_mut(&mut state).apply(next, &actions) {
                return self.reload().await;
            }
        }
        Arc::make_mut(&mut state).followed_at = started;
        self.remember(Arc::clone(&state));
        Ok(Some(state))
    }

    async fn reload(&self) -> Result<Option<Arc<State>>, LakeError> {
        let mut table = DeltaTable::new(Arc::clone(&self.inner.log));
        let started = Instant::now();
        let is_new = self.inner.state.lock().expect("no panic while holding it").is_none();
        // The library logs an error where there is no table yet, so it is asked only for one that has a log.
        if is_new && !table.verify_deltatable_existence().await.map_err(|e| self.failed("opening table", e))? {
            return Ok(None);
        }
        let mut looked_again = false;
        while let Err(error) = table.load().await {
            // Only a folder without any log is "no table": a damaged or unreachable one is an error.
            match table.verify_deltatable_existence().await {
                Ok(false) => return Ok(None),
                // Somebody may have created it between the two looks.
                Ok(true) if !looked_again => looked_again = true,
                _ => return Err(self.failed("opening table", error)),
            }
        }
        let mut state = State::of(self.inner.name, &table)?;
        state.followed_at = started;
        let state = Arc::new(state);
        self.remember(Arc::clone(&state));
        Ok(Some(state))
    }

    /// Keeps the newest state; a slower reader never brings an older one back.
    pub(crate) fn remember(&self, state: Arc<State>) {
        let mut known = self.inner.state.lock().expect("no panic while holding it");
        if known.as_ref().is_none_or(|known| known.version <= state.version) {
            *known = Some(state);
        }
    }

    /// The position of `app_id` at `state`.
    pub(crate) async fn position_at(&self, state: &State, app_id: &str) -> Result<Option<i64>, LakeError> {
        if let Some(position) = state.positions.get(app_id) {
            return Ok(*position);
        }
        let table = self.at(state.version).await?;
        let snapshot = table.snapshot().map_err(|e| self.failed("reading the state of", e))?;
        let position = snapshot
            .transaction_version(&self.inner.log, app_id)
            .await
            .map_err(|e| self.failed("reading positions of", e))?;
        let mut known = self.inner.state.lock().expect("no panic while holding it");
        if let Some(known) = known.as_mut().filter(|known| known.version >= state.version) {
            // Commits since have put newer positions in already; an absent one has not moved.
            Arc::make_mut(known).positions.entry(app_id.to_owned()).or_insert(position);
        }
        Ok(position)
    }

    /// The positions as of `version`; one that was not there yet is `None`.
    ///
    /// # Errors
    /// `NotFound` if the log does not hold that version any more; and if it cannot be read.
    pub async fn positions_as_of(&self, version: Version, app_ids: &[String]) -> Result<Vec<Option<i64>>, LakeError> {
        let table = self.at(version).await?;
        let snapshot = table.snapshot().map_err(|e| self.failed("reading the state of", e))?;
        let mut found = Vec::with_capacity(app_ids.len());
        for app_id in app_ids {
            let position = snapshot.transaction_version(&self.inner.log, app_id).await;
            found.push(position.map_err(|e| self.failed("reading positions of", e))?);
        }
        Ok(found)
    }

    /// The table as of `version`, straight from the log.
    pub(crate) async fn at(&self, version: Version) -> Result<DeltaTable, LakeError> {
        let mut table = DeltaTable::new(Arc::clone(&self.inner.log));
        table
            .load_version(version)
            .await
            .map_err(|e| LakeError::delta("opening version", format!("{} of {}", version, self.inner.name), e))?;
        Ok(table)
    }

    /// Creates the table if there is none. Two creators at once end with one table.
    pub(crate) async fn create(&self) -> Result<Arc<State>, LakeError> {
        if let Some(state) = self.follow().await? {
            return Ok(state);
        }
        let name = self.inner.name;
        let seconds = |d: std::time::Duration| Some(format!("interval {} seconds", d.as_secs()));
        let properties = [
            ("delta.dataSkippingStatsColumns", Some(stats_columns(name).join(","))),
            ("delta.checkpointInterval", Some(self.inner.config.checkpoint_interval.to_string())),
            ("delta.logRetentionDuration", seconds(self.inner.config.log_retention)),
            ("delta.deletedFileRetentionDuration", seconds(self.inner.config.deleted_file_retention)),
            ("flywheel.format", Some(FORMAT.to_string())),
        ];
        let created = DeltaTable::new(Arc::clone(&self.inner.log))
            .create()
            .with_table_name(name.as_str())
            .with_columns(delta_fields(&schema(name)))
            .with_partition_columns(PARTITION_COLUMNS)
            .with_configuration(properties)
            .with_raise_if_key_not_exists(false)
            .with_save_mode(SaveMode::Ignore)
            // With retries the library would put a second "create" after somebody else's first.
            .with_commit_properties(CommitProperties::default().with_max_retries(0))
            .await;
        // Whatever came of it: if there is a table now, somebody made it, and its format is checked.
        match (self.reload().await?, created) {
            (Some(state), _) => Ok(state),
            (None, Err(error)) => Err(self.failed("creating table", error)),
            (None, Ok(_)) => Err(LakeError::new(
                LakeErrorKind::Unavailable,
                "creating table",
                name,
                "it was created, yet its log cannot be found",
            )),
        }
    }

    pub(crate) fn failed(&self, operation: &'static str, error: deltalake::DeltaTableError) -> LakeError {
        LakeError::delta(operation, self.inner.name, error)
    }

    pub(crate) fn commit_name(&self, version: Version) -> String {
        format!("{}/_delta_log/{version:020}.json", self.inner.name)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("url", &self.url().as_str()).finish_non_exhaustive()
    }
}

pub(crate) fn in_order(mut files: Vec<DataFile>) -> Vec<DataFile> {
    files.sort_by(|a, b| (&a.dt, a.modified_ms, &a.path).cmp(&(&b.dt, b.modified_ms, &b.path)));
    files
}

/// Delta's names for the types of [`flywheel_tables::schema`].
pub(crate) fn delta_fields(schema: &SchemaRef) -> Vec<StructField> {
    let kind = |arrow: &ArrowType| match arrow {
        ArrowType::Utf8 => DataType::STRING,
        ArrowType::Int8 => DataType::BYTE,
        ArrowType::Int32 => DataType::INTEGER,
        ArrowType::Int64 => DataType::LONG,
        ArrowType::Float32 => DataType::FLOAT,
        ArrowType::Boolean => DataType::BOOLEAN,
        ArrowType::Binary => DataType::BINARY,
        other => unreachable!("no table has a column of type {other}"),
    };
    schema.fields().iter().map(|f| StructField::new(f.name(), kind(f.data_type()), f.is_nullable())).collect()
}
