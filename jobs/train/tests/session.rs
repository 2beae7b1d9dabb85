//! Runs from their first row to their last step, with a small learner in plain Rust.

mod support;

use std::time::Duration;

use flywheel_events::{Event, ModelVersion, System, kinds};
use flywheel_log::{EventLog, Record, Topic, partition_of};
use flywheel_train::{Beat, Ended, Origin, PublishError, Step, TrainConfig, TrainError};
use serde_json::{Value, json};
use support::{Memory, World, append, config, events, game, store};

fn games(prefix: &str, n: usize, steps: usize) -> Vec<Vec<flywheel_game_api::TransitionRow>> {
    (0..n).map(|i| game(&format!("{prefix}-{i}"), steps + i % 7)).collect()
}

/// Runs until it ends and returns each step's loss bits.
fn losses(world: &mut World, config: &TrainConfig, run: &str, host: Memory) -> (Vec<(u64, u32)>, Ended) {
    let handle = world.handle();
    let mut session = world.session(config, run, host, Origin::default()).unwrap();
    let mut seen = Vec::new();
    let ended = session.run(&handle, |step: Step| seen.push((step.step, step.loss.to_bits()))).unwrap();
    (seen, ended)
}

#[test]
fn a_run_that_was_stopped_and_resumed_has_the_loss_curve_of_one_that_was_not() {
    let mut world = World::new();
    let runtime = world.handle();
    runtime.block_on(store(&world.sources.lake, &games("g", 20, 25)));
    let fixed = TrainConfig { follow: false, max_steps: Some(240), ..config() };
    let (whole, ended) = losses(&mut world, &fixed, "whole", Memory::new(|_| Beat::Continue));
    assert_eq!((ended, whole.len()), (Ended::Completed, 240));

    let mut parts = Vec::new();
    for until in [70, 71, 150] {
        let config = TrainConfig { max_steps: Some(until), ..fixed.clone() };
        parts.extend(losses(&mut world, &config, "parts", Memory::new(|_| Beat::Continue)).0);
        // The table grows meanwhile; the run keeps to the version that it began with.
        runtime.block_on(store(&world.sources.lake, &games(&format!("late-{until}"), 3, 9)));
    }
    parts.extend(losses(&mut world, &fixed, "parts", Memory::new(|_| Beat::Continue)).0);
    assert_eq!(whole, parts);
}

#[test]
fn a_run_killed_between_checkpoints_repeats_the_steps_it_lost_and_ends_up_the_same() {
    let mut world = World::new();
    world.handle().block_on(store(&world.sources.lake, &games("g", 20, 25)));
    let fixed = TrainConfig { follow: false, max_steps: Some(120), ..config() };
    let (whole, _) = losses(&mut world, &fixed, "whole", Memory::new(|_| Beat::Continue));

    let half = TrainConfig { max_steps: Some(40), ..fixed.clone() };
    losses(&mut world, &half, "killed", Memory::new(|_| Beat::Continue));
    // Fenced at its next checkpoint: it has learned on, and nothing of that is kept.
    let handle = world.handle();
    let host = Memory { fenced_at_checkpoint: true, ..Memory::new(|_| Beat::Fenced) };
    let mut session = world.session(&fixed, "killed", host, Origin::default()).unwrap();
    assert!(matches!(session.run(&handle, |_| {}), Err(TrainError::Fenced)));
    let (rest, _) = losses(&mut world, &fixed, "killed", Memory::new(|_| Beat::Continue));
    assert_eq!(whole[40..], rest);
}

