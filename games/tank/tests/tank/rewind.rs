//! Rewinding: from the nearest checkpoint or from the opening, the same game.

use flywheel_events::{Event, kinds, tank as payload};
use flywheel_tank::{Audience, Map, ReplayError, Rewound, Script, TankConfig, headless, replay, rewind};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::replay::record;

/// Much happens; transitions lie across checkpoints.
fn lively() -> TankConfig {
    TankConfig {
        max_ticks_per_episode: 1_600,
        transition_interval: 7,
        enemy_spawn_interval_ticks: 20,
        max_player_respawns: 9,
        ..TankConfig::default()
    }
}

fn game(map: usize, seed: u64, script: Script) -> Vec<Event> {
    record(&Map::shipped()[map], &lively(), seed, script, false)
}

fn last_tick(events: &[Event]) -> u64 {
    replay(events).unwrap().ticks
}

fn without_checkpoints(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|e| e.kind != kinds::TANK_CHECKPOINT).collect()
}

/// Everything that decides the future, and everything that the tick itself brought.
fn assert_same(one: &Rewound, other: &Rewound) {
    let (a, b) = (one.rules(), other.rules());
    assert_eq!(a.ticks(), b.ticks());
    assert_eq!(headless::checkpoint(a), headless::checkpoint(b), "tick {}", a.ticks());
    for audience in [Audience::Player, Audience::Ai] {
        assert_eq!(a.full_state(audience), b.full_state(audience));
    }
    assert_eq!((a.rewards(), a.applied(), a.removed()), (b.rewards(), b.applied(), b.removed()));
    assert_eq!((a.records(), a.tiles_revision(), a.end()), (b.records(), b.tiles_revision(), b.end()));
}

fn checkpoints(events: &[Event]) -> Vec<(usize, u64)> {
    let of = |(at, e): (usize, &Event)| (at, e.payload_as::<payload::Checkpoint>().unwrap().tick);
    events.iter().enumerate().filter(|(_, e)| e.kind == kinds::TANK_CHECKPOINT).map(of).collect()
}

#[test]
fn from_the_nearest_checkpoint_and_from_the_opening_every_tick_is_the_same() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (map, script) in [(0, Script::Hunter), (1, Script::Camper), (2, Script::Random)] {
        let events = game(map, 40 + map as u64, script);
        let opening_only = without_checkpoints(&events);
        let last = last_tick(&events);
        assert!(last > 310, "{last}");
        let mut ticks = vec![0, 1, 299, 300, 301, last - 1, last, last + 5];
        ticks.extend((0..25).map(|_| rng.random_range(0..=last)));
        for tick in ticks {
            let rewound = rewind(&events, tick).unwrap();
            let nearest = tick.min(last).saturating_sub(1) / 300 * 300;
            assert_eq!(rewound.from_checkpoint, (nearest > 0).then_some(nearest), "tick {tick}");
            assert!(rewound.passed_over.is_empty());
            assert_eq!(rewound.rules().ticks(), tick.min(last));
            let from_opening = rewind(&opening_only, tick).unwrap();
            assert_eq!(from_opening.from_checkpoint, None);
            assert_same(&rewound, &from_opening);
        }
        // And what was found is what the whole replay finds.
        assert_eq!(rewind(&events, last).unwrap().rules().state_hash(), replay(&events).unwrap().state_hash);
    }
}

#[test]
fn what_follows_a_rewind_is_checked_and_goes_on_to_the_same_end() {
    let events = game(0, 8, Script::Camper);
    let whole = replay(&events).unwrap();
    let (at, tick) = checkpoints(&events)[1];
    let mut rewound = rewind(&events, tick + 1).unwrap();
    assert_eq!(rewound.from_checkpoint, Some(tick));
    for event in &events[at + 1..] {
        // Events of the tick that was asked for have been taken already.
        let of: Value = event.payload_as().unwrap();
        if event.kind == kinds::TANK_TRANSITION || of["tick"].as_u64() == Some(tick + 1) {
            continue;
        }
        rewound.replayer.accept(event).unwrap();
    }
    let outcome = rewound.replayer.outcome().unwrap();
    assert_eq!((outcome.state_hash, outcome.end, outcome.ticks), (whole.state_hash, whole.end, whole.ticks));
    assert_eq!(outcome.state, whole.state);
}

