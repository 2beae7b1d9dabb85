//! Every event of the log is in the table once, whatever happens on the way.

mod common;

use std::{collections::BTreeSet, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use common::*;
use flywheel_events::Event;
use flywheel_flows::{FlowState, Land, LandConfig, land_app_id};
use flywheel_lake::{CompactOptions, Lake, TableName, testing::Fail};
use flywheel_log::{EventLog, Offset};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

fn config(log: &VecLog) -> LandConfig {
    LandConfig {
        linger: Duration::from_millis(1),
        max_batch_rows: 8,
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(4),
        ..LandConfig::new(topic(), log.partitions())
    }
}

fn land(log: &Arc<VecLog>, lake: &Lake) -> Land {
    Land::new(Arc::clone(log) as Arc<dyn EventLog>, lake.clone(), config(log))
}

/// Runs until everything in the log is committed, then stops as told.
async fn land_all(log: &Arc<VecLog>, lake: &Lake) -> Arc<flywheel_flows::LandStats> {
    let (land, cancel) = (land(log, lake), CancellationToken::new());
    let stats = land.stats();
    let task = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    until(async || task.is_finished() || caught_up(lake, log, TableName::Events, land_app_id).await).await;
    cancel.cancel();
    task.await.unwrap().unwrap();
    stats
}

/// What the table must hold, by a model without any state but two sets.
type Model = (Vec<(String, u64, i64, String)>, Vec<i64>, u64);

fn model(log: &VecLog) -> Model {
    let (mut rows, mut dead, mut repeats, mut seen) = (Vec::new(), Vec::new(), 0, BTreeSet::new());
    for partition in 0..log.partitions() {
        for record in log.records(partition) {
            match Event::decode(&record.value) {
                Err(_) => dead.push(record.offset.as_i64()),
                Ok(event) if seen.insert((event.game_id.to_string(), event.seq)) => rows.push((
                    event.game_id.to_string(),
                    event.seq,
                    record.offset.as_i64(),
                    event.payload.get().to_owned(),
                )),
                Ok(_) => repeats += 1,
            }
        }
    }
    rows.sort();
    (rows, dead, repeats)
}

async fn assert_landed(log: &VecLog, lake: &Lake, context: &str) {
    let (rows, dead, _) = model(log);
    assert_eq!(event_rows(lake).await, rows, "{context}");
    assert_eq!(dead_rows(lake).await.iter().map(|row| row.offset).collect::<Vec<_>>(), dead, "{context}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_in_the_table_once_and_the_rest_is_counted() {
    let log = Arc::new(VecLog::new(2));
    toy::fill(&log, 9, 1);
    let lake = lake_on(&memory());
    let stats = land_all(&log, &lake).await;
    assert_landed(&log, &lake, "undisturbed").await;
    let (rows, dead, repeats) = model(&log);
    assert!(repeats > 0 && !dead.is_empty());
    assert_eq!(stats.events.load(Relaxed), rows.len() as u64);
    assert_eq!(stats.duplicates.load(Relaxed), repeats);
    assert_eq!(stats.dead.load(Relaxed), dead.len() as u64);
    assert_eq!(stats.freshness.count(), rows.len() as u64);
    assert_eq!(stats.pending.load(Relaxed), 0);
    // Two games with a gap: 3 and 3+7 of nine, in one partition each.
    let gaps = toy::FATES.len();
    assert!(stats.gaps.load(Relaxed) >= 2, "{gaps}");
    assert_eq!(stats.status.state(), FlowState::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_loses_and_doubles_nothing() {
    let log = Arc::new(VecLog::new(1));
    toy::fill(&log, 4, 3);
    for how in [Fail::Before, Fail::After] {
        let mut died = 0;
        for n in 1.. {
            let store = memory();
            let (broken, faults) = faulty(&store);
            faults.die_at(n, how);
            let (lake, probe) = (lake_on(&broken), lake_on(&store));
            let land = land(&log, &lake);
            let task = tokio::spawn(async move { land.run(CancellationToken::new()).await });
            until(async || faults.is_dead() || caught_up(&probe, &log, TableName::Events, land_app_id).await).await;
            // The process is gone in the middle of whatever it was doing.
            task.abort();
            let _ = task.await;
            let lake = lake_on(&store);
            land_all(&log, &lake).await;
            assert_landed(&log, &lake, &format!("died at operation {n}, {how:?}")).await;
            if !faults.is_dead() {
                break;
            }
            died = n;
        }
        assert!(died > 30, "only {died} operations could die");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_crashes_beside_compactions_lose_and_double_nothing() {
    for seed in 0..3 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let log = Arc::new(VecLog::new(3));
        toy::fill(&log, 12, seed);
        let store = memory();
        let mut crashes = 0;
        loop {
            let (broken, faults) = faulty(&store);
            let how = if rng.random_bool(0.5) { Fail::Before } else { Fail::After };
            faults.die_at(rng.random_range(5..60 + 15 * crashes), how);
            let lake = lake_on(&broken);
            let land = land(&log, &lake);
            let task = tokio::spawn(async move { land.run(CancellationToken::new()).await });
            let probe = lake_on(&store);
            until(async || faults.is_dead() || caught_up(&probe, &log, TableName::Events, land_app_id).await).await;
            task.abort();
            let _ = task.await;
            let options = CompactOptions { target_bytes: 1 << 20, min_files: 3 };
            probe.table(TableName::Events).compact_with(&options).await.unwrap();
            if caught_up(&probe, &log, TableName::Events, land_app_id).await {
                break;
            }
            crashes += 1;
        }
        assert!(crashes >= 3, "seed {seed}: only {crashes} crashes");
        assert_landed(&log, &lake_on(&store), &format!("seed {seed}, {crashes} crashes")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_landers_of_the_same_partitions_double_nothing() {
    let log = Arc::new(VecLog::new(2));
    toy::fill(&log, 10, 5);
    let store = memory();
    let cancel = CancellationToken::new();
    let mut landers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        // A lake each, as two processes have.
        let land = land(&log, &lake_on(&store));
        let cancel = cancel.clone();
        landers.spawn(async move { land.run(cancel).await.unwrap() });
    }
    let lake = lake_on(&store);
    until(async || caught_up(&lake, &log, TableName::Events, land_app_id).await).await;
    cancel.cancel();
    landers.join_all().await;
    assert_landed(&log, &lake, "two landers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_known_after_a_restart() {
    let log = Arc::new(VecLog::new(1));
    let lake = lake_on(&memory());
    let event = |seq| toy::event("g", seq, "tank.tick", serde_json::json!({ "n": seq }));
    for seq in [0, 1, 2, 5, 6] {
        log.put(0, T0, event(seq));
    }
    let stats = land_all(&log, &lake).await;
    assert_eq!(stats.gaps.load(Relaxed), 1);
    // 3 fills a part of the gap; the others are repeats, also those behind the gap.
    for seq in [2, 5, 0, 3, 6, 7] {
        log.put(0, T0 + 5, event(seq));
    }
    let stats = land_all(&log, &lake).await;
    assert_eq!((stats.events.load(Relaxed), stats.duplicates.load(Relaxed)), (2, 4));
    assert_eq!(stats.gaps.load(Relaxed), 1);
    log.put(0, T0 + 9, event(4));
    let stats = land_all(&log, &lake).await;
    assert_eq!((stats.events.load(Relaxed), stats.gaps.load(Relaxed)), (1, 0));
    assert_landed(&log, &lake, "after restarts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_a_clock_of_the_future_hides_no_repeats_of_the_others_after_a_restart() {
    const IN_2050: i64 = 2_524_608_000_000;
    let log = Arc::new(VecLog::new(2));
    let lake = lake_on(&memory());
    let event = |game, seq| toy::event(game, seq, "tank.tick", serde_json::json!({ "n": seq }));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    for seq in 0..4 {
        log.put(0, IN_2050, event("ahead", seq));
        log.put(1, now, event("g", seq));
    }
    land_all(&log, &lake).await;
    for seq in 0..5 {
        log.put(0, IN_2050, event("ahead", seq));
        log.put(1, now + 1, event("g", seq));
    }
    let stats = land_all(&log, &lake).await;
    assert_eq!((stats.events.load(Relaxed), stats.duplicates.load(Relaxed)), (2, 8));
    assert_landed(&log, &lake, "beside a partition of the future").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_after_hours_and_a_restart_is_landed_once_and_its_repeats_are_dropped() {
    const HOURS: i64 = 3 * 3_600_000;
    let log = Arc::new(VecLog::new(1));
    let lake = lake_on(&memory());
    let event = |seq| toy::event("g", seq, "tank.tick", serde_json::json!({ "n": seq }));
    // 2 is missing, and 4: spilled, or dead letters that will be put back.
    for seq in [0, 1, 3, 5] {
        log.put(0, T0, event(seq));
    }
    land_all(&log, &lake).await;
    for seq in [6, 7, 8] {
        log.put(0, T0 + HOURS, event(seq));
    }
    land_all(&log, &lake).await;
    // The next process reads the newest hour of the table: of this game, from 6 on.
    for seq in [2, 3, 2, 7] {
        log.put(0, T0 + HOURS + 1, event(seq));
    }
    let stats = land_all(&log, &lake).await;
    assert_eq!((stats.events.load(Relaxed), stats.duplicates.load(Relaxed)), (1, 3));
    for seq in [4, 2, 4] {
        log.put(0, T0 + HOURS + 2, event(seq));
    }
    let stats = land_all(&log, &lake).await;
    assert_eq!((stats.events.load(Relaxed), stats.duplicates.load(Relaxed)), (1, 2));
    assert_landed(&log, &lake, "after hours").await;
    assert_eq!(event_rows(&lake).await.len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_becomes_dead_letters_with_position_reason_and_bytes() {
    let log = Arc::new(VecLog::new(1));
    let deep = [b"{\"a\":".repeat(10_000), b"}".repeat(10_000)].concat();
    let large = vec![b' '; flywheel_events::MAX_EVENT_BYTES + 1];
    let good = String::from_utf8(toy::event("g", 7, "tank.tick", serde_json::json!({}))).unwrap();
    let poison: Vec<(Vec<u8>, &str)> = vec![
        (b"not json".to_vec(), "malformed"),
        (vec![0xff, 0xfe, 0x00], "not_utf8"),
        (Vec::new(), "malformed"),
        (deep, "too_deep"),
        (large, "too_large"),
        (good.replace("\"v\":1", "\"v\":2").into_bytes(), "unknown_version"),
        (good.replace("\"seq\":7", "\"seq\":1.5").into_bytes(), "malformed"),
        (good.replace("\"seq\":7", "\"seq\":18446744073709551615").into_bytes(), "seq_out_of_range"),
        (good.replace("\"payload\":{}", "\"payload\":[NaN]").into_bytes(), "malformed"),
        (good.replace("\"payload\":{}", "\"payload\":7").into_bytes(), "payload_not_object"),
        (good.replace("tank.tick", "tank").into_bytes(), "bad_kind"),
        (good.replace("\"ts_ms\":0", "\"ts_ms\":null").into_bytes(), "malformed"),
    ];
    for (n, (bytes, _)) in poison.iter().enumerate() {
        log.put(0, T0 + n as i64, bytes.clone());
        log.put(0, T0 + n as i64, toy::event("g", n as u64, "tank.tick", serde_json::json!({})));
    }
    let lake = lake_on(&memory());
    land_all(&log, &lake).await;
    let rows = dead_rows(&lake).await;
    assert_eq!(rows.len(), poison.len());
    for (n, (row, (bytes, reason))) in rows.iter().zip(&poison).enumerate() {
        let record = &log.records(0)[n * 2];
        assert_eq!((row.reason.as_str(), &row.raw), (*reason, bytes), "{}", row.detail);
        assert_eq!((row.offset, row.ingest_ms), (record.offset.as_i64(), record.ingest_ms));
        assert_eq!((row.flow.as_str(), row.topic.as_str(), row.system.as_str()), ("land", "fw.tank.events", "tank"));
    }
    assert_eq!(event_rows(&lake).await.len(), poison.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_or_the_log_is_away_land_waits_and_says_why() {
    let log = Arc::new(VecLog::new(1));
    toy::fill(&log, 3, 2);
    let store = memory();
    let (broken, faults) = faulty(&store);
    let lake = lake_on(&broken);
    let (land, cancel) = (land(&log, &lake), CancellationToken::new());
    let stats = land.stats();
    faults.die_at(1, Fail::Before);
    let task = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    let waits_for = async |word: &str| {
        until(async || {
            stats.status.state() == FlowState::Waiting && stats.status.why().is_some_and(|why| why.contains(word))
        })
        .await;
    };
    waits_for("the test said so").await;
    faults.heal();
    let probe = lake_on(&store);
    until(async || caught_up(&probe, &log, TableName::Events, land_app_id).await).await;
    assert_landed(&log, &probe, "after the store came back").await;

    log.set_away(true);
    waits_for("the test took it away").await;
    toy::event("late", 0, "tank.tick", serde_json::json!({}));
    log.put(0, T0, toy::event("late", 0, "tank.tick", serde_json::json!({})));
    log.set_away(false);
    until(async || caught_up(&probe, &log, TableName::Events, land_app_id).await).await;
    until(async || stats.status.state() == FlowState::Running).await;
    assert_eq!(stats.status.why(), None);
    cancel.cancel();
    task.await.unwrap().unwrap();
    assert_landed(&log, &probe, "after the log came back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_batch_is_committed_the_next_is_read_and_no_third() {
    let log = Arc::new(VecLog::new(1));
    toy::fill(&log, 1, 2);
    let store = memory();
    let (broken, faults) = faulty(&store);
    let (land, cancel) = (land(&log, &lake_on(&broken)), CancellationToken::new());
    let (stats, probe) = (land.stats(), lake_on(&store));
    let task = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    until(async || caught_up(&probe, &log, TableName::Events, land_app_id).await).await;
    until(async || stats.pending.load(Relaxed) == 0).await;
    faults.die_at(1, Fail::Before);
    for seq in 0..200 {
        log.put(0, T0, toy::event("more", seq, "tank.tick", serde_json::json!({})));
    }
    // A batch is full with its eighth record, and records come by up to seven.
    until(async || stats.pending.load(Relaxed) >= 16).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(stats.pending.load(Relaxed) <= 2 * 14, "{} records wait", stats.pending.load(Relaxed));
    faults.heal();
    until(async || caught_up(&probe, &log, TableName::Events, land_app_id).await).await;
    cancel.cancel();
    task.await.unwrap().unwrap();
    assert_landed(&log, &probe, "after the store came back").await;
    assert_eq!(stats.pending.load(Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_what_the_tables_have_is_told_of_and_not_read() {
    let log = Arc::new(VecLog::new(1));
    toy::fill(&log, 3, 2);
    let lake = lake_on(&memory());
    let end = log.records(0).last().unwrap().offset.as_i64();
    lake.table(TableName::Events).append(vec![], &[(land_app_id(&topic(), 0), end + 1)]).await.unwrap();
    let (land, cancel) = (land(&log, &lake), CancellationToken::new());
    let stats = land.stats();
    let task = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    until(async || stats.status.why().is_some_and(|why| why.contains("ends before what the tables have"))).await;
    assert_eq!((stats.status.state(), stats.events.load(Relaxed)), (FlowState::Waiting, 0));
    // A log that lost its last second goes on behind it.
    let mut last = end;
    for seq in 0..4 {
        last = log.put(0, T0, toy::event("later", seq, "tank.tick", serde_json::json!({})));
    }
    assert!(last > end + 1);
    until(async || caught_up(&lake, &log, TableName::Events, land_app_id).await).await;
    until(async || stats.status.state() == FlowState::Running).await;
    cancel.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_trimmed_before_they_were_read_are_told_of_and_do_not_stop_land() {
    let log = Arc::new(VecLog::new(1));
    for seq in 0..10 {
        log.put(0, T0, toy::event("g", seq, "tank.tick", serde_json::json!({})));
    }
    let third = log.records(0)[2].offset;
    log.trim(&topic().partition(0), Offset::from_raw(third.raw())).await.unwrap();
    let lake = lake_on(&memory());
    let stats = land_all(&log, &lake).await;
    assert_eq!((stats.lost.load(Relaxed), stats.events.load(Relaxed), stats.gaps.load(Relaxed)), (1, 7, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_committed_when_told_to_stop() {
    let log = Arc::new(VecLog::new(1));
    for seq in 0..5 {
        log.put(0, T0, toy::event("g", seq, "tank.tick", serde_json::json!({})));
    }
    let lake = lake_on(&memory());
    let config = LandConfig { linger: Duration::from_secs(3600), ..LandConfig::new(topic(), 1) };
    let land = Land::new(Arc::clone(&log) as Arc<dyn EventLog>, lake.clone(), config);
    let (stats, cancel) = (land.stats(), CancellationToken::new());
    let task = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    until(async || stats.pending.load(Relaxed) == 5).await;
    assert_eq!(stats.commits.load(Relaxed), 0);
    cancel.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(event_rows(&lake).await.len(), 5);
}
