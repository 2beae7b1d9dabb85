use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::Schema,
};
use bytes::Bytes;
use deltalake::kernel::Version;
use flywheel_tables::{PARTITION_COLUMNS, schema};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{GetResultPayload, ObjectStoreExt, path::Path};
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader},
        reader::ChunkReader,
    },
};

use crate::{DataFile, LakeError, LakeErrorKind, Table, sums::Damage, table::in_order};

/// Rows whose `column` lies in `low..=high` are wanted. Files that cannot hold any are left out; the rows of the
/// others come all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub column: String,
    pub low: i64,
    pub high: i64,
}

impl Range {
    pub fn at_least(column: impl Into<String>, low: i64) -> Self {
        Self { column: column.into(), low, high: i64::MAX }
    }
}

/// What to read of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// The newest version if absent.
    pub version: Option<Version>,
    /// All columns if absent. The order of the answer is the table's.
    pub columns: Option<Vec<String>>,
    pub system: Option<String>,
    /// Days from this one on.
    pub dt_from: Option<String>,
    /// Files are chosen by these, rows are not.
    pub ranges: Vec<Range>,
    /// The newest files first, and within a file the rows as written.
    pub newest_first: bool,
}

impl ScanOptions {
    /// The given columns of every row.
    pub fn columns<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: Some(columns.into_iter().map(Into::into).collect()), ..Self::default() }
    }

    fn wants(&self, file: &DataFile) -> bool {
        self.system.as_ref().is_none_or(|system| *system == file.system)
            && self.dt_from.as_ref().is_none_or(|from| *from <= file.dt)
            && self.ranges.iter().all(|range| {
                file.ranges.get(&range.column).is_none_or(|(low, high)| *low <= range.high && *high >= range.low)
            })
    }
}

impl Table {
    /// Everything at once. See [`Table::scan_stream`] for tables that do not fit in memory.
    ///
    /// # Errors
    /// As [`Table::scan_stream`].
    pub async fn scan(&self, options: ScanOptions) -> Result<Vec<RecordBatch>, LakeError> {
        self.scan_stream(options).await?.try_collect().await
    }

    /// Batches of up to 8,192 rows, file after file in the order of their commits; at most one file is open.
    ///
    /// The files are those of one version, decided now. A table that does not exist has no rows.
    ///
    /// # Errors
    /// `NotFound` if the version is not there any more; `InvalidData` for an unknown column; and what reading the
    /// store may bring.
    pub async fn scan_stream(
        &self,
        options: ScanOptions,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let mut files: Vec<_> = self.files_at(options.version).await?;
        files.retain(|file| options.wants(file));
        if options.newest_first {
            files.reverse();
        }
        let columns = self.projection(options.columns.as_deref())?;
        let table = self.clone();
        let batches = stream::iter(files).then(move |file| {
            let (table, columns) = (table.clone(), Arc::clone(&columns));
            async move { table.read_file(file, columns).await }
        });
        Ok(batches.try_flatten().boxed())
    }

    /// The files of one version, by day, then by when their rows were committed.
    ///
    /// # Errors
    /// As [`Table::scan_stream`].
    pub async fn files_at(&self, version: Option<Version>) -> Result<Vec<DataFile>, LakeError> {
        let Some(version) = version else { return self.files().await };
        let table = self.at(version).await?;
        let snapshot = table.snapshot().map_err(|e| self.failed("reading the state of", e))?;
        Ok(in_order(snapshot.log_data().iter().map(|view| DataFile::from_view(&view)).collect()))
    }

    fn projection(&self, columns: Option<&[String]>) -> Result<Arc<Schema>, LakeError> {
        let full = schema(self.name());
        let Some(columns) = columns else { return Ok(full) };
        if let Some(unknown) = columns.iter().find(|name| full.index_of(name).is_err()) {
            let why = format!("it has no column `{unknown}`");
            return Err(LakeError::new(LakeErrorKind::InvalidData, "reading table", self.name(), why));
        }
        let wanted = full.fields().iter().filter(|f| columns.contains(f.name())).cloned();
        Ok(Arc::new(Schema::new(wanted.collect::<Vec<_>>())))
    }

    /// The given columns of these files, one after the other, whatever version they belong to.
    ///
    /// # Errors
    /// As [`Table::scan_stream`].
    pub fn scan_files(
        &self,
        files: Vec<DataFile>,
        columns: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let columns = self.projection(Some(&columns.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()))?;
        let table = self.clone();
        let batches = stream::iter(files).then(move |file| {
            let (table, columns) = (table.clone(), Arc::clone(&columns));
            async move { table.read_file(file, columns).await }
        });
        Ok(batches.try_flatten().boxed())
    }

