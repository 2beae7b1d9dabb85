#![allow(dead_code)]

pub mod toy;
pub mod veclog;

use std::{sync::Arc, time::Duration};

use flywheel_lake::{
    Lake, LakeConfig, ScanOptions, TableName,
    testing::{Faults, FaultyStore},
};
use flywheel_log::{EventLog, Topic};
use flywheel_tables::{DeadLetterRow, EpisodeSeatRow, StoredTransition};
use object_store::{ObjectStore, memory::InMemory};
use url::Url;

pub use veclog::VecLog;

pub const T0: i64 = 1_700_049_600_000;

pub fn topic() -> Topic {
    Topic::new("fw.tank.events")
}

pub fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

pub fn lake_on(store: &Arc<dyn ObjectStore>) -> Lake {
    let config = LakeConfig { checkpoint_interval: 10, commit_attempts: 1, ..LakeConfig::default() };
    Lake::with_config(Arc::clone(store), Url::parse("memory:///lake").unwrap(), config)
}

pub fn faulty(store: &Arc<dyn ObjectStore>) -> (Arc<dyn ObjectStore>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    (Arc::new(FaultyStore::new(Arc::clone(store), Arc::clone(&faults))), faults)
}

/// Waits for a condition, however long it takes on a busy machine (a hung test is ended by its runner).
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether every partition's position under `app_id` is the last offset of the log.
pub async fn caught_up(lake: &Lake, log: &VecLog, table: TableName, app_id: impl Fn(&Topic, u32) -> String) -> bool {
    for partition in 0..log.partitions() {
        let last = log.bounds(&topic().partition(partition)).await.unwrap().last.map(|offset| offset.as_i64());
        // A store that fails on purpose is not caught up.
        let Ok(position) = lake.table(table).position(&app_id(&topic(), partition)).await else { return false };
        if position < last {
            return false;
        }
    }
    true
}

/// Rows of `events` as `(game, seq, partition, offset, payload)`, sorted.
pub async fn event_rows(lake: &Lake) -> Vec<(String, u64, i64, String)> {
    use arrow::{array::AsArray, datatypes::Int64Type};
    let mut rows = Vec::new();
    for batch in lake.table(TableName::Events).scan(ScanOptions::default()).await.unwrap() {
        let events = flywheel_tables::events_from(&batch).unwrap();
        let offsets = batch.column_by_name("offset").unwrap().as_primitive::<Int64Type>().clone();
        for (row, event) in events.into_iter().enumerate() {
            rows.push((event.game_id.to_string(), event.seq, offsets.value(row), event.payload.get().to_owned()));
        }
    }
    rows.sort();
    rows
}

pub async fn dead_rows(lake: &Lake) -> Vec<DeadLetterRow> {
    let batches = lake.table(TableName::DeadLetters).scan(ScanOptions::default()).await.unwrap();
    let mut rows: Vec<_> = batches.iter().flat_map(|b| flywheel_tables::dead_letters_from(b).unwrap()).collect();
    rows.sort_by(|a, b| (&a.flow, a.partition, a.offset).cmp(&(&b.flow, b.partition, b.offset)));
    rows
}

pub async fn transition_rows(lake: &Lake) -> Vec<StoredTransition> {
    let batches = lake.table(TableName::Transitions).scan(ScanOptions::default()).await.unwrap();
    let rows = batches.iter().flat_map(|b| flywheel_tables::stored_transitions_from(b).map(Result::unwrap));
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| (&a.row.lane, a.row.tick).cmp(&(&b.row.lane, b.row.tick)));
    rows
}

pub async fn episode_rows(lake: &Lake) -> Vec<EpisodeSeatRow> {
    let batches = lake.table(TableName::Episodes).scan(ScanOptions::default()).await.unwrap();
    let mut rows: Vec<_> = batches.iter().flat_map(|b| flywheel_tables::episodes_from(b).unwrap()).collect();
    rows.sort_by(|a, b| (&a.game_id, &a.seat).cmp(&(&b.game_id, &b.seat)));
    rows
}
