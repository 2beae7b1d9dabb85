//! Table `events`.

use std::{mem::take, sync::Arc};

use arrow::array::{Int32Array, Int64Array, RecordBatch};
use flywheel_events::{DecodeError, Event, GameId, ModelRef, System};
use serde_json::value::RawValue;

use crate::{
    EventView, TableError, TableName,
    columns::{Runs, Texts, bad, batch, int, long, optional, text},
    day::{DayCache, day_number},
    schema,
};

const TABLE: &str = "events";
/// What a row takes beside its texts: its numbers, where each text ends, and its system and day.
const ROW_BYTES: usize = 96;

/// Columns of `events` as they grow. The payload is copied once, from the record into its column.
#[derive(Debug, Default)]
pub struct EventsBuilder {
    system: Runs,
    dt: Runs,
    v: Vec<i32>,
    kind: Texts,
    game_id: Texts,
    seq: Vec<i64>,
    ts_ms: Vec<i64>,
    actor: Texts,
    model: Texts,
    payload: Texts,
    partition: Vec<i32>,
    offset: Vec<i64>,
    ingest_ms: Vec<i64>,
    days: DayCache,
    rows: usize,
    /// The system and the day of the last row, which are its partition of the table.
    lies_in: Option<(System, i64)>,
    /// How large the batch before this one was: the next will be about as large.
    before: Size,
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    rows: usize,
    payload_bytes: usize,
}

impl EventsBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for `rows` rows whose payloads take `payload_bytes` together.
    pub fn with_capacity(rows: usize, payload_bytes: usize) -> Self {
        Self {
            v: Vec::with_capacity(rows),
            kind: Texts::with_capacity(rows, rows * 16),
            game_id: Texts::with_capacity(rows, rows * 32),
            seq: Vec::with_capacity(rows),
            ts_ms: Vec::with_capacity(rows),
            actor: Texts::with_capacity(rows, rows * 8),
            model: Texts::with_capacity(rows, rows * 16),
            payload: Texts::with_capacity(rows, payload_bytes),
            partition: Vec::with_capacity(rows),
            offset: Vec::with_capacity(rows),
            ingest_ms: Vec::with_capacity(rows),
            ..Self::default()
        }
    }

    /// Builders start empty after every batch, and grow by copying what they have.
    fn make_room(&mut self) {
        let Size { rows, payload_bytes } = self.before;
        if rows > 0 {
            // A little more than last time: one that grows is copied, to twice its size.
            let room = payload_bytes + payload_bytes / 8;
            *self = Self { days: take(&mut self.days), ..Self::with_capacity(rows, room) };
        }
    }

    pub fn push(&mut self, event: &Event, partition: u32, offset: i64, ingest_ms: i64) {
        self.row(event.v, event.system, event.seq, event.ts_ms, partition, offset, ingest_ms);
        self.kind.push(&event.kind);
        self.game_id.push(event.game_id.as_str());
        self.actor.push_option(event.actor.as_deref());
        self.model.push_option(event.model.as_ref().map(ToString::to_string).as_deref());
        self.payload.push(event.payload.get());
    }

    /// The hot path: a decoded record straight into the columns.
    pub fn push_view(&mut self, event: &EventView<'_>, partition: u32, offset: i64, ingest_ms: i64) {
        self.row(event.v, event.system, event.seq, event.ts_ms, partition, offset, ingest_ms);
        self.kind.push(&event.kind);
        self.game_id.push(&event.game_id);
        self.actor.push_option(event.actor.as_deref());
        self.model.push_option(event.model.as_deref());
        self.payload.push(event.payload());
    }

    /// Decodes one record and appends it.
    ///
    /// # Errors
    /// If the bytes are no event; nothing is appended then.
    pub fn decode(&mut self, bytes: &[u8], partition: u32, offset: i64, ingest_ms: i64) -> Result<(), DecodeError> {
        let view = EventView::decode(bytes)?;
        self.push_view(&view, partition, offset, ingest_ms);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn row(&mut self, v: u32, system: System, seq: u64, ts_ms: i64, partition: u32, offset: i64, ingest_ms: i64) {
        if self.rows == 0 {
            self.make_room();
        }
        let lies_in = Some((system, day_number(ingest_ms)));
        if lies_in == self.lies_in {
            self.system.push_again();
            self.dt.push_again();
        } else {
            self.lies_in = lies_in;
            self.system.push(system.as_str());
            self.dt.push(self.days.day_of(ingest_ms));
        }
        self.v.push(v as i32);
        self.seq.push(i64::try_from(seq).unwrap_or(i64::MAX));
        self.ts_ms.push(ts_ms);
        self.partition.push(partition as i32);
        self.offset.push(offset);
        self.ingest_ms.push(ingest_ms);
        self.rows += 1;
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// About how much memory the rows take.
    pub fn bytes(&self) -> usize {
        let texts = [&self.kind, &self.game_id, &self.actor, &self.model, &self.payload];
        self.rows * ROW_BYTES + texts.into_iter().map(Texts::letters).sum::<usize>()
    }

    /// The rows so far; the builder is empty afterwards.
    pub fn finish(&mut self) -> RecordBatch {
        self.before = Size { rows: self.rows, payload_bytes: self.payload.letters() };
        self.rows = 0;
        self.lies_in = None;
        batch(
            schema(TableName::Events),
            vec![
                Arc::new(self.system.finish()),
                Arc::new(self.dt.finish()),
                Arc::new(Int32Array::from(take(&mut self.v))),
                Arc::new(self.kind.finish()),
                Arc::new(self.game_id.finish()),
                Arc::new(Int64Array::from(take(&mut self.seq))),
                Arc::new(Int64Array::from(take(&mut self.ts_ms))),
                Arc::new(self.actor.finish()),
                Arc::new(self.model.finish()),
                Arc::new(self.payload.finish()),
                Arc::new(Int32Array::from(take(&mut self.partition))),
                Arc::new(Int64Array::from(take(&mut self.offset))),
                Arc::new(Int64Array::from(take(&mut self.ingest_ms))),
            ],
        )
    }
}

/// The events of a batch, in its order.
///
/// # Errors
/// If a column is missing or a value is not what it must be.
pub fn events_from(batch: &RecordBatch) -> Result<Vec<Event>, TableError> {
    let (system, kind) = (text(batch, TABLE, "system")?, text(batch, TABLE, "kind")?);
    let (game_id, v) = (text(batch, TABLE, "game_id")?, int(batch, TABLE, "v")?);
    let (seq, ts_ms) = (long(batch, TABLE, "seq")?, long(batch, TABLE, "ts_ms")?);
    let (actor, model) = (text(batch, TABLE, "actor")?, text(batch, TABLE, "model")?);
    let payload = text(batch, TABLE, "payload")?;
    (0..batch.num_rows())
        .map(|row| {
            let model = optional(model, row).map(str::parse::<ModelRef>).transpose();
            Ok(Event {
                v: v.value(row) as u32,
                system: system.value(row).parse().map_err(|e| bad(TABLE, "system", row, e))?,
                kind: kind.value(row).to_owned(),
                game_id: GameId::new(game_id.value(row)).map_err(|e| bad(TABLE, "game_id", row, e))?,
                seq: seq.value(row) as u64,
                ts_ms: ts_ms.value(row),
                actor: optional(actor, row).map(str::to_owned),
                model: model.map_err(|e| bad(TABLE, "model", row, e))?,
                payload: RawValue::from_string(payload.value(row).to_owned())
                    .map_err(|e| bad(TABLE, "payload", row, e))?,
            })
        })
        .collect()
}
