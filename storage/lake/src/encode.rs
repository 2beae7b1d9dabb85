//! Record batches to Parquet bytes with the statistics of their Delta entry.

use std::{collections::BTreeMap, io::Write, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray},
    compute::{filter_record_batch, max, min},
    datatypes::{DataType, Int32Type, Int64Type, Schema, SchemaRef},
};
use deltalake::kernel::Add;
use flywheel_tables::{PARTITION_COLUMNS, TableName, schema, stats_columns};
use object_store::{PutPayload, PutPayloadMut};
use parquet::{
    basic::{Compression, Encoding},
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

use crate::{
    LakeError, LakeErrorKind,
    file::Stats,
    groups::{Groups, packed_here},
    sums,
};

/// One file, encoded, not yet stored.
pub(crate) struct Encoded {
    pub add: Add,
    pub bytes: PutPayload,
}

/// A file as it grows: in blocks, since one growing buffer is copied at every growth, and again and again given back to the
/// system and asked for anew.
#[derive(Default)]
struct Blocks(PutPayloadMut);

const BLOCK_BYTES: usize = 256 << 10;

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The columns that lie in the file: all but the partition columns.
pub(crate) fn file_schema(table: TableName) -> SchemaRef {
    let full = schema(table);
    let fields = full.fields().iter().filter(|f| !PARTITION_COLUMNS.contains(&f.name().as_str())).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub(crate) fn writer_properties(table: TableName, row_group_rows: usize) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by("flywheel".to_owned())
        .set_max_row_group_row_count(Some(row_group_rows))
        .set_compression(packed_here())
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for field in schema(table).fields() {
        // Numbers that rise, or stay: their differences are small, while a dictionary of them would be as long as they
        // are, or has to be looked into for every row.
        if matches!(
            field.name().as_str(),
            "v" | "partition" | "seq" | "ts_ms" | "offset" | "ingest_ms" | "tick" | "closed_offset" | "closed_ms"
        ) {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
        // Every row's payload or observation is new: a dictionary of them is built, found useless and thrown away.
        if matches!(field.name().as_str(), "payload" | "s" | "s2" | "raw" | "detail") {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_statistics_enabled(column.clone(), EnabledStatistics::None);
            if field.name() == "payload" {
                // The lengths apart from the texts: these are alike then, one after another, and 3 % smaller.
                properties = properties.set_column_encoding(column.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
            }
            if matches!(table, TableName::Transitions) {
                // Read far more often than written: four times zstd's speed for a fifth more bytes.
                properties = properties.set_column_compression(column, Compression::LZ4_RAW);
            }
        }
    }
    properties.build()
}

/// Writes one file after another batch; collects what its Delta entry says.
pub(crate) struct FileEncoder {
    table: TableName,
    writer: Groups<Blocks>,
    rows: u64,
    ranges: BTreeMap<&'static str, (i64, i64)>,
}

impl FileEncoder {
    pub fn new(table: TableName, row_group_rows: usize) -> Result<Self, LakeError> {
        let writer = Groups::new(
            Blocks(PutPayloadMut::new().with_block_size(BLOCK_BYTES)),
            file_schema(table),
            writer_properties(table, row_group_rows),
        )
        .map_err(|e| LakeError::new(LakeErrorKind::Internal, "opening a Parquet writer for", table, e))?;
        Ok(Self { table, writer, rows: 0, ranges: BTreeMap::new() })
    }

    /// `batch` holds rows of one partition, with or without the partition columns.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        let columns = file_schema(self.table);
        let invalid =
            |e: arrow::error::ArrowError| LakeError::new(LakeErrorKind::InvalidData, "writing rows to", self.table, e);
        let wanted = columns.fields().iter().map(|f| batch.schema().index_of(f.name()));
        let wanted = wanted.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let body = batch.project(&wanted).map_err(invalid)?;
        // The table's own schema: a batch whose nullability or metadata differs is refused here, not by a reader.
        let body = RecordBatch::try_new(columns, body.columns().to_vec()).map_err(invalid)?;
        self.writer
            .write(&body)
            .map_err(|e| LakeError::new(LakeErrorKind::InvalidData, "encoding rows of", self.table, e))?;
        self.rows += body.num_rows() as u64;
        for name in stats_columns(self.table) {
            if let Some((low, high)) = body.column_by_name(name).and_then(range) {
                let known = self.ranges.entry(name).or_insert((low, high));
                *known = (known.0.min(low), known.1.max(high));
            }
        }
        Ok(())
    }

    pub fn finish(self, system: &str, dt: &str, modified_ms: i64, data_change: bool) -> Result<Encoded, LakeError> {
        let (blocks, footer) = self
            .writer
            .finish()
            .map_err(|e| LakeError::new(LakeErrorKind::Internal, "closing a Parquet file of", self.table, e))?;
        let bytes = blocks.0.freeze();
        let pick = |side: fn(&(i64, i64)) -> i64| {
            self.ranges.iter().map(|(name, range)| ((*name).to_owned(), side(range).into())).collect()
        };
        let stats = Stats {
            num_records: self.rows,
            min_values: pick(|r| r.0),
            max_values: pick(|r| r.1),
            null_count: self.ranges.keys().map(|name| ((*name).to_owned(), 0.into())).collect(),
        };
        let add = Add {
            path: format!("system={system}/dt={dt}/part-{}.parquet", uuid::Uuid::now_v7()),
            partition_values: [("system".to_owned(), Some(system.to_owned())), ("dt".to_owned(), Some(dt.to_owned()))]
                .into(),
            size: bytes.content_length() as i64,
            modification_time: modified_ms,
            data_change,
            stats: Some(serde_json::to_string(&stats).expect("statistics serialise")),
            tags: Some(sums::tags(&sums::Sums::of(&bytes, &footer))),
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        };
        Ok(Encoded { add, bytes })
    }
}

fn range(array: &Arc<dyn Array>) -> Option<(i64, i64)> {
    match array.data_type() {
        DataType::Int64 => {
            let values = array.as_primitive::<Int64Type>();
            Some((min(values)?, max(values)?))
        }
        DataType::Int32 => {
            let values = array.as_primitive::<Int32Type>();
            Some((min(values)?.into(), max(values)?.into()))
        }
        _ => None,
    }
}

/// Splits batches by partition and encodes one file for each. Costs CPU: call it on a blocking thread.
pub(crate) fn encode(
    table: TableName,
    batches: &[RecordBatch],
    row_group_rows: usize,
    modified_ms: i64,
) -> Result<Vec<Encoded>, LakeError> {
    let mut open: BTreeMap<(String, String), FileEncoder> = BTreeMap::new();
    for batch in batches {
        for (key, rows) in split(table, batch)? {
            let encoder = match open.entry(key) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(FileEncoder::new(table, row_group_rows)?)
                }
            };
            encoder.write(&rows)?;
        }
    }
    open.into_iter().map(|((system, dt), encoder)| encoder.finish(&system, &dt, modified_ms, true)).collect()
}

