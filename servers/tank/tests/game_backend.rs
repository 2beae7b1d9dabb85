//! The game backend over real sockets: tank spec, sections 4, 5, 11 and 15.

mod support;

use std::time::Duration;

use flywheel_events::kinds;
use flywheel_tank::{Map, StateMerger, TankConfig};
use flywheel_tank_server::GameBackendConfig;
use serde_json::{Value, json};
use support::{Stage, quick};
use tokio_tungstenite::{connect_async, tungstenite};

#[tokio::test]
async fn every_http_call_answers_as_the_spec_says() {
    let stage = Stage::new(quick()).await;
    let (status, health) = stage.get("/healthz").await;
    assert_eq!((status, &health["ok"]), (200, &json!(true)));
    assert_eq!(health["port"], stage.backend.local_addr().port());
    assert_eq!(stage.get("/sessions").await, (200, json!({"sessions": []})));

    let (status, created) = stage.post("/session", r#"{"mapName":"maps/Stage01.json"}"#).await;
    assert_eq!(status, 200);
    assert_eq!(created["mapKey"], "stage01");
    assert_eq!(created["modelKey"], "tank-ai-dqn-stage01");
    assert_eq!(created["map"]["tileSize"], 16);
    assert_eq!(created["map"]["version"], "1.0");
    assert_eq!(created["state"]["tick"], 0);
    assert_eq!(created["state"]["players"][0]["id"], created["playerId"]);
    let id = created["sessionId"].as_str().unwrap();

    let (_, listed) = stage.get("/sessions").await;
    let entry = &listed["sessions"][0];
    let fields: Vec<&String> = entry.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["gameOver", "mapKey", "mapName", "modelKey", "players", "sessionId", "tick"]);
    assert_eq!((&entry["sessionId"], &entry["players"], &entry["gameOver"]), (&json!(id), &json!(1), &json!(false)));

    let ai = json!({"events": [{"tankId": "99", "move": "move_up", "fire": true}]}).to_string();
    assert_eq!(stage.post(&format!("/session/{id}/ai-input"), &ai).await, (200, json!({"ok": true})));
    assert_eq!(stage.post("/session", "").await.0, 200);
    let (status, default) = stage.post("/session", "{}").await;
    assert_eq!((status, &default["map"]["mapSize"]), (200, &json!(Map::find("Stage03.json").unwrap().size())));
}

