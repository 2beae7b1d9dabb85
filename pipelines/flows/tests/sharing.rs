//! Several landers and assemblers of one log: they share fairly, hand over in order, and a fence holds back those that
//! only seemed dead.

mod common;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use common::*;
use flywheel_events::{Event, GameId, System};
use flywheel_flows::{
    Assemble, AssembleConfig, Land, LandConfig, Sharing, assemble_app_id, land_app_id,
    sharing::{TOPIC, fence_app_id, group, owners},
};
use flywheel_lake::{Advance, Lake, LakeErrorKind, TableName};
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, MemoryLog, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition, partition_of,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 8;
const LEASE: Duration = Duration::from_millis(1500);

fn sharing(member: &str, pins: Option<&[u32]>) -> Sharing {
    Sharing { member: member.to_owned(), pins: pins.map(|pins| pins.iter().copied().collect()), lease: LEASE }
}

fn land_config() -> LandConfig {
    LandConfig {
        linger: Duration::from_millis(5),
        retry_min: Duration::from_millis(2),
        retry_max: Duration::from_millis(20),
        ..LandConfig::new(topic(), PARTITIONS)
    }
}

/// The log as one process sees it, which can be cut off from it or stopped before it appends.
#[derive(Debug)]
struct Seen {
    log: Arc<MemoryLog>,
    /// No sign of life gets through; events are read all the same.
    mute: std::sync::atomic::AtomicBool,
}

impl Seen {
    fn of(log: &Arc<MemoryLog>) -> Arc<Self> {
        Arc::new(Self { log: Arc::clone(log), mute: false.into() })
    }

    fn hears(&self, lane: &TopicPartition) -> Result<(), LogError> {
        if self.mute.load(Relaxed) && lane.topic.as_str() == TOPIC {
            return Err(LogError::new(LogErrorKind::Unavailable, "asking", lane, "the test cut it off"));
        }
        Ok(())
    }
}

#[async_trait]
impl EventLog for Seen {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.log.create_topic(topic, partitions).await
    }
    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.log.topics().await
    }
    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        self.hears(to)?;
        self.log.append(to, records).await
    }
    async fn read(&self, of: &TopicPartition, at: Position, limit: ReadLimit) -> Result<Vec<StoredRecord>, LogError> {
        self.hears(of)?;
        self.log.read(of, at, limit).await
    }
    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        self.log.bounds(of).await
    }
    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.log.trim(of, up_to).await
    }
    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        self.log.join(topic, group, member).await
    }
    fn durability(&self) -> Durability {
        self.log.durability()
    }
}

struct Running {
    seen: Arc<Seen>,
    stats: Arc<flywheel_flows::LandStats>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn land(log: &Arc<MemoryLog>, lake: &Lake, member: &str, pins: Option<&[u32]>) -> Self {
        let seen = Seen::of(log);
        let land = Land::new(Arc::clone(&seen) as Arc<dyn EventLog>, lake.clone(), land_config());
        let land = land.shared(sharing(member, pins));
        let (stats, stop) = (land.stats(), CancellationToken::new());
        let told = stop.clone();
        let task = tokio::spawn(async move { land.run(told).await.unwrap() });
        Self { seen, stats, stop, task }
    }

    fn n(&self) -> u64 {
        self.stats.owned.partitions.load(Relaxed)
    }

