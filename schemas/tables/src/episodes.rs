//! Table `episodes`.

use std::sync::Arc;

use arrow::array::{Array, BooleanBuilder, Float32Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder};
use flywheel_events::{GameId, System};

use crate::{
    TableError, TableName,
    columns::{bad, batch, boolean, float, int, long, optional, text},
    schema,
};

const TABLE: &str = "episodes";

/// One seat's whole game.
#[derive(Debug, Clone, PartialEq)]
pub struct EpisodeSeatRow {
    pub system: System,
    /// The UTC day of `closed_ms`.
    pub dt: String,
    pub game_id: GameId,
    /// Empty for a game of which no seat is known, such as one that was lost in its first second.
    pub seat: String,
    pub label: String,
    pub map_key: String,
    pub opponent: String,
    /// `live` or `farm`.
    pub source: String,
    /// Why it ended: the game's own word, or `abandoned` when its events stopped.
    pub reason: String,
    /// For the AI side: +1, 0, -1.
    pub outcome: i8,
    /// Steps played.
    pub length: u64,
    pub episode_return: Option<f32>,
    /// Every model that decided in it, joined by commas; one unless a swap fell into the game.
    pub model: Option<String>,
    /// Events of the game are missing or unusable: its transitions are kept out of `transitions`.
    pub incomplete: bool,
    /// Where in the log the game closed: its partition, and the record that closed it.
    pub partition: u32,
    pub closed_offset: i64,
    pub closed_ms: i64,
}

/// Columns of `episodes` as they grow.
#[derive(Debug, Default)]
pub struct EpisodesBuilder {
    system: StringBuilder,
    dt: StringBuilder,
    game_id: StringBuilder,
    seat: StringBuilder,
    label: StringBuilder,
    map_key: StringBuilder,
    opponent: StringBuilder,
    source: StringBuilder,
    reason: StringBuilder,
    outcome: Int32Builder,
    length: Int64Builder,
    episode_return: Float32Builder,
    model: StringBuilder,
    incomplete: BooleanBuilder,
    partition: Int32Builder,
    closed_offset: Int64Builder,
    closed_ms: Int64Builder,
    rows: usize,
}

impl EpisodesBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, row: &EpisodeSeatRow) {
        self.system.append_value(row.system.as_str());
        self.dt.append_value(&row.dt);
        self.game_id.append_value(row.game_id.as_str());
        self.seat.append_value(&row.seat);
        self.label.append_value(&row.label);
        self.map_key.append_value(&row.map_key);
        self.opponent.append_value(&row.opponent);
        self.source.append_value(&row.source);
        self.reason.append_value(&row.reason);
        self.outcome.append_value(row.outcome.into());
        self.length.append_value(i64::try_from(row.length).unwrap_or(i64::MAX));
        self.episode_return.append_option(row.episode_return);
        self.model.append_option(row.model.as_deref());
        self.incomplete.append_value(row.incomplete);
        self.partition.append_value(row.partition as i32);
        self.closed_offset.append_value(row.closed_offset);
        self.closed_ms.append_value(row.closed_ms);
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
            schema(TableName::Episodes),
            vec![
                Arc::new(self.system.finish()),
                Arc::new(self.dt.finish()),
                Arc::new(self.game_id.finish()),
                Arc::new(self.seat.finish()),
                Arc::new(self.label.finish()),
                Arc::new(self.map_key.finish()),
                Arc::new(self.opponent.finish()),
                Arc::new(self.source.finish()),
                Arc::new(self.reason.finish()),
                Arc::new(self.outcome.finish()),
                Arc::new(self.length.finish()),
                Arc::new(self.episode_return.finish()),
                Arc::new(self.model.finish()),
                Arc::new(self.incomplete.finish()),
                Arc::new(self.partition.finish()),
                Arc::new(self.closed_offset.finish()),
                Arc::new(self.closed_ms.finish()),
            ],
        )
    }
}

/// The seats of a batch, in its order.
///
/// # Errors
/// If a column is missing or a value is not what it must be.
pub fn episodes_from(batch: &RecordBatch) -> Result<Vec<EpisodeSeatRow>, TableError> {
    let column = |name| text(batch, TABLE, name);
    let (system, dt, game_id) = (column("system")?, column("dt")?, column("game_id")?);
    let (seat, label, map_key) = (column("seat")?, column("label")?, column("map_key")?);
    let (opponent, source, reason) = (column("opponent")?, column("source")?, column("reason")?);
    let (model, outcome) = (column("model")?, int(batch, TABLE, "outcome")?);
    let (length, episode_return) = (long(batch, TABLE, "length")?, float(batch, TABLE, "episode_return")?);
    let (incomplete, partition) = (boolean(batch, TABLE, "incomplete")?, int(batch, TABLE, "partition")?);
    let (closed_offset, closed_ms) = (long(batch, TABLE, "closed_offset")?, long(batch, TABLE, "closed_ms")?);
    (0..batch.num_rows())
        .map(|row| {
            Ok(EpisodeSeatRow {
                system: system.value(row).parse().map_err(|e| bad(TABLE, "system", row, e))?,
                dt: dt.value(row).to_owned(),
                game_id: GameId::new(game_id.value(row)).map_err(|e| bad(TABLE, "game_id", row, e))?,
                seat: seat.value(row).to_owned(),
                label: label.value(row).to_owned(),
                map_key: map_key.value(row).to_owned(),
                opponent: opponent.value(row).to_owned(),
                source: source.value(row).to_owned(),
                reason: reason.value(row).to_owned(),
                outcome: i8::try_from(outcome.value(row)).map_err(|e| bad(TABLE, "outcome", row, e))?,
                length: length.value(row) as u64,
                episode_return: episode_return.is_valid(row).then(|| episode_return.value(row)),
                model: optional(model, row).map(str::to_owned),
                incomplete: incomplete.value(row),
                partition: partition.value(row) as u32,
                closed_offset: closed_offset.value(row),
                closed_ms: closed_ms.value(row),
            })
        })
        .collect()
}
