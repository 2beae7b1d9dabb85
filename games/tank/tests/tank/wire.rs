use flywheel_tank::{
    Audience, ClientView, DeltaEncoder, Map, MergeError, NetId, ObservationStack, STATE_LEN, StateMerger, observe,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Brawl, busy};

#[test]
fn a_full_state_has_the_fields_of_the_wire() {
    let mut brawl = Brawl::new(&Map::shipped()[0], &busy(), 3);
    (0..40).for_each(|_| brawl.tick());
    let state = serde_json::to_value(brawl.rules.full_state(Audience::Player)).unwrap();
    for field in [
        "tick",
        "mapName",
        "players",
        "bullets",
        "events",
        "gameOver",
        "gameOverReason",
        "stats",
        "aiDebug",
        "gbeDebug",
    ] {
        assert!(state.get(field).is_some(), "{field}");
    }
    assert_eq!(state["stats"], json!({"ticks": 40, "enemiesDestroyed": 0}));
    let player = state["players"][0].as_object().unwrap();
    let mut fields: Vec<&str> = player.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["dirX", "dirY", "health", "id", "label", "maxHealth", "role", "x", "y"]);
    let ai = serde_json::to_value(brawl.rules.full_state(Audience::Ai)).unwrap();
    assert_eq!(ai["players"][0].as_object().unwrap().len(), 9, "a player's tank carries no more for AI sockets");
    let tank = ai["players"].as_array().unwrap().iter().find(|p| p["role"] == "ai").unwrap();
    assert!(tank["speed"].is_i64() && tank["shootCooldown"].is_i64() && tank["cooldown"].is_i64());
}

#[test]
fn the_first_delta_carries_everything_and_the_labels() {
    let mut brawl = Brawl::new(&Map::shipped()[0], &busy(), 3);
    let mut encoder = DeltaEncoder::new(Audience::Player);
    brawl.tick();
    let first = serde_json::to_value(encoder.encode(&brawl.rules)).unwrap();
    assert_eq!((&first["delta"], &first["tick"], &first["mapName"]), (&json!(true), &json!(1), &json!("Stage01.json")));
    let labels = json!(["id", "label", "role", "x", "y", "dirX", "dirY", "health", "maxHealth"]);
    assert_eq!(first["players"]["labels"], labels);
    assert_eq!(first["players"]["upserts"][0].at(..3), [json!("1"), json!("normal_pl"), json!("player")]);
    assert_eq!((&first["gameOver"], &first["gameOverReason"]), (&json!(false), &Value::Null));
    (0..60).for_each(|_| {
        brawl.tick();
        let delta = serde_json::to_value(encoder.encode(&brawl.rules)).unwrap();
        assert!(delta["players"].get("labels").is_none() && delta.get("mapName").is_none());
    });
}

trait At {
    fn at(&self, range: std::ops::RangeTo<usize>) -> &[Value];
}

impl At for Value {
    fn at(&self, range: std::ops::RangeTo<usize>) -> &[Value] {
        &self.as_array().unwrap()[range]
    }
}

/// Rows rewritten as objects, changes sent as a whole grid: other forms that a reader must take.
fn as_objects(delta: &Value, labels: &[Vec<String>; 2], grid: &[Vec<u8>]) -> Value {
    let mut delta = delta.clone();
    for (name, labels) in ["players", "bullets"].into_iter().zip(labels) {
        let Some(list) = delta.get_mut(name) else { continue };
        list.as_object_mut().unwrap().remove("labels");
        for row in list["upserts"].as_array_mut().unwrap() {
            *row = labels.iter().cloned().zip(row.as_array().unwrap().iter().cloned()).collect();
        }
    }
    delta.as_object_mut().unwrap().remove("mapTilesChanged");
    delta["mapTiles"] = json!(grid);
    delta
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // Verification 10, and the same numbers from the wire and from the rules.
    #[test]
    fn deltas_full_states_and_rules_say_the_same(seed in any::<u64>(), map in 0usize..3) {
        let map = &Map::shipped()[map];
        let mut brawl = Brawl::new(map, &busy(), seed);
        let mut encoder = DeltaEncoder::new(Audience::Ai);
        let (mut by_delta, mut by_full, mut by_object) = (StateMerger::new(), StateMerger::new(), StateMerger::new());
        let mut views = [ClientView::new(map), ClientView::new(map), ClientView::new(map), ClientView::new(map)];
        let mut labels = [Vec::new(), Vec::new()];
        for _ in 0..400 {
            brawl.tick();
            let rules = &brawl.rules;
            let truth = rules.full_state(Audience::Ai);
            let delta: Value = serde_json::from_slice(&serde_json::to_vec(&encoder.encode(rules)).unwrap()).unwrap();
            let full: Value = serde_json::from_slice(&serde_json::to_vec(&truth).unwrap()).unwrap();
            for (name, labels) in ["players", "bullets"].into_iter().zip(&mut labels) {
                if let Some(new) = delta[name]["labels"].as_array() {
                    *labels = new.iter().map(|l| l.as_str().unwrap().to_owned()).collect();
                }
            }
            by_delta.merge(&delta).unwrap();
            by_full.merge(&full).unwrap();
            by_object.merge(&as_objects(&delta, &labels, &rules.tile_rows())).unwrap();
            prop_assert_eq!(by_delta.state(), &truth);
            prop_assert_eq!(by_full.state(), &truth);
            prop_assert_eq!(&by_object.state().players, &truth.players);
            for (view, merger) in views.iter_mut().zip([&by_delta, &by_full, &by_object]) {
                view.apply(merger.state());
            }
            views[3].refresh(rules);
            for tank in views[3].ai_tanks() {
                let mut expected = [0.0; STATE_LEN];
                observe::state_vector(&views[3], tank, &mut expected);
                for view in &views[..3] {
                    let mut vector = [0.0; STATE_LEN];
                    observe::state_vector(view, view.tank(tank.id).unwrap(), &mut vector);
                    prop_assert_eq!(vector, expected);
                }
            }
            prop_assert_eq!(views[0].tiles(), rules.tiles());
            if rules.end().is_some() {
                break;
            }
        }
    }

    #[test]
    fn no_message_makes_the_merger_panic(text in "[\\[\\]{}\",:a-z0-9.\\-]{0,60}", tick in any::<u64>()) {
        let mut merger = StateMerger::new();
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let _ = merger.merge(&value);
            for name in ["players", "bullets", "events", "mapTilesChanged", "mapTiles", "stats", "gameOver"] {
                merger.merge(&json!({"tick": tick, name: value.clone()})).unwrap();
                merger.merge(&json!({"tick": tick, name: {"upserts": [value.clone()], "labels": value.clone(), "removed": value.clone()}})).unwrap();
            }
        }
    }
}