    async fn leave(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn log() -> Arc<MemoryLog> {
    let log = MemoryLog::new();
    log.create_topic(&topic(), PARTITIONS).await.unwrap();
    log
}

/// Appends events `seqs` of `n` games; what was acknowledged is counted by game and seq.
async fn play(log: &MemoryLog, n: usize, seqs: std::ops::Range<u64>) {
    for game in 0..n {
        let id = format!("game-{game}");
        let lane = topic().partition(partition_of(id.as_bytes(), PARTITIONS));
        let record = |seq| {
            let event = Event::new(System::Tank, toy::STEP, GameId::new(&id).unwrap(), seq, T0);
            Record::new(id.clone(), event.payload(&serde_json::json!({"tick": seq, "seat": "a", "r": 0.5})).encode())
        };
        log.append(&lane, seqs.clone().map(record).collect()).await.unwrap();
    }
}

async fn everything_landed(log: &MemoryLog, lake: &Lake) {
    until(async || {
        for partition in 0..PARTITIONS {
            let last = log.bounds(&topic().partition(partition)).await.unwrap().last.map(|last| last.as_i64());
            if lake.table(TableName::Events).position(&land_app_id(&topic(), partition)).await.unwrap() < last {
                return false;
            }
        }
        true
    })
    .await;
}

async fn assert_once(lake: &Lake, games: usize, seqs: u64) {
    let rows: Vec<_> = event_rows(lake).await.into_iter().map(|(game, seq, ..)| (game, seq)).collect();
    let mut expected: Vec<_> =
        (0..games).flat_map(|game| (0..seqs).map(move |seq| (format!("game-{game}"), seq))).collect();
    expected.sort();
    assert_eq!(rows, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn landers_share_fairly_and_one_that_leaves_hands_over_at_once() {
    let (log, lake) = (log().await, lake_on(&memory()));
    let first = Running::land(&log, &lake, "a", None);
    until(async || first.n() == 8).await;
    play(&log, 12, 0..20).await;
    let second = Running::land(&log, &lake, "b", None);
    until(async || (first.n(), second.n()) == (4, 4)).await;
    play(&log, 12, 20..40).await;
    let third = Running::land(&log, &lake, "c", None);
    until(async || [first.n(), second.n(), third.n()].iter().all(|n| (2..=3).contains(n))).await;
    play(&log, 12, 40..60).await;
    everything_landed(&log, &lake).await;

    // Each is held, and none is held twice.
    until(async || {
        let told = owners(log.as_ref(), now_ms()).await.unwrap();
        let mut held: Vec<u32> = told.iter().flat_map(|owner| owner.holds.keys().copied()).collect();
        held.sort_unstable();
        let members: Vec<_> = told.iter().map(|owner| owner.member.as_str()).collect();
        members == ["a", "b", "c"] && held == (0..8).collect::<Vec<_>>()
    })
    .await;

    first.leave().await;
    second.leave().await;
    // Without waiting for any lease.
    until(async || third.n() == 8).await;
    assert_eq!(owners(log.as_ref(), now_ms()).await.unwrap().len(), 1);
    play(&log, 12, 60..80).await;
    everything_landed(&log, &lake).await;
    assert_once(&lake, 12, 80).await;
    // What was handed over in order was never fought for.
    assert_eq!(third.stats.owned.fenced.load(Relaxed), 0);
    third.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_cut_off_is_replaced_and_can_commit_nothing_when_it_goes_on() {
    let (log, lake) = (log().await, lake_on(&memory()));
    let (zombie, heir) = (Running::land(&log, &lake, "a", None), Running::land(&log, &lake, "b", None));
    until(async || (zombie.n(), heir.n()) == (4, 4)).await;
    // It does not hear that it is dead, and goes on reading and committing.
    zombie.seen.mute.store(true, Relaxed);
    until(async || heir.n() == 8).await;
    let (landed, fences) = (zombie.stats.events.load(Relaxed), fences(&lake).await);
    play(&log, 40, 0..10).await;
    everything_landed(&log, &lake).await;
    until(async || zombie.stats.owned.fenced.load(Relaxed) > 0).await;
    assert_eq!(zombie.stats.events.load(Relaxed), landed, "the zombie has committed nothing");
    until(async || heir.stats.events.load(Relaxed) == 400).await;
    assert_eq!(self::fences(&lake).await, fences, "and has claimed nothing, deaf as it is");
    // It hears again, and has its share again.
    zombie.seen.mute.store(false, Relaxed);
    until(async || (zombie.n(), heir.n()) == (4, 4)).await;
    play(&log, 40, 10..20).await;
    everything_landed(&log, &lake).await;
    assert_once(&lake, 40, 20).await;
    zombie.leave().await;
    heir.leave().await;
}

async fn fences(lake: &Lake) -> Vec<i64> {
    let ids: Vec<_> = (0..PARTITIONS).map(|p| fence_app_id(&group("land", &topic()), p)).collect();
    let events = lake.table(TableName::Events).fences(&ids).await.unwrap();
    let dead = lake.table(TableName::DeadLetters).fences(&ids).await.unwrap();
    assert_eq!(events, dead, "the tables of a flow stand behind one fence");
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_partitions_are_left_to_who_pinned_them() {
    let (log, lake) = (log().await, lake_on(&memory()));
    let all = Running::land(&log, &lake, "all", None);
    until(async || all.n() == 8).await;
    let pinned = Running::land(&log, &lake, "pinned", Some(&[0, 3, 4, 5]));
    until(async || (all.n(), pinned.n()) == (4, 4)).await;
    // A second with the same pins stands by.
    let standby = Running::land(&log, &lake, "standby", Some(&[3]));
    play(&log, 20, 0..10).await;
    everything_landed(&log, &lake).await;
    until(async || pinned.n() + standby.n() == 4).await;
    pinned.leave().await;
    until(async || (all.n(), standby.n()) == (7, 1)).await;
    play(&log, 20, 10..20).await;
    everything_landed(&log, &lake).await;
    assert_once(&lake, 20, 20).await;
    all.leave().await;
    standby.leave().await;
}

/// A lander that died with its lease and its fence: what it held moves, and none of its commits would pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_ones_partitions_move_and_its_fence_is_worth_nothing() {
    let (log, lake) = (log().await, lake_on(&memory()));
    let (dead, heir) = (Running::land(&log, &lake, "a", None), Running::land(&log, &lake, "b", None));
    until(async || (dead.n(), heir.n()) == (4, 4)).await;
    let mut held = std::collections::BTreeMap::new();
    until(async || {
        let told = owners(log.as_ref(), now_ms()).await.unwrap();
        held = told.iter().find(|owner| owner.member == "a").unwrap().holds.clone();
        held.len() == 4
    })
    .await;
    dead.task.abort();
    until(async || heir.n() == 8).await;
    let told = owners(log.as_ref(), now_ms() + 3000).await.unwrap();
    assert!(told.iter().any(|owner| owner.member == "a" && owner.is_dead), "{told:?}");
    for (partition, fence) in held {
        let id = fence_app_id(&group("land", &topic()), partition);
        for table in [TableName::Events, TableName::DeadLetters] {
            let late = lake.table(table).append_from(Vec::new(), &[Advance::fence(&id, fence)]).await.unwrap_err();
            assert_eq!(late.kind(), LakeErrorKind::Fenced, "{late}");
        }
    }
    play(&log, 20, 0..10).await;
    everything_landed(&log, &lake).await;
    assert_once(&lake, 20, 10).await;
    heir.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn assemblers_that_come_and_go_leave_the_rows_of_one_that_stayed() {
    let log = log().await;
    let assemble = |lake: &Lake, member: Option<&str>| {
        let config = AssembleConfig {
            linger: Duration::from_millis(5),
            position_interval: Duration::from_millis(20),
            end_grace: Duration::ZERO,
            ..AssembleConfig::new(topic(), PARTITIONS)
        };
        let seen = Seen::of(&log);
        let made = Assemble::new(Arc::clone(&seen) as Arc<dyn EventLog>, lake.clone(), toy::experience, config);
        let made = match member {
            Some(member) => made.shared(sharing(member, None)),
            None => made,
        };
        let (stats, stop) = (made.stats(), CancellationToken::new());
        let told = stop.clone();
        let task = tokio::spawn(async move { made.run(told).await.unwrap() });
        (seen, stats, stop, task)
    };
    let (shared, alone) = (lake_on(&memory()), lake_on(&memory()));
    let (zombie, zombies, _, dead) = assemble(&shared, Some("a"));
    let (_, others, stop, going) = assemble(&shared, Some("b"));
    let n = |stats: &flywheel_flows::AssembleStats| stats.owned.partitions.load(Relaxed);
    until(async || (n(&zombies), n(&others)) == (4, 4)).await;
    // Every game is open while the partitions move.
    play(&log, 30, 0..7).await;
    zombie.mute.store(true, Relaxed);
    until(async || n(&others) == 8).await;
    end(&log, 30, 7).await;
    until(async || zombies.owned.fenced.load(Relaxed) > 0).await;
    let (_, third, stop_third, staying) = assemble(&shared, Some("c"));
    until(async || n(&third) == 4).await;
    stop.cancel();
    going.await.unwrap();
    dead.abort();

    let (_, _, stop_alone, quiet) = assemble(&alone, None);
    for lake in [&shared, &alone] {
        until(async || episode_rows(lake).await.len() == 30).await;
        for partition in 0..PARTITIONS {
            let position =
                || async { lake.table(TableName::Episodes).position(&assemble_app_id(&topic(), partition)).await };
            until(async || position().await.unwrap().is_some()).await;
        }
    }
    assert_eq!(episode_rows(&shared).await, episode_rows(&alone).await);
    assert_eq!(transition_rows(&shared).await, transition_rows(&alone).await);
    assert_eq!(transition_rows(&shared).await.len(), 30 * 7);
    stop_third.cancel();
    stop_alone.cancel();
    staying.await.unwrap();
    quiet.await.unwrap();
}

/// Ends the games, and goes on in all partitions until the log's time has closed them.
async fn end(log: &MemoryLog, games: usize, seq: u64) {
    let event = |id: &str, kind: &str, seq| {
        let event = Event::new(System::Tank, kind, GameId::new(id).unwrap(), seq, T0);
        Record::new(id.to_owned(), event.payload(&serde_json::json!({})).encode())
    };
    for game in 0..games {
        let id = format!("game-{game}");
        let lane = topic().partition(partition_of(id.as_bytes(), PARTITIONS));
        log.append(&lane, vec![event(&id, toy::ENDED, seq), event(&id, toy::CLOSED, seq + 1)]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    for partition in 0..PARTITIONS {
        log.append(&topic().partition(partition), vec![Record::new("tick", "no event")]).await.unwrap();
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
