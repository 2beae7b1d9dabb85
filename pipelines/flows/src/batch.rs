//! What [`crate::Land`] has read and not committed yet.

use std::collections::{BTreeMap, btree_map::Entry};

use flywheel_log::{RECORD_OVERHEAD, StoredRecord};
use flywheel_tables::{DeadLettersBuilder, EventsBuilder};

use crate::LandConfig;

/// Identity of an event.
pub(crate) type Key = (String, u64);

/// Events that are repeats by assumption, with their partition; the table is asked before the commit.
pub(crate) type Doubtful = BTreeMap<Key, (u32, StoredRecord)>;

#[derive(Default)]
pub(crate) struct Batch {
    pub rows: EventsBuilder,
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

    pub fn doubtful(&self) -> &Doubtful {
        &self.doubtful
    }

    pub fn take_doubtful(&mut self) -> Doubtful {
        self.doubtful_bytes = 0;
        std::mem::take(&mut self.doubtful)
    }

    /// Whether it is to be committed without waiting for more.
    pub fn is_full(&self, config: &LandConfig) -> bool {
        self.rows.len() + self.dead.len() + self.doubtful.len() >= config.max_batch_rows
            || self.rows.bytes() + self.dead.bytes() + self.doubtful_bytes >= config.max_batch_bytes
    }
}

#[cfg(test)]
mod tests {
    use flywheel_log::{Offset, Topic};

    use super::*;

    #[test]
    fn doubtful_events_fill_a_batch_by_their_bytes_too() {
        let config = LandConfig { max_batch_bytes: 1 << 20, ..LandConfig::new(Topic::new("t"), 1) };
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
}
