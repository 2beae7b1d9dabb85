//! What cannot be used waits among the dead letters, holds nothing up, and is put back once it can be used.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use flywheel_events::{DecodeError, ENVELOPE_VERSION, Event, GameId, MAX_EVENT_BYTES, System};
use flywheel_flows::{FlowState, Land, LandConfig};
use flywheel_lake::{
    Lake, LakeConfig, ScanOptions, TableName,
    testing::{Fail, Faults, FaultyStore},
};
use flywheel_log::{EventLog, Faults as LogFaults, Faulty, MemoryLog, Record, Topic, partition_of};
use flywheel_maintain::{DeadLetters, LetterCounts, LetterFilter, LetterId, ReplayReport, Which};
use flywheel_tables::{DecodeView, EventView, events_from};
use object_store::{ObjectStore, memory::InMemory};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;
use url::Url;

const PARTITIONS: u32 = 2;

fn topic() -> Topic {
    Topic::new("fw.tank.events")
}

fn today(bytes: &[u8]) -> Result<EventView<'_>, DecodeError> {
    EventView::decode(bytes)
}

/// What the next version of the program makes of a record: it knows envelope version 2.
fn newer(bytes: &[u8]) -> Result<EventView<'_>, DecodeError> {
    match EventView::decode(bytes) {
        Err(DecodeError::UnknownVersion(v)) if v == ENVELOPE_VERSION + 1 => {
            serde_json::from_slice(bytes).map_err(DecodeError::Malformed)
        }
        decoded => decoded,
    }
}

struct World {
    log: Arc<dyn EventLog>,
    store: Arc<dyn ObjectStore>,
}

impl World {
    async fn new() -> Self {
        let log = MemoryLog::new();
        log.create_topic(&topic(), PARTITIONS).await.unwrap();
        Self { log, store: Arc::new(InMemory::new()) }
    }

    fn lake(&self) -> Lake {
        lake_on(&self.store)
    }

    async fn put(&self, game: &str, value: Vec<u8>) -> LetterId {
        let lane = topic().partition(partition_of(game.as_bytes(), PARTITIONS));
        let offset = self.log.append(&lane, vec![Record::new(game.to_owned(), value)]).await.unwrap();
        LetterId { topic: topic(), partition: lane.partition, offset: offset.as_i64() }
    }

