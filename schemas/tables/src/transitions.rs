//! Table `transitions`.

use std::sync::Arc;

use arrow::array::{
    Array, BinaryBuilder, BooleanBuilder, Float32Builder, Int8Builder, Int64Builder, RecordBatch, StringBuilder,
};
use flywheel_events::{GameId, ModelRef, System, floats};
use flywheel_game_api::{Lane, TransitionRow};

use crate::{
    TableError, TableName,
    columns::{bad, batch, binary, boolean, byte, float, long, optional, text},
    schema,
};

const TABLE: &str = "transitions";

/// Columns of `transitions` as they grow.
#[derive(Debug, Default)]
pub struct TransitionsBuilder {
    system: StringBuilder,
    dt: StringBuilder,
    game_id: StringBuilder,
    tick: Int64Builder,
    tank_id: StringBuilder,
    tank_label: StringBuilder,
    map_key: StringBuilder,
    model: StringBuilder,
    s: BinaryBuilder,
    a: Int8Builder,
    r: Float32Builder,
    s2: BinaryBuilder,
    done: BooleanBuilder,
    epsilon: Float32Builder,
    episode_return: Float32Builder,
    priority: Float32Builder,
    rows: usize,
    scratch: Vec<u8>,
}

impl TransitionsBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// `dt` is the UTC day the row is filed under ([`crate::day_of`]); `episode_return` is the seat's return over
    /// the whole game, absent when the game never ended.
    ///
    /// # Errors
    /// `OutOfRange` if the action does not fit a byte; nothing is appended then.
    pub fn push(
        &mut self,
        system: System,
        row: &TransitionRow,
        dt: &str,
        episode_return: Option<f32>,
        priority: f32,
    ) -> Result<(), TableError> {
        let a = i8::try_from(row.a).map_err(|_| TableError::OutOfRange {
            table: TABLE,
            column: "a",
            value: row.a.into(),
        })?;
        self.system.append_value(system.as_str());
        self.dt.append_value(dt);
        self.game_id.append_value(row.lane.game_id.as_str());
        self.tick.append_value(i64::try_from(row.tick).unwrap_or(i64::MAX));
        self.tank_id.append_value(&row.lane.seat);
        self.tank_label.append_value(&row.label);
        self.map_key.append_value(&row.map_key);
        self.model.append_option(row.model.as_ref().map(ToString::to_string));
        append_floats(&mut self.s, &mut self.scratch, &row.s);
        self.a.append_value(a);
        self.r.append_value(row.r);
        append_floats(&mut self.s2, &mut self.scratch, &row.s2);
        self.done.append_value(row.done);
        self.epsilon.append_value(row.epsilon);
        self.episode_return.append_option(episode_return);
        self.priority.append_value(priority);
        self.rows += 1;
        Ok(())
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
            schema(TableName::Transitions),
            vec![
                Arc::new(self.system.finish()),
                Arc::new(self.dt.finish()),
                Arc::new(self.game_id.finish()),
                Arc::new(self.tick.finish()),
                Arc::new(self.tank_id.finish()),
                Arc::new(self.tank_label.finish()),
                Arc::new(self.map_key.finish()),
                Arc::new(self.model.finish()),
                Arc::new(self.s.finish()),
                Arc::new(self.a.finish()),
                Arc::new(self.r.finish()),
                Arc::new(self.s2.finish()),
                Arc::new(self.done.finish()),
                Arc::new(self.epsilon.finish()),
                Arc::new(self.episode_return.finish()),
                Arc::new(self.priority.finish()),
            ],
        )
    }
}

fn append_floats(column: &mut BinaryBuilder, scratch: &mut Vec<u8>, values: &[f32]) {
    scratch.clear();
    scratch.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    column.append_value(&scratch);
}

/// A transition with the columns that a learner does not need to know.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTransition {
    pub system: System,
    pub dt: String,
    pub row: TransitionRow,
    /// The seat's return over the whole game; absent when the game never ended.
    pub episode_return: Option<f32>,
    pub priority: f32,
}

