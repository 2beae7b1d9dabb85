//! Settings that affect play. They travel in the event that opens a session, so a replay has them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TankKind;

/// Largest number of AI tanks alive at once that a session may ask for.
pub const MAX_ENEMIES: u32 = 64;

/// Settings of one session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TankConfig {
    /// AI tanks alive at once; also limited by the number of AI spawn tiles.
    pub max_enemies_alive: u32,
    /// Ticks between two attempts to spawn an AI tank.
    pub enemy_spawn_interval_ticks: u32,
    /// How often each player comes back after being destroyed.
    pub max_player_respawns: u32,
    /// Ticks between two transitions; rewards add up in between.
    pub transition_interval: u32,
    /// The game ends with `time_limit` on this tick.
    pub max_ticks_per_episode: u32,
    /// The tank that a player gets.
    pub player_label: TankKind,
    /// What the AI tanks are rewarded for.
    pub weights: RewardWeights,
}

impl Default for TankConfig {
    fn default() -> Self {
        Self {
            max_enemies_alive: 4,
            enemy_spawn_interval_ticks: 90,
            max_player_respawns: 1,
            transition_interval: 1,
            max_ticks_per_episode: 5400,
            player_label: TankKind::NormalPl,
            weights: RewardWeights::default(),
        }
    }
}

/// Weights of the rewards, one for each reason.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewardWeights {
    /// A shot was fired that will hit a player.
    pub hit_player: f32,
    /// The players' headquarters fell, by a shot of this tank or of another.
    pub destroy_hq: f32,
    /// A shot was fired that will hit a tank of the own side.
    pub hit_ally: f32,
    /// A shot was fired that will hit a brick.
    pub destructive_shot: f32,
    /// A shot was fired that will hit something that stays.
    pub blocked_shot: f32,
    /// The tank was hit.
    pub got_hit: f32,
    /// The tank was destroyed.
    pub death: f32,
    /// The tank points at the first player, each tick.
    pub player_aim: f32,
    /// The tank points at the headquarters, each tick.
    pub hq_aim: f32,
    /// The tank is on a tile that it has not seen.
    pub map_tile_touched: f32,
    /// No new tile for 5 s while most of the map is unseen, each tick.
    pub explore_stall_penalty: f32,
    /// The tank has stood still for 20 ticks, each tick.
    pub idle_penalty: f32,
    /// A second turn within 6 ticks.
    pub direction_change: f32,
    /// The tank was blocked, each tick.
    pub collision_penalty: f32,
    /// The tank has stayed within one tile of the same tile for 5 s, each tick.
    pub stuck_area: f32,
}

impl Default for RewardWeights {
    fn default() -> Self {
        Self {
            hit_player: 2.0,
            destroy_hq: 5.0,
            hit_ally: -1.0,
            destructive_shot: 0.5,
            blocked_shot: -0.03,
            got_hit: -2.0,
            death: -5.0,
            player_aim: 0.01,
            hq_aim: 0.01,
            map_tile_touched: 0.02,
            explore_stall_penalty: -0.001,
            idle_penalty: -0.05,
            direction_change: -0.05,
            collision_penalty: -0.05,
            stuck_area: -0.02,
        }
    }
}

impl RewardWeights {
    /// The weights in the order of [`crate::Reason`].
    pub fn table(&self) -> [f32; crate::Reason::COUNT] {
        [
            self.hit_player,
            self.destroy_hq,
            self.hit_ally,
            self.destructive_shot,
            self.blocked_shot,
            self.got_hit,
            self.death,
            self.player_aim,
            self.hq_aim,
            self.map_tile_touched,
            self.explore_stall_penalty,
            self.idle_penalty,
            self.direction_change,
            self.collision_penalty,
            self.stuck_area,
        ]
    }
}

/// A setting with a value that no session can be played with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{name}` is {value}: {reason}")]
pub struct ConfigError {
    pub name: &'static str,
    pub value: String,
    pub reason: &'static str,
}

impl TankConfig {
    /// # Errors
    /// The first setting that no session can be played with.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail =
            |name, value: &dyn std::fmt::Display, reason| Err(ConfigError { name, value: value.to_string(), reason });
        if self.max_enemies_alive > MAX_ENEMIES {
            return fail("max_enemies_alive", &self.max_enemies_alive, "at most 64 AI tanks can be alive");
        }
        for (name, value) in [
            ("enemy_spawn_interval_ticks", self.enemy_spawn_interval_ticks),
            ("transition_interval", self.transition_interval),
            ("max_ticks_per_episode", self.max_ticks_per_episode),
        ] {
            if value == 0 {
                return fail(name, &value, "it must be at least 1");
            }
        }
        if self.player_label.role() != crate::Role::Player {
            return fail("player_label", &self.player_label, "a player's tank type ends in `_pl`");
        }
        if let Some(weight) = self.weights.table().into_iter().find(|w| !w.is_finite() || w.abs() > 1e6) {
            return fail("weights", &weight, "a weight must be finite and within ±1000000");
        }
        Ok(())
    }
}