    /// Lands everything that is in the log, as a program with this decoder does.
    async fn land(&self, decode: DecodeView) {
        let config = LandConfig {
            linger: Duration::from_millis(1),
            retry_min: Duration::from_millis(1),
            decode,
            ..LandConfig::new(topic(), PARTITIONS)
        };
        let (land, cancel) = (Land::new(Arc::clone(&self.log), self.lake(), config), CancellationToken::new());
        let stats = land.stats();
        let task = tokio::spawn({
            let cancel = cancel.clone();
            async move { land.run(cancel).await }
        });
        while !self.landed().await {
            assert_ne!(stats.status.state(), FlowState::Failed, "{:?}", stats.status.why());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        cancel.cancel();
        task.await.unwrap().unwrap();
        assert_eq!(stats.pending.load(Relaxed), 0);
    }

    async fn landed(&self) -> bool {
        let events = self.lake().table(TableName::Events);
        for partition in 0..PARTITIONS {
            let last = self.log.bounds(&topic().partition(partition)).await.unwrap().last;
            let landed = events.position(&format!("land/{}/{partition}", topic())).await.unwrap();
            if landed < last.map(|offset| offset.as_i64()) {
                return false;
            }
        }
        true
    }

    async fn replay(&self, which: &Which) -> ReplayReport {
        DeadLetters::with_decoder(&self.lake(), newer).replay(&self.log, which, false).await.unwrap()
    }

    /// Records in the log.
    async fn records(&self) -> usize {
        let mut n = 0;
        for partition in 0..PARTITIONS {
            let bounds = self.log.bounds(&topic().partition(partition)).await.unwrap();
            n += bounds.last.map_or(0, |last| last.raw() - bounds.first.unwrap().raw() + 1) as usize;
        }
        n
    }

    /// Rows of `events`: game and `seq`, with how often they are there.
    async fn rows(&self) -> BTreeMap<(String, u64), usize> {
        let mut rows = BTreeMap::new();
        for batch in self.lake().table(TableName::Events).scan(ScanOptions::default()).await.unwrap() {
            for event in events_from(&batch).unwrap() {
                *rows.entry((event.game_id.to_string(), event.seq)).or_default() += 1;
            }
        }
        rows
    }

    async fn counts(&self) -> BTreeMap<String, LetterCounts> {
        let list = DeadLetters::new(&self.lake()).list(&LetterFilter::default(), 0).await.unwrap();
        list.by_reason
    }
}

fn lake_on(store: &Arc<dyn ObjectStore>) -> Lake {
    let config = LakeConfig { commit_attempts: 1, ..LakeConfig::default() };
    Lake::with_config(Arc::clone(store), Url::parse("memory:///lake").unwrap(), config)
}

fn event(game: &str, seq: u64) -> Vec<u8> {
    Event::new(System::Tank, "tank.tick", GameId::new(game).unwrap(), seq, 0)
        .payload(&serde_json::json!({ "tick": seq, "note": "as it was sent" }))
        .encode()
}

/// The same event as a producer of the next version writes it.
fn of_the_next_version(game: &str, seq: u64) -> Vec<u8> {
    String::from_utf8(event(game, seq)).unwrap().replacen("\"v\":1", "\"v\":2", 1).into_bytes()
}

/// Poison of every kind, in turn; whether it can be mended, and the reason that it is filed under.
fn poison(n: usize, game: &str, seq: u64) -> (Vec<u8>, &'static str) {
    let good = String::from_utf8(event(game, seq)).unwrap();
    match n % 6 {
        0 => (of_the_next_version(game, seq), "unknown_version"),
        1 => ([good.as_bytes(), &[0xff, 0xfe]].concat(), "not_utf8"),
        2 => ([b"{\"a\":".repeat(10_000), b"1".to_vec(), b"}".repeat(10_000)].concat(), "too_deep"),
        3 => (good.replace("as it was sent", &"x".repeat(MAX_EVENT_BYTES)).into_bytes(), "too_large"),
        4 => (good.replace("\"tick\":", "\"tick\":NaN,\"was\":").into_bytes(), "malformed"),
        _ => (good.replace("\"ts_ms\":0", "\"ts_ms\":\"noon\"").into_bytes(), "malformed"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisonous_event_in_a_thousand_stalls_nothing_and_a_replay_after_the_fix_restores_all_that_it_mends() {
    const EVENTS: usize = 24_000;
    let world = World::new().await;
    let mut rng = ChaCha8Rng::seed_from_u64(14);
    let (mut next, mut good, mut mended) = ([0_u64; 40], BTreeSet::new(), BTreeSet::new());
    let mut letters: BTreeMap<LetterId, (Vec<u8>, &str)> = BTreeMap::new();
    let mut batches: BTreeMap<u32, Vec<Record>> = BTreeMap::new();
    for n in 0..EVENTS {
        let index = rng.random_range(0..next.len());
        let (game, seq) = (format!("g{index}"), next[index]);
        next[index] += 1;
        if n % 1000 == 999 {
            // Whatever came before it goes first.
            for (partition, records) in std::mem::take(&mut batches) {
                world.log.append(&topic().partition(partition), records).await.unwrap();
            }
            let (bytes, reason) = poison(letters.len(), &game, seq);
            if reason == "unknown_version" {
                mended.insert((game.clone(), seq));
            }
            letters.insert(world.put(&game, bytes.clone()).await, (bytes, reason));
            continue;
        }
        let partition = partition_of(game.as_bytes(), PARTITIONS);
        batches.entry(partition).or_default().push(Record::new(game.clone(), event(&game, seq)));
        good.insert((game, seq));
    }
    for (partition, records) in batches {
        world.log.append(&topic().partition(partition), records).await.unwrap();
    }
    assert_eq!((letters.len(), mended.len()), (EVENTS / 1000, 4));

    // The program of today: everything behind the poison is landed, and the letters are the poison, byte for byte.
    world.land(today).await;
    let once = |keys: &BTreeSet<(String, u64)>| keys.iter().map(|key| (key.clone(), 1)).collect::<BTreeMap<_, _>>();
    assert_eq!(world.rows().await, once(&good));
    let letters_today = DeadLetters::new(&world.lake());
    let list = letters_today.list(&LetterFilter::default(), usize::MAX).await.unwrap();
    let filed: BTreeMap<_, _> = list.letters.iter().map(|l| (l.position.clone(), l.reason.as_str())).collect();
    assert_eq!(filed, letters.iter().map(|(at, (_, reason))| (at.clone(), *reason)).collect());
    for (position, (bytes, _)) in &letters {
        let shown = letters_today.show(position).await.unwrap();
        assert!(shown.len() == 1 && shown[0].1 == *bytes, "{position}");
    }
    let nothing = letters_today.replay(&world.log, &Which::All, false).await.unwrap();
    assert_eq!((nothing.restored, nothing.there, nothing.stay.len()), (0, 0, letters.len()));
    assert_eq!(world.records().await, EVENTS);

    // The next version of the program: what it can read is put back, once; the rest stays and says why.
    world.land(newer).await;
    let before = DeadLetters::with_decoder(&world.lake(), newer);
    let dry = before.replay(&world.log, &Which::All, true).await.unwrap();
    assert_eq!((dry.restored, world.records().await), (4, EVENTS), "a dry run appends nothing");
    let first = world.replay(&Which::All).await;
    assert_eq!((first.restored, first.there, first.replayed_before), (4, 0, 0));
    let reasons = [("malformed", 8), ("not_utf8", 4), ("too_deep", 4), ("too_large", 4)];
    assert_eq!(first.stay_by_reason, reasons.map(|(reason, n)| (reason.to_owned(), n)).into());
    // Also before anything of it has landed.
    let second = world.replay(&Which::All).await;
    assert_eq!((second.restored, second.there, second.replayed_before), (0, 0, 4));
    world.land(newer).await;
    good.append(&mut mended);
    assert_eq!(world.rows().await, once(&good));
    let third = world.replay(&Which::All).await;
    assert_eq!((third.restored, third.replayed_before, world.records().await), (0, 4, EVENTS + 4));
    let counts = world.counts().await;
    assert_eq!(counts["unknown_version"], LetterCounts { waiting: 0, replayed: 4 });
    assert_eq!(counts["malformed"], LetterCounts { waiting: 8, replayed: 0 });
}

/// A world with three letters that the next version can read, between events that are fine.
async fn with_letters() -> (World, Vec<LetterId>) {
    let world = World::new().await;
    let mut letters = Vec::new();
    for seq in 0..9 {
        for game in ["a", "b", "c"] {
            if seq == 4 {
                letters.push(world.put(game, of_the_next_version(game, seq)).await);
            } else {
                world.put(game, event(game, seq)).await;
            }
        }
    }
    world.land(today).await;
    (world, letters)
}

fn all_once() -> BTreeMap<(String, u64), usize> {
    ["a", "b", "c"].iter().flat_map(|game| (0..9).map(|seq| (((*game).to_owned(), seq), 1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_dies_at_any_step_of_the_store_loses_and_doubles_nothing() {
    let faulty = |world: &World| {
        let faults = Arc::new(Faults::default());
        let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::clone(&world.store), Arc::clone(&faults)));
        (store, faults)
    };
    let (world, _) = with_letters().await;
    let (store, faults) = faulty(&world);
    DeadLetters::with_decoder(&lake_on(&store), newer).replay(&world.log, &Which::All, false).await.unwrap();
    let steps = faults.operations();
    assert!(steps > 12, "{steps}");
    for how in [Fail::Before, Fail::After] {
        let mut died = 0;
        // It reads first and writes last: every step of the end, some of the others.
        for n in (1..=steps).filter(|n| n % 7 == 0 || n + 8 > steps) {
            let (world, _) = with_letters().await;
            let (store, faults) = faulty(&world);
            faults.die_at(n, how);
            let replayed =
                DeadLetters::with_decoder(&lake_on(&store), newer).replay(&world.log, &Which::All, false).await;
            died += u64::from(replayed.is_err());
            // Every second time the loop has landed what came by then.
            if n % 2 == 0 {
                world.land(newer).await;
            }
            let again = world.replay(&Which::All).await;
            assert_eq!(again.restored + again.there + again.replayed_before, 3, "{how:?} {n}");
            world.land(newer).await;
            assert_eq!(world.rows().await, all_once(), "{how:?} {n}");
            assert_eq!(world.records().await, 30, "each letter was appended once: {how:?} {n}");
            assert_eq!(world.replay(&Which::All).await.replayed_before, 3, "{how:?} {n}");
        }
        assert!(died > 4, "{died}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_was_lost_is_found_and_not_repeated() {
    let (world, _) = with_letters().await;
    let losing: Arc<dyn EventLog> =
        Faulty::new(Arc::clone(&world.log), LogFaults { replies_lost: 1.0, ..LogFaults::default() });
    let letters = DeadLetters::with_decoder(&world.lake(), newer);
    for _ in 0..2 {
        // Each of the two partitions fails once.
        letters.replay(&losing, &Which::All, false).await.unwrap_err();
    }
    let found = world.replay(&Which::All).await;
    assert_eq!((found.restored, found.there + found.replayed_before), (0, 3));
    world.land(newer).await;
    assert_eq!((world.rows().await, world.records().await), (all_once(), 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_replayed_one_by_one_listed_by_what_they_are_and_an_event_that_was_sent_again_is_not_doubled() {
    let (world, letters) = with_letters().await;
    // Its producer was mended first and has sent the event again.
    world.put("b", event("b", 4)).await;
    let one = world.replay(&Which::These(vec![letters[0].clone()])).await;
    assert_eq!((one.restored, one.there), (1, 0));
    let nowhere: LetterId = "fw.tank.events/0@777".parse().unwrap();
    let rest = world.replay(&Which::These(vec![letters[1].clone(), letters[2].clone(), nowhere.clone()])).await;
    assert_eq!((rest.restored, rest.there, rest.unknown), (1, 1, vec![nowhere]));
    world.land(newer).await;
    assert_eq!(world.rows().await, all_once());

    let list = async |filter| DeadLetters::new(&world.lake()).list(&filter, 2).await.unwrap();
    assert!(list(LetterFilter::default()).await.letters.is_empty(), "none waits");
    let done = list(LetterFilter { replayed: true, ..LetterFilter::default() }).await;
    assert_eq!((done.letters.len(), done.by_reason["unknown_version"].replayed), (2, 3), "the newest two of three");
    assert!(done.letters.iter().all(|letter| letter.replayed.as_ref().unwrap().contains("seq 4")));
    let elsewhere = LetterFilter { reason: Some("not_utf8".to_owned()), replayed: true, ..LetterFilter::default() };
    assert!(list(elsewhere).await.by_reason.is_empty());
    let later = LetterFilter { since_ms: Some(i64::MAX), replayed: true, ..LetterFilter::default() };
    assert!(list(later).await.by_reason.is_empty());
    let of_one = letters.iter().filter(|letter| letter.partition == letters[0].partition).count() as u64;
    let partition = LetterFilter { partition: Some(letters[0].partition), ..LetterFilter::default() };
    assert_eq!(list(partition).await.by_reason["unknown_version"].replayed, of_one);
}

/// One record after the other: each opens a gap, and the game has more than are kept track of.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_games_with_too_many_gaps_stay_until_there_are_fewer() {
    const TRACKED: u64 = 4096;
    let world = World::new().await;
    let lane = topic().partition(partition_of(b"g", PARTITIONS));
    let records = (0..=TRACKED).map(|n| Record::new("g", event("g", 2 * n))).collect();
    world.log.append(&lane, records).await.unwrap();
    world.land(today).await;
    let counts = world.counts().await;
    assert_eq!(counts["too_many_gaps"], LetterCounts { waiting: 1, replayed: 0 }, "{counts:?}");
    let before = world.records().await;
    for _ in 0..3 {
        let report = world.replay(&Which::All).await;
        assert_eq!((report.restored, report.stay_by_reason["too_many_gaps"]), (0, 1));
        assert!(report.stay[0].detail.contains("`g` still has more gaps"), "{:?}", report.stay);
        world.land(today).await;
        assert_eq!(world.records().await, before);
    }
    // Its gaps are filled; then it is put back, and taken.
    world.log.append(&lane, vec![Record::new("g", event("g", 1))]).await.unwrap();
    world.land(today).await;
    assert_eq!(world.replay(&Which::All).await.restored, 1);
    world.land(today).await;
    assert_eq!(world.rows().await.get(&("g".to_owned(), 2 * TRACKED)), Some(&1));
}

#[test]
fn a_position_reads_as_it_is_written_and_nothing_else_does() {
    let position: LetterId = "fw.tank.events/3@170".parse().unwrap();
    assert_eq!((position.partition, position.offset, position.to_string().as_str()), (3, 170, "fw.tank.events/3@170"));
    for wrong in ["", "fw.tank.events", "fw.tank.events/0", "fw.tank.events@7", "fw tank/0@7", "t/-1@7", "t/0@x"] {
        assert!(wrong.parse::<LetterId>().unwrap_err().to_string().contains("looks like"), "{wrong}");
    }
}
