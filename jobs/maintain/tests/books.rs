//! An audit finds nothing in tables that were written well, and whatever was done to those that were not.

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::TrimmedBeside;
use flywheel_events::{Event, GameId, System};
use flywheel_game_api::{EpisodeRow, Experience, ExperienceError, Lane, TransitionRow};
use flywheel_lake::{CompactOptions, Lake, TableName};
use flywheel_log::{EventLog, MemoryLog, Record, Topic};
use flywheel_maintain::{AuditConfig, AuditReport, Maintain, MaintainConfig, audit, check_files};
use flywheel_tables::{
    DeadLetterRow, DeadLettersBuilder, EpisodeSeatRow, EpisodesBuilder, EventsBuilder, TransitionsBuilder,
};

const TOPIC: &str = "fw.tank.events";

/// Every `tank.step` is a transition.
struct Steps;

impl Experience for Steps {
    fn accept(&mut self, event: &Event, out: &mut Vec<TransitionRow>) -> Result<(), ExperienceError> {
        match event.kind.as_str() {
            "tank.step" => out.push(row(event)),
            "tank.bad" => return Err(ExperienceError::Invalid("bad".into())),
            _ => {}
        }
        Ok(())
    }

    fn ended(&self) -> Option<EpisodeRow> {
        None
    }
}

fn row(event: &Event) -> TransitionRow {
    TransitionRow {
        lane: Lane { game_id: event.game_id.clone(), seat: "a".into() },
        tick: event.seq,
        label: "x".into(),
        map_key: "m".into(),
        model: None,
        s: vec![0.0],
        a: 1,
        r: 1.0,
        s2: vec![1.0],
        done: false,
        epsilon: 0.0,
    }
}

fn event(game: &str, seq: u64, kind: &str) -> Event {
    Event::new(System::Tank, kind, GameId::new(game).unwrap(), seq, 0).payload(&serde_json::json!({ "seq": seq }))
}

struct World {
    log: Arc<dyn EventLog>,
    lake: Lake,
    _dir: tempfile::TempDir,
    offsets: BTreeMap<(String, u64), i64>,
    undecodable: i64,
    last: i64,
}

/// Three games in the log: `whole`, `gapped` (2 is missing), `poisoned`; a repeat, and a record that is no event.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let (log, lake): (Arc<dyn EventLog>, _) = (MemoryLog::new(), Lake::local(dir.path()).unwrap());
    let topic = Topic::new(TOPIC);
    log.create_topic(&topic, 1).await.unwrap();
    let put = async |value: Vec<u8>| {
        let offset = log.append(&topic.partition(0), vec![Record::new("k", value)]).await.unwrap();
        offset.as_i64()
    };
    let mut offsets = BTreeMap::new();
    for (game, seqs) in [("whole", vec![0, 1, 2, 3]), ("gapped", vec![0, 1, 3]), ("poisoned", vec![0, 1, 2])] {
        for seq in seqs {
            let kind = if game == "poisoned" && seq == 1 { "tank.bad" } else { "tank.step" };
            let offset = put(event(game, seq, kind).encode()).await;
            offsets.insert((game.to_owned(), seq), offset);
        }
    }
    put(event("whole", 2, "tank.step").encode()).await;
    let undecodable = put(b"nonsense".to_vec()).await;
    World { log, lake, _dir: dir, offsets, undecodable, last: undecodable }
}

impl World {
    /// Writes what the flows would, except that `leave_out` is left out and `twice` is written twice.
    async fn write(&self, leave_out: Option<(&str, u64)>, twice: Option<(&str, u64)>) {
        let mut rows = EventsBuilder::new();
        let mut transitions = TransitionsBuilder::new();
        for ((game, seq), offset) in &self.offsets {
            let kind = if game == "poisoned" && *seq == 1 { "tank.bad" } else { "tank.step" };
            let event = event(game, *seq, kind);
            let is = |which: Option<(&str, u64)>| which == Some((game.as_str(), *seq));
            for _ in 0..usize::from(!is(leave_out)) + usize::from(is(twice)) {
                rows.push(&event, 0, *offset, 1_700_000_000_000);
            }
            if game == "whole" {
                transitions.push(System::Tank, &row(&event), "2023-11-14", None, 1.0).unwrap();
            }
        }
        let position = [(format!("land/{TOPIC}/0"), self.last)];
        self.lake.table(TableName::Events).append(vec![rows.finish()], &position).await.unwrap();
        self.lake.table(TableName::Transitions).append(vec![transitions.finish()], &[]).await.unwrap();
        let mut episodes = EpisodesBuilder::new();
        for (game, incomplete) in [("whole", false), ("gapped", true), ("poisoned", true)] {
            episodes.push(&EpisodeSeatRow {
                system: System::Tank,
                dt: "2023-11-14".into(),
                game_id: GameId::new(game).unwrap(),
                seat: "a".into(),
                label: "x".into(),
                map_key: "m".into(),
                opponent: "hunter".into(),
                source: "farm".into(),
                reason: "abandoned".into(),
                outcome: 0,
                length: 3,
                episode_return: None,
                model: None,
                incomplete,
                partition: 0,
                closed_offset: self.last,
                closed_ms: 1_700_000_000_000,
            });
        }
        self.lake.table(TableName::Episodes).append(vec![episodes.finish()], &[]).await.unwrap();
    }