    /// A file as it lies in the store.
    ///
    /// # Errors
    /// `NotFound` if it is gone; and what reading the store may bring.
    pub async fn file_bytes(&self, file: &DataFile) -> Result<Bytes, LakeError> {
        let read = async { self.inner.store.get(&Path::from(file.path.as_str())).await?.bytes().await };
        let name = format!("{}/{}", self.name(), file.path);
        let bytes = read.await.map_err(|e| LakeError::store("reading file", &name, e))?;
        verified(&bytes, file, |_| true).map_err(|damage| LakeError::damaged(name, damage))?;
        Ok(bytes)
    }

    /// Reads a file from end to end and compares it with the checksums in its commit. `false` if that has none: only its
    /// length is known then.
    ///
    /// # Errors
    /// `Corrupt` if these are not the bytes that were written, with what is damaged of it; `NotFound` if it is gone; and what
    /// reading the store may bring.
    pub async fn verify_file(&self, file: &DataFile) -> Result<bool, LakeError> {
        let name = format!("{}/{}", self.name(), file.path);
        let failed = |e| LakeError::store("reading file", &name, e);
        let found = self.inner.store.get(&Path::from(file.path.as_str())).await.map_err(failed)?;
        let damage = match found.payload {
            GetResultPayload::File(open, _) => {
                let of = file.clone();
                tokio::task::spawn_blocking(move || verified(&open, &of, |_| true).err())
                    .await
                    .map_err(|e| LakeError::new(LakeErrorKind::Internal, "reading file", &name, e))?
            }
            GetResultPayload::Stream(mut pieces) => {
                let (mut bytes, mut sum) = (0, 0);
                while let Some(piece) = pieces.try_next().await.map_err(failed)? {
                    bytes += piece.len() as u64;
                    sum = crc32c::crc32c_append(sum, &piece);
                }
                if bytes != file.bytes {
                    Some(Damage::Length { found: bytes, known: file.bytes })
                } else if file.sums.as_ref().is_some_and(|sums| sums.whole() != sum) {
                    // Once more, to find out where: the first look holds a piece of it at a time.
                    self.file_bytes(file).await?;
                    Some(Damage::Passing)
                } else {
                    None
                }
            }
        };
        match damage {
            None => Ok(file.sums.is_some()),
            Some(damage) => Err(LakeError::damaged(name, damage)),
        }
    }

    /// The given columns of a file whose bytes are at hand.
    ///
    /// # Errors
    /// `InvalidData` for an unknown column; `Corrupt`, by the stream, where the bytes are damaged.
    pub fn decode_file(
        &self,
        file: &DataFile,
        bytes: Bytes,
        columns: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let columns = self.projection(Some(&columns.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()))?;
        let name = format!("{}/{}", self.name(), file.path);
        Ok(decoding(Source::Bytes(bytes), file.clone(), columns, name))
    }

    pub(crate) async fn read_file(
        &self,
        file: DataFile,
        columns: Arc<Schema>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let name = format!("{}/{}", self.name(), file.path);
        let found = self.inner.store.get(&Path::from(file.path.as_str())).await;
        let found = found.map_err(|e| LakeError::store("reading file", &name, e))?;
        let source = match found.payload {
            GetResultPayload::File(file, _) => Source::File(file),
            GetResultPayload::Stream(parts) => {
                let parts: Vec<Bytes> =
                    parts.try_collect().await.map_err(|e| LakeError::store("reading file", &name, e))?;
                Source::Bytes(parts.concat().into())
            }
        };
        Ok(decoding(source, file, columns, name))
    }
}

/// Decoding is work: it goes to a blocking thread, a few batches ahead of whoever reads.
fn decoding(
    source: Source,
    file: DataFile,
    columns: Arc<Schema>,
    name: String,
) -> BoxStream<'static, Result<RecordBatch, LakeError>> {
    let (send, receive) = tokio::sync::mpsc::channel(2);
    tokio::task::spawn_blocking(move || decode(source, &file, &columns, &name, &send));
    stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) }).boxed()
}

/// A batch of a scan has this many rows, or fewer if they are large.
const BATCH_ROWS: usize = 8192;
const BATCH_ROWS_LEAST: usize = 8;
const BATCH_BYTES: usize = 16 << 20;

enum Source {
    File(std::fs::File),
    Bytes(Bytes),
}

type Sender = tokio::sync::mpsc::Sender<Result<RecordBatch, LakeError>>;

