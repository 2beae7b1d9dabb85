//! Table `evaluations`.

use std::sync::Arc;

use arrow::array::{Int32Builder, Int64Builder, RecordBatch, StringBuilder};
use flywheel_events::{BaseKey, ModelVersion, System};
use serde::{Deserialize, Serialize};

use crate::{
    TableError, TableName,
    columns::{bad, batch, int, long, text},
    day_of, schema,
};

const TABLE: &str = "evaluations";

/// One judged game.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRow {
    pub system: System,
    /// The judging that this game was part of.
    pub run_id: String,
    pub base_key: BaseKey,
    pub candidate: ModelVersion,
    /// Whom the candidate is compared with: `champion@12`, or an anchor such as `hunter`.
    pub opponent: String,
    pub map_key: String,
    /// Only the lower 63 bits are stored.
    pub seed: u64,
    /// Which side or seat the candidate played, such as `ai`.
    pub seat: String,
    /// For the candidate: +1 won, 0 drawn or undecided, -1 lost.
    pub result: i32,
    pub ticks: u64,
    pub created_at_ms: i64,
}

/// Columns of `evaluations` as they grow.
#[derive(Debug, Default)]
pub struct EvaluationsBuilder {
    system: StringBuilder,
    dt: StringBuilder,
    run_id: StringBuilder,
    base_key: StringBuilder,
    candidate: Int64Builder,
    opponent: StringBuilder,
    map_key: StringBuilder,
    seed: Int64Builder,
    seat: StringBuilder,
    result: Int32Builder,
    ticks: Int64Builder,
    created_at_ms: Int64Builder,
    rows: usize,
}

impl EvaluationsBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, row: &EvaluationRow) {
        self.system.append_value(row.system.as_str());
        self.dt.append_value(day_of(row.created_at_ms));
        self.run_id.append_value(&row.run_id);
        self.base_key.append_value(row.base_key.as_str());
        self.candidate.append_value(i64::try_from(row.candidate.0).unwrap_or(i64::MAX));
        self.opponent.append_value(&row.opponent);
        self.map_key.append_value(&row.map_key);
        self.seed.append_value((row.seed & i64::MAX as u64) as i64);
        self.seat.append_value(&row.seat);
        self.result.append_value(row.result);
        self.ticks.append_value(i64::try_from(row.ticks).unwrap_or(i64::MAX));
        self.created_at_ms.append_value(row.created_at_ms);
        self.rows += 1;
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows so far; the builder is empty afterwards.
    pub fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        batch(
            schema(TableName::Evaluations),
            vec![
                Arc::new(self.system.finish()),
                Arc::new(self.dt.finish()),
                Arc::new(self.run_id.finish()),
                Arc::new(self.base_key.finish()),
                Arc::new(self.candidate.finish()),
                Arc::new(self.opponent.finish()),
                Arc::new(self.map_key.finish()),
                Arc::new(self.seed.finish()),
                Arc::new(self.seat.finish()),
                Arc::new(self.result.finish()),
                Arc::new(self.ticks.finish()),
                Arc::new(self.created_at_ms.finish()),
            ],
        )
    }
}

/// The judged games of a batch, in its order.
///
/// # Errors
/// If a column is missing or a value is not what it must be.
pub fn evaluations_from(batch: &RecordBatch) -> Result<Vec<EvaluationRow>, TableError> {
    let column = |name| text(batch, TABLE, name);
    let (system, run_id, base_key) = (column("system")?, column("run_id")?, column("base_key")?);
    let (opponent, map_key, seat) = (column("opponent")?, column("map_key")?, column("seat")?);
    let (candidate, seed) = (long(batch, TABLE, "candidate")?, long(batch, TABLE, "seed")?);
    let (result, ticks) = (int(batch, TABLE, "result")?, long(batch, TABLE, "ticks")?);
    let created_at_ms = long(batch, TABLE, "created_at_ms")?;
    (0..batch.num_rows())
        .map(|row| {
            Ok(EvaluationRow {
                system: system.value(row).parse().map_err(|e| bad(TABLE, "system", row, e))?,
                run_id: run_id.value(row).to_owned(),
                base_key: BaseKey::new(base_key.value(row)).map_err(|e| bad(TABLE, "base_key", row, e))?,
                candidate: ModelVersion(candidate.value(row) as u64),
                opponent: opponent.value(row).to_owned(),
                map_key: map_key.value(row).to_owned(),
                seed: seed.value(row) as u64,
                seat: seat.value(row).to_owned(),
                result: result.value(row),
                ticks: ticks.value(row) as u64,
                created_at_ms: created_at_ms.value(row),
            })
        })
        .collect()
}
