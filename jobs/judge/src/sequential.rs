//! The sequential test: how many games are enough to say that a candidate is better.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Error rates and bounds of a [`SequentialTest`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SequentialConfig {
    /// Chance of promoting a candidate that is no better.
    pub alpha: f64,
    /// Chance of refusing one that wins `better` of the games that tell them apart.
    pub beta: f64,
    /// Share of decisive pairs that a better candidate wins; above one half.
    pub better: f64,
    /// Pairs after which the candidate is refused for want of evidence.
    pub max_pairs: u32,
}

impl Default for SequentialConfig {
    fn default() -> Self {
        Self { alpha: 0.05, beta: 0.05, better: 0.65, max_pairs: 180 }
    }
}

/// Where a test stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    GoOn,
    Better,
    NotBetter,
    /// The cap was reached before either bound.
    Undecided,
}

/// Wald's sequential probability ratio test on pairs of games played with the same seed, map and opponent.
///
/// A pair in which both did equally well says nothing and is only counted. Among the others, the candidate's
/// share of wins is `1/2` under the null hypothesis and `better` under the alternative; the test stops at
/// `ln((1-beta)/alpha)` and `ln(beta/(1-alpha))`.
///
/// Source: A. Wald, *Sequential Tests of Statistical Hypotheses*, Ann. Math. Statist. 16 (1945), section 3.
#[derive(Debug, Clone)]
pub struct SequentialTest {
    config: SequentialConfig,
    log_ratio: f64,
    pairs: u32,
    wins: u32,
    losses: u32,
}

impl SequentialTest {
    /// # Panics
    /// If the error rates do not lie in (0, 1/2) or `better` not in (1/2, 1).
    pub fn new(config: SequentialConfig) -> Self {
        let rate = 0.0..0.5;
        assert!(config.alpha > 0.0 && rate.contains(&config.alpha), "alpha must lie in (0, 0.5)");
        assert!(config.beta > 0.0 && rate.contains(&config.beta), "beta must lie in (0, 0.5)");
        assert!(config.better > 0.5 && config.better < 1.0, "better must lie in (0.5, 1)");
        Self { config, log_ratio: 0.0, pairs: 0, wins: 0, losses: 0 }
    }

    /// Takes one pair: the scores (0 to 1) of candidate and champion in the same game.
    pub fn add(&mut self, candidate: f64, champion: f64) -> Decision {
        self.pairs += 1;
        if candidate > champion {
            self.wins += 1;
            self.log_ratio += (self.config.better / 0.5).ln();
        } else if candidate < champion {
            self.losses += 1;
            self.log_ratio += ((1.0 - self.config.better) / 0.5).ln();
        }
        self.decision()
    }

    pub fn decision(&self) -> Decision {
        let SequentialConfig { alpha, beta, max_pairs, .. } = self.config;
        if self.log_ratio >= ((1.0 - beta) / alpha).ln() {
            Decision::Better
        } else if self.log_ratio <= (beta / (1.0 - alpha)).ln() {
            Decision::NotBetter
        } else if self.pairs >= max_pairs {
            Decision::Undecided
        } else {
            Decision::GoOn
        }
    }

    pub fn pairs(&self) -> u32 {
        self.pairs
    }

    /// Pairs that the candidate won and lost.
    pub fn decisive(&self) -> (u32, u32) {
        (self.wins, self.losses)
    }

    pub fn log_ratio(&self) -> f64 {
        self.log_ratio
    }
}

/// Chance of at most `successes` in `trials` fair coin tosses: the one-sided sign test.
pub fn sign_test(successes: u32, trials: u32) -> f64 {
    let (mut term, mut sum) = (0.5_f64.powi(trials as i32), 0.0);
    for k in 0..=successes.min(trials) {
        sum += term;
        term *= f64::from(trials - k) / f64::from(k + 1);
    }
    sum.min(1.0)
}

/// Chance that, if both had the same rate, the first would have won so few of its games: Fisher's exact test,
/// one-sided, of `wins_a` of `games_a` against `wins_b` of `games_b`.
///
/// Source: R. A. Fisher, *Statistical Methods for Research Workers*, section 21.02.
pub fn fisher_lower(wins_a: u32, games_a: u32, wins_b: u32, games_b: u32) -> f64 {
    let ln_choose = |n: u32, k: u32| -> f64 { (0..k).map(|i| (f64::from(n - i) / f64::from(k - i)).ln()).sum() };
    let (wins, games) = (wins_a + wins_b, games_a + games_b);
    let total = ln_choose(games, wins);
    let lowest = wins.saturating_sub(games_b);
    (lowest..=wins_a)
        .map(|k| (ln_choose(games_a, k) + ln_choose(games_b, wins - k) - total).exp())
        .sum::<f64>()
        .min(1.0)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Share of tests that promote, and the mean number of pairs, when the candidate truly wins `share` of the
    /// decisive pairs and `decisive` of the pairs are decisive.
    fn simulate(share: f64, decisive: f64, config: SequentialConfig) -> (f64, f64) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let (n, mut promoted, mut pairs) = (4000, 0, 0);
        for _ in 0..n {
            let mut test = SequentialTest::new(config);
            let decision = loop {
                let (a, b) = if !rng.random_bool(decisive) {
                    (1.0, 1.0)
                } else if rng.random_bool(share) {
                    (1.0, 0.0)
                } else {
                    (0.0, 1.0)
                };
                match test.add(a, b) {
                    Decision::GoOn => {}
                    end => break end,
                }
            };
            promoted += u32::from(decision == Decision::Better);
            pairs += test.pairs();
        }
        (f64::from(promoted) / f64::from(n), f64::from(pairs) / f64::from(n))
    }

    #[test]
    fn error_rates_are_those_that_were_stated() {
        let config = SequentialConfig { max_pairs: 10_000, ..Default::default() };
        let (false_promotions, _) = simulate(0.5, 0.6, config);
        assert!(false_promotions <= 0.055, "{false_promotions}");
        let (power, _) = simulate(config.better, 0.6, config);
        assert!(power >= 0.945, "{power}");
    }

    #[test]
    fn a_clear_difference_needs_few_games_and_the_cap_holds() {
        let (power, pairs) = simulate(0.95, 0.7, SequentialConfig::default());
        assert!(power > 0.99 && pairs < 30.0, "{power} {pairs}");
        let mut test = SequentialTest::new(SequentialConfig { max_pairs: 3, ..Default::default() });
        assert_eq!(test.add(1.0, 1.0), Decision::GoOn);
        assert_eq!(test.add(0.0, 0.0), Decision::GoOn);
        assert_eq!(test.add(1.0, 1.0), Decision::Undecided);
    }

    #[test]
    fn exact_tests_agree_with_published_values() {
        // R: pbinom(2, 10, 0.5) = 0.0546875
        assert!((sign_test(2, 10) - 0.054_687_5).abs() < 1e-12);
        assert!((sign_test(10, 10) - 1.0).abs() < 1e-12);
        // Fisher's tea tasting, table (3, 1; 1, 3): P(X >= 3) = 17/70, so P(X <= 1) of the mirrored table.
        assert!((fisher_lower(1, 4, 3, 4) - 17.0 / 70.0).abs() < 1e-12);
        assert!((fisher_lower(0, 4, 0, 4) - 1.0).abs() < 1e-12);
    }
}
