//! Whole files leave the table and come back, each in one commit: what an archive does with a day.

use bytes::Bytes;
use deltalake::{
    kernel::{Action, Add},
    protocol::{DeltaOperation, SaveMode},
};
use flywheel_tables::{schema, stats_columns};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};

use crate::{
    Advance, Commit, DataFile, LakeError, LakeErrorKind, Table,
    append::now_ms,
    commit::{Condition, Stop},
    file::Stats,
};

/// A file that lies in the table's folder and belongs to no version yet.
///
/// One that is not put back is removed by the vacuum.
#[derive(Debug, Clone)]
pub struct StoredFile(Add);

impl Table {
    /// Takes whole files, and so their rows, out of the table in one commit that says `note`, and moves the positions with
    /// it. The files themselves stay until the vacuum, for readers of older versions.
    ///
    /// Trying again with the same positions takes nothing twice: it is skipped.
    ///
    /// # Errors
    /// `Moved` if somebody else moved a position, or took one of the files: nothing was taken. `Unavailable` if the store
    /// fails; whether it was done is unknown then.
    pub async fn take_out(&self, files: &[DataFile], advances: &[Advance], note: &str) -> Result<Commit, LakeError> {
        let rows = files.iter().map(|file| file.rows).sum();
        let now = now_ms();
        // Rows leave, so readers that follow the table are told of a change.
        let remove =
            |file: &DataFile| Action::Remove(deltalake::kernel::Remove { data_change: true, ..file.remove(now) });
        let operation = DeltaOperation::Delete { predicate: None };
        let condition = Condition { positions: advances, files, note: Some(note) };
        match self.commit(files.iter().map(remove).collect(), operation, condition).await? {
            Ok(version) => {
                self.keep_log_short(version).await;
                Ok(Commit { version, rows, files: files.len(), skipped: false })
            }
            Err(Stop::Taken) => {
                let why = "somebody else took one of its files, by a merge for example; look again";
                Err(LakeError::new(LakeErrorKind::Moved, "taking files out of", self.name(), why))
            }
            Err(stop) => stop.into_commit(self),
        }
    }

    /// Stores a file of this table under a new name, after reading it through: it must be of this table, and hold the rows
    /// that `like` tells of.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are no such file; `Unavailable` if the store fails.
    pub async fn store_file(&self, like: &DataFile, bytes: Bytes) -> Result<StoredFile, LakeError> {
        let all = schema(self.name());
        let columns: Vec<_> = all.fields().iter().map(|field| field.name().as_str()).collect();
        let mut batches = self.decode_file(like, bytes.clone(), &columns)?;
        let mut rows = 0;
        while let Some(batch) = batches.try_next().await? {
            rows += batch.num_rows() as u64;
        }
        if rows != like.rows || bytes.len() as u64 != like.bytes {
            let why = format!("it holds {rows} rows in {} bytes, not {} in {}", bytes.len(), like.rows, like.bytes);
            return Err(LakeError::new(LakeErrorKind::Corrupt, "storing a file of", self.name(), why));
        }
        let add = add(like, stats_columns(self.name()));
        let put = self.inner.store.put(&Path::from(add.path.as_str()), bytes.into()).await;
        put.map_err(|e| LakeError::store("storing a file of", self.name(), e))?;
        Ok(StoredFile(add))
    }

    /// Puts stored files into the table in one commit that says `note`, and moves the positions with it.
    ///
    /// Trying again with the same positions adds nothing twice: it is skipped, and the files are removed.
    ///
    /// # Errors
    /// As [`Table::append_from`].
    pub async fn put_back(
        &self,
        files: Vec<StoredFile>,
        advances: &[Advance],
        note: &str,
    ) -> Result<Commit, LakeError> {
        let adds: Vec<_> = files.into_iter().map(|file| file.0).collect();
        let rows = adds.iter().map(|add| DataFile::from_add(add).rows).sum();
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(flywheel_tables::PARTITION_COLUMNS.map(str::to_owned).to_vec()),
            predicate: None,
        };
        let condition = Condition { positions: advances, note: Some(note), ..Condition::default() };
        let actions = adds.iter().cloned().map(Action::Add).collect();
        match self.commit(actions, operation, condition).await? {
            Ok(version) => {
                self.keep_log_short(version).await;
                Ok(Commit { version, rows, files: adds.len(), skipped: false })
            }
            Err(stop) => {
                // Certain that no commit of ours names them.
                for add in &adds {
                    let _ = self.inner.store.delete(&Path::from(add.path.as_str())).await;
                }
                stop.into_commit(self)
            }
        }
    }
}

/// The entry of a file whose rows are those of `like`.
fn add(like: &DataFile, columns: &[&str]) -> Add {
    let ranges = || like.ranges.iter().filter(|(name, _)| columns.contains(&name.as_str()));
    let stats = Stats {
        num_records: like.rows,
        min_values: ranges().map(|(name, range)| (name.clone(), range.0.into())).collect(),
        max_values: ranges().map(|(name, range)| (name.clone(), range.1.into())).collect(),
        null_count: ranges().map(|(name, _)| (name.clone(), 0.into())).collect(),
    };
    let DataFile { system, dt, .. } = like;
    Add {
        path: format!("system={system}/dt={dt}/part-{}.parquet", uuid::Uuid::now_v7()),
        partition_values: [("system".to_owned(), Some(system.clone())), ("dt".to_owned(), Some(dt.clone()))].into(),
        size: like.bytes as i64,
        modification_time: like.modified_ms,
        data_change: true,
        stats: Some(serde_json::to_string(&stats).expect("statistics serialise")),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}