#[test]
fn a_checkpoint_cut_in_half_gives_way_to_the_one_before() {
    let mut world = World::new();
    world.handle().block_on(store(&world.sources.lake, &games("g", 20, 25)));
    let fixed = TrainConfig { follow: false, max_steps: Some(120), ..config() };
    let (whole, _) = losses(&mut world, &fixed, "whole", Memory::new(|_| Beat::Continue));
    for until in [30, 60] {
        losses(
            &mut world,
            &TrainConfig { max_steps: Some(until), ..fixed.clone() },
            "cut",
            Memory::new(|_| Beat::Continue),
        );
    }
    for file in ["linear.json", "trainer.json", "priorities.f32"] {
        let path = world.dir.path().join("runs/cut/step-000000000060").join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let (newest, passed) = world.checkpoints("cut").newest().unwrap();
        assert_eq!(newest.unwrap().state.steps, 30);
        let message = passed[0].to_string();
        assert!(
            message.contains("step-000000000060") && message.contains(file) && message.contains("cut"),
            "{message}"
        );
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(world.checkpoints("cut").newest().unwrap().0.unwrap().state.steps, 60);
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let (rest, _) = losses(
            &mut world,
            &TrainConfig { max_steps: Some(60), ..fixed.clone() },
            "cut",
            Memory::new(|_| Beat::Continue),
        );
        assert_eq!(whole[30..60], rest, "the steps since are done again");
    }
}

#[test]
fn a_run_waits_for_its_data_learns_from_the_log_publishes_and_stops_when_told() {
    let mut world = World::new();
    let handle = world.handle();
    let log = world.log.clone();
    handle.block_on(append(&log, &game("early", 40)));
    let (feeder, told) = (handle.clone(), log.clone());
    let mut fed = false;
    let host = Memory::new(move |progress: &Value| {
        if !fed && progress["waiting"] == "40 of 100 transitions" {
            fed = true;
            feeder.block_on(async {
                for rows in games("live", 10, 30) {
                    append(&told, &rows).await
                }
            });
        }
        if progress["published"].as_array().is_some_and(|published| published.len() >= 2) {
            Beat::Stop
        } else {
            Beat::Continue
        }
    });
    let mut session = world.session(&config(), "live", host, Origin { parent: None, code: json!("abc") }).unwrap();
    assert_eq!(session.run(&handle, |_| {}).unwrap(), Ended::Stopped);
    let host = session.host();
    let first = &host.candidates[0];
    assert!(first.steps >= 50 && first.parent.is_none());
    assert_eq!(host.candidates[1].parent, Some(ModelVersion(1)));
    assert_eq!(first.metadata["seed"], 3);
    assert_eq!(first.metadata["code"], "abc");
    assert_eq!(first.metadata["config"]["batch_size"], 16);
    assert_eq!(first.metadata["tables"]["transitions"], Value::Null);
    assert!(first.metadata["rows"]["log"].as_object().is_some_and(|log| !log.is_empty()));
    let last = host.beats.last().unwrap();
    assert_eq!(last["buffer_len"].as_u64().unwrap(), 40 + (0..10).map(|i| 30 + i % 7).sum::<u64>());
    assert!(last["sample_freshness_p99_ms"].is_u64());
    assert!(!host.checkpoints.is_empty(), "a stop leaves a checkpoint");
}

#[test]
fn games_that_the_table_holds_are_not_taken_from_the_log_again() {
    let mut world = World::new();
    let handle = world.handle();
    let (stored, open) = (games("stored", 5, 30), game("open", 30));
    let rows: usize = stored.iter().map(Vec::len).sum();
    handle.block_on(store(&world.sources.lake, &stored));
    handle.block_on(async {
        for rows in &stored {
            append(&world.log, rows).await;
        }
        append(&world.log, &open).await;
        append(&world.log, &open).await;
    });
    let wanted = (rows + open.len()) as u64;
    let host =
        Memory::new(move |progress| if progress["games"]["repeats"] == 30 { Beat::Stop } else { Beat::Continue });
    let mut session = world.session(&config(), "both", host, Origin::default()).unwrap();
    session.run(&handle, |_| {}).unwrap();
    let last = session.host().beats.last().unwrap();
    assert_eq!(last["buffer_len"].as_u64().unwrap(), wanted);
    assert_eq!(last["games"]["known"].as_u64().unwrap(), rows as u64);
    assert!(last["table_version"].as_u64().is_some_and(|version| version >= 4), "five appends");
}

