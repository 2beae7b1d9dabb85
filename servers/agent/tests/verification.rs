//! The verifications of the tank spec's section 16 that concern the AI backend, against a scripted game backend.
//! Numbers 11 and 12 are in `whole_game.rs`.

mod fakes;
#[path = "../../tank/tests/support/mod.rs"]
mod support;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fakes::{FakeGbe, FakeStore, Running, Saving, config, state, tiles, transition, until};
use flywheel_agent::{AgentConfig, SessionState};
use flywheel_events::{Event, floats, kinds, tank as payload};
use flywheel_policy::{Network, NetworkSpec};
use flywheel_tank::{Audience, DeltaEncoder, Map, Rules, TankConfig};
use flywheel_tank_server::ModelPayload;
use serde_json::{Value, json};
use tokio::sync::Notify;

fn model(spec: &NetworkSpec, seed: u64, metadata: Value) -> Value {
    let mut payload = ModelPayload::from_network(&Network::random(spec, seed, 0.1).unwrap());
    payload.user_defined_metadata = Some(metadata);
    serde_json::to_value(payload).unwrap()
}

fn rows(events: &[Event]) -> Vec<(u64, payload::TankTransition)> {
    events
        .iter()
        .filter(|e| e.kind == kinds::TANK_TRANSITION)
        .flat_map(|e| {
            let transition: payload::Transition = e.payload_as().unwrap();
            transition.tanks.into_iter().map(move |tank| (transition.tick, tank))
        })
        .collect()
}

