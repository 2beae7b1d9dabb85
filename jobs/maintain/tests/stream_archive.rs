//! The log loses nothing that the archive does not hold, byte for byte.

use std::{sync::Arc, time::Duration};

use flywheel_archive::{ColdStore, Folder, testing::Dying};
use flywheel_lake::{Lake, TableName};
use flywheel_log::{EventLog, MemoryLog, Offset, Position, ReadLimit, Record, StoredRecord, Topic, TopicPartition};
use flywheel_maintain::{StreamArchive, Trim, TrimConfig};

const HOUR_MS: i64 = 3_600_000;

fn consumers(topic: &Topic, partition: u32) -> Vec<(TableName, String)> {
    vec![(TableName::Events, format!("land/{topic}/{partition}"))]
}

struct World {
    log: Arc<dyn EventLog>,
    lake: Lake,
    of: TopicPartition,
    cold: Arc<dyn ColdStore>,
    dir: tempfile::TempDir,
}

/// Forty records of some hundred bytes each, of which the consumer has taken the first thirty.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let log: Arc<dyn EventLog> = MemoryLog::new();
    let of = Topic::new("fw.tank.events").partition(0);
    log.create_topic(&of.topic, 1).await.unwrap();
    let lake = Lake::local(dir.path().join("lake")).unwrap();
    let cold: Arc<dyn ColdStore> = Arc::new(Folder::new(dir.path().join("cold")));
    let world = World { log, lake, of, cold, dir };
    world.append(0..40).await;
    world.landed(29).await;
    world
}

impl World {
    async fn append(&self, numbers: std::ops::Range<u64>) {
        for n in numbers {
            let value = format!("{n}:{}", "x\u{0}\n".repeat(n as usize * 3));
            self.log.append(&self.of, vec![Record::new(format!("game-{}", n % 3), value)]).await.unwrap();
        }
    }

    async fn landed(&self, nth: usize) {
        let records = self.records().await;
        let [(table, app_id)] = consumers(&self.of.topic, 0).try_into().unwrap();
        let offset = records[nth].offset.as_i64();
        self.lake.table(table).append(vec![], &[(app_id, offset)]).await.unwrap();
    }

    async fn records(&self) -> Vec<StoredRecord> {
        let trimmed = self.log.bounds(&self.of).await.unwrap().trimmed;
        let position = trimmed.map_or(Position::Start, Position::After);
        self.log.read(&self.of, position, ReadLimit::default()).await.unwrap()
    }

    /// One round, long after everything was appended.
    async fn trim(&self, cold: &Arc<dyn ColdStore>) -> bool {
        let config = TrimConfig {
            topics: vec![(self.of.topic.clone(), 1)],
            consumers,
            keep: Duration::from_millis(HOUR_MS as u64),
            interval: Duration::from_secs(60),
        };
        let trim = Trim::new(Arc::clone(&self.log), self.lake.clone(), config);
        let trim = trim.behind(StreamArchive::new(Arc::clone(cold), 1_000));
        let far = self.records().await.last().map_or(0, |record| record.ingest_ms) + 100 * HOUR_MS;
        trim.trim(&self.of, far).await.is_ok()
    }

    async fn archived(&self) -> Vec<StoredRecord> {
        let stream = StreamArchive::new(Arc::clone(&self.cold), 1_000);
        let mut records = Vec::new();
        for segment in stream.segments(&self.of).await.unwrap() {
            records.extend(stream.read(&segment).await.unwrap());
        }
        records
    }
}

#[tokio::test]
async fn what_leaves_the_log_is_in_the_archive_as_it_was() {
    let world = world().await;
    let all = world.records().await;
    assert!(world.trim(&world.cold).await);
    assert_eq!(world.records().await, all[30..]);
    assert_eq!(world.archived().await, all[..30]);
    let stream = StreamArchive::new(Arc::clone(&world.cold), 1_000);
    assert!(stream.segments(&world.of).await.unwrap().len() > 3, "segments are bounded");
    // Another process goes on where this one ended.
    world.append(40..60).await;
    world.landed(25).await;
    let more = world.records().await;
    assert!(world.trim(&world.cold).await);
    assert_eq!(world.records().await, more[26..]);
    assert_eq!(world.archived().await, [&all[..30], &more[..26]].concat());
    let partitions = stream.partitions().await.unwrap();
    assert_eq!(partitions.iter().map(|(of, _)| of).collect::<Vec<_>>(), [&world.of]);
}

#[tokio::test]
async fn a_crash_at_any_operation_of_the_archive_trims_nothing_that_it_does_not_hold() {
    for applies in [false, true] {
        let mut died = 0;
        for n in 1.. {
            let world = world().await;
            let all = world.records().await;
            let dying = Arc::new(Dying::at(Arc::clone(&world.cold), n, applies));
            let cold: Arc<dyn ColdStore> = Arc::clone(&dying) as _;
            let done = world.trim(&cold).await;
            let (left, archived) = (world.records().await, world.archived().await);
            let gone = all.len() - left.len();
            assert_eq!(left, all[gone..]);
            assert!(archived.len() >= gone, "died at {n} {applies}: {gone} are gone, {} archived", archived.len());
            assert_eq!(archived, all[..archived.len()], "died at {n} {applies}");
            assert!(world.trim(&world.cold).await);
            assert_eq!((world.records().await.len(), world.archived().await.len()), (10, 30), "died at {n} {applies}");
            if done {
                break;
            }
            died = n;
        }
        assert!(died >= 8, "only {died} operations could die");
    }
}

#[tokio::test]
async fn without_its_archive_the_log_keeps_everything() {
    let world = world().await;
    // A file where the folder should be: nothing can be written.
    std::fs::write(world.dir.path().join("cold"), "in the way").unwrap();
    assert!(!world.trim(&world.cold).await);
    assert_eq!(world.records().await.len(), 40);
    std::fs::remove_file(world.dir.path().join("cold")).unwrap();
    assert!(world.trim(&world.cold).await);
    assert_eq!(world.records().await.len(), 10);
}

/// What lies in the archive under the right name and is damaged is not trimmed on its word.
#[tokio::test]
async fn a_damaged_segment_holds_the_trim() {
    let world = world().await;
    let stream = StreamArchive::new(Arc::clone(&world.cold), 1_000);
    // Archived, and not trimmed yet: the process ended in between.
    stream.keep(&world.log, &world.of, Offset::from_raw(5)).await.unwrap();
    let segment = stream.segments(&world.of).await.unwrap().remove(0);
    std::fs::write(world.dir.path().join("cold").join(segment.object()), "damaged").unwrap();
    assert!(!world.trim(&world.cold).await);
    assert_eq!(world.records().await.len(), 40);
}

#[tokio::test]
async fn the_archive_of_another_log_is_seen_and_trims_nothing() {
    let old = world().await;
    assert!(old.trim(&old.cold).await);
    let new = world().await;
    let few: Arc<dyn EventLog> = MemoryLog::new();
    few.create_topic(&new.of.topic, 1).await.unwrap();
    for n in 0..5 {
        few.append(&new.of, vec![Record::new("g", format!("{n}"))]).await.unwrap();
    }
    let stream = StreamArchive::new(Arc::clone(&old.cold), 1_000);
    let error = stream.keep(&few, &new.of, Offset::from_raw(3)).await.unwrap_err().to_string();
    assert!(error.contains("another log") && error.contains("archive.url"), "{error}");
}