#[tokio::test]
async fn every_http_error_is_json_with_the_right_status() {
    let stage = Stage::new(GameBackendConfig { max_sessions: 2, ..quick() }).await;
    let (id, _) = stage.open(json!({"mapName": "Stage02.json"})).await;
    let spawns = Map::find("Stage02.json").unwrap().player_spawns().len();
    for _ in 1..spawns {
        assert_eq!(stage.post(&format!("/session/{id}/join"), "").await.0, 200);
    }
    let cases: Vec<(u16, (u16, Value))> = vec![
        (400, stage.post(&format!("/session/{id}/join"), "").await),
        (404, stage.post("/session", r#"{"mapName":"Nowhere.json"}"#).await),
        (400, stage.post("/session", "{").await),
        (400, stage.post("/session", r#"{"maxEnemiesAlive":-1}"#).await),
        (400, stage.post("/session", r#"{"maxEnemiesAlive":1000}"#).await),
        (404, stage.post("/session/nobody/join", "").await),
        (404, stage.post("/session/nobody/ai-input", r#"{"events":[]}"#).await),
        (400, stage.post(&format!("/session/{id}/ai-input"), "no").await),
        (
            400,
            stage
                .post(&format!("/session/{id}/ai-input"), r#"{"events":[{"tankId":"3","move":"fly","fire":false}]}"#)
                .await,
        ),
        (404, stage.get("/nothing/here").await),
        (405, stage.get("/session").await),
        (404, stage.get("/ws?sessionId=nobody").await),
        (404, stage.get("/ws").await),
        (400, stage.get(&format!("/ws?sessionId={id}")).await),
        (400, stage.get("/ws?sessionId=a&sessionId=b").await),
        (400, stage.post("/session/%ff/join", "").await),
        (413, stage.post("/session", &" ".repeat((1 << 20) + 1)).await),
    ];
    for (i, (wanted, (status, body))) in cases.into_iter().enumerate() {
        assert_eq!(status, wanted, "case {i}: {body}");
        assert!(body["error"].as_str().is_some_and(|e| !e.is_empty()), "case {i}: {body}");
    }
    assert_eq!(stage.post("/session", "").await.0, 200);
    assert_eq!(stage.post("/session", "").await.0, 503);
    let answer = stage.http.request(reqwest::Method::OPTIONS, stage.url("/session")).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn an_unknown_session_on_upgrade_is_a_404() {
    let stage = Stage::new(quick()).await;
    let url = format!("ws://{}/ws?sessionId=7d0c1e5a-51c5-4a0e-9a0b-1c8f8ad0a001", stage.backend.local_addr());
    match connect_async(url).await {
        Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 404),
        other => panic!("expected a 404, got {other:?}"),
    }
}

#[tokio::test]
async fn a_session_without_sockets_does_not_tick_and_one_with_a_socket_does() {
    let stage = Stage::new(quick()).await;
    let (waiting, _) = stage.open(json!({})).await;
    let (played, player) = stage.open(json!({})).await;
    let mut client = stage.joined(&played, "player", Some(&player)).await;
    while client.next_of("state").await["state"]["tick"].as_u64().unwrap() < 20 {}
    let ticks: Vec<_> = stage.backend.sessions().into_iter().map(|s| (s.id.to_string(), s.tick)).collect();
    assert!(ticks.contains(&(waiting, 0)), "{ticks:?}");
}

#[tokio::test]
async fn states_of_a_player_merge_to_the_full_state_and_those_of_an_ai_socket_carry_more() {
    let stage = Stage::new(quick()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut human = stage.joined(&id, "player", Some(&player)).await;
    let mut merger = StateMerger::new();
    // Long enough for AI tanks to have come.
    while merger.state().tick < 120 {
        merger.merge(&human.next_of("state").await["state"]).unwrap();
    }
    assert!(merger.state().players.iter().any(|p| p.label.ends_with("_en")));
    assert!(merger.state().players.iter().all(|p| p.speed.is_none()), "a player does not see cooldowns");
    // Joins late: labels, tiles and all come with the first message.
    let mut ai = stage.joined(&id, "ai", None).await;
    let first = ai.next_of("state").await;
    assert!(first["state"]["mapTiles"].is_array());
    let mut merger = StateMerger::new();
    merger.merge(&first["state"]).unwrap();
    let transition = ai.next_of("transition").await;
    assert_eq!(transition["reward"], 0);
    let tanks: Vec<&Value> = transition["nextState"]["players"].as_array().unwrap().iter().collect();
    let enemy = tanks.iter().find(|t| t["role"] == "ai").unwrap();
    assert!(enemy["speed"].is_u64() && enemy["cooldown"].is_u64() && enemy["shootCooldown"].is_u64());
    for entry in transition["aiRewards"].as_array().unwrap() {
        assert!(entry["reward"].is_number() && !entry["rewardReasons"].as_array().unwrap().is_empty());
    }
    let next = ai.next_of("transition").await;
    assert_eq!(next["prevState"], transition["nextState"]);
    assert_eq!(next["tick"].as_u64(), transition["tick"].as_u64().map(|t| t + 1));
}

#[tokio::test]
async fn a_second_ai_backend_replaces_the_first_with_code_4000() {
    let stage = Stage::new(quick()).await;
    let (id, _) = stage.open(json!({})).await;
    let mut first = stage.joined(&id, "ai", None).await;
    first.next_of("state").await;
    let mut second = stage.joined(&id, "ai", None).await;
    assert_eq!(first.close_code().await, 4000);
    second.next_of("transition").await;
}

#[tokio::test]
async fn inputs_move_only_the_tank_that_is_ones_own() {
    let stage = Stage::new(quick()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut human = stage.joined(&id, "player", Some(&player)).await;
    let mut ai = stage.joined(&id, "ai", None).await;
    let enemy = loop {
        let state = ai.next_of("transition").await["nextState"].clone();
        if let Some(tank) = state["players"].as_array().unwrap().iter().find(|t| t["role"] == "ai") {
            break tank["id"].as_str().unwrap().to_owned();
        }
    };
    // Without a tank id the joined player's tank is meant.
    human.send(json!({"type": "input", "role": "player", "move": "move_left", "fire": true})).await;
    human.send(json!({"type": "input", "role": "player", "tankId": enemy, "move": "move_up", "fire": false})).await;
    human.send(json!({"type": "input", "role": "ai", "tankId": enemy, "move": "move_up", "fire": false})).await;
    ai.send(json!({"type": "input", "role": "ai", "tankId": player, "move": "move_up", "fire": false})).await;
    ai.send(json!({"type": "input", "role": "ai", "tankId": enemy, "move": "move_down", "fire": true, "debug": {"epsilon": 0.5}})).await;
    ai.send(json!({"type": "debug_gbe_toggle", "enabled": true})).await;
    ai.send(json!({"type": "debug_ai_toggle", "enabled": true})).await;
    let state = loop {
        let state = ai.next_of("state").await["state"].clone();
        if state["gbeDebug"].is_object() && state["aiDebug"]["tanks"][&enemy].is_object() {
            break state;
        }
    };
    assert_eq!(state["aiDebug"]["tanks"][&enemy]["epsilon"], 0.5);
    assert_eq!(state["gbeDebug"]["dropped"]["not_your_tank"], 2);
    assert_eq!(state["gbeDebug"]["dropped"]["wrong_role"], 1);
    assert!(human.next_of("state").await["state"]["aiDebug"].is_null(), "the toggle is per socket");
    let inputs: Vec<Value> = stage
        .events(&id)
        .await
        .iter()
        .filter(|e| e.kind == kinds::TANK_INPUT)
        .map(|e| e.payload_as().unwrap())
        .filter(|input: &Value| input["source"] == "ws")
        .collect();
    let moved: Vec<_> = inputs.iter().map(|i| (i["tankId"].as_str().unwrap(), i["move"].as_str().unwrap())).collect();
    assert!(moved.contains(&(player.as_str(), "move_left")) && moved.contains(&(enemy.as_str(), "move_down")));
    assert_eq!(moved.len(), 2, "{moved:?}");
}

#[tokio::test]
async fn an_input_for_another_session_is_refused_by_name() {
    let stage = Stage::new(quick()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut human = stage.joined(&id, "player", Some(&player)).await;
    human.send(json!({"type": "input", "role": "player", "sessionId": "other", "move": null, "fire": true})).await;
    assert_eq!(human.next_of("error").await, json!({"type": "error", "code": "wrong_session"}));
    human.send(json!({"type": "join", "role": "player", "sessionId": "other"})).await;
    human.next_of("error").await;
}

#[tokio::test]
async fn a_hundred_frames_that_are_not_json_close_the_socket_with_1008_and_hurt_nobody_else() {
    let stage = Stage::new(quick()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut good = stage.joined(&id, "player", Some(&player)).await;
    let mut bad = stage.joined(&id, "ai", None).await;
    for _ in 0..99 {
        bad.text("{not json").await;
    }
    bad.send(json!({"type": "dance"})).await;
    bad.send(json!({"type": "debug_gbe_toggle", "enabled": true})).await;
    let state = loop {
        let state = bad.next_of("state").await["state"].clone();
        if state["gbeDebug"].is_object() {
            break state;
        }
    };
    assert_eq!(state["gbeDebug"]["dropped"]["not_json"], 99);
    assert_eq!(state["gbeDebug"]["dropped"]["unknown_type"], 1);
    bad.text("again").await;
    assert_eq!(bad.close_code().await, 1008);
    good.next_of("state").await;
}

#[tokio::test]
async fn a_frame_over_a_mebibyte_closes_the_socket_that_sent_it() {
    let stage = Stage::new(quick()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut good = stage.joined(&id, "player", Some(&player)).await;
    let mut bad = stage.joined(&id, "ai", None).await;
    bad.text(&"x".repeat((1 << 20) + 1)).await;
    bad.close_code().await;
    good.next_of("state").await;
}

#[tokio::test]
async fn a_socket_that_does_not_read_is_closed_and_the_game_goes_on() {
    let config = GameBackendConfig { tick_ms: 1, socket_queue: 4, ..quick() };
    let stage = Stage::new(config).await;
    let (id, player) = stage.open(json!({})).await;
    let mut good = stage.joined(&id, "player", Some(&player)).await;
    let mut slow = stage.joined(&id, "ai", None).await;
    slow.send(json!({"type": "debug_gbe_toggle", "enabled": true})).await;
    // Nothing is read from `slow`: its kernel buffers fill, then its queue, then it is dropped from the session.
    while stage.backend.stats().sockets > 1 {
        good.next_of("state").await;
    }
    good.next_of("state").await;
}

fn short_game() -> GameBackendConfig {
    GameBackendConfig { tank: TankConfig { max_ticks_per_episode: 150, ..TankConfig::default() }, ..quick() }
}

#[tokio::test]
async fn a_finished_session_is_removed_one_tick_later_and_its_events_replay_to_the_same_hashes() {
    let stage = Stage::new(GameBackendConfig { checkpoint_ticks: 50, ..short_game() }).await;
    let (id, player) = stage.open(json!({"mapName": "Stage01.json", "opponent": "hunter"})).await;
    let mut human = stage.joined(&id, "player", Some(&player)).await;
    let mut ai = stage.joined(&id, "ai", None).await;
    let mut frames = stage.backend.subscribe(&id).unwrap();
    let driver = tokio::spawn(async move {
        let words = [Value::Null, json!("move_up"), json!("move_down"), json!("move_left"), json!("move_right")];
        let mut last = Value::Null;
        let code = loop {
            match ai.next().await {
                Ok(message) if message["type"] == "transition" => {
                    let tick = message["tick"].as_u64().unwrap();
                    for tank in message["nextState"]["players"].as_array().unwrap() {
                        if tank["role"] == "ai" && tick % 7 == 0 {
                            let movement = &words[(tick as usize / 7 + tank["x"].as_u64().unwrap() as usize) % 5];
                            let input = json!({"type": "input", "role": "ai", "tankId": tank["id"], "move": movement, "fire": tick % 2 == 0});
                            ai.send(input).await;
                        }
                    }
                    last = message;
                }
                Ok(_) => {}
                Err(code) => break code,
            }
        };
        (last, code)
    });
    for _ in 0..40 {
        human.send(json!({"type": "input", "role": "player", "move": "move_up", "fire": true})).await;
        human.next_of("state").await;
    }
    assert_eq!(human.close_code().await, 1000);
    let (last, code) = driver.await.unwrap();
    assert_eq!(code, 1000);
    assert_eq!(last["nextState"]["gameOver"], true);
    assert_eq!(last["nextState"]["gameOverReason"], "time_limit");
    while frames.changed().await.is_ok() {}
    assert_eq!(frames.borrow().tick, 150);
    assert!(frames.borrow().ended.is_some());
    assert!(stage.backend.snapshot(&id).is_none());
    stage.stop.cancel();
    stage.backend.closed().await;
    let events = stage.events(&id).await;
    let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds[..2], [kinds::TANK_SESSION_OPENED, kinds::TANK_PLAYER_JOINED]);
    assert_eq!(kinds[kinds.len() - 2..], [kinds::TANK_EPISODE_ENDED, kinds::TANK_SESSION_CLOSED]);
    assert_eq!(kinds.iter().filter(|k| **k == kinds::TANK_CHECKPOINT).count(), 3);
    let opened: Value = events[0].payload_as().unwrap();
    assert_eq!((&opened["opponent"], &opened["source"]), (&json!("hunter"), &json!("live")));
    let outcome = flywheel_tank::replay(events.iter()).unwrap();
    assert_eq!(outcome.checkpoints_checked, 3);
}

#[tokio::test]
async fn the_end_of_an_episode_waits_for_the_ai_backends_account_of_the_last_tick() {
    let stage = Stage::new(short_game()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut human = stage.joined(&id, "player", Some(&player)).await;
    let mut ai = stage.joined(&id, "ai", None).await;
    let game = flywheel_events::GameId::new(&id).unwrap();
    let events = stage.emitter.game(flywheel_events::System::Tank, game);
    while ai.next_of("transition").await["nextState"]["gameOver"] != true {}
    // The server has said all it will; what we emit now still comes before the end.
    assert_eq!(human.close_code().await, 1000);
    events.emit(kinds::TANK_TRANSITION, Some("controller"), None, &json!({"tick": 150}));
    ai.send(json!({"type": "episode_log", "episodeLog": "done", "episodeLogTick": 150})).await;
    let found = loop {
        let events = stage.events(&id).await;
        if events.last().unwrap().kind == kinds::TANK_SESSION_CLOSED {
            break events;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let at = |kind: &str| found.iter().position(|e| e.kind == kind).unwrap();
    assert!(at(kinds::TANK_TRANSITION) < at(kinds::TANK_EPISODE_ENDED));
}

#[tokio::test]
async fn a_finished_session_without_sockets_goes_after_its_linger() {
    let stage = Stage::new(GameBackendConfig { finished_linger: Duration::from_millis(50), ..short_game() }).await;
    let (id, _) = stage.open(json!({})).await;
    let mut ai = stage.joined(&id, "ai", None).await;
    // Leave in the very tick of the end, before the session is removed, or be closed: both end the same way.
    while ai.next_of("transition").await["nextState"]["gameOver"] != true {}
    drop(ai);
    while stage.backend.sessions().iter().any(|s| s.id.as_str() == id) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_socket_that_never_joins_gets_nothing_and_goes_with_its_session() {
    let stage = Stage::new(short_game()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut silent = stage.socket(&id).await;
    silent.send(json!({"type": "input", "role": "ai", "tankId": "2", "move": null, "fire": true})).await;
    let mut human = stage.joined(&id, "player", Some(&player)).await;
    assert_eq!(human.close_code().await, 1000);
    assert!(silent.next().await.is_err(), "closed without a word");
}

#[tokio::test]
async fn an_abandoned_session_is_closed_and_says_so() {
    let stage = Stage::new(GameBackendConfig { abandoned_after: Duration::from_millis(30), ..quick() }).await;
    let (id, _) = stage.open(json!({})).await;
    while !stage.backend.sessions().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let events = loop {
        let events = stage.events(&id).await;
        if events.len() == 3 {
            break events;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(events[2].payload_as::<Value>().unwrap(), json!({"cause": "abandoned"}));
}

#[tokio::test]
async fn random_frames_never_stall_a_session() {
    use rand::{Rng, SeedableRng};
    let stage = Stage::new(quick()).await;
    let (id, player) = stage.open(json!({})).await;
    let mut good = stage.joined(&id, "player", Some(&player)).await;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(42);
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"type\"",
        "\"join\"",
        "\"input\"",
        "\"role\"",
        "\"ai\"",
        "\"player\"",
        "\"tankId\"",
        "\"1\"",
        "\"zzz\"",
        "\"move\"",
        "\"move_up\"",
        "null",
        "true",
        "1e999",
        "-0",
        "\"\\u0000\"",
        "\"enabled\"",
        "\"debug_ai_toggle\"",
        "\"episode_log\"",
        "\"sessionId\"",
        "\"debug\"",
        "{\"a\":[[[[]]]]}",
    ];
    for round in 0..30 {
        let mut bad = stage.socket(&id).await;
        for _ in 0..60 {
            let n = rng.random_range(0..12);
            let text: String = (0..n).map(|_| pieces[rng.random_range(0..pieces.len())]).collect();
            let fields: Value = json!({
                "type": (["join", "input", "episode_log", "debug_ai_toggle", "x"][rng.random_range(0..5)]),
                "role": (["ai", "player", "god"][rng.random_range(0..3)]),
                "tankId": (["1", "2", "", "zzzzzzzzzzzzzzzzz", "é"][rng.random_range(0..5)]),
                "move": ([json!(null), json!("move_up"), json!(7), json!("x")][rng.random_range(0..4)]),
                "fire": ([json!(true), json!("no"), json!(null)][rng.random_range(0..3)]),
                "enabled": rng.random::<bool>(), "episodeLog": "x", "episodeLogTick": rng.random::<i64>(),
            });
            let message = match rng.random_range(0..3) {
                0 => tungstenite::Message::text(text),
                1 => tungstenite::Message::text(fields.to_string()),
                _ => tungstenite::Message::binary((0..n).map(|_| rng.random::<u8>()).collect::<Vec<_>>()),
            };
            if futures::SinkExt::send(&mut bad.socket, message).await.is_err() {
                break;
            }
        }
        let tick = good.next_of("state").await["state"]["tick"].as_u64().unwrap();
        assert!(good.next_of("state").await["state"]["tick"].as_u64().unwrap() > tick, "round {round}");
    }
}

#[tokio::test]
async fn every_state_says_its_stats_so_that_a_plain_merge_equals_the_full_state() {
    let stage = Stage::new(quick()).await;
    let (id, _) = stage.open(json!({})).await;
    let mut ai = stage.joined(&id, "ai", None).await;
    let mut merged = json!({});
    for _ in 0..40 {
        let message = ai.next().await.unwrap();
        if message["type"] == "state" {
            merged = message["state"]["stats"].clone();
            assert_eq!(merged["ticks"], message["state"]["tick"]);
        } else {
            assert_eq!(message["nextState"]["stats"], merged);
        }
    }
}

#[tokio::test]
async fn whoever_comes_after_tiles_have_changed_gets_the_ground_as_it_is() {
    let stage = Stage::new(quick()).await;
    let (id, player) = stage.open(json!({"mapName": "Stage01.json"})).await;
    let mut human = stage.joined(&id, "player", Some(&player)).await;
    let mut early = stage.joined(&id, "ai", None).await;
    let first = early.next_of("transition").await;
    assert!(first["nextState"].get("mapTiles").is_none(), "nothing has changed yet");
    let mut ground = Map::find("Stage01.json").unwrap().rows();
    let words = ["move_up", "move_left", "move_down", "move_right"];
    let mut n = 0;
    loop {
        let state = human.next_of("state").await["state"].clone();
        let changes = state["mapTilesChanged"].as_array().cloned().unwrap_or_default();
        for change in &changes {
            let at = |field: &str| change[field].as_u64().unwrap() as usize;
            ground[at("row")][at("col")] = at("tileId") as u8;
        }
        if !changes.is_empty() {
            break;
        }
        n += 1;
        let step = words[n / 40 % 4];
        human.send(json!({"type": "input", "role": "player", "move": step, "fire": true})).await;
    }
    // No more is fired; what flies already may still hit.
    let at_most = 5;
    let mut late = stage.joined(&id, "ai", None).await;
    let (_, joined) = stage.post(&format!("/session/{id}/join"), "").await;
    let of = |state: &Value| -> Vec<Vec<u8>> { serde_json::from_value(state["mapTiles"].clone()).unwrap() };
    let transition = late.next_of("transition").await;
    let shot = |grid: &[Vec<u8>]| {
        let pairs = grid.iter().flatten().zip(ground.iter().flatten());
        pairs.filter(|(now, then)| now != then).count()
    };
    assert!(shot(&of(&transition["nextState"])) <= at_most && shot(&of(&transition["prevState"])) <= at_most);
    assert!(shot(&of(&joined["state"])) <= at_most);
    let whole = Map::find("Stage01.json").unwrap().rows();
    assert_ne!(of(&joined["state"]), whole);
    assert_ne!(of(&transition["nextState"]), whole);
    assert!(late.next_of("transition").await["nextState"].get("mapTiles").is_none(), "only once");
}

#[tokio::test]
async fn a_player_who_joins_without_an_id_has_the_free_tank_that_it_names() {
    let stage = Stage::new(quick()).await;
    let (id, first) = stage.open(json!({"mapName": "Stage02.json"})).await;
    let (_, joined) = stage.post(&format!("/session/{id}/join"), "").await;
    let second = joined["playerId"].as_str().unwrap().to_owned();
    let mut human = stage.joined(&id, "player", Some(&first)).await;
    let mut other = stage.joined(&id, "player", None).await;
    let input =
        |tank: &Value| json!({"type": "input", "role": "player", "tankId": tank, "move": "move_left", "fire": true});
    // Nothing named, somebody else's, nobody's, then its own.
    other.send(input(&Value::Null)).await;
    other.send(input(&json!(first))).await;
    other.send(input(&json!("zz"))).await;
    other.send(input(&json!(second))).await;
    // With a tank of its own it may leave the id out; another's stays another's.
    other.send(input(&Value::Null)).await;
    other.send(input(&json!(first))).await;
    other.send(json!({"type": "debug_gbe_toggle", "enabled": true})).await;
    let dropped = loop {
        let state = other.next_of("state").await["state"].clone();
        if state["gbeDebug"].is_object() {
            break state["gbeDebug"]["dropped"]["not_your_tank"].clone();
        }
    };
    assert_eq!(dropped, 4);
    human.next_of("state").await;
    let inputs: Vec<Value> = stage
        .events(&id)
        .await
        .iter()
        .filter(|e| e.kind == kinds::TANK_INPUT)
        .map(|e| e.payload_as().unwrap())
        .collect();
    assert_eq!(inputs.iter().map(|i| i["tankId"].as_str().unwrap()).collect::<Vec<_>>(), [&second, &second]);
}
