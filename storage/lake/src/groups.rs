//! Record batches to the row groups of a Parquet file, column by column.

use std::{io::Write, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, FieldRef, SchemaRef},
};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves},
    },
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::ParquetMetaData,
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::ColumnDescPtr,
};

use crate::{chunk::Closed, numbers::Numbers, pack::LEVEL, texts::Texts, words::Words};

/// A file that grows by batches, as [`ArrowWriter`] writes it, but for what is encoded here.
pub(crate) struct Groups<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    group_rows: usize,
    open: Option<Group>,
}

/// The row group that grows.
struct Group {
    columns: Vec<Column>,
    rows: usize,
}

enum Column {
    Arrow(Box<ArrowColumnWriter>),
    Numbers(Numbers),
    Payloads(Texts),
    Words(Words),
}

impl<W: Write + Send> Groups<W> {
    /// The columns of `schema` are plain ones: none has others in it.
    pub fn new(to: W, schema: SchemaRef, properties: WriterProperties) -> Result<Self, ParquetError> {
        let group_rows = properties.max_row_group_row_count().unwrap_or(usize::MAX);
        let (file, columns) =
            ArrowWriter::try_new(to, Arc::clone(&schema), Some(properties))?.into_serialized_writer()?;
        Ok(Self { file, columns, schema, group_rows, open: None })
    }

    /// `batch` has the schema of the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        let mut from = 0;
        while from < batch.num_rows() {
            let group = match &mut self.open {
                Some(group) => group,
                None => self.open.insert(self.group()?),
            };
            let rows = (batch.num_rows() - from).min(self.group_rows - group.rows);
            for ((column, field), array) in group.columns.iter_mut().zip(self.schema.fields()).zip(batch.columns()) {
                let array = array.slice(from, rows);
                match column {
                    Column::Arrow(writer) => {
                        for leaf in compute_leaves(field, &array)? {
                            writer.write(&leaf)?;
                        }
                    }
                    Column::Numbers(numbers) => numbers.write(&array)?,
                    Column::Payloads(texts) => texts.write(array.as_string())?,
                    Column::Words(words) => words.write(array.as_string())?,
                }
            }
            group.rows += rows;
            from += rows;
            if group.rows == self.group_rows {
                self.close_group()?;
            }
        }
        Ok(())
    }

    fn group(&self) -> Result<Group, ParquetError> {
        let writers = self.columns.create_column_writers(self.file.flushed_row_groups().len())?;
        let described = self.file.schema_descr().columns();
        let properties = self.file.properties();
        let own = |((writer, column), field): ((ArrowColumnWriter, &ColumnDescPtr), &FieldRef)| {
            let path = column.path();
            if properties.compression(path) != packed_here() {
                return Column::Arrow(Box::new(writer));
            }
            let column = || Arc::clone(column);
            match (properties.encoding(path), field.data_type(), field.is_nullable()) {
                (Some(Encoding::DELTA_LENGTH_BYTE_ARRAY), DataType::Utf8, false) => {
                    Column::Payloads(Texts::new(column()))
                }
                (Some(Encoding::DELTA_BINARY_PACKED), DataType::Int32 | DataType::Int64, false) => {
                    Column::Numbers(Numbers::new(column()))
                }
                (None, DataType::Utf8, _) if properties.dictionary_enabled(path) => Column::Words(Words::new(column())),
                _ => Column::Arrow(Box::new(writer)),
            }
        };
        let columns = writers.into_iter().zip(described).zip(self.schema.fields()).map(own).collect();
        Ok(Group { columns, rows: 0 })
    }

    fn close_group(&mut self) -> Result<(), ParquetError> {
        let Some(group) = self.open.take() else { return Ok(()) };
        let mut to = self.file.next_row_group()?;
        for column in group.columns {
            match column {
                Column::Arrow(writer) => writer.close()?.append_to_row_group(&mut to)?,
                Column::Numbers(numbers) => append(&mut to, numbers.close()?)?,
                Column::Payloads(texts) => append(&mut to, texts.close()?)?,
                Column::Words(words) => append(&mut to, words.close()?)?,
            }
        }
        to.close()?;
        Ok(())
    }

    /// Writes the footer; what was written to comes back with it.
    pub fn finish(mut self) -> Result<(W, ParquetMetaData), ParquetError>
    where
        W: Default,
    {
        self.close_group()?;
        let footer = self.file.finish()?;
        Ok((std::mem::take(self.file.inner_mut()), footer))
    }
}

fn append<W: Write + Send>(
    to: &mut SerializedRowGroupWriter<'_, W>,
    (bytes, close): Closed,
) -> Result<(), ParquetError> {
    to.append_column(&bytes, close)
}

