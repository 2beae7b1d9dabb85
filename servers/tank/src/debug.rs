//! What the debug toggles show: the AI backend's own notes, and the game backend's.

use std::collections::BTreeMap;

use flywheel_tank::{Rules, TankId};
use serde_json::{Value, json, value::RawValue};

use crate::protocol::Dropped;

/// Longest episode line and longest debug object kept.
const MAX_NOTE_BYTES: usize = 16 << 10;
/// Tanks whose debug objects are kept.
const MAX_TANKS: usize = 64;

/// Notes about one session.
#[derive(Debug, Default)]
pub(crate) struct DebugNotes {
    tanks: BTreeMap<TankId, Box<RawValue>>,
    episode_log: Option<(String, i64)>,
    dropped: [u64; Dropped::ALL.len()],
    pub input_overflows: u64,
    pub ticks_skipped: u64,
    pub tick_micros: u64,
}

impl DebugNotes {
    /// Keeps the newest debug object of a tank; an oversized one is left out.
    pub fn of_tank(&mut self, tank: TankId, debug: &RawValue) {
        if debug.get().len() > MAX_NOTE_BYTES {
            return;
        }
        if self.tanks.len() >= MAX_TANKS && !self.tanks.contains_key(&tank) {
            self.tanks.pop_first();
        }
        self.tanks.insert(tank, debug.to_owned());
    }

    pub fn episode_log(&mut self, text: &str, tick: i64) {
        self.episode_log = Some((text.chars().take(MAX_NOTE_BYTES / 4).collect(), tick));
    }

    pub fn dropped(&mut self, why: Dropped) {
        self.dropped[why as usize] += 1;
    }

    pub fn ai_debug(&self) -> Value {
        let (text, tick) = self.episode_log.clone().map_or((None, None), |(text, tick)| (Some(text), Some(tick)));
        let tanks: BTreeMap<String, &RawValue> =
            self.tanks.iter().map(|(id, debug)| (id.to_string(), &**debug)).collect();
        json!({"tanks": tanks, "episodeLog": text, "episodeLogTick": tick})
    }

    pub fn gbe_debug(&self, rules: &Rules, n_sockets: usize) -> Value {
        let dropped: BTreeMap<&str, u64> =
            Dropped::ALL.iter().map(|why| (why.as_str(), self.dropped[*why as usize])).collect();
        let queues: BTreeMap<String, usize> =
            rules.tanks().iter().filter(|tank| tank.is_ai()).map(|tank| (tank.id.to_string(), tank.queued())).collect();
        json!({
            "sockets": n_sockets,
            "dropped": dropped,
            "queues": queues,
            "inputOverflows": self.input_overflows,
            "ticksSkipped": self.ticks_skipped,
            "tickMicros": self.tick_micros,
        })
    }
}
