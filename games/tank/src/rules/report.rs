//! The words in which the rules say what happened.

use super::{InputSource, MAX_PLAYER_INPUTS, QUEUE_LEN};
use crate::{Action, ConfigError, Move, NetId, Role, TankId, TankKind};

/// Why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    PlayerDestroyed,
    HqDestroyed,
    TimeLimit,
}

impl EndReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlayerDestroyed => "player_destroyed",
            Self::HqDestroyed => "hq_destroyed",
            Self::TimeLimit => "time_limit",
        }
    }

    /// For the AI side: +1 when the players lost, -1 when they held out. [`super::Rules::outcome`] also knows of a
    /// game without players.
    pub fn outcome(self) -> i8 {
        match self {
            Self::PlayerDestroyed | Self::HqDestroyed => 1,
            Self::TimeLimit => -1,
        }
    }
}

/// What the rules refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("map `{map}` has no free player spawn: {players} of {spawns} are taken or blocked")]
    NoFreeSpawn { map: String, players: usize, spawns: usize },
    #[error("`{0}` is not a player's tank type")]
    NotAPlayerKind(String),
    #[error("tank {0} is not in this session")]
    UnknownTank(TankId),
    #[error("tank {0} has {QUEUE_LEN} inputs waiting; this one is dropped")]
    QueueFull(TankId),
    #[error("tank {0} has {MAX_PLAYER_INPUTS} inputs waiting for the next tick; this one is dropped")]
    TooManyPlayerInputs(TankId),
    #[error("the game is over")]
    GameOver,
}

/// A bullet in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bullet {
    pub id: NetId,
    pub owner: TankId,
    pub x: i32,
    pub y: i32,
    pub dir: Move,
    pub radius: i32,
    pub speed: i32,
}

/// Something to see or hear in one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    pub kind: EffectKind,
    pub x: i32,
    pub y: i32,
    pub tank: Option<TankId>,
    pub label: Option<TankKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectKind {
    GameStart,
    Fire,
    Hit,
    HitTank,
    DestroyTank,
    DestroyHq,
    GameOver,
    AiSpawn,
}

/// A tile that a bullet changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TileChange {
    pub row: u16,
    pub col: u16,
    #[serde(rename = "tileId")]
    pub tile_id: u8,
}

/// An input as it was applied in a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub tank: TankId,
    pub role: Role,
    pub action: Action,
    pub source: InputSource,
}

/// One tank's whole game so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TankRecord {
    pub tank: TankId,
    pub kind: TankKind,
    /// Sum of the rewards handed out in transitions.
    pub episode_return: f32,
    pub shots: u32,
    /// Shots predicted to hit a player or the HQ.
    pub predicted_hits: u32,
    pub damage_dealt: u32,
    pub damage_taken: u32,
}

/// A player that has just joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    pub id: TankId,
    pub kind: TankKind,
    /// Index into [`Map::player_spawns`].
    pub spawn_index: u32,
}

/// What one tick came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickReport {
    pub tick: u64,
    /// The game ended in this very tick.
    pub ended: Option<EndReason>,
    /// [`Rules::rewards`] holds the entries of a transition.
    pub transition_due: bool,
}
