//! Every row of the tank spec's section 15 that concerns the AI backend, and whatever else a game backend may say.

mod fakes;
#[path = "../../tank/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use fakes::{FakeGbe, FakeStore, Poll, Running, Saving, config, state, transition, until};
use flywheel_agent::{AgentConfig, SessionState};
use flywheel_events::{kinds, tank as payload};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

#[tokio::test]
async fn a_failed_poll_is_not_an_empty_poll() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let config = AgentConfig { poll_timeout: Duration::from_millis(30), ..config(&gbe, None) };
    let running = Running::new(config, None);
    let mut socket = gbe.joined().await;
    let mut tick = 0;
    for poll in [Poll::Status(500), Poll::Text("oops"), Poll::Text(r#"{"error":"x"}"#), Poll::Text("[]"), Poll::Hang] {
        gbe.answer_polls(poll);
        let before = running.agent.stats().polls_failed;
        until(|| running.agent.stats().polls_failed > before + 2).await;
        tick += 1;
        socket.send(&transition(state(tick, &[("3", 56, 40)]), &[]));
        socket.inputs(1).await;
    }
    gbe.sessions(&["a"]);
    gbe.polls(3).await;
    assert!(gbe.no_more_sockets());
    assert_eq!(gbe.open(), 1);
}

#[tokio::test]
async fn an_unknown_session_on_upgrade_is_left_alone_until_the_next_poll() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    gbe.refuse_sockets(true);
    let running = Running::new(config(&gbe, None), None);
    until(|| running.agent.sessions().iter().any(|(_, s)| *s == SessionState::StayingOut)).await;
    // At most one attempt for each poll that lists it.
    gbe.polls(5).await;
    assert!(gbe.refused() <= running.agent.stats().polls + 1, "{} attempts", gbe.refused());
    gbe.refuse_sockets(false);
    gbe.joined().await;
}

#[tokio::test]
async fn frames_that_make_no_sense_are_counted_and_the_next_transition_is_answered() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    for text in ["", "{", "nonsense", "[1]", r#"{"type":7}"#] {
        socket.text(text);
    }
    socket.text(r#"{"type":"news","state":{}}"#);
    socket.text(r#"{"type":"state"}"#);
    socket.text(r#"{"type":"state","state":[]}"#);
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    socket.inputs(1).await;
    let stats = running.agent.stats();
    assert_eq!((stats.bad_frames, stats.bad_states), (5, 1));
}

#[tokio::test]
async fn a_reward_for_a_tank_that_is_not_in_the_state_is_skipped_and_counted() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    socket.inputs(1).await;
    let mut message = transition(state(2, &[("3", 56, 40)]), &[("3", 0.1), ("zz", 1.0), ("1", 1.0), ("!", 1.0)]);
    let entries = message["aiRewards"].as_array_mut().unwrap();
    entries.extend([json!(7), json!({"tankId": "3", "reward": 5.0}), json!({"tankId": "3"}), Value::Null]);
    socket.send(&message);
    assert_eq!(socket.inputs(1).await["3"]["debug"]["trainStepsDelta"], 1);
    assert_eq!(running.agent.stats().entries_skipped, 7);
}

#[tokio::test]
async fn a_next_state_that_is_none_brings_no_training_and_no_actions() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    socket.inputs(1).await;
    for bad in [Value::Null, json!(3), json!("state"), json!([]), json!({"players": []})] {
        let mut message = transition(state(2, &[]), &[("3", 1.0)]);
        message["nextState"] = bad;
        socket.send(&message);
    }
    socket.send(&transition(state(2, &[("3", 56, 40)]), &[("3", 0.5)]));
    let debug = socket.inputs(1).await["3"]["debug"].clone();
    assert_eq!((&debug["steps"], &debug["trainStepsDelta"]), (&json!(1), &json!(1)), "the old state was kept");
    assert_eq!(socket.pending(), 0);
    assert_eq!(running.agent.stats().train_steps, 1);
}