fn decode(source: Source, file: &DataFile, columns: &Arc<Schema>, name: &str, send: &Sender) {
    // Without checksums damage may come as far as the decoder, which panics on some: the end of the rows it must not be.
    let result = catch_unwind(AssertUnwindSafe(|| match source {
        Source::File(open) => decode_all(open, file, columns, name, send),
        Source::Bytes(bytes) => decode_all(bytes, file, columns, name, send),
    }));
    let error = match result {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => LakeError::new(LakeErrorKind::Corrupt, "reading file", name, "the Parquet decoder panicked"),
    };
    // Nobody listens any more: nothing to tell.
    let _ = send.blocking_send(Err(error));
}

/// Compares what is to be read of a file with its checksums, if there are any.
fn verified(source: &impl ChunkReader, file: &DataFile, is_wanted: impl Fn(&str) -> bool) -> Result<(), Damage> {
    let Some(sums) = &file.sums else { return check_length(source, file) };
    sums.check_tail(source, file.bytes)?;
    let footer = ParquetMetaDataReader::new().parse_and_finish(source)?;
    sums.check_columns(source, &footer, is_wanted)
}

fn check_length(source: &impl ChunkReader, file: &DataFile) -> Result<(), Damage> {
    let (found, known) = (source.len(), file.bytes);
    if found == known { Ok(()) } else { Err(Damage::Length { found, known }) }
}

fn decode_all<R: ChunkReader + 'static>(
    source: R,
    file: &DataFile,
    columns: &Arc<Schema>,
    name: &str,
    send: &Sender,
) -> Result<(), LakeError> {
    let inside = columns.fields().iter().filter(|f| !PARTITION_COLUMNS.contains(&f.name().as_str()));
    let wanted: Vec<_> = inside.map(|f| f.name().as_str()).collect();
    verified(&source, file, |name| wanted.contains(&name)).map_err(|damage| LakeError::damaged(name, damage))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(source).map_err(|e| LakeError::parquet("reading file", name, e))?;
    let rows = rows_at_once(builder.metadata(), &wanted);
    let mask = ProjectionMask::columns(builder.parquet_schema(), wanted.iter().copied());
    let reader = builder
        .with_projection(mask)
        .with_batch_size(rows)
        .build()
        .map_err(|e| LakeError::parquet("reading file", name, e))?;
    let mut n_rows = 0;
    for batch in reader {
        let batch = batch.map_err(|e| LakeError::new(LakeErrorKind::Corrupt, "reading file", name, e))?;
        n_rows += batch.num_rows() as u64;
        if send.blocking_send(Ok(complete(&batch, file, columns, name)?)).is_err() {
            return Ok(());
        }
    }
    if n_rows != file.rows && file.rows > 0 {
        let why = format!("it holds {n_rows} rows; its commit says {}", file.rows);
        return Err(LakeError::new(LakeErrorKind::Corrupt, "reading file", name, why));
    }
    Ok(())
}

/// So many rows of these columns that a batch stays small also where single rows are large.
fn rows_at_once(file: &ParquetMetaData, columns: &[&str]) -> usize {
    let (mut bytes, mut rows) = (0, 0);
    for group in file.row_groups() {
        let wanted = group.columns().iter().filter(|column| columns.contains(&column.column_descr().name()));
        bytes += wanted.map(|column| column.uncompressed_size().max(0)).sum::<i64>();
        rows += group.num_rows().max(0);
    }
    let row_bytes = usize::try_from(bytes / rows.max(1)).unwrap_or(usize::MAX);
    (BATCH_BYTES / row_bytes.max(1)).clamp(BATCH_ROWS_LEAST, BATCH_ROWS)
}

/// Puts the partition columns back and everything into the table's order and types.
fn complete(batch: &RecordBatch, file: &DataFile, columns: &Arc<Schema>, name: &str) -> Result<RecordBatch, LakeError> {
    let rows = batch.num_rows();
    let mut constants: VecDeque<(&str, &str)> = [("system", &*file.system), ("dt", &*file.dt)].into();
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.fields().len());
    for field in columns.fields() {
        constants.retain(|(name, _)| name != field.name() || PARTITION_COLUMNS.contains(name));
        let array: ArrayRef = match constants.iter().find(|(name, _)| name == field.name()) {
            Some((_, value)) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(*value, rows))),
            None => match batch.column_by_name(field.name()) {
                Some(array) if array.data_type() == field.data_type() => Arc::clone(array),
                // Other writers may store text as views or large strings.
                Some(array) => arrow::compute::cast(array, field.data_type())
                    .map_err(|e| LakeError::new(LakeErrorKind::Corrupt, "reading file", name, e))?,
                // A nullable column that is younger than the file.
                None => arrow::array::new_null_array(field.data_type(), rows),
            },
        };
        arrays.push(array);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &options)
        .map_err(|e| LakeError::new(LakeErrorKind::Corrupt, "reading file", name, e))
}
