//! The log loses what is old and behind every consumer, and nothing else.

mod common;

use std::{sync::Arc, time::Duration};

use common::TrimmedBeside;
use flywheel_lake::{Lake, TableName};
use flywheel_log::{EventLog, MemoryLog, Position, ReadLimit, Record, StoredRecord, Topic, TopicPartition};
use flywheel_maintain::{Trim, TrimConfig};

const HOUR_MS: i64 = 3_600_000;

fn consumers(topic: &Topic, partition: u32) -> Vec<(TableName, String)> {
    vec![
        (TableName::Events, format!("land/{topic}/{partition}")),
        (TableName::Episodes, format!("assemble/{topic}/{partition}/low")),
    ]
}

struct World {
    log: Arc<dyn EventLog>,
    lake: Lake,
    of: TopicPartition,
    records: Vec<StoredRecord>,
    _dir: tempfile::TempDir,
}

/// Ten records, the later five appended at least 20 ms after the earlier ones.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let (log, lake): (Arc<dyn EventLog>, _) = (MemoryLog::new(), Lake::local(dir.path()).unwrap());
    let of = Topic::new("fw.tank.events").partition(0);
    log.create_topic(&of.topic, 1).await.unwrap();
    for half in 0..2 {
        for n in 0..5 {
            log.append(&of, vec![Record::new("k", format!("{half}-{n}"))]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let records = log.read(&of, Position::Start, ReadLimit::default()).await.unwrap();
    World { log, lake, of, records, _dir: dir }
}

impl World {
    async fn consumed(&self, landed: i64, assembled: i64) {
        let [(events, land), (episodes, low)] = consumers(&self.of.topic, 0).try_into().unwrap();
        self.lake.table(events).append(vec![], &[(land, landed)]).await.unwrap();
        self.lake.table(episodes).append(vec![], &[(low, assembled)]).await.unwrap();
    }

    /// How many records are left after a round at `now_ms`, with an hour to keep.
    async fn kept_at(&self, now_ms: i64) -> usize {
        let config = TrimConfig {
            topics: vec![(self.of.topic.clone(), 1)],
            consumers,
            keep: Duration::from_millis(HOUR_MS as u64),
            interval: Duration::from_secs(60),
        };
        Trim::new(Arc::clone(&self.log), self.lake.clone(), config).trim(&self.of, now_ms).await.unwrap();
        let bounds = self.log.bounds(&self.of).await.unwrap();
        let left = match bounds.trimmed {
            Some(trimmed) => self.log.read(&self.of, Position::After(trimmed), ReadLimit::default()).await.unwrap(),
            None => self.log.read(&self.of, Position::Start, ReadLimit::default()).await.unwrap(),
        };
        assert_eq!(left, self.records[10 - left.len()..], "what is left is the newest, unchanged");
        left.len()
    }

    fn offset(&self, n: usize) -> i64 {
        self.records[n].offset.as_i64()
    }
}

#[tokio::test]
async fn nothing_leaves_while_a_consumer_has_no_position() {
    let world = world().await;
    let far = world.records[9].ingest_ms + 100 * HOUR_MS;
    assert_eq!(world.kept_at(far).await, 10);
    let land = consumers(&world.of.topic, 0)[0].1.clone();
    world.lake.table(TableName::Events).append(vec![], &[(land, world.offset(9))]).await.unwrap();
    assert_eq!(world.kept_at(far).await, 10, "the assembler has said nothing yet");
}

#[tokio::test]
async fn an_old_record_stays_until_the_slowest_consumer_is_through_with_it() {
    let world = world().await;
    let far = world.records[9].ingest_ms + 100 * HOUR_MS;
    world.consumed(world.offset(8), world.offset(2)).await;
    assert_eq!(world.kept_at(far).await, 7);
    assert_eq!(world.kept_at(far).await, 7, "a second round finds nothing more");
    world.consumed(world.offset(9), world.offset(9)).await;
    assert_eq!(world.kept_at(far).await, 0);
    assert_eq!(world.kept_at(far).await, 0);
}

#[tokio::test]
async fn a_young_record_stays_however_far_the_consumers_are() {
    let world = world().await;
    world.consumed(world.offset(9), world.offset(9)).await;
    assert_eq!(world.kept_at(world.records[0].ingest_ms + HOUR_MS).await, 10, "the oldest is an hour old, not older");
    // Older than an hour: whatever was appended before the sixth record.
    assert_eq!(world.kept_at(world.records[5].ingest_ms + HOUR_MS).await, 5);
    assert_eq!(world.kept_at(world.records[9].ingest_ms + HOUR_MS + 1).await, 0);
}

#[tokio::test]
async fn a_position_before_the_first_record_holds_everything() {
    let world = world().await;
    world.consumed(world.offset(9), -1).await;
    assert_eq!(world.kept_at(world.records[9].ingest_ms + 100 * HOUR_MS).await, 10);
}

#[tokio::test]
async fn tables_that_are_ahead_of_the_log_are_another_logs_and_nothing_leaves() {
    let world = world().await;
    let far = world.records[9].ingest_ms + 100 * HOUR_MS;
    // Positions of Redis are near 2^61, those of an embedded log count from 0.
    world.consumed(1 << 60, 1 << 60).await;
    assert_eq!(world.kept_at(far).await, 10);
    // The least of them counts: one table of another log is enough.
    let other = self::world().await;
    other.consumed(other.offset(9) + 1, other.offset(4)).await;
    assert_eq!(other.kept_at(far).await, 5, "the assembler is within the log");
}

#[tokio::test]
async fn two_that_trim_at_once_do_not_fail_each_other() {
    let mut world = world().await;
    let far = world.records[9].ingest_ms + 100 * HOUR_MS;
    world.consumed(world.offset(8), world.offset(8)).await;
    let [one, four] = [1, 4].map(|n: usize| world.records[n].offset);
    world.log.trim(&world.of, one).await.unwrap();
    world.log = TrimmedBeside::over(Arc::clone(&world.log), vec![four]);
    assert_eq!(world.kept_at(far).await, 5, "the other one was faster");
    assert_eq!(world.kept_at(far).await, 1, "the next round does the rest");
}