/// How the columns are packed that are encoded here.
pub(crate) fn packed_here() -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(LEVEL).expect("a level of zstd"))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int32Array, Int64Array, StringArray},
        datatypes::{Field, Schema},
    };
    use bytes::Bytes;
    use parquet::{
        arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
        file::{metadata::PageIndexPolicy, statistics::Statistics},
        schema::types::ColumnPath,
    };
    use proptest::prelude::*;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("kind", DataType::Utf8, true),
            Field::new("payload", DataType::Utf8, false),
            Field::new("offset", DataType::Int64, false),
            Field::new("v", DataType::Int32, false),
        ]))
    }

    fn properties(group_rows: usize) -> WriterProperties {
        let column = |name: &str| ColumnPath::from(name);
        WriterProperties::builder()
            .set_compression(packed_here())
            .set_max_row_group_row_count(Some(group_rows))
            .set_column_encoding(column("payload"), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_column_encoding(column("offset"), Encoding::DELTA_BINARY_PACKED)
            .set_column_encoding(column("v"), Encoding::DELTA_BINARY_PACKED)
            .build()
    }

    type Row = (Option<String>, String, i64, i32);

    fn batch(rows: &[Row]) -> RecordBatch {
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<StringArray>()),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.3))),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn written(batches: &[RecordBatch], group_rows: usize) -> Bytes {
        let mut groups = Groups::new(Vec::new(), schema(), properties(group_rows)).unwrap();
        batches.iter().for_each(|batch| groups.write(batch).unwrap());
        let (bytes, footer) = groups.finish().unwrap();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(footer.file_metadata().num_rows() as usize, rows);
        bytes.into()
    }

    fn read(bytes: Bytes, group_rows: usize) -> Vec<RecordBatch> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).unwrap();
        let groups = builder.metadata().row_groups();
        let index = builder.metadata().offset_index();
        assert_eq!(index.map_or(0, Vec::len), groups.len());
        for (group, pages) in groups.iter().zip(index.into_iter().flatten()) {
            assert!(group.num_rows() as usize <= group_rows);
            assert!(
                pages.iter().all(|pages| pages.page_locations().iter().is_sorted_by_key(|page| page.first_row_index))
            );
        }
        builder.build().unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn check(batches: &[RecordBatch], group_rows: usize) {
        let whole = arrow::compute::concat_batches(&schema(), batches).unwrap();
        let found = read(written(batches, group_rows), group_rows);
        assert_eq!(arrow::compute::concat_batches(&schema(), &found).unwrap(), whole);
    }

    #[test]
    fn many_pages_of_payloads_and_numbers_are_read_as_they_were_written() {
        let row = |n: i64| {
            let payload = format!("{{\"x\":{}.{:03},\"bot\":{},\"done\":false}}", n * 31 % 800, n % 1000, n % 4);
            let payload = if n % 9999 == 7 { format!("{{\"long\":\"{}\"}}", "x".repeat(600_000)) } else { payload };
            (Some(format!("tank.{}", n % 3)), payload, n - 20_000, 1)
        };
        let rows: Vec<Row> = (0..45_000).map(row).collect();
        let batches: Vec<_> = rows.chunks(8192).map(batch).collect();
        for group_rows in [1 << 20, 30_000, 20_000] {
            check(&batches, group_rows);
        }
        let bytes = written(&batches, 30_000);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let ranges: Vec<_> = reader.metadata().row_groups().iter().map(|group| group.column(2).statistics()).collect();
        let range = |low, high| Statistics::int64(Some(low), Some(high), None, Some(0), false);
        assert_eq!(ranges, [Some(&range(-20_000, 9_999)), Some(&range(10_000, 24_999))]);
    }

    #[test]
    fn words_are_read_as_they_were_written_however_many_there_are() {
        let row = |kind: Option<String>| (kind, String::new(), 0, 0);
        type Kind = fn(usize) -> Option<String>;
        let kinds: [(&str, Kind); 6] = [
            ("none", |_| None),
            ("one", |_| Some("tank.tick".to_owned())),
            ("one or none", |n| n.is_multiple_of(3).then(|| "tank.tick".to_owned())),
            ("some, of any length", |n| Some("letters ".repeat(n % 20))),
            ("all different", |n| Some(format!("run-2026-11-22/game:{n}"))),
            ("all different, some none", |n| (n % 5 > 0).then(|| format!("run-2026-11-22/game:{n}"))),
        ];
        for (what, kind) in kinds {
            let rows: Vec<_> = (0..90_000).map(|n| row(kind(n))).collect();
            let batches: Vec<_> = rows.chunks(8192).map(batch).collect();
            check(&batches, 70_000);
            let reader = ParquetRecordBatchReaderBuilder::try_new(written(&batches, 70_000)).unwrap();
            for (nth, group) in reader.metadata().row_groups().iter().enumerate() {
                let here = rows.iter().skip(nth * 70_000).take(70_000).map(|row| row.0.as_deref());
                let nulls = here.clone().filter(Option::is_none).count() as u64;
                let (least, most) = (here.clone().flatten().min(), here.flatten().max());
                let statistics = group.column(0).statistics().unwrap();
                let told =
                    |text: Option<&str>| text.filter(|text| text.len() <= 128).map(|text| text.as_bytes().to_vec());
                let ends = [statistics.min_bytes_opt(), statistics.max_bytes_opt()].map(|end| end.map(<[u8]>::to_vec));
                assert_eq!((ends, statistics.null_count_opt()), ([told(least), told(most)], Some(nulls)), "{what}");
            }
        }
    }

    #[test]
    fn a_file_without_rows_is_a_file() {
        check(&[], 10);
        check(&[batch(&[])], 10);
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let number = prop_oneof![any::<i64>(), 0..9i64, Just(i64::MIN), Just(i64::MAX)];
        let payload = prop_oneof![".{0,9}", "\\{\"[xy]\":-?[0-9]{1,4}\\.[0-9]{3},\"done\":(true|false)\\}"];
        prop::collection::vec((prop::option::of("[a-c]"), payload, number, any::<i32>()), 0..300)
    }

    proptest! {
        #[test]
        fn rows_come_back_in_their_order(batches in prop::collection::vec(rows(), 0..4), group_rows in 1..400usize) {
            check(&batches.iter().map(|rows| batch(rows)).collect::<Vec<_>>(), group_rows);
        }
    }
}
