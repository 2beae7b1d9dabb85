//! Live play of a new champion against its predecessor's: the reason for an automatic rollback.

use std::collections::{BTreeMap, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sequential::fisher_lower;

/// When a champion goes back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LiveConfig {
    /// Live games of the new champion before anything is concluded.
    pub min_games: u32,
    /// Newest live games kept for each version.
    pub window: usize,
    /// Chance of taking back a champion that is as good as its predecessor, for one look at the games.
    pub significance: f64,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self { min_games: 6, window: 200, significance: 0.005 }
    }
}

/// Wins of every version in live games.
#[derive(Debug, Clone)]
pub struct LivePlay {
    config: LiveConfig,
    games: BTreeMap<u64, VecDeque<bool>>,
}

/// Why a champion is taken back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fall {
    pub version: u64,
    pub predecessor: u64,
    pub wins: u32,
    pub games: u32,
    pub predecessor_wins: u32,
    pub predecessor_games: u32,
    /// Chance of so few wins if the new champion were as good.
    pub chance: f64,
}

impl std::fmt::Display for Fall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "live play fell: version {} won {} of {} live games, its predecessor {} won {} of {} (chance {:.4})",
            self.version,
            self.wins,
            self.games,
            self.predecessor,
            self.predecessor_wins,
            self.predecessor_games,
            self.chance
        )
    }
}

impl LivePlay {
    pub fn new(config: LiveConfig) -> Self {
        Self { config, games: BTreeMap::new() }
    }

    /// Takes the result of one live game that was played by `version` alone.
    pub fn add(&mut self, version: u64, won: bool) {
        let games = self.games.entry(version).or_default();
        games.push_back(won);
        if games.len() > self.config.window {
            games.pop_front();
        }
        while self.games.len() > 64 {
            self.games.pop_first();
        }
    }

    /// Wins and games kept of `version`.
    pub fn record(&self, version: u64) -> (u32, u32) {
        self.games
            .get(&version)
            .map_or((0, 0), |games| (games.iter().filter(|&&won| won).count() as u32, games.len() as u32))
    }

    /// Whether `champion` has fallen below `predecessor`.
    pub fn fall(&self, champion: u64, predecessor: u64) -> Option<Fall> {
        let (wins, games) = self.record(champion);
        let (predecessor_wins, predecessor_games) = self.record(predecessor);
        if games < self.config.min_games || predecessor_games == 0 {
            return None;
        }
        let chance = fisher_lower(wins, games, predecessor_wins, predecessor_games);
        (chance < self.config.significance).then_some(Fall {
            version: champion,
            predecessor,
            wins,
            games,
            predecessor_wins,
            predecessor_games,
            chance,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(live: &mut LivePlay, version: u64, wins: u32, games: u32) {
        (0..games).for_each(|i| live.add(version, i < wins));
    }

    #[test]
    fn a_champion_that_loses_what_its_predecessor_won_is_taken_back() {
        let mut live = LivePlay::new(LiveConfig::default());
        play(&mut live, 3, 18, 20);
        play(&mut live, 4, 0, 5);
        assert_eq!(live.fall(4, 3), None, "too few games");
        live.add(4, false);
        let fall = live.fall(4, 3).expect("0 of 6 after 18 of 20");
        assert_eq!((fall.wins, fall.games, fall.predecessor), (0, 6, 3));
    }

    #[test]
    fn an_equal_champion_stays() {
        let mut live = LivePlay::new(LiveConfig::default());
        play(&mut live, 3, 14, 20);
        play(&mut live, 4, 12, 20);
        assert_eq!(live.fall(4, 3), None);
        assert_eq!(live.fall(4, 9), None, "no record of the predecessor");
    }
}