#[tokio::test]
async fn a_tick_that_goes_backwards_begins_a_new_episode_with_an_empty_history() {
    let (emitter, log, _spill) = support::emitter().await;
    let mut gbe = FakeGbe::new(&["g"]).await;
    let running = Running::new(config(&gbe, None), Some(emitter.clone()));
    let mut socket = gbe.joined().await;
    for tick in [100, 101, 102, 3, 4] {
        socket.send(&transition(state(tick, &[("3", 56, 40)]), &[("3", 0.5)]));
        socket.inputs(1).await;
    }
    running.stop.cancel();
    running.agent.closed().await;
    let events = support::events_of(&log, &emitter, "g").await;
    let rows: Vec<payload::Transition> =
        events.iter().filter(|e| e.kind == kinds::TANK_TRANSITION).map(|e| e.payload_as().unwrap()).collect();
    assert_eq!(rows.iter().map(|t| t.tick).collect::<Vec<_>>(), [101, 102, 4], "no transition across the break");
    assert!(rows[2].tanks[0].s[..81].iter().all(|&v| v == 0.0), "the stack begins anew");
}

#[tokio::test]
async fn one_tick_gets_one_round_of_actions() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    for tick in [1, 1, 1, 2] {
        socket.send(&transition(state(tick, &[("3", 56, 40)]), &[]));
    }
    assert_eq!(socket.inputs(2).await["3"]["debug"]["actionTick"], 2);
    assert_eq!(socket.pending(), 0);
    let stats = running.agent.stats();
    assert_eq!((stats.rounds, stats.repeated_ticks), (2, 2));
}

#[tokio::test]
async fn a_tank_that_is_gone_is_trained_once_more_as_done_with_its_last_state() {
    let (emitter, log, _spill) = support::emitter().await;
    let mut gbe = FakeGbe::new(&["g"]).await;
    let running = Running::new(config(&gbe, None), Some(emitter.clone()));
    let mut socket = gbe.joined().await;
    let both = [("3", 56, 40), ("4", 156, 40)];
    socket.send(&transition(state(1, &both), &[("3", 0.0), ("4", 0.0)]));
    socket.inputs(2).await;
    socket.send(&transition(state(2, &both[..1]), &[("3", 0.1), ("4", -5.0)]));
    socket.inputs(1).await;
    // It is forgotten now: another entry for it has nothing to refer to.
    socket.send(&transition(state(3, &both[..1]), &[("3", 0.1), ("4", -5.0)]));
    socket.inputs(1).await;
    running.stop.cancel();
    running.agent.closed().await;
    assert_eq!(running.agent.stats().entries_skipped, 1);
    let events = support::events_of(&log, &emitter, "g").await;
    let rows: Vec<payload::TankTransition> = events
        .iter()
        .filter(|e| e.kind == kinds::TANK_TRANSITION)
        .flat_map(|e| e.payload_as::<payload::Transition>().unwrap().tanks)
        .collect();
    let fallen: Vec<_> = rows.iter().filter(|r| r.tank_id == "4").collect();
    assert_eq!(fallen.len(), 1);
    assert!(fallen[0].done && fallen[0].r == -5.0 && fallen[0].s2 == fallen[0].s);
    assert!(rows.iter().filter(|r| r.tank_id == "3").all(|r| !r.done));
}

#[tokio::test]
async fn at_game_over_everything_is_done_nothing_is_sent_but_one_line() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    socket.inputs(1).await;
    let mut over = state(2, &[("3", 56, 40)]);
    (over["gameOver"], over["gameOverReason"]) = (json!(true), json!("hq_destroyed"));
    socket.send(&transition(over.clone(), &[("3", 5.0)]));
    let line = socket.next().await;
    assert_eq!((&line["type"], &line["episodeLogTick"]), (&json!("episode_log"), &json!(2)));
    let text = line["episodeLog"].as_str().unwrap();
    assert!(text.contains("won in 2 ticks") && text.contains("mean return 5.00"), "{text}");
    over["tick"] = json!(3);
    socket.send(&transition(over, &[]));
    socket.close(1000, "game over");
    until(|| running.agent.stats().reconnects == 1).await;
    assert_eq!(socket.pending(), 0);
    let stats = running.agent.stats();
    assert_eq!((stats.episodes, stats.wins, stats.train_steps), (1, 1, 1));
}

