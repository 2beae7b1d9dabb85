//! Nothing is lost and order is kept, whatever the log does.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flywheel_events::{Event, GameId, System};
use flywheel_kit::{Emitter, EmitterConfig};
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, MemoryLog, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition,
};

/// A log whose next appends fail; every second one of them after it was done.
#[derive(Debug)]
struct Faulty {
    inner: Arc<MemoryLog>,
    failures: AtomicU32,
}

#[async_trait]
impl EventLog for Faulty {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.inner.create_topic(topic, partitions).await
    }
    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.inner.topics().await
    }
    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        let left = self.failures.load(Ordering::SeqCst);
        if left == 0 {
            return self.inner.append(to, records).await;
        }
        self.failures.store(left.saturating_sub(1), Ordering::SeqCst);
        if left.is_multiple_of(2) {
            self.inner.append(to, records).await?;
        }
        Err(LogError::new(LogErrorKind::Unavailable, "appending", to, "the test says so"))
    }
    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.inner.read(from, position, limit).await
    }
    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        self.inner.bounds(of).await
    }
    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.inner.trim(of, up_to).await
    }
    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        self.inner.join(topic, group, member).await
    }
    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}

async fn faulty(failures: u32) -> Arc<Faulty> {
    let inner = MemoryLog::new();
    inner.create_topic(&Topic::new("fw.tank.events"), 2).await.unwrap();
    Arc::new(Faulty { inner, failures: AtomicU32::new(failures) })
}

fn config(dir: &Path) -> EmitterConfig {
    EmitterConfig { linger: Duration::from_millis(1), ..EmitterConfig::new(dir.join("spill")) }
}

/// `seq`s of a game in the order of the log, repeats dropped.
async fn seqs(log: &Faulty, game: &str) -> Vec<u64> {
    let mut all = Vec::new();
    for partition in 0..2 {
        let lane = Topic::new("fw.tank.events").partition(partition);
        let limit = ReadLimit { max_records: 1_000_000, max_bytes: 1 << 30, max_wait: Duration::ZERO };
        for record in log.read(&lane, Position::Start, limit).await.unwrap() {
            let event = Event::decode(&record.value).unwrap();
            if event.game_id.as_str() == game && !all.contains(&event.seq) {
                all.push(event.seq);
            }
        }
    }
    all
}

fn game(emitter: &Emitter, id: &str) -> flywheel_kit::GameEvents {
    emitter.game(System::Tank, GameId::new(id).unwrap())
}

