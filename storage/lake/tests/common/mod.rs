#![allow(dead_code, unused_imports, unused_macros)]

pub mod commits;

use std::sync::Arc;

use arrow::array::RecordBatch;
use flywheel_events::{Event, GameId, System};
use flywheel_lake::{
    Lake, LakeConfig, ScanOptions, Table, TableName,
    testing::{Faults, FaultyStore},
};
use flywheel_tables::{EventsBuilder, events_from};
use object_store::{ObjectStore, memory::InMemory};
use url::Url;

pub const DAY: i64 = 86_400_000;
pub const NOON: i64 = 1_700_049_600_000;

pub fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

pub fn lake_on(store: &Arc<dyn ObjectStore>) -> Lake {
    lake_with(store, LakeConfig { checkpoint_interval: 10, commit_attempts: 3, ..LakeConfig::default() })
}

pub fn lake_with(store: &Arc<dyn ObjectStore>, config: LakeConfig) -> Lake {
    Lake::with_config(Arc::clone(store), Url::parse("memory:///warehouse/lake").unwrap(), config)
}

pub fn faulty(store: &Arc<dyn ObjectStore>) -> (Arc<dyn ObjectStore>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    (Arc::new(FaultyStore::new(Arc::clone(store), Arc::clone(&faults))), faults)
}

pub fn event(game: &str, seq: u64) -> Event {
    Event::new(System::Tank, "tank.tick", GameId::new(game).unwrap(), seq, NOON)
        .payload(&serde_json::json!({"tick": seq, "text": "é\n\"x\""}))
}

/// Events `from..to` of a game, one a row, offsets equal to their numbers.
pub fn rows(game: &str, from: u64, to: u64, ingest_ms: i64) -> RecordBatch {
    let mut builder = EventsBuilder::new();
    (from..to).for_each(|seq| builder.push(&event(game, seq), 0, seq as i64, ingest_ms));
    builder.finish()
}

pub fn events(lake: &Lake) -> Table {
    lake.table(TableName::Events)
}

/// Every row as `game/seq`, in the order of the table.
pub async fn contents(table: &Table) -> Vec<String> {
    contents_of(table, ScanOptions::default()).await
}

pub async fn contents_of(table: &Table, options: ScanOptions) -> Vec<String> {
    let batches = table.scan(options).await.unwrap();
    let events = batches.iter().flat_map(|batch| events_from(batch).unwrap());
    events.map(|event| format!("{}/{}", event.game_id, event.seq)).collect()
}

pub fn expected(game: &str, from: u64, to: u64) -> Vec<String> {
    (from..to).map(|seq| format!("{game}/{seq}")).collect()
}

pub fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}