/// The transitions of a batch, in its order.
///
/// # Errors
/// On the first item that cannot be read: a missing column fails all, a bad value its row.
pub fn transitions_from(batch: &RecordBatch) -> impl Iterator<Item = Result<TransitionRow, TableError>> + '_ {
    stored_transitions_from(batch).map(|stored| stored.map(|stored| stored.row))
}

/// As [`transitions_from`], with every column.
pub fn stored_transitions_from(batch: &RecordBatch) -> impl Iterator<Item = Result<StoredTransition, TableError>> + '_ {
    let columns = Columns::of(batch);
    let (columns, error) = match columns {
        Ok(columns) => (Some(columns), None),
        Err(error) => (None, Some(Err(error))),
    };
    error
        .into_iter()
        .chain(columns.into_iter().flat_map(move |columns| (0..batch.num_rows()).map(move |row| columns.row(row))))
}

struct Columns<'a> {
    system: &'a arrow::array::StringArray,
    dt: &'a arrow::array::StringArray,
    game_id: &'a arrow::array::StringArray,
    tick: &'a arrow::array::Int64Array,
    tank_id: &'a arrow::array::StringArray,
    tank_label: &'a arrow::array::StringArray,
    map_key: &'a arrow::array::StringArray,
    model: &'a arrow::array::StringArray,
    s: &'a arrow::array::BinaryArray,
    a: &'a arrow::array::Int8Array,
    r: &'a arrow::array::Float32Array,
    s2: &'a arrow::array::BinaryArray,
    done: &'a arrow::array::BooleanArray,
    epsilon: &'a arrow::array::Float32Array,
    episode_return: &'a arrow::array::Float32Array,
    priority: &'a arrow::array::Float32Array,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, TableError> {
        Ok(Self {
            system: text(batch, TABLE, "system")?,
            dt: text(batch, TABLE, "dt")?,
            game_id: text(batch, TABLE, "game_id")?,
            tick: long(batch, TABLE, "tick")?,
            tank_id: text(batch, TABLE, "tank_id")?,
            tank_label: text(batch, TABLE, "tank_label")?,
            map_key: text(batch, TABLE, "map_key")?,
            model: text(batch, TABLE, "model")?,
            s: binary(batch, TABLE, "s")?,
            a: byte(batch, TABLE, "a")?,
            r: float(batch, TABLE, "r")?,
            s2: binary(batch, TABLE, "s2")?,
            done: boolean(batch, TABLE, "done")?,
            epsilon: float(batch, TABLE, "epsilon")?,
            episode_return: float(batch, TABLE, "episode_return")?,
            priority: float(batch, TABLE, "priority")?,
        })
    }

    fn row(&self, row: usize) -> Result<StoredTransition, TableError> {
        let game_id = GameId::new(self.game_id.value(row)).map_err(|e| bad(TABLE, "game_id", row, e))?;
        let model = optional(self.model, row).map(str::parse::<ModelRef>).transpose();
        Ok(StoredTransition {
            system: self.system.value(row).parse().map_err(|e| bad(TABLE, "system", row, e))?,
            dt: self.dt.value(row).to_owned(),
            row: TransitionRow {
                lane: Lane { game_id, seat: self.tank_id.value(row).to_owned() },
                tick: self.tick.value(row) as u64,
                label: self.tank_label.value(row).to_owned(),
                map_key: self.map_key.value(row).to_owned(),
                model: model.map_err(|e| bad(TABLE, "model", row, e))?,
                s: floats::from_bytes(self.s.value(row)).map_err(|e| bad(TABLE, "s", row, e))?,
                a: self.a.value(row).into(),
                r: self.r.value(row),
                s2: floats::from_bytes(self.s2.value(row)).map_err(|e| bad(TABLE, "s2", row, e))?,
                done: self.done.value(row),
                epsilon: self.epsilon.value(row),
            },
            episode_return: self.episode_return.is_valid(row).then(|| self.episode_return.value(row)),
            priority: self.priority.value(row),
        })
    }
}