fn emit(emitter: &Emitter, id: &str, n: u64) {
    let events = game(emitter, id);
    (0..n).for_each(|i| events.emit("tank.tick", Some("server"), None, &serde_json::json!({"tick": i})));
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn two_producers_of_one_game_share_one_gapless_sequence() {
    let (dir, log) = (tempfile::tempdir().unwrap(), faulty(0).await);
    let emitter = Emitter::start(log.clone(), config(dir.path())).unwrap();
    let (server, agent) = (game(&emitter, "g-1"), game(&emitter, "g-1"));
    for _ in 0..100 {
        server.emit("tank.tick", None, None, &serde_json::json!({}));
        agent.emit("tank.transition", None, None, &serde_json::json!({}));
    }
    emitter.drain(LONG).await.unwrap();
    assert_eq!(seqs(&log, "g-1").await, (0..200).collect::<Vec<_>>());
    let stats = emitter.stats();
    assert_eq!((stats.emitted, stats.acknowledged, stats.lost), (200, 200, 0));
}

#[tokio::test]
async fn appends_that_fail_or_seem_to_are_tried_until_nothing_is_missing() {
    let (dir, log) = (tempfile::tempdir().unwrap(), faulty(7).await);
    let emitter = Emitter::start(log.clone(), config(dir.path())).unwrap();
    for id in ["g-1", "g-2", "g-3"] {
        emit(&emitter, id, 50);
    }
    emitter.drain(LONG).await.unwrap();
    for id in ["g-1", "g-2", "g-3"] {
        assert_eq!(seqs(&log, id).await, (0..50).collect::<Vec<_>>(), "{id}");
    }
    assert_eq!(emitter.stats().away, None);
}

#[tokio::test]
async fn a_full_queue_spills_to_disk_and_drains_in_order() {
    let (dir, log) = (tempfile::tempdir().unwrap(), faulty(4).await);
    let emitter = Emitter::start(log.clone(), EmitterConfig { queue_bytes: 4_000, ..config(dir.path()) }).unwrap();
    emit(&emitter, "g-1", 500);
    let stats = emitter.stats();
    assert!(stats.spilled > 400 && stats.spill_pending > 0 && stats.queue_bytes <= 4_000, "{stats:?}");
    emitter.drain(LONG).await.unwrap();
    emit(&emitter, "g-1", 5);
    emitter.drain(LONG).await.unwrap();
    assert_eq!(seqs(&log, "g-1").await, (0..505).collect::<Vec<_>>());
    assert_eq!(emitter.stats().spill_pending, 0);
}

#[tokio::test]
async fn what_could_not_be_sent_goes_first_at_the_next_start() {
    let (dir, log) = (tempfile::tempdir().unwrap(), faulty(u32::MAX - 1).await);
    let journal = dir.path().join("acks");
    let small = EmitterConfig { queue_bytes: 4_000, ..config(dir.path()) };
    let emitter = Emitter::start(log.clone(), small).unwrap();
    emit(&emitter, "g-1", 100);
    assert!(emitter.close(Duration::from_millis(30)).await.is_err());
    assert_eq!(emitter.stats().acknowledged, 0);
    log.failures.store(0, Ordering::SeqCst);
    let emitter =
        Emitter::start(log.clone(), EmitterConfig { ack_journal: Some(journal.clone()), ..config(dir.path()) })
            .unwrap();
    emit(&emitter, "g-2", 10);
    emitter.close(LONG).await.unwrap();
    assert_eq!(seqs(&log, "g-1").await, (0..100).collect::<Vec<_>>());
    assert_eq!(seqs(&log, "g-2").await, (0..10).collect::<Vec<_>>());
    let promised = std::fs::read_to_string(journal).unwrap();
    assert!(
        promised.contains(r#"{"game":"g-1","seq":99}"#) && promised.contains(r#"{"game":"g-2","seq":9}"#),
        "{promised}"
    );
}

#[tokio::test]
async fn while_the_disk_is_nearly_full_no_new_game_begins_and_those_under_way_lose_nothing() {
    use std::sync::atomic::AtomicBool;

    use flywheel_log::{Reserve, ReserveLimits, Reserved, Space};
    let (dir, log) = (tempfile::tempdir().unwrap(), faulty(0).await);
    let full = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&full);
    let reserve = Reserve::new(ReserveLimits { share: 0.05, bytes: 0 })
        .looking_every(Duration::ZERO)
        .watching("data", move || Ok(Space { free: u64::from(!seen.load(Ordering::SeqCst)) * 100, total: 100 }));
    let guarded = Reserved::new(log.clone(), Arc::new(reserve));
    let emitter = Emitter::start(guarded, config(dir.path())).unwrap();
    emit(&emitter, "g-1", 50);
    emitter.drain(LONG).await.unwrap();
    assert!(!emitter.is_full() && emitter.fullness() < 0.5);

    full.store(true, Ordering::SeqCst);
    emit(&emitter, "g-1", 50);
    while !emitter.is_full() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(emitter.fullness(), 1.0, "who can wait does");
    let stats = emitter.stats();
    assert!(stats.full && stats.away.as_ref().unwrap().1.contains("nearly full"), "{stats:?}");
    assert_eq!((stats.acknowledged, stats.lost), (50, 0));
    assert_eq!(seqs(&log, "g-1").await.len(), 50, "nothing was taken");

    full.store(false, Ordering::SeqCst);
    emitter.drain(LONG).await.unwrap();
    assert!(!emitter.is_full() && emitter.stats().away.is_none());
    assert_eq!(seqs(&log, "g-1").await, (0..100).collect::<Vec<_>>());
}