    async fn bury(&self, times: usize) {
        self.bury_at(self.undecodable, times).await;
    }

    async fn bury_at(&self, offset: i64, times: usize) {
        let mut rows = DeadLettersBuilder::new();
        for _ in 0..times {
            rows.push(&DeadLetterRow {
                system: "tank".into(),
                flow: "land".into(),
                topic: TOPIC.into(),
                partition: 0,
                offset,
                ingest_ms: 1_700_000_000_000,
                reason: "malformed".into(),
                detail: "it is nonsense".into(),
                raw: b"nonsense".to_vec(),
            });
        }
        self.lake.table(TableName::DeadLetters).append(vec![rows.finish()], &[]).await.unwrap();
    }

    async fn audit(&self, acknowledged: &[(&str, u64)]) -> AuditReport {
        let config = AuditConfig {
            topics: vec![(Topic::new(TOPIC), 1)],
            experience: Box::new(|_| Some(Box::new(Steps))),
            acknowledged: acknowledged.iter().map(|(game, seq)| (GameId::new(game).unwrap(), *seq)).collect(),
            archive: None,
        };
        audit(&self.log, &self.lake, &config).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_well_written_tables_close() {
    let world = world().await;
    world.write(None, None).await;
    world.bury(1).await;
    let report = world.audit(&[("whole", 3), ("gapped", 1)]).await;
    assert!(report.ok, "{report:#?}");
    let totals = &report.totals;
    assert_eq!((totals.games, totals.games_incomplete, totals.games_open), (3, 2, 0));
    assert_eq!((totals.events_log, totals.events_table, totals.duplicate_rows), (10, 10, 0));
    assert_eq!((totals.repeats, totals.gaps, totals.undecodable, totals.dead_letters), (1, 1, 1, 1));
    assert_eq!((totals.transitions_expected, totals.transitions_present), (4, 4));
    let whole = report.games.iter().find(|game| game.game_id == "whole").unwrap();
    assert_eq!((whole.max_seq, whole.state, whole.transitions_expected), (Some(3), "complete", 4));
    assert!(serde_json::to_string(&report).unwrap().contains("\"transitions_expected\":4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_row_is_found() {
    let world = world().await;
    world.write(Some(("whole", 1)), None).await;
    world.bury(1).await;
    let report = world.audit(&[]).await;
    let bad: Vec<_> = report.bad_games().collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(
        (bad[0].game_id.as_str(), bad[0].problems.as_slice()),
        ("whole", &["1 events of the log are not in the table".to_owned()][..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubled_row_is_found() {
    let world = world().await;
    world.write(None, Some(("gapped", 3))).await;
    world.bury(1).await;
    let report = world.audit(&[]).await;
    assert_eq!(report.totals.duplicate_rows, 1);
    assert_eq!(report.bad_games().map(|game| game.game_id.as_str()).collect::<Vec<_>>(), ["gapped"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_doubled_dead_letters_and_lost_promises_are_found() {
    let world = world().await;
    world.write(None, None).await;
    let report = world.audit(&[]).await;
    assert_eq!(report.problems, ["1 undecodable records are not in dead_letters"]);
    world.bury(2).await;
    let report = world.audit(&[("whole", 5), ("never", 0)]).await;
    assert_eq!(report.problems, ["1 records are in dead_letters more than once"]);
    assert_eq!(report.totals.acknowledged_lost, 3);
    assert!(!report.ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_transitions_are_found_and_open_games_are_not_blamed() {
    let world = world().await;
    world.write(None, None).await;
    world.bury(1).await;
    let later = [event("whole", 4, "tank.step"), event("new", 0, "tank.step")];
    let later = later.iter().map(|event| Record::new("k", event.encode())).collect();
    world.log.append(&Topic::new(TOPIC).partition(0), later).await.unwrap();
    let report = world.audit(&[]).await;
    assert_eq!((report.totals.events_pending, report.totals.games_open), (2, 1));
    let bad: Vec<_> = report.bad_games().collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].problems, ["5 transitions are due, 4 are there"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_no_table_holds_is_a_bad_record_to_the_audit_too() {
    let mut world = world().await;
    for seq in [u64::MAX, i64::MAX as u64 + 1] {
        let record = Record::new("k", event("whole", seq, "tank.step").encode());
        world.last = world.log.append(&Topic::new(TOPIC).partition(0), vec![record]).await.unwrap().as_i64();
        world.bury_at(world.last, 1).await;
    }
    world.write(None, None).await;
    world.bury(1).await;
    let report = world.audit(&[("whole", 3)]).await;
    assert!(report.ok, "{report:#?}");
    assert_eq!((report.totals.undecodable, report.totals.dead_letters, report.totals.gaps), (3, 3, 1));
    // A promise of such a number is counted, not looked for one by one.
    let report = world.audit(&[("whole", u64::MAX)]).await;
    assert_eq!(report.totals.acknowledged_lost, u64::MAX - 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_beside_a_loop_that_trims_reads_on_behind_what_went() {
    let mut world = world().await;
    world.write(None, None).await;
    world.bury(1).await;
    let offset = |n| flywheel_log::Offset::from_raw(n);
    world.log.trim(&Topic::new(TOPIC).partition(0), offset(0)).await.unwrap();
    world.log = TrimmedBeside::over(Arc::clone(&world.log), vec![offset(5), offset(6)]);
    let report = world.audit(&[("whole", 3)]).await;
    assert!(report.trimmed && report.ok, "{report:#?}");
    assert_eq!(report.totals.records, 5, "of twelve the first seven were gone when they were to be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_merges_small_files_while_it_runs() {
    let world = world().await;
    let events = world.lake.table(TableName::Events);
    for seq in 0..12u64 {
        let mut rows = EventsBuilder::new();
        rows.push(&event("g", seq, "tank.step"), 0, seq as i64, 1_700_000_000_000);
        events.append(vec![rows.finish()], &[]).await.unwrap();
    }
    let config = MaintainConfig {
        interval: Duration::from_millis(1),
        compact: CompactOptions { min_files: 4, ..CompactOptions::default() },
        ..MaintainConfig::default()
    };
    let maintain = Maintain::new(world.lake.clone(), config);
    let (stats, cancel) = (maintain.stats(), tokio_util::sync::CancellationToken::new());
    let task = tokio::spawn({
        let cancel = cancel.clone();
        async move { maintain.run(cancel).await }
    });
    while stats.rounds.load(std::sync::atomic::Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    cancel.cancel();
    task.await.unwrap();
    assert_eq!((events.files().await.unwrap().len(), events.rows().await.unwrap()), (1, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_table_is_found_by_the_check_of_its_files() {
    let world = world().await;
    world.write(None, None).await;
    world.bury(1).await;
    let mut told = Vec::new();
    let good =
        check_files(&world.lake, |checked, total| told.push((checked.files, checked.bytes, total))).await.unwrap();
    let bytes = good.bytes;
    assert_eq!((good.files, good.without_checksum, good.damaged.len()), (4, 0, 0), "{good:?}");
    assert_eq!(told.last(), Some(&(4, bytes, bytes)));

    let mut bad = Vec::new();
    for name in [TableName::Events, TableName::Transitions, TableName::Episodes, TableName::DeadLetters] {
        let file = world.lake.table(name).files().await.unwrap().remove(0);
        let path = world._dir.path().join(name.as_str()).join(&file.path);
        let mut flipped = std::fs::read(&path).unwrap();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        std::fs::write(&path, flipped).unwrap();
        bad.push(format!("{name}/{}", file.path));
        let found = check_files(&world.lake, |_, _| ()).await.unwrap();
        assert_eq!((found.files, found.bytes, found.damaged.len()), (4, bytes, bad.len()), "{found:?}");
        assert!(bad.iter().all(|file| found.damaged.iter().any(|why| why.contains(file))), "{found:?}");
    }
    std::fs::remove_file(world._dir.path().join(&bad[0])).unwrap();
    let found = check_files(&world.lake, |_, _| ()).await.unwrap();
    assert!(found.damaged.len() == 4 && found.damaged.iter().any(|why| why.contains(&bad[0])), "{found:?}");
}