#[tokio::test]
async fn v1_a_polled_session_gets_exactly_one_socket_and_exactly_this_join() {
    let mut gbe = FakeGbe::new(&["7d0c1e5a-51c5-4a0e-9a0b-1c8f8ad0a001"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.socket().await;
    assert_eq!(socket.session, "7d0c1e5a-51c5-4a0e-9a0b-1c8f8ad0a001");
    let join = socket.next().await;
    assert_eq!(join, json!({"type": "join", "role": "ai", "sessionId": "7d0c1e5a-51c5-4a0e-9a0b-1c8f8ad0a001"}));
    gbe.polls(5).await;
    assert!(gbe.no_more_sockets());
    assert_eq!(gbe.open(), 1);
    assert_eq!(running.agent.sessions(), [(socket.session.clone(), SessionState::Active)]);
    assert_eq!(socket.pending(), 0, "nothing is sent before there is anything to decide");
}

#[tokio::test]
async fn v2_two_sessions_have_two_sockets_and_two_keys_and_their_histories_do_not_mix() {
    let mut gbe = FakeGbe::new(&["a", "b"]).await;
    let _running = Running::new(config(&gbe, None), None);
    let (first, second) = (gbe.joined().await, gbe.joined().await);
    assert_ne!(first.session, second.session);
    let mut keys = BTreeSet::new();
    // The same tank id in both, at other places; the rounds interleave.
    let mut sockets = [(first, 48), (second, 400)];
    for tick in 1..=5u64 {
        for (socket, x) in &mut sockets {
            socket.send(&transition(state(tick, &[("3", *x + tick as i32, 40)]), &[("3", 0.5)]));
            let input = socket.inputs(1).await.remove("3").unwrap();
            let seen = input["debug"]["state"][0].as_f64().unwrap() * 512.0;
            assert!((seen - f64::from(*x + tick as i32)).abs() < 1e-3, "{seen}");
            assert_eq!(input["debug"]["transitionsReceived"], tick);
            assert_eq!(input["debug"]["steps"], tick - 1);
            keys.insert((
                socket.session.clone(),
                input["debug"]["modelInstancesBrief"][0].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned(),
            ));
        }
    }
    assert_eq!(keys.len(), 2, "one key each, and not the same: {keys:?}");
    assert_eq!(keys.iter().map(|(_, key)| key).collect::<BTreeSet<_>>().len(), 2);
}

#[tokio::test]
async fn v3_with_an_empty_pool_the_second_session_gets_a_clone_equal_in_weights_to_the_latest() {
    let stored = model(
        &NetworkSpec::new(108, [64], 10),
        5,
        json!({"mapKey": "nowhere", "baseKey": "tank-ai-dqn-nowhere", "steps": 812, "episodes": 4, "epsilon": 0.0}),
    );
    let store = FakeStore::new(vec![("tank-ai-dqn-nowhere-1763700000000", stored.clone())]).await;
    let mut gbe = FakeGbe::new(&["a", "b"]).await;
    // Steps of no length leave the weights as they are, and each one is saved.
    let config = AgentConfig { learning_rate: 0.0, save_every_steps: 1, ..config(&gbe, Some(&store)) };
    let _running = Running::new(config, None);
    let mut sockets = [gbe.joined().await, gbe.joined().await];
    for socket in &mut sockets {
        socket.send(&transition(state(1, &[("3", 48, 40)]), &[]));
        socket.inputs(1).await;
        socket.send(&transition(state(2, &[("3", 48, 40)]), &[("3", 1.0)]));
        socket.inputs(1).await;
    }
    until(|| store.saved().len() >= 2).await;
    let saved = store.saved();
    let keys: BTreeSet<&str> = saved.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys.contains("tank-ai-dqn-nowhere-1763700000000"));
    assert!(keys.iter().all(|key| key.strip_prefix("tank-ai-dqn-nowhere-").unwrap().parse::<u64>().is_ok()));
    for (key, payload) in &saved {
        assert_eq!(payload["weightDataBase64"], stored["weightDataBase64"], "{key}");
        assert_eq!(payload["userDefinedMetadata"]["steps"], 813, "{key}: steps are cloned too");
        assert_eq!(payload["userDefinedMetadata"]["mapKey"], "nowhere");
    }
}

#[tokio::test]
async fn v4_and_v5_stacks_fill_from_the_back_and_a_shot_brick_is_seen_in_the_same_tick() {
    let (emitter, log, _spill) = support::emitter().await;
    let mut gbe = FakeGbe::new(&["g"]).await;
    let running = Running::new(config(&gbe, None), Some(emitter.clone()));
    let mut socket = gbe.joined().await;
    for tick in 1..=5u64 {
        let mut next = state(tick, &[("3", 56, 40)]);
        if tick == 1 {
            next["mapTiles"] = json!(tiles());
        }
        if tick == 4 {
            next["mapTilesChanged"] = json!([{"row": 2, "col": 4, "tileId": 0}]);
        }
        socket.send(&transition(next, &[("3", 0.0)]));
        socket.inputs(1).await;
    }
    running.stop.cancel();
    running.agent.closed().await;
    let rows = rows(&support::events_of(&log, &emitter, "g").await);
    assert_eq!(rows.len(), 4, "the first transition has no action before it");
    let zero_blocks = |s: &[f32]| s.chunks(27).take_while(|block| block.iter().all(|&v| v == 0.0)).count();
    assert_eq!(zero_blocks(&rows[0].1.s), 3);
    assert_eq!(rows.iter().map(|(_, r)| zero_blocks(&r.s2)).collect::<Vec<_>>(), [2, 1, 0, 0]);
    // Feature 23 of the newest vector is the tile to the right: brick (2 + 1) / 8, then soil (0 + 1) / 8.
    assert_eq!(rows.iter().map(|(_, r)| r.s2[81 + 23]).collect::<Vec<_>>(), [0.375, 0.375, 0.125, 0.125]);
    // By hand: x, y over the map; direction; speed; health; cooldown; the player at (+200, +400) in plain sight.
    let newest = &rows[0].1.s[81..];
    let by_hand = [
        56.0 / 512.0,
        40.0 / 512.0,
        1.0,
        0.0,
        0.75,
        1.0,
        0.0,
        200.0 / 512.0,
        400.0 / 512.0,
        447.213_6 / 512.0,
        1.0,
        1.0,
    ];
    for (i, (found, wanted)) in newest.iter().zip(by_hand).enumerate() {
        assert!((found - wanted).abs() < 1e-6, "feature {i}: {found}, by hand {wanted}");
    }
    assert!(rows.windows(2).all(|w| w[0].1.s2 == w[1].1.s), "one vector per tank and transition");
}

#[tokio::test]
async fn v6_epsilon_0_is_deterministic_and_epsilon_1_draws_all_ten_actions_evenly() {
    let tanks = [("3", 48, 40), ("4", 148, 40), ("5", 248, 40), ("6", 348, 40)];
    for (epsilon, even) in [(0.0, false), (1.0, true)] {
        let mut gbe = FakeGbe::new(&["g"]).await;
        let config = AgentConfig {
            epsilon_start: epsilon,
            epsilon_min: epsilon,
            online_learning: false,
            send_debug: true,
            ..config(&gbe, None)
        };
        let _running = Running::new(config, None);
        let mut socket = gbe.joined().await;
        let mut counts = [0u32; 10];
        let mut by_tank = std::collections::HashMap::<String, BTreeSet<u64>>::new();
        for tick in 1..=500u64 {
            // The history is forgotten each time: the same observation for ever.
            socket.send(&transition(state(2, &tanks), &[]));
            socket.inputs(if tick == 1 { 4 } else { 0 }).await;
            socket.send(&transition(state(1, &tanks), &[]));
            for (tank, input) in socket.inputs(4).await {
                let action = input["debug"]["action"].as_u64().unwrap();
                counts[action as usize] += 1;
                by_tank.entry(tank).or_default().insert(action);
            }
            socket.send(&transition(state(2, &tanks), &[]));
            socket.inputs(4).await;
        }
        assert_eq!(counts.iter().sum::<u32>(), 2_000);
        if even {
            assert!(counts.iter().all(|n| (140..=260).contains(n)), "{counts:?}");
        } else {
            assert!(by_tank.values().all(|actions| actions.len() == 1), "{by_tank:?}");
        }
    }
}

#[tokio::test]
async fn v7_one_reward_entry_is_one_step_by_the_formula() {
    let (emitter, log, _spill) = support::emitter().await;
    let spec = NetworkSpec::new(108, [], 10);
    let stored =
        model(&spec, 9, json!({"baseKey": "tank-ai-dqn-nowhere", "mapKey": "nowhere", "epsilon": 0.2, "steps": 10}));
    let store = FakeStore::new(vec![("tank-ai-dqn-nowhere-1763700000000", stored.clone())]).await;
    let mut gbe = FakeGbe::new(&["g"]).await;
    let config = AgentConfig {
        epsilon_start: 0.2,
        epsilon_min: 0.05,
        epsilon_decay: 0.9995,
        learning_rate: 0.01,
        gamma: 0.95,
        save_every_steps: 1,
        ..config(&gbe, Some(&store))
    };
    let running = Running::new(config, Some(emitter.clone()));
    let mut socket = gbe.joined().await;
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    assert_eq!(socket.inputs(1).await["3"]["debug"]["steps"], 10);
    socket.send(&transition(state(2, &[("3", 59, 40)]), &[("3", 0.52)]));
    let debug = socket.inputs(1).await["3"]["debug"].clone();
    assert_eq!((&debug["steps"], &debug["trainStepsDelta"]), (&json!(11), &json!(1)));
    assert!((debug["epsilon"].as_f64().unwrap() - 0.2 * 0.9995).abs() < 1e-7);
    assert_eq!((&debug["rewardBatchCount"], &debug["rewardReasons"]), (&json!(1), &json!(["mapTileTouched"])));
    until(|| !store.saved().is_empty()).await;
    running.stop.cancel();
    running.agent.closed().await;
    let (_, row) = rows(&support::events_of(&log, &emitter, "g").await).remove(0);
    assert_eq!(row.epsilon, 0.2, "the epsilon that the action was chosen with");
    let weights = |payload: &Value| -> Vec<f64> {
        let bytes = STANDARD.decode(payload["weightDataBase64"].as_str().unwrap()).unwrap();
        floats::from_bytes(&bytes).unwrap().into_iter().map(f64::from).collect()
    };
    let (before, after) = (weights(&stored), weights(&store.saved()[0].1));
    let q = |w: &[f64], s: &[f32], a: usize| -> f64 {
        w[1080 + a] + s.iter().enumerate().map(|(i, &x)| w[a * 108 + i] * f64::from(x)).sum::<f64>()
    };
    let future = (0..10).map(|a| q(&before, &row.s2, a)).fold(f64::MIN, f64::max);
    let a = row.a as usize;
    let error = f64::from(row.r) + 0.95 * future - q(&before, &row.s, a);
    for (i, (&old, &new)) in before.iter().zip(&after).enumerate() {
        let moved = match i {
            i if i / 108 == a && i < 1080 => 0.01 * error * f64::from(row.s[i % 108]),
            i if i == 1080 + a => 0.01 * error,
            _ => 0.0,
        };
        assert!((new - (old + moved)).abs() < 1e-6, "weight {i}: {new}, by the formula {}", old + moved);
    }
}

#[tokio::test]
async fn v8_the_game_loop_does_not_wait_for_a_store_that_does_not_answer() {
    let store = FakeStore::new(vec![]).await;
    let release = Arc::new(Notify::new());
    store.saving(Saving::Block(release.clone()));
    let mut gbe = FakeGbe::new(&["g"]).await;
    let config = AgentConfig { save_every_steps: 10, ..config(&gbe, Some(&store)) };
    let running = Running::new(config, None);
    let mut socket = gbe.joined().await;
    // Every transition is answered although, from the tenth step on, a save hangs in the store.
    for tick in 1..=200u64 {
        socket.send(&transition(state(tick, &[("3", 56, 40)]), &[("3", 0.1)]));
        socket.inputs(1).await;
        if tick == 11 {
            // The tenth step is behind it. A machine that is busy may not have begun with the save.
            until(|| store.attempts() == 1).await;
        }
    }
    assert_eq!(store.attempts(), 1);
    let stats = running.agent.stats();
    assert_eq!((stats.saves, stats.train_steps), (0, 199));
    assert!(stats.saves_superseded >= 15, "one payload per key waits: {}", stats.saves_superseded);
    store.saving(Saving::Take);
    release.notify_one();
    until(|| running.agent.stats().saves == 2).await;
    let saved = store.saved();
    assert_eq!(saved[0].1["userDefinedMetadata"]["steps"], 10);
    assert_eq!(saved[1].1["userDefinedMetadata"]["steps"], 190, "the newest payload of the key, none between");
}

#[tokio::test]
async fn v9_a_session_that_vanishes_gives_its_key_back_once_and_the_next_one_takes_it() {
    let mut gbe = FakeGbe::new(&["a"]).await;
    let running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    let key_of = |input: &Value| {
        input["debug"]["modelInstancesBrief"][0].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned()
    };
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    let key = key_of(&socket.inputs(1).await["3"]);
    assert!(running.agent.free_keys("tank-ai-dqn-nowhere").is_empty());
    gbe.sessions(&[]);
    assert!(socket.next_or_closed().await.is_none(), "the socket is closed");
    until(|| running.agent.sessions().is_empty()).await;
    gbe.polls(3).await;
    assert_eq!(running.agent.free_keys("tank-ai-dqn-nowhere"), std::slice::from_ref(&key));
    gbe.sessions(&["b"]);
    let mut socket = gbe.joined().await;
    assert_eq!(socket.session, "b");
    assert!(running.agent.free_keys("tank-ai-dqn-nowhere").is_empty());
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[]));
    assert_eq!(key_of(&socket.inputs(1).await["3"]), key);
}

