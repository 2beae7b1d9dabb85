//! What [`crate::Land`] has read and not committed yet.

use std::collections::{BTreeMap, btree_map::Entry};

use arrow::array::RecordBatch;
use flywheel_log::{RECORD_OVERHEAD, StoredRecord};
use flywheel_tables::{DeadLettersBuilder, EventView, EventsBuilder};

use crate::LandConfig;

/// Identity of an event.
pub(crate) type Key = (String, u64);

/// Events that are repeats by assumption, with their partition; the table is asked before the commit.
pub(crate) type Doubtful = BTreeMap<Key, (u32, StoredRecord)>;

/// A commit's rows are built in parts of so many rows or bytes: memory of this size is used again for the next part or the
/// next commit, where one column of a whole commit is given back to the system and asked for again, page by page.
const PART_ROWS: usize = 8192;
const PART_BYTES: usize = 4 << 20;

/// Rows of `events` that wait for their commit.
#[derive(Default)]
pub(crate) struct Rows {
    parts: Vec<RecordBatch>,
    newest: EventsBuilder,
    rows: usize,
    bytes: usize,
}

impl Rows {
    pub fn push(&mut self, event: &EventView<'_>, partition: u32, record: &StoredRecord) {
        self.newest.push_view(event, partition, record.offset.as_i64(), record.ingest_ms);
        if self.newest.len() >= PART_ROWS || self.newest.bytes() >= PART_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.newest.is_empty() {
            self.rows += self.newest.len();
            self.bytes += self.newest.bytes();
            self.parts.push(self.newest.finish());
        }
    }

    fn len(&self) -> usize {
        self.rows + self.newest.len()
    }

    fn bytes(&self) -> usize {
        self.bytes + self.newest.bytes()
    }

    /// All of them, in order; none are left.
    pub fn finish(&mut self) -> Vec<RecordBatch> {
        self.close();
        (self.rows, self.bytes) = (0, 0);
        std::mem::take(&mut self.parts)
    }
}

#[derive(Default)]
pub(crate) struct Batch {
    pub rows: Rows,
    pub dead: DeadLettersBuilder,
    doubtful: Doubtful,
    doubtful_bytes: usize,
    pub records: usize,
    pub duplicates: u64,
    pub newest_ms: i64,
}

impl Batch {
    pub fn doubt(&mut self, key: Key, partition: u32, record: &StoredRecord) {
        match self.doubtful.entry(key) {
            // The first one counts, as everywhere.
            Entry::Occupied(_) => self.duplicates += 1,
            Entry::Vacant(place) => {
                let own = RECORD_OVERHEAD + record.key.len() + record.value.len();
                self.doubtful_bytes += own + place.key().0.len();
                place.insert((partition, record.clone()));
            }
        }
    }

    pub fn take_doubtful(&mut self) -> Doubtful {
        self.doubtful_bytes = 0;
        std::mem::take(&mut self.doubtful)
    }

    /// Whether it is to be committed without waiting for more. Half of the bytes: the batch before it may be under way.
    pub fn is_full(&self, config: &LandConfig) -> bool {
        self.rows.len() + self.dead.len() + self.doubtful.len() >= config.max_batch_rows
            || self.rows.bytes() + self.dead.bytes() + self.doubtful_bytes >= config.max_batch_bytes / 2
    }
}

#[cfg(test)]
mod tests {
    use flywheel_events::{Event, GameId, System};
    use flywheel_log::{Offset, Topic};
    use flywheel_tables::events_from;

    use super::*;

    #[test]
    fn doubtful_events_fill_a_batch_by_their_bytes_too() {
        let config = LandConfig { max_batch_bytes: 2 << 20, ..LandConfig::new(Topic::new("t"), 1) };
        let record = |value: usize| StoredRecord {
            offset: Offset::from_raw(1),
            ingest_ms: 0,
            key: "g".into(),
            value: vec![b'x'; value].into(),
        };
        let mut batch = Batch::default();
        for seq in 0..15 {
            batch.doubt(("g".to_owned(), seq), 0, &record(1 << 16));
        }
        batch.doubt(("g".to_owned(), 0), 0, &record(1 << 20));
        assert!(!batch.is_full(&config), "of a repeat nothing is kept");
        assert_eq!(batch.duplicates, 1);
        batch.doubt(("g".to_owned(), 15), 0, &record(1 << 16));
        assert!(batch.is_full(&config), "a sixteenth of a mebibyte each");
        assert_eq!(batch.take_doubtful().len(), 16);
        assert!(!batch.is_full(&config));
    }

    #[test]
    fn rows_in_parts_are_the_rows_in_their_order() {
        let small = PART_ROWS as u64 * 2 + 7;
        let large = "x".repeat(PART_BYTES / 5);
        let config = LandConfig { max_batch_rows: usize::MAX, ..LandConfig::new(Topic::new("t"), 1) };
        let mut batch = Batch::default();
        for round in 0..2 {
            for seq in 0..small + 14 {
                let payload = if seq < small { "" } else { &large };
                let event = Event::new(System::Tank, "tank.tick", GameId::new("g").unwrap(), seq, round);
                let value = event.payload(&serde_json::json!({ "p": payload })).encode();
                let offset = Offset::from_raw(seq);
                let record = StoredRecord { offset, ingest_ms: 5, key: "g".into(), value: value.into() };
                batch.rows.push(&EventView::decode(&record.value).unwrap(), 0, &record);
                assert_eq!(batch.rows.len() as u64, seq + 1);
            }
            let bytes = batch.rows.bytes();
            assert!(
                bytes > 14 * large.len()
                    && !batch.is_full(&LandConfig { max_batch_bytes: 2 * (bytes + 1), ..config.clone() })
            );
            assert!(batch.is_full(&LandConfig { max_batch_bytes: 2 * bytes, ..config.clone() }));
            let parts = batch.rows.finish();
            assert!(parts.len() > 4, "by rows and by bytes");
            let events: Vec<_> = parts.iter().flat_map(|part| events_from(part).unwrap()).collect();
            assert!(events.iter().map(|event| event.seq).eq(0..small + 14));
            assert!(events.iter().all(|event| event.ts_ms == round));
            assert_eq!((batch.rows.len(), batch.rows.bytes()), (0, 0));
        }
    }
}