#[tokio::test]
async fn a_model_of_another_state_size_is_replaced_by_a_fresh_one_and_that_is_an_event() {
    let (emitter, log, _spill) = support::emitter().await;
    let odd = json!({
        "modelTopology": {"format": "linear-q", "stateSize": 2, "actionSize": 1},
        "weightSpecs": [{"name": "kernel", "shape": [1, 2], "dtype": "float32"}, {"name": "bias", "shape": [1], "dtype": "float32"}],
        "weightDataBase64": "AACAPwAAAMAAAAA/",
    });
    let store =
        FakeStore::new(vec![("tank-ai-dqn-nowhere-1763700000000", odd), ("tank-ai-dqn-x-1763700000001", json!({}))])
            .await;
    let mut gbe = FakeGbe::new(&["g"]).await;
    let running = Running::new(config(&gbe, Some(&store)), Some(emitter.clone()));
    let mut socket = gbe.joined().await;
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    socket.inputs(1).await;
    assert_eq!(running.agent.stats().models_refused, 2);
    running.stop.cancel();
    running.agent.closed().await;
    let events = support::events_of(&log, &emitter, "g").await;
    let refused = events.iter().find(|e| e.kind == kinds::MODEL_SWAP_REFUSED).expect("an event");
    let refused: payload::SwapRefused = refused.payload_as().unwrap();
    assert_eq!(refused.model, "tank-ai-dqn-nowhere-1763700000000");
    assert!(refused.reason.contains("2-1"), "{}", refused.reason);
}

#[tokio::test]
async fn with_the_store_down_play_goes_on_saves_are_tried_three_times_and_newcomers_get_the_latest_in_memory() {
    let store = FakeStore::new(vec![]).await;
    store.saving(Saving::Fail(503));
    let mut gbe = FakeGbe::new(&["a"]).await;
    let config = AgentConfig { save_every_steps: 20, ..config(&gbe, Some(&store)) };
    let running = Running::new(config, None);
    let mut first = gbe.joined().await;
    for tick in 1..=21 {
        first.send(&transition(state(tick, &[("3", 56, 40)]), &[("3", 0.5)]));
        first.inputs(1).await;
    }
    until(|| running.agent.stats().saves_lost == 1).await;
    let stats = running.agent.stats();
    assert_eq!((store.attempts(), stats.save_failures, stats.saves), (3, 3, 0));
    gbe.sessions(&["a", "b"]);
    let mut second = gbe.joined().await;
    second.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    assert_eq!(second.inputs(1).await["3"]["debug"]["steps"], 20, "a copy of what the first had learned");
    first.send(&transition(state(30, &[("3", 56, 40)]), &[]));
    first.inputs(1).await;
}

#[tokio::test]
async fn a_socket_taken_over_by_another_ai_backend_is_not_fought_for() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let socket = gbe.joined().await;
    socket.close(4000, "replaced");
    until(|| running.agent.stats().replaced == 1).await;
    gbe.polls(5).await;
    assert!(gbe.no_more_sockets());
    gbe.sessions(&[]);
    until(|| running.agent.sessions().is_empty()).await;
    assert_eq!(running.agent.free_keys("tank-ai-dqn-nowhere").len(), 1);
}