#[tokio::test]
async fn v10_full_states_and_deltas_of_rows_or_objects_give_the_same_observations() {
    let (emitter, log, _spill) = support::emitter().await;
    let mut gbe = FakeGbe::new(&["full", "rows", "objects"]).await;
    let running = Running::new(AgentConfig { learning_rate: 0.0, ..config(&gbe, None) }, Some(emitter.clone()));
    let sockets = [gbe.joined().await, gbe.joined().await, gbe.joined().await];
    let map = &Map::shipped()[0];
    let mut rules =
        Rules::new(map, &TankConfig { enemy_spawn_interval_ticks: 10, ..TankConfig::default() }, 4).unwrap();
    rules.add_player(None).unwrap();
    let mut encoder = DeltaEncoder::new(Audience::Ai);
    let mut last = 0;
    for _ in 0..60 {
        rules.tick();
        let full = serde_json::to_value(rules.full_state(Audience::Ai)).unwrap();
        let delta = serde_json::to_value(encoder.encode(&rules)).unwrap();
        let rewards: Vec<(String, f64)> =
            rules.tanks().iter().filter(|t| t.is_ai()).map(|t| (t.id.to_string(), 0.0)).collect();
        let rewards: Vec<(&str, f64)> = rewards.iter().map(|(id, r)| (id.as_str(), *r)).collect();
        for socket in &sockets {
            let next = match socket.session.as_str() {
                "full" => full.clone(),
                "rows" => delta.clone(),
                _ => with_objects(&delta),
            };
            socket.send(&transition(next, &rewards));
        }
        last = rewards.len();
    }
    assert!(last > 1);
    until(|| running.agent.stats().transitions == 180).await;
    running.stop.cancel();
    running.agent.closed().await;
    let mut games = support::all_events(&log, &emitter).await;
    let mut seen = |game: &str| -> Vec<(u64, String, Vec<f32>)> {
        rows(&games.remove(game).unwrap()).into_iter().map(|(tick, r)| (tick, r.tank_id, r.s2)).collect()
    };
    let full = seen("full");
    assert!(full.len() > 100, "{}", full.len());
    assert_eq!(full, seen("rows"));
    assert_eq!(full, seen("objects"));
}

