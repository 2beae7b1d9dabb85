//! Payloads of the tank system's events (tank spec, section 11). Field names are those of its wire.

use serde::{Deserialize, Serialize};

/// `tank.session.opened`: everything that a replay needs besides the inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionOpened {
    pub map_name: String,
    pub map_key: String,
    /// Edge length of the square map, pixels.
    pub map_size: u32,
    pub tile_size: u32,
    /// Row-major tile ids, row 0 at the top.
    pub tiles: Vec<Vec<u8>>,
    /// 16 hexadecimal digits: hash of the tank table that the rules were built with.
    pub tank_table_hash: String,
    pub seed: u64,
    /// `TankConfig` of `games/tank`: every setting that affects play.
    pub settings: serde_json::Value,
    pub tick_ms: u32,
    /// `live` for sessions with sockets, `farm` for headless self-play.
    #[serde(default)]
    pub source: String,
    /// Who plays against the AI tanks: `human`, `random`, `camper`, `hunter`.
    #[serde(default)]
    pub opponent: Option<String>,
}

/// `tank.player.joined`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlayerJoined {
    pub player_id: String,
    pub label: String,
    pub spawn_index: u32,
    /// `random`, `camper`, `hunter` for scripted players that said so; else absent.
    #[serde(default)]
    pub opponent: Option<String>,
}

/// `tank.input`: one action, applied at `tick`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    pub tick: u64,
    pub tank_id: String,
    /// `player` or `ai`.
    pub role: String,
    /// `move_up`, `move_down`, `move_left`, `move_right` or null.
    #[serde(rename = "move")]
    pub movement: Option<String>,
    pub fire: bool,
    /// `ws`, `http`, `repeat` or `farm`.
    pub source: String,
}

/// `tank.transition`: one entry for each AI tank that has a stored action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    pub tick: u64,
    pub map_key: String,
    pub tanks: Vec<TankTransition>,
}

/// One seat's `(s, a, r, s', done)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TankTransition {
    pub tank_id: String,
    pub label: String,
    /// Stacked state when the action was chosen: 108 numbers.
    #[serde(with = "crate::floats::text")]
    pub s: Vec<f32>,
    /// Action index, 0..=9.
    pub a: i8,
    /// Reward summed since the last transition.
    pub r: f32,
    /// Stacked state now: 108 numbers.
    #[serde(with = "crate::floats::text")]
    pub s2: Vec<f32>,
    pub done: bool,
    pub epsilon: f32,
    pub reasons: Vec<String>,
}

/// `tank.checkpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    pub tick: u64,
    /// Full state, tank spec 5.4.
    pub state: serde_json::Value,
    /// 16 hexadecimal digits.
    pub state_hash: String,
    /// Words drawn from the session's generator so far.
    pub rng_position: u64,
    /// What a replay needs beside the public state to go on from here; absent in records of older producers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<serde_json::Value>,
}

/// `tank.episode.ended`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpisodeEnded {
    /// `player_destroyed`, `hq_destroyed` or `time_limit`.
    pub reason: String,
    pub ticks: u64,
    /// +1 the AI side won, -1 the players held out, 0 otherwise.
    pub outcome: i8,
    pub tanks: Vec<TankSummary>,
}

/// One AI tank's whole game, dead ones included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TankSummary {
    pub tank_id: String,
    pub label: String,
    /// Sum of its rewards.
    #[serde(rename = "return")]
    pub episode_return: f32,
    pub shots: u32,
    pub predicted_hits: u32,
    pub damage_dealt: u32,
    pub damage_taken: u32,
}

/// `tank.session.closed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClosed {
    pub cause: String,
}

/// `tank.model.allocated`, `.released`, `.saved`, `.swapped`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelChange {
    pub model_key: String,
    pub base_key: String,
    pub version: u64,
    pub steps: u64,
    pub epsilon: f32,
    /// The version before, for `.swapped`.
    #[serde(default)]
    pub from_version: Option<u64>,
}

/// `model.swap_refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwapRefused {
    pub model: String,
    pub stays_on: Option<String>,
    pub reason: String,
}