#[test]
fn what_is_no_state_is_refused_and_changes_nothing() {
    let mut merger = StateMerger::new();
    let player =
        json!({"id":"1","label":"normal_pl","role":"player","x":5,"y":6,"dirX":0,"dirY":-1,"health":2,"maxHealth":2});
    merger.merge(&json!({"tick": 7, "players": [player]})).unwrap();
    let before = merger.state().clone();
    assert_eq!(merger.merge(&Value::Null), Err(MergeError::NotAnObject("null")));
    assert_eq!(merger.merge(&json!([1])), Err(MergeError::NotAnObject("a list")));
    assert_eq!(merger.merge(&json!({"players": []})), Err(MergeError::NoTick));
    assert_eq!(merger.state(), &before);
    // Unreadable entries are left out and counted; the rest is taken.
    let wire = json!({"delta": true, "tick": 8, "players": {"upserts": [{"id": "1", "x": 9}, {"x": 1}, 7, ["-"]]}});
    let merged = merger.merge(&wire).unwrap();
    assert_eq!((merged.skipped, merged.backwards), (3, false));
    assert_eq!((merger.state().players[0].x, merger.state().players[0].y), (9, 6));
    // A lower tick is a new episode.
    assert!(merger.merge(&json!({"tick": 2, "players": []})).unwrap().backwards);
    assert!(merger.state().players.is_empty());
}

#[test]
fn the_example_of_the_spec_merges() {
    let mut merger = StateMerger::new();
    let full = json!({"tick":239,"mapName":"Stage03.json","players":[{"id":"1","label":"normal_pl","role":"player","x":232,"y":264,"dirX":0,"dirY":-1,"health":2,"maxHealth":2},{"id":"3","label":"rapid_en","role":"ai","x":48,"y":40,"dirX":1,"dirY":0,"health":2,"maxHealth":2,"speed":3,"shootCooldown":0,"cooldown":7}],"bullets":[],"events":[],"gameOver":false,"gameOverReason":null,"stats":{"ticks":239,"enemiesDestroyed":0}});
    merger.merge(&full).unwrap();
    let delta = json!({"delta":true,"tick":240,"bullets":{"labels":["id","x","y","dirX","dirY","radius"],"upserts":[["9",51,40,1,0,1]],"removed":[]},"mapTilesChanged":[{"row":2,"col":12,"tileId":0}]});
    merger.merge(&delta).unwrap();
    let mut view = ClientView::new(&Map::shipped()[2]);
    view.apply(merger.state());
    assert_eq!((view.tanks.len(), view.bullets[0].id, view.tile(2, 12)), (2, NetId(9), Some(0)));
    let tank = view.tank(NetId(3)).unwrap();
    let mut vector = [0.0; STATE_LEN];
    observe::state_vector(&view, tank, &mut vector);
    let mut stack = ObservationStack::new();
    stack.push(&vector);
    // x, y over 512; facing right; speed 3 of 4; healthy; may fire.
    assert_eq!(vector[..7], [48.0 / 512.0, 40.0 / 512.0, 1.0, 0.0, 0.75, 1.0, 0.0]);
    assert_eq!((vector[7], vector[8], vector[11]), (184.0 / 512.0, 224.0 / 512.0, 1.0));
}
