//! The rows of games are a function of the log, not of what happened to the process that reads it.

mod common;

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use common::{
    toy::{Fate, experience},
    *,
};
use flywheel_flows::{Assemble, AssembleConfig, AssembleStats, assemble_app_id, assemble_low_app_id};
use flywheel_lake::{Lake, TableName, testing::Fail};
use flywheel_log::EventLog;
use flywheel_tables::{DeadLetterRow, EpisodeSeatRow, StoredTransition};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

fn config(log: &VecLog) -> AssembleConfig {
    AssembleConfig {
        linger: Duration::from_millis(1),
        position_interval: Duration::from_millis(5),
        max_batch_rows: 12,
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(4),
        ..AssembleConfig::new(topic(), log.partitions())
    }
}

fn assemble(log: &Arc<VecLog>, lake: &Lake) -> Assemble {
    Assemble::new(Arc::clone(log) as Arc<dyn EventLog>, lake.clone(), experience, config(log))
}

async fn assemble_with(log: &Arc<VecLog>, lake: &Lake, assemble: Assemble) -> Arc<AssembleStats> {
    let (stats, cancel) = (assemble.stats(), CancellationToken::new());
    let task = tokio::spawn({
        let cancel = cancel.clone();
        async move { assemble.run(cancel).await }
    });
    until(async || task.is_finished() || caught_up(lake, log, TableName::Episodes, assemble_app_id).await).await;
    cancel.cancel();
    task.await.unwrap().unwrap();
    stats
}

async fn assemble_all(log: &Arc<VecLog>, lake: &Lake) -> Arc<AssembleStats> {
    assemble_with(log, lake, assemble(log, lake)).await
}

type Rows = (Vec<StoredTransition>, Vec<EpisodeSeatRow>, Vec<DeadLetterRow>);

async fn rows(lake: &Lake) -> Rows {
    (transition_rows(lake).await, episode_rows(lake).await, dead_rows(lake).await)
}