#[test]
fn a_damaged_or_missing_checkpoint_is_passed_over_for_an_earlier_one() {
    let events = game(2, 42, Script::Random);
    let marks = checkpoints(&events);
    assert!(marks.len() >= 3, "{marks:?}");
    let asked = marks[2].1 + 40;
    let truth = rewind(&without_checkpoints(&events), asked).unwrap();
    // What is damaged, whether a replay from the opening sees it too, how.
    type Edit = fn(&mut Value);
    let damage: [(&str, bool, Edit); 12] = [
        ("hash", true, |b| b["stateHash"] = json!("0123456789abcdef")),
        ("no hash", true, |b| drop(b.as_object_mut().unwrap().remove("stateHash"))),
        ("tick", true, |b| b["tick"] = json!(b["tick"].as_u64().unwrap() - 1)),
        ("no tick", true, |b| b["tick"] = json!("then")),
        ("generator", true, |b| b["rngPosition"] = json!(b["rngPosition"].as_u64().unwrap() + 1)),
        ("older producer", false, |b| drop(b.as_object_mut().unwrap().remove("resume"))),
        ("no tiles", false, |b| b["state"]["mapTiles"] = json!(null)),
        ("one tile", false, |b| b["state"]["mapTiles"][0][0] = json!(3)),
        ("unknown tile", false, |b| b["state"]["mapTiles"][0][0] = json!(9)),
        ("short grid", false, |b| drop(b["state"]["mapTiles"].as_array_mut().unwrap().pop())),
        ("body", false, |b| b["resume"]["body"]["nextId"] = json!(1)),
        ("digest", false, |b| b["resume"]["digest"] = json!("")),
    ];
    for (what, seen_by_replay, edit) in damage {
        let mut damaged = events.clone();
        for bad in [2, 1] {
            let at = marks[bad].0;
            let mut body: Value = damaged[at].payload_as().unwrap();
            edit(&mut body);
            damaged[at] = damaged[at].clone().payload(&body);
            let rewound = rewind(&damaged, asked).unwrap();
            assert_eq!(rewound.from_checkpoint, Some(marks[bad - 1].1), "{what}");
            let passed: Vec<u64> = rewound.passed_over.iter().map(|(seq, _)| *seq).collect();
            let expected: Vec<u64> = (bad..=2).rev().map(|n| damaged[marks[n].0].seq).collect();
            assert_eq!(passed, expected, "{what}: {:?}", rewound.passed_over);
            assert_same(&rewound, &truth);
        }
        assert_eq!(replay(&damaged).is_err(), seen_by_replay, "{what}");
    }
    let mut missing = events.clone();
    for (at, _) in marks[..3].iter().rev() {
        missing.remove(*at);
        assert_same(&rewind(&missing, asked).unwrap(), &truth);
    }
    assert_eq!(rewind(&missing, asked).unwrap().from_checkpoint, None);
}

#[test]
fn a_forged_checkpoint_never_panics_and_never_gives_another_game() {
    let events = game(0, 5, Script::Hunter);
    let (at, tick) = checkpoints(&events)[0];
    let truth = rewind(&without_checkpoints(&events), tick + 3).unwrap();
    let original: Value = events[at].payload_as().unwrap();
    let mut paths = Vec::new();
    walk(&original["resume"]["body"], "/resume/body".to_owned(), &mut paths);
    assert!(paths.len() > 40);
    for path in paths {
        for value in [json!(null), json!(u64::MAX)] {
            let mut body = original.clone();
            *body.pointer_mut(&path).unwrap() = value;
            let mut forged = events.clone();
            forged[at] = forged[at].clone().payload(&body);
            let rewound = rewind(&forged, tick + 3).unwrap();
            assert_same(&rewound, &truth);
        }
    }
}

fn walk(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, v)| walk(v, format!("{path}/{name}"), out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| walk(v, format!("{path}/{i}"), out)),
        _ => out.push(path),
    }
}

#[test]
fn a_record_without_an_opening_cannot_be_rewound() {
    let events = game(0, 5, Script::Hunter);
    assert!(matches!(rewind(&events[1..], 10), Err(ReplayError::NotOpened { .. })));
    assert!(matches!(rewind::<Event>(&[], 10), Err(ReplayError::NotOpened { .. })));
}
