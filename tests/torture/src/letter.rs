//! One event of the run: what is sent, and how it is known again in the table.

use std::io::Write;

use flywheel_events::System;

/// Mark of one event: equal content is as good as proved by it.
pub fn mark(seed: u64, game: u64, seq: u64) -> u64 {
    // SplitMix64 over all three, so that no two events of a run share one by construction.
    let mut x = seed ^ game.rotate_left(40) ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What the names of a run's games begin with.
pub fn prefix(seed: u64) -> String {
    format!("torture-{seed:x}-")
}

pub fn game_id(seed: u64, game: u64) -> String {
    format!("{}{game}", prefix(seed))
}

/// Appends the event as one line.
pub fn write(out: &mut Vec<u8>, seed: u64, game: u64, seq: u64, ts_ms: i64) {
    let (system, id, mark) = (System::Tank, game_id(seed, game), mark(seed, game, seq));
    writeln!(
        out,
        r#"{{"v":1,"system":"{system}","kind":"tank.tick","game_id":"{id}","seq":{seq},"ts_ms":{ts_ms},"actor":"torture","payload":{{"tick":{seq},"note":"{mark:016x}"}}}}"#
    )
    .expect("memory takes every byte");
}

/// Whether a payload of the table is that of the event.
pub fn is_payload_of(payload: &str, seed: u64, game: u64, seq: u64) -> bool {
    let value: serde_json::Value = serde_json::from_str(payload).unwrap_or_default();
    value["tick"].as_u64() == Some(seq) && value["note"].as_str() == Some(&format!("{:016x}", mark(seed, game, seq)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_decodes_and_is_known_again_by_its_payload() {
        let mut line = Vec::new();
        write(&mut line, 7, 3, 41, 1_700_000_000_000);
        let event = flywheel_events::Event::decode(&line).unwrap();
        assert_eq!((event.game_id.as_str(), event.seq), ("torture-7-3", 41));
        let payload = serde_json::to_value(&event).unwrap()["payload"].to_string();
        assert!(is_payload_of(&payload, 7, 3, 41), "{payload}");
        assert!(
            !is_payload_of(&payload, 7, 3, 42) && !is_payload_of(&payload, 7, 4, 41) && !is_payload_of("", 7, 3, 41)
        );
    }
}