/// The same delta with objects for rows.
fn with_objects(delta: &Value) -> Value {
    let mut delta = delta.clone();
    for (list, labels) in
        [("players", &flywheel_tank::wire::PLAYER_LABELS[..]), ("bullets", &flywheel_tank::wire::BULLET_LABELS[..])]
    {
        let Some(upserts) = delta[list]["upserts"].as_array_mut() else { continue };
        for row in upserts {
            let fields = labels.iter().zip(row.as_array().unwrap()).map(|(l, v)| ((*l).to_owned(), v.clone()));
            *row = Value::Object(fields.collect());
        }
        delta[list].as_object_mut().unwrap().remove("labels");
    }
    delta
}

#[tokio::test]
async fn the_debug_object_has_every_field_that_the_spec_lists() {
    let mut gbe = FakeGbe::new(&["g"]).await;
    let _running = Running::new(config(&gbe, None), None);
    let mut socket = gbe.joined().await;
    socket.send(&transition(state(1, &[("3", 56, 40)]), &[("3", 0.5)]));
    let input = socket.inputs(1).await.remove("3").unwrap();
    let fields: BTreeSet<&str> = input.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, BTreeSet::from(["type", "role", "tankId", "move", "fire", "debug"]));
    let listed = "reward, rewardReasons, steps, episodes, epsilon, state, action, modelPoolAvailable, modelPoolTotal, \
        modelPoolInUse, transitionsReceived, actionsGenerated, actionTick, modelInstancesBrief, rewardBatchCount, \
        rewardBatchSum, trainStepsDelta, tdLoss, qMean, perfTrainMs, perfInferMs, asyncSaveMs, memModelBytes, \
        memTrainStateBytes, memHistoryBytes";
    let debug: BTreeSet<&str> = input["debug"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(debug, listed.split(", ").map(str::trim).collect());
    assert_eq!(input["debug"]["modelPoolInUse"], 1);
    tokio::time::sleep(Duration::ZERO).await;
}