#[test]
fn a_game_with_a_hole_and_records_that_are_no_events_are_counted_and_learned_from_no_further() {
    let mut world = World::new();
    let handle = world.handle();
    let mut holed = events(&game("holed", 30));
    holed.remove(10);
    handle.block_on(async {
        let topic = Topic::new(System::Tank.topic());
        let send = async |event: &[u8], key: &str| {
            let partition = topic.partition(partition_of(key.as_bytes(), support::PARTITIONS));
            world.log.append(&partition, vec![Record::new(key.as_bytes().to_vec(), event.to_vec())]).await.unwrap();
        };
        for event in &holed {
            send(&event.encode(), "holed").await;
        }
        send(b"not an event", "x").await;
        let bad = Event::new(System::Tank, kinds::TANK_TRANSITION, "bad".parse().unwrap(), 0, 0);
        send(&bad.encode(), "bad").await;
        append(&world.log, &game("whole", 120)).await;
    });
    let host = Memory::new(|progress| if progress["steps"].as_u64() > Some(0) { Beat::Stop } else { Beat::Continue });
    let mut session = world.session(&config(), "bad", host, Origin::default()).unwrap();
    session.run(&handle, |_| {}).unwrap();
    let last = session.host().beats.last().unwrap();
    assert_eq!(last["buffer_len"], 10 + 120);
    assert_eq!((&last["games"]["incomplete"], &last["games"]["unusable"]), (&json!(1), &json!(2)));
}

#[test]
fn numbers_that_are_not_finite_send_it_back_to_the_checkpoint_with_a_smaller_learning_rate() {
    let mut world = World::new();
    let handle = world.handle();
    let mut stored = games("g", 20, 25);
    handle.block_on(store(&world.sources.lake, &stored));
    let fixed = TrainConfig { max_steps: Some(50), follow: false, ..config() };
    losses(&mut world, &fixed, "wild", Memory::new(|_| Beat::Continue));
    // Rewards so large that their squares are not numbers any more.
    stored.iter_mut().flatten().for_each(|row| row.r = f32::MAX);
    let wild = TrainConfig { reward_scale: 1.0, ..TrainConfig { max_steps: Some(80), follow: false, ..config() } };
    handle.block_on(store(&world.sources.lake, &stored));
    let mut session = world.session(&wild, "other", Memory::new(|_| Beat::Continue), Origin::default()).unwrap();
    let error = session.run(&handle, |_| {}).unwrap_err();
    assert!(matches!(error, TrainError::Diverged(_)), "{error}");
    let learner = session.trainer().learner();
    assert!(flywheel_train::TrainLearner::learning_rate(learner) < wild.learning_rate / 1_000.0);
    let network = flywheel_policy::Learner::export(learner).unwrap();
    assert!(network.tensors().iter().all(|tensor| tensor.data.iter().all(|number| number.is_finite())));
}

#[test]
fn a_registry_that_is_away_delays_publishing_and_a_lost_lease_ends_the_run() {
    let mut world = World::new();
    let handle = world.handle();
    handle.block_on(store(&world.sources.lake, &games("g", 20, 25)));
    let mut host = Memory::new(|_| Beat::Continue);
    host.outcomes = vec![Err(PublishError::Fenced), Ok(ModelVersion(4)), Err(PublishError::Failed("no route".into()))];
    let config = TrainConfig { follow: false, publish_every: Duration::ZERO, ..config() };
    let mut session = world.session(&config, "away", host, Origin::default()).unwrap();
    assert!(matches!(session.run(&handle, |_| {}), Err(TrainError::Fenced)));
    let parents: Vec<_> = session.host().candidates.iter().map(|candidate| candidate.parent).collect();
    assert_eq!(parents, [None, None, Some(ModelVersion(4))]);
}

#[test]
fn only_the_newest_rows_of_a_large_table_are_loaded() {
    let mut world = World::new();
    let handle = world.handle();
    handle.block_on(store(&world.sources.lake, &games("g", 30, 20)));
    let total: u64 = (0..30).map(|i| 20 + i % 7).sum();
    let small = TrainConfig { capacity: 200, follow: false, max_steps: Some(1), ..config() };
    let mut session = world.session(&small, "newest", Memory::new(|_| Beat::Continue), Origin::default()).unwrap();
    session.run(&handle, |_| {}).unwrap();
    let last = session.host().beats.last().unwrap();
    assert_eq!((&last["buffer_len"], &last["table_rows"]), (&json!(200), &json!(200)));
    assert_eq!(last["transitions_seen"], 200);
    assert!(total > 200);
}
