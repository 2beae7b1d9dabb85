use std::time::Instant;

use arrow::array::RecordBatch;
use deltalake::{
    kernel::{Action, Add, Version},
    protocol::{DeltaOperation, SaveMode},
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, path::Path};

use crate::{
    LakeError, LakeErrorKind, Table,
    commit::{Condition, Stop},
    encode::encode,
};

/// Where a writer believes that an application id stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anywhere below the new position.
    Below,
    /// Exactly here; `None` is before everything.
    At(Option<i64>),
    /// No matter: a note that is written beside positions that do matter.
    Anywhere,
    /// At the new "position" itself, which is a fence that this writer has claimed.
    Held,
}

/// How far a commit brings one application id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Such as `land/fw.tank.events/0`.
    pub app_id: String,
    pub from: Expected,
    pub to: i64,
}

impl Advance {
    pub fn new(app_id: impl Into<String>, from: Option<i64>, to: i64) -> Self {
        Self { app_id: app_id.into(), from: Expected::At(from), to }
    }

    /// A number kept under `app_id` that decides nothing.
    pub fn note(app_id: impl Into<String>, to: i64) -> Self {
        Self { app_id: app_id.into(), from: Expected::Anywhere, to }
    }
}

/// A commit that landed, or that was there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The version that holds the rows; when skipped, the newest one.
    pub version: Version,
    pub rows: u64,
    pub files: usize,
    /// Every position had been reached before: nothing was added.
    pub skipped: bool,
}

impl Table {
    /// Appends rows and positions in one commit; skips everything if each position has been reached already.
    ///
    /// With no positions it is at least once: after `Unavailable` the rows may be there.
    ///
    /// # Errors
    /// As [`Table::append_from`].
    pub async fn append(&self, batches: Vec<RecordBatch>, positions: &[(String, i64)]) -> Result<Commit, LakeError> {
        let advances: Vec<_> = positions
            .iter()
            .map(|(app_id, to)| Advance { app_id: app_id.clone(), from: Expected::Below, to: *to })
            .collect();
        self.append_from(batches, &advances).await
    }

    /// Appends rows and positions in one commit, if the table stands where the writer believes.
    ///
    /// Positions are read before the commit and after every unknown outcome. Trying again after `Unavailable`
    /// with the same positions adds the rows once. An empty `batches` moves the positions alone.
    ///
    /// # Errors
    /// `Fenced` if a fence that the writer brings is not where it holds it: nothing was added, whatever the positions
    /// say. `Moved` if some position is neither where the writer started nor at or beyond its goal; `Unavailable` if
    /// the store fails; `Unsupported`, `InvalidData` if the table or the rows are not of this program.
    pub async fn append_from(&self, batches: Vec<RecordBatch>, advances: &[Advance]) -> Result<Commit, LakeError> {
        let started = Instant::now();
        let state = self.create().await?;
        if let Some(stop) = self.weigh(&state, advances).await? {
            return stop.into_commit(self);
        }
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let adds = self.store_files(batches).await?;
        let actions = adds.iter().cloned().map(Action::Add).collect();
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(flywheel_tables::PARTITION_COLUMNS.map(str::to_owned).to_vec()),
            predicate: None,
        };
        match self.commit(actions, operation, Condition { positions: advances, ..Condition::default() }).await? {
            Ok(version) => {
                crate::metrics::committed(self.name(), rows, &adds, started.elapsed());
                self.keep_log_short(version).await;
                Ok(Commit { version, rows, files: adds.len(), skipped: false })
            }
            Err(stop) => {
                // Certain that no commit of ours names them. (An unknown outcome leaves them to the vacuum.)
                for add in &adds {
                    let _ = self.inner.store.delete(&Path::from(add.path.as_str())).await;
                }
                stop.into_commit(self)
            }
        }
    }

    async fn store_files(&self, batches: Vec<RecordBatch>) -> Result<Vec<Add>, LakeError> {
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(Vec::new());
        }
        let (name, row_group_rows) = (self.name(), self.inner.config.row_group_rows);
        let encoded = tokio::task::spawn_blocking(move || encode(name, &batches, row_group_rows, now_ms()))
            .await
            .map_err(|e| LakeError::new(LakeErrorKind::Internal, "encoding rows of", name, e))??;
        stream::iter(encoded)
            .map(|file| async move {
                let path = Path::from(file.add.path.as_str());
                let put = self.inner.store.put(&path, file.bytes).await;
                put.map_err(|e| LakeError::store("storing a file of", name, e)).map(|_| file.add)
            })
            .buffered(4)
            .try_collect()
            .await
    }
}

impl Stop {
    pub(crate) fn into_commit(self, table: &Table) -> Result<Commit, LakeError> {
        let (kind, why) = match self {
            Self::Reached(version) => return Ok(Commit { version, rows: 0, files: 0, skipped: true }),
            Self::Moved(why) => (LakeErrorKind::Moved, why),
            Self::Fenced(why) => {
                metrics::counter!(crate::metrics::COMMITS_FENCED).increment(1);
                (LakeErrorKind::Fenced, why)
            }
            Self::Taken => unreachable!("whoever takes files out has looked for it"),
        };
        Err(LakeError::new(kind, "appending to", table.name(), why))
    }
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
