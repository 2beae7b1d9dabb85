//! The seam between the judge and a game system: one seeded game, played headless.

use flywheel_policy::Policy;
use serde::Serialize;

/// What happened in one judged game.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GameResult {
    /// 1 won, 0 lost, one half drawn, for the judged policy's side.
    pub score: f64,
    /// Simulation steps played.
    pub ticks: u64,
    /// Decisions that the rules do not allow.
    pub illegal_actions: u32,
    /// Decisions whose values were not finite.
    pub not_finite: u32,
    /// Time of each decision, microseconds: median and 99th percentile of the game.
    pub decision_p50_us: f64,
    pub decision_p99_us: f64,
    pub decisions: u64,
}

/// Plays single games of one system without sockets, as fast as the core allows.
///
/// The same policy, opponent, map and seed give the same game.
pub trait Arena: Send + Sync + 'static {
    /// Maps (or other settings of play) over which games are spread.
    fn maps(&self) -> Vec<String>;

    /// Fixed opponents that never learn.
    fn anchors(&self) -> Vec<String>;

    /// Length of an observation and number of actions that a policy must have.
    fn shape(&self) -> (usize, usize);

    /// # Errors
    /// If the map or the opponent is unknown, or the policy has another shape; the message says so.
    fn play(&self, policy: &dyn Policy, opponent: &str, map: &str, seed: u64) -> Result<GameResult, String>;
}

/// One game to be played by candidate and champion alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fixture {
    pub map: String,
    pub opponent: String,
    pub seed: u64,
}

/// Endless list of fixtures in which every prefix is as balanced over maps and anchors as it can be.
pub fn fixtures(arena: &dyn Arena, seed: u64) -> impl Iterator<Item = Fixture> + use<> {
    let (maps, anchors) = (arena.maps(), arena.anchors());
    (0u64..).flat_map(move |round| {
        let (maps, anchors) = (maps.clone(), anchors.clone());
        (0..maps.len()).flat_map(move |shift| {
            let (maps, anchors) = (maps.clone(), anchors.clone());
            (0..anchors.len()).map(move |i| Fixture {
                map: maps[(i + shift) % maps.len()].clone(),
                opponent: anchors[i].clone(),
                seed: split_mix(seed ^ split_mix(round << 16 | (shift as u64) << 8 | i as u64)),
            })
        })
    })
}

/// Source: Steele, Lea, Flood, *Fast splittable pseudorandom number generators* (2014), `splitmix64`.
pub(crate) fn split_mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
