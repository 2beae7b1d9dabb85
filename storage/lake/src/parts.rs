//! Whole files leave the table and come back, each in one commit: what an archive does with a day.

use bytes::{Bytes, BytesMut};
use deltalake::{
    kernel::{Action, Add},
    protocol::{DeltaOperation, SaveMode},
};
use flywheel_tables::{schema, stats_columns};
use futures::{Stream, TryStreamExt};
use object_store::{MultipartUpload, ObjectStoreExt, path::Path};
use parquet::file::metadata::ParquetMetaDataReader;

use crate::{
    Advance, Commit, DataFile, LakeError, LakeErrorKind, Table,
    append::now_ms,
    commit::{Condition, Stop},
    file::Stats,
    sums::tags,
};

const STORING: &str = "storing a file of";
/// What a store is given at once of a file that is larger.
const PART_BYTES: usize = 8 << 20;
/// Longest footer of a file.
const FOOTER_BYTES: u64 = 64 << 20;

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

    /// Stores a file of this table under a new name, piece by piece: two parts of it are in memory at most. It must be of
    /// this table, and hold the bytes and rows that `like` tells of.
    ///
    /// # Errors
    /// The first of `pieces`; `Corrupt` if they are no such file; `Unavailable` if the store fails. Nothing is stored then.
    pub async fn store_file<E: From<LakeError>>(
        &self,
        like: &DataFile,
        mut pieces: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
    ) -> Result<StoredFile, E> {
        let add = add(like, stats_columns(self.name()));
        let path = Path::from(add.path.as_str());
        let mut upload = None;
        if let Err(error) = self.upload(&path, like, &mut pieces, &mut upload).await {
            if let Some(upload) = &mut upload {
                let _what_stays_is_the_vacuums = upload.abort().await;
            }
            return Err(error);
        }
        if let Err(error) = self.check_stored(&path, like).await {
            let _what_stays_is_the_vacuums = self.inner.store.delete(&path).await;
            return Err(error.into());
        }
        Ok(StoredFile(add))
    }

    async fn upload<E: From<LakeError>>(
        &self,
        path: &Path,
        like: &DataFile,
        pieces: &mut (impl Stream<Item = Result<Bytes, E>> + Send + Unpin),
        upload: &mut Option<Box<dyn MultipartUpload>>,
    ) -> Result<(), E> {
        let failed = |error| LakeError::store(STORING, self.name(), error);
        let wrong = |bytes: u64| self.not_stored(format!("it has {bytes} bytes, not {}", like.bytes));
        let (mut buffer, mut bytes) = (BytesMut::new(), 0);
        while let Some(piece) = pieces.try_next().await? {
            bytes += piece.len() as u64;
            if bytes > like.bytes {
                return Err(wrong(bytes).into());
            }
            buffer.extend_from_slice(&piece);
            while buffer.len() >= PART_BYTES {
                if upload.is_none() {
                    *upload = Some(self.inner.store.put_multipart(path).await.map_err(failed)?);
                }
                let parts = upload.as_mut().expect("just made");
                parts.put_part(buffer.split_to(PART_BYTES).freeze().into()).await.map_err(failed)?;
            }
        }
        if bytes != like.bytes {
            return Err(wrong(bytes).into());
        }
        let rest = buffer.freeze();
        match upload {
            None => self.inner.store.put(path, rest.into()).await.map_err(failed)?,
            Some(parts) => {
                if !rest.is_empty() {
                    parts.put_part(rest.into()).await.map_err(failed)?;
                }
                parts.complete().await.map_err(failed)?
            }
        };
        Ok(())
    }

    /// Looks at what a file says of itself at its end.
    async fn check_stored(&self, path: &Path, like: &DataFile) -> Result<(), LakeError> {
        let store = &self.inner.store;
        let read = async |from: u64, to: u64| {
            store.get_range(path, from..to).await.map_err(|error| LakeError::store(STORING, self.name(), error))
        };
        let end = like.bytes.checked_sub(8).ok_or_else(|| self.not_stored("it is too short"))?;
        let last = read(end, like.bytes).await?;
        let length = u64::from(u32::from_le_bytes([last[0], last[1], last[2], last[3]]));
        if &last[4..] != b"PAR1" || length > end.min(FOOTER_BYTES) {
            return Err(self.not_stored("it is no Parquet file"));
        }
        let footer = ParquetMetaDataReader::decode_metadata(&read(end - length, end).await?)
            .map_err(|error| self.not_stored(format!("its footer cannot be read: {error}")))?;
        let footer = footer.file_metadata();
        if footer.num_rows() as u64 != like.rows {
            return Err(self.not_stored(format!("it holds {} rows, not {}", footer.num_rows(), like.rows)));
        }
        let has = |name: &str| footer.schema().get_fields().iter().any(|field| field.name() == name);
        let columns = schema(self.name());
        let mut wanted = columns.fields().iter().map(|field| field.name().as_str());
        match wanted.find(|name| !flywheel_tables::PARTITION_COLUMNS.contains(name) && !has(name)) {
            Some(lacks) => Err(self.not_stored(format!("it has no column `{lacks}`"))),
            None => Ok(()),
        }
    }

    fn not_stored(&self, why: impl Into<String>) -> LakeError {
        LakeError::new(LakeErrorKind::Corrupt, STORING, self.name(), why.into())
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
        tags: like.sums.as_ref().map(tags),
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}
