use flywheel_events::{Event, GameId, System, kinds, tank as payload};
use flywheel_tank::{
    Audience, DeltaEncoder, Headless, InputSource, Map, ReplayError, Replayer, Rules, Script, TankConfig, TankEvent,
    headless::{self, HeadlessOptions},
    replay,
};
use serde_json::{Value, json};

use crate::RandomAi;

/// A recorded headless game as events.
pub fn record(map: &Map, config: &TankConfig, seed: u64, script: Script, repeats: bool) -> Vec<Event> {
    let options = HeadlessOptions { record_repeats: repeats, ..HeadlessOptions::default() };
    let mut game = Headless::with_options(map, config, seed, script, options).unwrap();
    let (mut events, mut ai): (Vec<TankEvent>, _) = (Vec::new(), RandomAi::new(seed));
    while game.run_period(&mut ai, &mut events).is_none() {}
    let id = GameId::new(format!("g-{seed}")).unwrap();
    events
        .iter()
        .enumerate()
        .map(|(seq, e)| {
            Event::new(System::Tank, e.kind(), id.clone(), seq as u64, 0)
                .actor(e.actor())
                .model(e.model.clone())
                .payload(&e.body)
        })
        .map(|e| Event::decode(&e.encode()).unwrap())
        .collect()
}

fn short() -> TankConfig {
    TankConfig { max_ticks_per_episode: 1500, transition_interval: 4, ..TankConfig::default() }
}

// Verification 11.
#[test]
fn a_recorded_game_replays_to_the_same_hashes() {
    for (map, script, repeats) in [(0, Script::Hunter, false), (1, Script::Camper, true), (2, Script::Random, false)] {
        let events = record(&Map::shipped()[map], &short(), 77 + map as u64, script, repeats);
        let count = |kind| events.iter().filter(|e| e.kind == kind).count() as u64;
        let outcome = replay(&events).unwrap();
        assert_eq!(outcome.ticks_checked, count(kinds::TANK_TICK));
        assert_eq!(outcome.checkpoints_checked, count(kinds::TANK_CHECKPOINT));
        assert!(outcome.checkpoints_checked >= outcome.ticks / 300);
        let ended: payload::EpisodeEnded =
            events.iter().find(|e| e.kind == kinds::TANK_EPISODE_ENDED).unwrap().payload_as().unwrap();
        assert_eq!((ended.ticks, Some(ended.reason.as_str())), (outcome.ticks, outcome.end.map(|e| e.as_str())));
        assert!(outcome.state.game_over);
        let inputs = events.iter().filter(|e| e.kind == kinds::TANK_INPUT);
        let sources: std::collections::BTreeSet<String> =
            inputs.map(|e| e.payload_as::<payload::Input>().unwrap().source).collect();
        assert_eq!(sources.contains("repeat"), repeats);
    }
}

#[test]
fn a_replay_stops_at_any_event_with_the_public_state() {
    let events = record(&Map::shipped()[0], &short(), 5, Script::Camper, false);
    let mut replayer = Replayer::new();
    assert!(replayer.state().is_none());
    for event in &events {
        replayer.accept(event).unwrap();
        if event.kind == kinds::TANK_CHECKPOINT {
            let recorded: payload::Checkpoint = event.payload_as().unwrap();
            let state = serde_json::to_value(replayer.state().unwrap()).unwrap();
            assert_eq!(state["tick"], recorded.state["tick"]);
            assert_eq!(state["bullets"], recorded.state["bullets"]);
            assert_eq!(json!(replayer.rules().unwrap().tile_rows()), recorded.state["mapTiles"]);
        }
    }
}