/// Whether all rows have the same text. `false` may also mean that it was not found out.
pub(crate) fn is_constant(texts: &StringArray) -> bool {
    let (offsets, first) = (texts.value_offsets(), texts.value(0));
    let (start, end, length) = (offsets[0] as usize, offsets[texts.len()] as usize, first.len());
    texts.null_count() == 0
        && length > 0
        && offsets.windows(2).all(|pair| (pair[1] - pair[0]) as usize == length)
        // A text that equals itself moved by one row repeats the first row to its end.
        && texts.value_data()[start + length..end] == texts.value_data()[start..end - length]
}

type Partition = ((String, String), RecordBatch);

fn split(table: TableName, batch: &RecordBatch) -> Result<Vec<Partition>, LakeError> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let column = |name: &str| -> Result<&StringArray, LakeError> {
        batch.column_by_name(name).and_then(|array| array.as_any().downcast_ref()).ok_or_else(|| {
            LakeError::new(
                LakeErrorKind::InvalidData,
                "writing rows to",
                table,
                format!("the batch has no text column `{name}`"),
            )
        })
    };
    let (system, dt) = (column("system")?, column("dt")?);
    let mut keys: Vec<(&str, &str)> = Vec::new();
    let mut last = None;
    // Almost always all rows are of one partition, which is seen without looking at each.
    let looked_at = if is_constant(system) && is_constant(dt) { 1 } else { batch.num_rows() };
    for key in system.iter().zip(dt).take(looked_at) {
        let key = (key.0.unwrap_or_default(), key.1.unwrap_or_default());
        if last != Some(key) && !keys.contains(&key) {
            // They become folders: nothing but plain words may pass.
            let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !plain(key.0) || !plain(key.1) {
                let why = format!("`{}` and `{}` cannot name a partition", key.0, key.1);
                return Err(LakeError::new(LakeErrorKind::InvalidData, "writing rows to", table, why));
            }
            keys.push(key);
        }
        last = Some(key);
    }
    if let [key] = keys[..] {
        return Ok(vec![((key.0.to_owned(), key.1.to_owned()), batch.clone())]);
    }
    keys.into_iter()
        .map(|key| {
            let mine = system.iter().zip(dt).map(|row| Some(row == (Some(key.0), Some(key.1))));
            let rows = filter_record_batch(batch, &mine.collect())
                .map_err(|e| LakeError::new(LakeErrorKind::Internal, "splitting rows of", table, e))?;
            Ok(((key.0.to_owned(), key.1.to_owned()), rows))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_constant_only_if_all_rows_are_the_same() {
        let constant = |texts: &[Option<&str>]| is_constant(&texts.iter().copied().collect());
        for texts in [&["tank"; 1][..], &["tank"; 2], &["aa"; 9], &["2026-11-21"; 100]] {
            assert!(constant(&texts.iter().map(|text| Some(*text)).collect::<Vec<_>>()), "{texts:?}");
        }
        for texts in [&["tank", "doom"][..], &["tank", "tank", "tanl"], &["ab", "ba"], &["a", "aa", "aaa"], &["", ""]] {
            assert!(!constant(&texts.iter().map(|text| Some(*text)).collect::<Vec<_>>()), "{texts:?}");
        }
        assert!(!constant(&[Some("tank"), None, Some("tank")]) && !constant(&[None]));
        let sliced: StringArray = ["doom", "tank", "tank", "doom"].map(Some).into_iter().collect();
        assert!(is_constant(&sliced.slice(1, 2)) && !is_constant(&sliced.slice(1, 3)));
    }

    #[test]
    fn a_file_in_blocks_is_the_file() {
        let mut blocks = Blocks(PutPayloadMut::new().with_block_size(BLOCK_BYTES));
        let whole: Vec<u8> = (0..3 * BLOCK_BYTES + 5).map(|n| (n % 251) as u8).collect();
        for part in whole.chunks(100_003) {
            blocks.write_all(part).unwrap();
        }
        let payload = blocks.0.freeze();
        assert_eq!(payload.content_length(), whole.len());
        assert_eq!(payload.iter().flat_map(|block| block.to_vec()).collect::<Vec<_>>(), whole);
    }
}