async fn undisturbed(log: &Arc<VecLog>) -> Rows {
    let lake = lake_on(&memory());
    assemble_all(log, &lake).await;
    rows(&lake).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_game_leaves_what_its_fate_demands() {
    let log = Arc::new(VecLog::new(2));
    let fates = toy::fill(&log, 14, 0);
    let lake = lake_on(&memory());
    let stats = assemble_all(&log, &lake).await;
    let (transitions, episodes, dead) = rows(&lake).await;
    let mut by_game: BTreeMap<String, Vec<&StoredTransition>> = BTreeMap::new();
    transitions.iter().for_each(|row| by_game.entry(row.row.lane.game_id.to_string()).or_default().push(row));
    for (name, fate, expected) in &fates {
        let rows = by_game.get(name).map_or(&[][..], Vec::as_slice);
        let seats: Vec<_> = episodes.iter().filter(|row| row.game_id.as_str() == name).collect();
        assert_eq!(rows.len(), *expected, "{name}");
        assert_eq!(seats.len(), 2, "{name}: {seats:?}");
        let incomplete = matches!(fate, Fate::Gap | Fate::Poisoned);
        assert!(seats.iter().all(|seat| seat.incomplete == incomplete), "{name}");
        let abandoned = *fate == Fate::Abandoned;
        for seat in seats {
            assert_eq!(seat.reason, if abandoned { "abandoned" } else { "time_limit" }, "{name}");
            assert_eq!(seat.episode_return.is_none(), abandoned, "{name}");
            assert_eq!(seat.model.as_deref(), Some("toy@7"));
            let mine: Vec<_> = rows.iter().filter(|row| row.row.lane.seat == seat.seat).collect();
            assert!(mine.iter().all(|row| row.episode_return == seat.episode_return && row.priority == 1.0), "{name}");
            if let Some(told) = seat.episode_return.filter(|_| !incomplete) {
                assert_eq!(mine.iter().map(|row| row.row.r).sum::<f32>(), told, "{name}");
            }
        }
    }
    assert_eq!(transitions.len(), fates.iter().map(|fate| fate.2).sum::<usize>());
    let poisoned = fates.iter().filter(|fate| fate.1 == Fate::Poisoned).count();
    assert_eq!(dead.len(), poisoned);
    assert!(dead.iter().all(|row| row.flow == "assemble" && row.reason == "bad_payload"));
    // The bytes are those of the log.
    for row in &dead {
        let records = log.records(row.partition);
        let record = records.iter().find(|record| record.offset.as_i64() == row.offset).unwrap();
        assert_eq!((&record.value[..], record.ingest_ms), (&row.raw[..], row.ingest_ms));
    }
    assert_eq!(stats.games.load(Relaxed), fates.len() as u64);
    assert_eq!(stats.transitions.load(Relaxed), transitions.len() as u64);
    assert_eq!(stats.open_games.load(Relaxed), 2, "the two clocks");
    let abandoned = fates.iter().filter(|fate| fate.1 == Fate::Abandoned).count() as u64;
    assert_eq!(stats.abandoned.load(Relaxed), abandoned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_changes_no_row() {
    let log = Arc::new(VecLog::new(1));
    toy::fill(&log, 7, 4);
    let expected = undisturbed(&log).await;
    assert!(!expected.2.is_empty());
    for how in [Fail::Before, Fail::After] {
        let mut died = 0;
        for n in 1.. {
            let store = memory();
            let (broken, faults) = faulty(&store);
            faults.die_at(n, how);
            let (assemble, probe) = (assemble(&log, &lake_on(&broken)), lake_on(&store));
            let task = tokio::spawn(async move { assemble.run(CancellationToken::new()).await });
            until(async || faults.is_dead() || caught_up(&probe, &log, TableName::Episodes, assemble_app_id).await)
                .await;
            task.abort();
            let _ = task.await;
            let lake = lake_on(&store);
            assemble_all(&log, &lake).await;
            assert_eq!(rows(&lake).await, expected, "died at operation {n}, {how:?}");
            if !faults.is_dead() {
                break;
            }
            died = n;
        }
        assert!(died > 30, "only {died} operations could die");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_moment_is_no_error() {
    let log = Arc::new(VecLog::new(3));
    toy::fill(&log, 10, 3);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for _ in 0..50 {
        let cancel = CancellationToken::new();
        let assemble = assemble(&log, &lake_on(&memory()));
        let task = tokio::spawn({
            let cancel = cancel.clone();
            async move { assemble.run(cancel).await }
        });
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..4_000))).await;
        cancel.cancel();
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_crashes_change_no_row() {
    let mut all = 0;
    for seed in 0..3 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let log = Arc::new(VecLog::new(3));
        toy::fill(&log, 10, seed + 1);
        let expected = undisturbed(&log).await;
        let store = memory();
        let mut crashes = 0;
        loop {
            let (broken, faults) = faulty(&store);
            let how = if rng.random_bool(0.5) { Fail::Before } else { Fail::After };
            faults.die_at(rng.random_range(10..50 + 20 * crashes), how);
            let assemble = assemble(&log, &lake_on(&broken));
            let task = tokio::spawn(async move { assemble.run(CancellationToken::new()).await });
            let probe = lake_on(&store);
            until(async || faults.is_dead() || caught_up(&probe, &log, TableName::Episodes, assemble_app_id).await)
                .await;
            task.abort();
            let _ = task.await;
            if caught_up(&probe, &log, TableName::Episodes, assemble_app_id).await {
                break;
            }
            crashes += 1;
        }
        assert_eq!(rows(&lake_on(&store)).await, expected, "seed {seed}, {crashes} crashes");
        all += crashes;
    }
    // How many operations a pass takes depends on how its batches fall.
    assert!(all >= 6, "only {all} crashes");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_assemblers_of_the_same_partitions_double_nothing() {
    let log = Arc::new(VecLog::new(2));
    toy::fill(&log, 9, 6);
    let expected = undisturbed(&log).await;
    let store = memory();
    let cancel = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let assemble = assemble(&log, &lake_on(&store));
        let cancel = cancel.clone();
        tasks.spawn(async move { assemble.run(cancel).await.unwrap() });
    }
    let lake = lake_on(&store);
    until(async || caught_up(&lake, &log, TableName::Episodes, assemble_app_id).await).await;
    cancel.cancel();
    tasks.join_all().await;
    assert_eq!(rows(&lake).await, expected);
}

/// The log comes piece by piece, and the assembler is stopped properly after each: the same rows as in one go.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_in_the_middle_of_games_change_no_row() {
    let whole = Arc::new(VecLog::new(2));
    toy::fill(&whole, 10, 9);
    let expected = undisturbed(&whole).await;
    let (log, lake) = (Arc::new(VecLog::new(2)), lake_on(&memory()));
    let longest = whole.records(0).len().max(whole.records(1).len());
    let mut games = 0;
    for from in (0..longest).step_by(17) {
        for partition in 0..2 {
            for record in whole.records(partition).into_iter().skip(from).take(17) {
                log.put(partition, record.ingest_ms, record.value);
            }
        }
        games += assemble_all(&log, &lake).await.games.load(Relaxed);
    }
    // Only the clock, which never closes, is still to be read again.
    let low = lake.table(TableName::Episodes).position(&assemble_low_app_id(&topic(), 0)).await.unwrap().unwrap();
    let again = log.records(0).iter().filter(|record| record.offset.as_i64() > low).count();
    assert!(again <= 12, "a restart would read {again} records");
    assert_eq!(rows(&lake).await, expected);
    let distinct: std::collections::BTreeSet<_> = expected.1.iter().map(|row| &row.game_id).collect();
    assert_eq!(games, distinct.len() as u64, "each game is closed by one of the runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_that_holds_too_much_is_closed_and_named_and_the_others_go_on() {
    let log = Arc::new(VecLog::new(1));
    for seq in 0..200u64 {
        let step = serde_json::json!({"tick": seq, "seat": "a", "r": 1.0});
        log.put(0, T0 + seq as i64, toy::event("endless", seq, toy::STEP, step));
    }
    toy::fill(&log, 3, 0);
    let lake = lake_on(&memory());
    let config = AssembleConfig { max_open_rows: 60, ..config(&log) };
    let assemble = Assemble::new(Arc::clone(&log) as Arc<dyn EventLog>, lake.clone(), experience, config);
    assemble_with(&log, &lake, assemble).await;
    let (transitions, episodes, _) = rows(&lake).await;
    let endless: Vec<_> = episodes.iter().filter(|row| row.game_id.as_str() == "endless").collect();
    assert_eq!(endless.len(), 1);
    assert!(endless[0].incomplete && endless[0].reason == "too_large" && endless[0].outcome == 0);
    assert!(transitions.iter().all(|row| row.row.lane.game_id.as_str() != "endless"));
    assert!(!transitions.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_after_the_close_change_nothing() {
    let log = Arc::new(VecLog::new(1));
    let fates = toy::fill(&log, 5, 0);
    let lake = lake_on(&memory());
    assemble_all(&log, &lake).await;
    let before = rows(&lake).await;
    let (late, now) = (&fates[0].0, log.records(0).last().unwrap().ingest_ms);
    for seq in 0..30 {
        log.put(0, now, toy::event(late, seq, "tank.tick", serde_json::json!({})));
    }
    // The same process and one that has only the tables to know it from.
    let stats = assemble_all(&log, &lake).await;
    assert_eq!(stats.late.load(Relaxed), 30);
    for n in 12..30 {
        log.put(0, now + (n - 11) * 61_000, toy::event("p0-clock", n as u64, "tank.tick", serde_json::json!({})));
    }
    assemble_all(&log, &lake).await;
    assert_eq!(rows(&lake).await, before);
}