#[test]
fn players_may_join_late_and_sessions_may_be_quiet() {
    let (config, map) = (TankConfig { max_ticks_per_episode: 400, ..TankConfig::default() }, &Map::shipped()[0]);
    let mut rules = Rules::new(map, &config, 8).unwrap();
    let mut encoder = DeltaEncoder::new(Audience::Player);
    let id = GameId::new("late").unwrap();
    let mut events: Vec<Event> = Vec::new();
    let mut push = |kind: &str, body: &dyn erased::Body| {
        let event = Event::new(System::Tank, kind, id.clone(), events.len() as u64, 0);
        events.push(body.fill(event));
    };
    push(kinds::TANK_SESSION_OPENED, &headless::opening(&rules, "live", None, 33));
    let mut joins = 0;
    while rules.end().is_none() {
        if rules.ticks() == 40 || rules.ticks() == 133 {
            let joined = rules.add_player(None).unwrap();
            joins += 1;
            push(
                kinds::TANK_PLAYER_JOINED,
                &payload::PlayerJoined {
                    player_id: joined.id.to_string(),
                    label: joined.kind.label().to_owned(),
                    spawn_index: joined.spawn_index,
                    opponent: None,
                },
            );
        }
        let ids: Vec<_> = rules.tanks().iter().map(|t| t.id).collect();
        if rules.ticks() % 7 == 3 {
            for (i, id) in ids.into_iter().enumerate() {
                let action = flywheel_tank::Action::from_index((rules.ticks() as usize + i) % 10).unwrap();
                // Two inputs at once: an AI tank's second one waits for the next tick.
                for _ in 0..2 {
                    rules.queue_input(id, action, InputSource::Ws).unwrap();
                }
            }
        }
        rules.tick();
        for applied in rules.applied() {
            push(kinds::TANK_INPUT, &headless::input_event(rules.ticks(), applied));
        }
        let delta = encoder.encode(&rules);
        if headless::tick_is_due(&delta) {
            push(kinds::TANK_TICK, &delta);
        }
        if rules.ticks().is_multiple_of(100) {
            push(kinds::TANK_CHECKPOINT, &headless::checkpoint(&rules));
        }
    }
    assert_eq!(joins, 2);
    let outcome = replay(&events).unwrap();
    assert!(rules.ticks() > 300);
    assert_eq!((outcome.ticks, outcome.checkpoints_checked), (rules.ticks(), rules.ticks() / 100));
    assert_eq!(outcome.state_hash, rules.state_hash());
}

mod erased {
    use flywheel_events::Event;

    pub trait Body {
        fn fill(&self, event: Event) -> Event;
    }

    impl<T: serde::Serialize> Body for T {
        fn fill(&self, event: Event) -> Event {
            event.payload(self)
        }
    }
}

#[test]
fn a_tampered_record_is_refused_at_the_first_difference() {
    let events = record(&Map::shipped()[0], &short(), 21, Script::Hunter, false);
    let tampered = |at: usize, edit: &dyn Fn(&mut Value)| {
        let mut events = events.clone();
        let mut body: Value = events[at].payload_as().unwrap();
        edit(&mut body);
        events[at] = events[at].clone().payload(&body);
        replay(&events).unwrap_err()
    };
    let nth = |kind: &str, n: usize| events.iter().enumerate().filter(|(_, e)| e.kind == kind).nth(n).unwrap().0;

    let at = nth(kinds::TANK_TICK, 50);
    let error = tampered(at, &|b| b["tick"] = json!(b["tick"].as_u64().unwrap() + 1));
    assert!(matches!(error, ReplayError::Diverged { seq, what: "delta", .. } if seq == at as u64), "{error}");

    let at = nth(kinds::TANK_CHECKPOINT, 1);
    let error = tampered(at, &|b| b["stateHash"] = json!("0123456789abcdef"));
    let text = error.to_string();
    assert!(text.starts_with(&format!("event {at} diverges at tick 600: state hash is ")), "{text}");

    let at = nth(kinds::TANK_INPUT, 40);
    let error = tampered(at, &|b| (b["move"], b["fire"]) = (json!("move_left"), json!(true)));
    assert!(matches!(error, ReplayError::Diverged { seq, .. } if seq > at as u64), "{error}");
    let error = tampered(at, &|b| b["move"] = json!("sideways"));
    assert!(matches!(error, ReplayError::Invalid { seq, .. } if seq == at as u64), "{error}");
    let error = tampered(at, &|b| b["tick"] = json!(9_000_000));
    assert!(matches!(error, ReplayError::Invalid { .. }), "{error}");

    let error = tampered(0, &|b| b["seed"] = json!(22));
    assert!(matches!(error, ReplayError::Diverged { .. } | ReplayError::Invalid { .. }), "{error}");
    let error = tampered(0, &|b| b["tankTableHash"] = json!("ffffffffffffffff"));
    assert!(matches!(error, ReplayError::TankTable { seq: 0, .. }), "{error}");
    let error = tampered(0, &|b| b["settings"]["gravity"] = json!(1));
    assert!(matches!(error, ReplayError::Invalid { seq: 0, .. }), "{error}");
    assert!(matches!(replay(&events[1..]), Err(ReplayError::NotOpened { seq: 1, .. })));
    assert!(matches!(replay(Vec::<Event>::new()), Err(ReplayError::NotOpened { .. })));
}
