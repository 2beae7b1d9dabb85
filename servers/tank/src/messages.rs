//! Messages to clients (tank spec 5.2), written once and shared among sockets.

use axum::extract::ws::Utf8Bytes;
use flywheel_tank::{
    Audience, DeltaEncoder, Rules, TileChange,
    wire::{BULLET_LABELS, N_PLAIN_LABELS, PLAYER_LABELS},
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

/// A value as JSON text.
///
/// # Panics
/// If `value` does not serialise; the types of the wire all do.
pub(crate) fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("wire types serialise")
}

/// Which tiles a full state brings.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tiles<'a> {
    /// Those that its reader has missed.
    Changed(&'a [TileChange]),
    /// All of them, for a reader who may have missed anything.
    All,
}

/// The full state, with the tiles that its reader needs.
pub(crate) fn full_state(rules: &Rules, audience: Audience, tiles: Tiles<'_>) -> Box<RawValue> {
    let mut state = rules.full_state(audience);
    match tiles {
        Tiles::Changed(changed) => state.map_tiles_changed = changed.to_vec(),
        Tiles::All => {
            state.map_tiles_changed = Vec::new();
            state.map_tiles = Some(rules.tile_rows());
        }
    }
    raw(&state)
}

/// What a socket gets when it joins: a delta from nothing, with every label and the whole tile grid, so that the
/// rows of later deltas can be read by whoever comes late.
pub(crate) fn first_state(rules: &Rules, encoder: &mut DeltaEncoder) -> Utf8Bytes {
    let mut delta = serde_json::to_value(encoder.encode(rules)).expect("wire types serialise");
    let is_ai = delta["players"]["labels"].as_array().is_some_and(|labels| labels.len() > N_PLAIN_LABELS);
    let labels = if is_ai { &PLAYER_LABELS[..] } else { &PLAYER_LABELS[..N_PLAIN_LABELS] };
    let empty = |labels: &[&str]| json!({"labels": labels, "upserts": [], "removed": []});
    for (list, labels) in [("players", labels), ("bullets", &BULLET_LABELS[..])] {
        if delta[list].is_null() {
            delta[list] = empty(labels);
        }
    }
    delta["mapTiles"] = json!(rules.tile_rows());
    format!(r#"{{"type":"state","state":{delta}}}"#).into()
}

/// `state` with a tick's delta; the debug objects go into it, and `stats` where the delta left them out because
/// nothing but their `ticks` changed.
pub(crate) fn state(delta: &RawValue, rules: &Rules, ai_debug: Option<&Value>, gbe_debug: Option<&Value>) -> Utf8Bytes {
    let body = delta.get().strip_suffix('}').expect("a delta is an object");
    let mut text = String::with_capacity(body.len() + 64);
    text.push_str(r#"{"type":"state","state":"#);
    text.push_str(body);
    if !body.contains(r#""stats":{"#) {
        let (ticks, destroyed) = (rules.ticks(), rules.enemies_destroyed());
        text.push_str(&format!(r#","stats":{{"ticks":{ticks},"enemiesDestroyed":{destroyed}}}"#));
    }
    for (name, value) in [("aiDebug", ai_debug), ("gbeDebug", gbe_debug)] {
        if let Some(value) = value {
            text.push_str(&format!(r#","{name}":{value}"#));
        }
    }
    text.push_str("}}");
    text.into()
}

/// `transition` with the rewards of the last tick.
pub(crate) fn transition(rules: &Rules, previous: &RawValue, next: &RawValue) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Reward {
        tank_id: flywheel_tank::TankId,
        reward: f32,
        reward_reasons: Vec<String>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Transition<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        tick: u64,
        reward: u8,
        prev_state: &'a RawValue,
        next_state: &'a RawValue,
        ai_rewards: Vec<Reward>,
    }
    let ai_rewards = rules
        .rewards()
        .iter()
        .map(|entry| Reward { tank_id: entry.tank, reward: entry.reward, reward_reasons: entry.reasons.to_strings() })
        .collect();
    let message = Transition {
        kind: "transition",
        tick: rules.ticks(),
        reward: 0,
        prev_state: previous,
        next_state: next,
        ai_rewards,
    };
    serde_json::to_string(&message).expect("wire types serialise").into()
}

/// `error` with a code.
pub(crate) fn error(code: &str) -> Utf8Bytes {
    json!({"type": "error", "code": code}).to_string().into()
}

#[cfg(test)]
mod tests {
    use flywheel_tank::{Map, StateMerger, TankConfig};

    use super::*;

    #[test]
    fn whoever_joins_late_can_read_every_later_delta() {
        let mut rules = Rules::new(&Map::shipped()[0], &TankConfig::default(), 5).unwrap();
        rules.add_player(None).unwrap();
        let mut session = DeltaEncoder::new(Audience::Player);
        for _ in 0..200 {
            rules.tick();
            session.encode(&rules);
        }
        let first = first_state(&rules, &mut DeltaEncoder::new(Audience::Player));
        let first: Value = serde_json::from_str(&first).unwrap();
        assert_eq!(first["state"]["players"]["labels"][0], "id");
        assert_eq!(first["state"]["bullets"]["labels"], json!(BULLET_LABELS));
        assert_eq!(first["state"]["mapTiles"].as_array().unwrap().len(), rules.map().cols() as usize);
        let mut merger = StateMerger::new();
        merger.merge(&first["state"]).unwrap();
        for _ in 0..50 {
            rules.tick();
            merger.merge(&serde_json::to_value(session.encode(&rules)).unwrap()).unwrap();
        }
        assert_eq!(merger.state().players, rules.full_state(Audience::Player).players);
    }

    #[test]
    fn debug_objects_and_stats_go_into_the_state() {
        let mut rules = Rules::new(&Map::shipped()[0], &TankConfig::default(), 5).unwrap();
        rules.tick();
        let delta = raw(&json!({"delta": true, "tick": 1}));
        let with = state(&delta, &rules, Some(&json!({"a": 1})), None);
        let stats = r#""stats":{"ticks":1,"enemiesDestroyed":0}"#;
        assert_eq!(
            &*with,
            format!(r#"{{"type":"state","state":{{"delta":true,"tick":1,{stats},"aiDebug":{{"a":1}}}}}}"#)
        );
        let delta = RawValue::from_string(format!("{{{stats}}}")).unwrap();
        assert_eq!(&*state(&delta, &rules, None, None), format!(r#"{{"type":"state","state":{{{stats}}}}}"#));
    }
}