#[tokio::test]
async fn a_lost_socket_is_opened_again_with_model_and_history_unless_a_second_was_missed() {
    let (emitter, log, _spill) = support::emitter().await;
    let mut gbe = FakeGbe::new(&["g"]).await;
    let running = Running::new(config(&gbe, None), Some(emitter.clone()));
    let mut socket = gbe.joined().await;
    let mut keys = std::collections::BTreeSet::new();
    // 10 missed ticks of 33 ms are a third of a second, 60 are two.
    for (first, missed) in [(1, 0), (14, 10), (77, 60)] {
        if missed > 0 {
            drop(socket);
            socket = gbe.joined().await;
        }
        for tick in first..first + 3 {
            socket.send(&transition(state(tick, &[("3", 56, 40)]), &[("3", 0.5)]));
            let input = socket.inputs(1).await.remove("3").unwrap();
            keys.insert(
                input["debug"]["modelInstancesBrief"][0].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned(),
            );
        }
    }
    assert_eq!(keys.len(), 1, "the same model throughout");
    assert_eq!(running.agent.stats().reconnects, 2);
    running.stop.cancel();
    running.agent.closed().await;
    let events = support::events_of(&log, &emitter, "g").await;
    let allocated = events.iter().filter(|e| e.kind == kinds::TANK_MODEL_ALLOCATED).count();
    let released = events.iter().filter(|e| e.kind == kinds::TANK_MODEL_RELEASED).count();
    assert_eq!((allocated, released), (1, 1));
    let rows: Vec<payload::Transition> =
        events.iter().filter(|e| e.kind == kinds::TANK_TRANSITION).map(|e| e.payload_as().unwrap()).collect();
    assert_eq!(rows.iter().map(|t| t.tick).collect::<Vec<_>>(), [2, 3, 14, 15, 16, 78, 79]);
    let empty = |t: &payload::Transition| t.tanks[0].s.chunks(27).take_while(|b| b.iter().all(|&v| v == 0.0)).count();
    assert_eq!(rows.iter().map(empty).collect::<Vec<_>>(), [3, 2, 1, 0, 0, 3, 2]);
}

#[tokio::test]
async fn back_off_doubles_and_the_game_backend_may_come_back() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    for _ in 0..6 {
        // Cut before anything was said: the pauses grow, the attempts go on.
        drop(gbe.socket().await);
    }
    let mut socket = gbe.joined().await;
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    socket.inputs(1).await;
    assert_eq!(running.agent.stats().reconnects, 6);
}

#[tokio::test]
async fn random_frames_never_stop_a_session() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let odd = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!("x"),
        json!([]),
        json!({}),
        json!(u64::MAX),
        json!(i64::MIN),
        json!("zzzzzzzzzzzz"),
        json!([[["a"]]]),
        json!({"upserts": [[1, 2], {}, "x"], "removed": [7, "1"], "labels": ["x", 3]}),
        json!(true),
    ];
    for _ in 0..2_000 {
        let mut message = transition(state(rng.random_range(0..50), &[("3", 56, 40), ("4", 90, 90)]), &[("3", 0.5)]);
        for _ in 0..rng.random_range(1..5) {
            spoil(&mut message, &odd, &mut rng);
        }
        let mut text = message.to_string();
        if rng.random::<f32>() < 0.2 {
            let cut =
                (0..=text.len()).filter(|&i| text.is_char_boundary(i)).nth(rng.random_range(0..text.len())).unwrap();
            text.truncate(cut);
        }
        socket.text(&text);
    }
    // However odd the last words were, of two sound states with falling ticks one at least begins anew.
    for tick in [60, 59] {
        socket.send(&transition(state(tick, &[("7f", 56, 40)]), &[]));
    }
    while socket.next().await["tankId"] != "7f" {}
    assert_eq!(running.agent.sessions()[0].1, SessionState::Active);
    assert_eq!(running.agent.stats().reconnects, 0);
}

/// Puts something odd in a random place.
fn spoil(at: &mut Value, odd: &[Value], rng: &mut rand_chacha::ChaCha8Rng) {
    let descend = rng.random::<f32>() < 0.8;
    match at {
        Value::Object(fields) if descend && !fields.is_empty() => {
            let n = rng.random_range(0..fields.len());
            spoil(fields.values_mut().nth(n).unwrap(), odd, rng);
        }
        Value::Array(items) if descend && !items.is_empty() => {
            let n = rng.random_range(0..items.len());
            spoil(&mut items[n], odd, rng);
        }
        _ => *at = odd[rng.random_range(0..odd.len())].clone(),
    }
}
