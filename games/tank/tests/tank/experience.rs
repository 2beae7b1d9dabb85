use std::collections::HashMap;

use flywheel_events::{Event, GameId, System, kinds, tank as payload};
use flywheel_game_api::{Experience, ExperienceError, TransitionRow};
use flywheel_tank::{Decide, Decision, Headless, Map, OBSERVATION_LEN, Script, TankConfig, TankEvent, TankExperience};
use serde_json::{Value, json};

use crate::{GreedyAi, replay::record};

fn take(events: &[Event]) -> (Vec<TransitionRow>, TankExperience) {
    let (mut rows, mut experience) = (Vec::new(), TankExperience::new());
    for event in events {
        experience.accept(event, &mut rows).unwrap();
    }
    (rows, experience)
}

#[test]
fn the_transitions_of_a_lane_follow_each_other_without_a_gap() {
    for (map, script) in [(0, Script::Hunter), (1, Script::Camper), (2, Script::Random)] {
        let config = TankConfig { transition_interval: 4, max_ticks_per_episode: 2000, ..TankConfig::default() };
        let events = record(&Map::shipped()[map], &config, 100 + map as u64, script, false);
        let (rows, experience) = take(&events);
        let mut lanes: HashMap<String, Vec<&TransitionRow>> = HashMap::new();
        for row in &rows {
            assert_eq!((row.s.len(), row.s2.len()), (OBSERVATION_LEN, OBSERVATION_LEN));
            assert!(row.r.is_finite() && (0..10).contains(&row.a));
            lanes.entry(row.lane.seat.clone()).or_default().push(row);
        }
        let ended = experience.ended().unwrap();
        assert_eq!(ended.map_key, Map::shipped()[map].key());
        assert_eq!((ended.opponent.as_str(), ended.source.as_str()), (script.as_str(), "farm"));
        for (seat, lane) in &lanes {
            for pair in lane.windows(2) {
                assert_eq!(pair[0].s2, pair[1].s, "lane {seat}");
                assert!(pair[0].tick < pair[1].tick && !pair[0].done);
                assert!(pair[1].tick - pair[0].tick == 4 || pair[1].done);
            }
            // Every lane ends for good: with its tank's death or with the game.
            let last = lane.last().unwrap();
            assert!(last.done, "lane {seat}");
            let died = last.tick < ended.ticks;
            assert!(!died || last.s == last.s2, "lane {seat}");
            // Its rewards are its return, but for what came before its first decision.
            let sum: f32 = lane.iter().map(|row| row.r).sum();
            let summary = ended.seats.iter().find(|s| s.seat == *seat).unwrap();
            assert!((summary.episode_return - sum).abs() < 0.7, "{sum} {}", summary.episode_return);
        }
    }
}

#[test]
fn a_transition_names_the_model_that_chose_its_action() {
    struct Versions(u64);
    impl Decide for Versions {
        fn decide(&mut self, observations: &[f32], n: usize, actions: &mut Vec<u8>) {
            self.0 += 1;
            GreedyAi.decide(observations, n, actions);
        }
        fn decision(&self) -> Decision {
            Decision { model: Some(format!("tank-ai-dqn@{}", self.0).parse().unwrap()), epsilon: 0.25 }
        }
    }
    let config = TankConfig { transition_interval: 4, ..TankConfig::default() };
    let mut game = Headless::new(&Map::shipped()[0], &config, 3, Script::Camper).unwrap();
    let (mut events, mut versions): (Vec<TankEvent>, _) = (Vec::new(), Versions(0));
    while game.run_period(&mut versions, &mut events).is_none() {}
    let mut expected = 1;
    for event in &events {
        match event.kind() {
            kinds::TANK_TRANSITION => {
                assert_eq!(event.model.as_ref().unwrap().version.0, expected);
                expected += 1;
            }
            kinds::TANK_INPUT if event.actor() != "1" => assert!(event.model.is_some()),
            _ => assert!(event.model.is_none()),
        }
    }
    assert!(expected > 20);
}

#[test]
fn an_unusable_transition_is_refused_and_the_next_is_taken() {
    let config = TankConfig { transition_interval: 4, max_ticks_per_episode: 300, ..TankConfig::default() };
    let events = record(&Map::shipped()[0], &config, 1, Script::Camper, false);
    let good = events.iter().find(|e| e.kind == kinds::TANK_TRANSITION).unwrap();
    let mut experience = TankExperience::new();
    let mut rows = Vec::new();
    let mut refused = |edit: &dyn Fn(&mut Value)| {
        let mut body: Value = good.payload_as().unwrap();
        edit(&mut body);
        let before = rows.len();
        let error = experience.accept(&good.clone().payload(&body), &mut rows).unwrap_err();
        assert_eq!(rows.len(), before);
        error
    };
    let short = flywheel_events::floats::encode(&[0.0; 27]);
    assert!(matches!(refused(&|b| b["tanks"][0]["s"] = json!(short)), ExperienceError::Invalid(_)));
    let nan = flywheel_events::floats::encode(&[f32::NAN; OBSERVATION_LEN]);
    assert!(matches!(refused(&|b| b["tanks"][0]["s2"] = json!(nan)), ExperienceError::Invalid(_)));
    assert!(matches!(refused(&|b| b["tanks"][0]["a"] = json!(10)), ExperienceError::Invalid(_)));
    assert!(matches!(refused(&|b| b["tanks"][0]["r"] = Value::Null), ExperienceError::Decode(_)));
    experience.accept(good, &mut rows).unwrap();
    assert!(!rows.is_empty() && experience.ended().is_none());
}

#[test]
fn a_live_game_takes_its_opponent_from_the_player() {
    let id = GameId::new("live").unwrap();
    let event = |kind: &str, seq| Event::new(System::Tank, kind, id.clone(), seq, 0);
    let mut opened = serde_json::to_value(payload::SessionOpened {
        map_name: "Stage01.json".into(),
        map_key: "stage01".into(),
        map_size: 512,
        tile_size: 16,
        tiles: Vec::new(),
        tank_table_hash: String::new(),
        seed: 1,
        settings: json!({}),
        tick_ms: 33,
        source: String::new(),
        opponent: None,
    })
    .unwrap();
    opened["brandNew"] = json!(true);
    let joined = json!({"playerId": "1", "label": "normal_pl", "spawnIndex": 0, "opponent": "camper"});
    let ended = json!({"reason": "time_limit", "ticks": 5400, "outcome": -1, "tanks": []});
    let (rows, experience) = take(&[
        event(kinds::TANK_SESSION_OPENED, 0).payload(&opened),
        event(kinds::TANK_PLAYER_JOINED, 1).payload(&joined),
        event("tank.something.new", 2),
        event(kinds::TANK_EPISODE_ENDED, 3).payload(&ended),
    ]);
    let row = experience.ended().unwrap();
    assert!(rows.is_empty());
    assert_eq!((row.opponent.as_str(), row.source.as_str(), row.outcome), ("camper", "live", -1));
}
