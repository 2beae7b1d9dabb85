//! Tables of three days, an archive in a folder, and looks at both.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flywheel_archive::{ColdStore, Folder};
use flywheel_events::{Event, GameId, System};
use flywheel_lake::{Lake, LakeConfig, ScanOptions, Table, TableName};
use flywheel_log::Topic;
use flywheel_maintain::{Archive, ArchiveOptions, ArchiveReport, ArchivingConfig, Day};
use flywheel_tables::{EventsBuilder, events_from};
use object_store::{ObjectStore, memory::InMemory};
use url::Url;

pub const DAY_MS: i64 = 86_400_000;
/// Noon of 2026-11-01.
pub const NOON: i64 = 1_793_534_400_000;
pub const DAYS: [&str; 3] = ["2026-11-01", "2026-11-02", "2026-11-03"];
/// Rows of one day.
pub const ROWS: u64 = 60;

pub fn consumers(topic: &Topic, partition: u32) -> Vec<(TableName, String)> {
    vec![
        (TableName::Events, format!("land/{topic}/{partition}")),
        (TableName::Episodes, format!("assemble/{topic}/{partition}/low")),
    ]
}

pub fn day(dt: &str) -> Day {
    Day { system: "tank".into(), dt: dt.into() }
}

pub fn lake_on(store: &Arc<dyn ObjectStore>) -> Lake {
    // One attempt: a store that is gone stays gone here.
    let config = LakeConfig { checkpoint_interval: 10, commit_attempts: 1, ..LakeConfig::default() };
    Lake::with_config(Arc::clone(store), Url::parse("memory:///warehouse/lake").unwrap(), config)
}

pub fn archive_on(lake: &Lake, store: &Arc<dyn ColdStore>) -> Archive {
    let config = ArchivingConfig {
        after_days: 7,
        consumers,
        target_bytes: 64 << 20,
        thaw_days: 1,
        interval: Duration::from_secs(3600),
    };
    Archive::new(lake, Arc::clone(store), config)
}

pub fn event(game: &str, seq: u64) -> Event {
    Event::new(System::Tank, "tank.tick", GameId::new(game).unwrap(), seq, NOON)
        .payload(&serde_json::json!({"tick": seq, "text": "é\n\"x\""}))
}

/// Game, number and partition of a day's row: two gapless games.
pub fn place(n: u64, row: u64) -> (String, u64, u32) {
    if row.is_multiple_of(3) { (format!("b{n}"), row / 3, 1) } else { (format!("a{n}"), row - row / 3 - 1, 0) }
}

/// Three days of rows of two partitions in several files each, and consumers that are past them all.
pub struct World {
    memory: Arc<InMemory>,
    pub tables: Arc<dyn ObjectStore>,
    pub lake: Lake,
    pub cold: Arc<dyn ColdStore>,
    pub dir: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::consumed_up_to(1_000_000).await
    }

    fn on(memory: InMemory) -> Self {
        let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(memory));
        let tables: Arc<dyn ObjectStore> = Arc::clone(&memory) as _;
        let (lake, cold) = (lake_on(&tables), Arc::new(Folder::new(dir.path())) as Arc<dyn ColdStore>);
        Self { memory, tables, lake, cold, dir }
    }

    /// The same tables once more, each for itself from here on, with an archive of its own.
    pub fn fork(&self) -> Self {
        Self::on(self.memory.fork())
    }

    pub async fn consumed_up_to(offset: i64) -> Self {
        let world = Self::on(InMemory::new());
        for n in 0..3 {
            for part in 0..3 {
                world.append(n, part * 20, part * 20 + 20).await;
            }
        }
        world.consumed(offset).await;
        world
    }

    /// Rows `from..to` of day `n`: games `a` and `b` of partitions 0 and 1, offsets rising over all days.
    pub async fn append(&self, n: u64, from: u64, to: u64) {
        let mut rows = EventsBuilder::new();
        for row in from..to {
            let (game, seq, partition) = place(n, row);
            rows.push(&event(&game, seq), partition, (n * 1000 + row) as i64, NOON + n as i64 * DAY_MS + row as i64);
        }
        self.table().append(vec![rows.finish()], &[]).await.unwrap();
    }

    pub async fn consumed(&self, up_to: i64) {
        let topic = Topic::new(System::Tank.topic());
        for partition in 0..2 {
            for (table, app_id) in consumers(&topic, partition) {
                self.lake.table(table).append(vec![], &[(app_id, up_to)]).await.unwrap();
            }
        }
    }

    pub fn table(&self) -> Table {
        self.lake.table(TableName::Events)
    }

    pub fn archive(&self) -> Archive {
        archive_on(&self.lake, &self.cold)
    }

    pub async fn archive_before(&self, before: &str) -> ArchiveReport {
        self.archive().archive(&before_of(before)).await.unwrap()
    }

    /// Every row of the newest version, by day, as a fresh process reads it.
    pub async fn rows(&self) -> BTreeMap<String, Vec<String>> {
        self.rows_by(&lake_on(&self.tables)).await
    }

    pub async fn rows_by(&self, lake: &Lake) -> BTreeMap<String, Vec<String>> {
        rows_of(&lake.table(TableName::Events), None).await
    }

    pub async fn rows_as_of(&self, version: u64) -> BTreeMap<String, Vec<String>> {
        rows_of(&self.table(), Some(version)).await
    }
}

pub fn before_of(before: &str) -> ArchiveOptions {
    ArchiveOptions { before: before.into(), ..ArchiveOptions::default() }
}

async fn rows_of(table: &Table, version: Option<u64>) -> BTreeMap<String, Vec<String>> {
    let batches = table.scan(ScanOptions { version, ..ScanOptions::default() }).await.unwrap();
    let mut days: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for batch in &batches {
        let dt = batch.column_by_name("dt").unwrap();
        let dt = dt.as_any().downcast_ref::<arrow::array::StringArray>().unwrap();
        for (row, event) in events_from(batch).unwrap().iter().enumerate() {
            let line = format!("{}/{:03} {} {}", event.game_id, event.seq, event.kind, event.payload.get());
            days.entry(dt.value(row).to_owned()).or_default().push(line);
        }
    }
    days.values_mut().for_each(|rows| rows.sort());
    days
}
