//! Table `dead_letters`.

use std::sync::Arc;

use arrow::array::{BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder};

use crate::{
    TableError, TableName,
    columns::{batch, binary, int, long, text},
    day_of, schema,
};

const TABLE: &str = "dead_letters";

/// One record that a flow could not use: where it lies, why, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// The system of the topic, or `unknown`.
    pub system: String,
    /// Which flow gave it up: `land`, `assemble`. A row of flow `replay` says that the letter of its position was put back
    /// into the log.
    pub flow: String,
    pub topic: String,
    pub partition: u32,
    pub offset: i64,
    pub ingest_ms: i64,
    /// A stable word, such as `malformed`.
    pub reason: String,
    /// What exactly is wrong, for a person.
    pub detail: String,
    pub raw: Vec<u8>,
}

/// Columns of `dead_letters` as they grow.
#[derive(Debug, Default)]
pub struct DeadLettersBuilder {
    system: StringBuilder,
    dt: StringBuilder,
    flow: StringBuilder,
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    ingest_ms: Int64Builder,
    reason: StringBuilder,
    detail: StringBuilder,
    raw: BinaryBuilder,
    rows: usize,
    bytes: usize,
}

impl DeadLettersBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, row: &DeadLetterRow) {
        self.system.append_value(&row.system);
        self.dt.append_value(day_of(row.ingest_ms));
        self.flow.append_value(&row.flow);
        self.topic.append_value(&row.topic);
        self.partition.append_value(row.partition as i32);
        self.offset.append_value(row.offset);
        self.ingest_ms.append_value(row.ingest_ms);
        self.reason.append_value(&row.reason);
        self.detail.append_value(&row.detail);
        self.raw.append_value(&row.raw);
        self.rows += 1;
        self.bytes += row.raw.len() + row.detail.len() + 64;
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// About how much memory the rows take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows so far; the builder is empty afterwards.
    pub fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        self.bytes = 0;
        batch(
            schema(TableName::DeadLetters),
            vec![
                Arc::new(self.system.finish()),
                Arc::new(self.dt.finish()),
                Arc::new(self.flow.finish()),
                Arc::new(self.topic.finish()),
                Arc::new(self.partition.finish()),
                Arc::new(self.offset.finish()),
                Arc::new(self.ingest_ms.finish()),
                Arc::new(self.reason.finish()),
                Arc::new(self.detail.finish()),
                Arc::new(self.raw.finish()),
            ],
        )
    }
}

/// The dead letters of a batch, in its order.
///
/// # Errors
/// If a column is missing.
pub fn dead_letters_from(batch: &RecordBatch) -> Result<Vec<DeadLetterRow>, TableError> {
    let column = |name| text(batch, TABLE, name);
    let (system, flow, topic) = (column("system")?, column("flow")?, column("topic")?);
    let (reason, detail, raw) = (column("reason")?, column("detail")?, binary(batch, TABLE, "raw")?);
    let (partition, offset) = (int(batch, TABLE, "partition")?, long(batch, TABLE, "offset")?);
    let ingest_ms = long(batch, TABLE, "ingest_ms")?;
    Ok((0..batch.num_rows())
        .map(|row| DeadLetterRow {
            system: system.value(row).to_owned(),
            flow: flow.value(row).to_owned(),
            topic: topic.value(row).to_owned(),
            partition: partition.value(row) as u32,
            offset: offset.value(row),
            ingest_ms: ingest_ms.value(row),
            reason: reason.value(row).to_owned(),
            detail: detail.value(row).to_owned(),
            raw: raw.value(row).to_vec(),
        })
        .collect())
}
