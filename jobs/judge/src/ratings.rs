//! Ratings of all versions on one scale, from every judged game.

use std::collections::BTreeMap;

use serde::Serialize;

/// One player's place on the scale. `random` is held at 0; 400 points are a factor of ten in the odds of winning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rating {
    pub player: String,
    pub elo: f64,
    pub games: u32,
}

/// Maximum-likelihood Bradley–Terry ratings, with one drawn game against a player of rating 0 as prior so that
/// a player who won everything stays finite.
///
/// `results` are `(player, opponent, score of player, games)`. Source: D. R. Hunter, *MM algorithms for
/// generalized Bradley–Terry models*, Ann. Statist. 32 (2004), eq. 3.
pub fn ratings(results: &[(String, String, f64, u32)]) -> Vec<Rating> {
    let mut index = BTreeMap::new();
    for (a, b, ..) in results {
        for name in [a, b] {
            let next = index.len();
            index.entry(name.clone()).or_insert(next);
        }
    }
    let n = index.len();
    let (mut wins, mut games, mut meetings) = (vec![0.5_f64; n], vec![0u32; n], BTreeMap::<(usize, usize), f64>::new());
    for (a, b, score, count) in results {
        let (i, j) = (index[a], index[b]);
        wins[i] += score * f64::from(*count);
        wins[j] += (1.0 - score) * f64::from(*count);
        games[i] += count;
        games[j] += count;
        *meetings.entry((i.min(j), i.max(j))).or_default() += f64::from(*count);
    }
    let mut strength = vec![1.0_f64; n];
    for _ in 0..2000 {
        let mut weight: Vec<f64> = strength.iter().map(|s| 1.0 / (s + 1.0)).collect();
        for (&(i, j), count) in &meetings {
            let share = count / (strength[i] + strength[j]);
            weight[i] += share;
            weight[j] += share;
        }
        let mut moved = 0.0_f64;
        for i in 0..n {
            let next = wins[i] / weight[i];
            moved = moved.max((next / strength[i]).ln().abs());
            strength[i] = next;
        }
        if moved < 1e-9 {
            break;
        }
    }
    let zero = index.get("random").map_or(1.0, |&i| strength[i]);
    let mut table: Vec<Rating> = index
        .into_iter()
        .map(|(player, i)| Rating { player, elo: 400.0 * (strength[i] / zero).log10(), games: games[i] })
        .collect();
    table.sort_by(|a, b| b.elo.total_cmp(&a.elo));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_wins_of_four_are_191_points_when_the_prior_fades() {
        // 400 * log10(3) = 190.85
        let table = ratings(&[("a".into(), "random".into(), 0.75, 100_000)]);
        assert_eq!(table[0].player, "a");
        assert!((table[0].elo - 190.85).abs() < 0.5, "{table:?}");
        assert_eq!(table[1].elo, 0.0);
    }

    #[test]
    fn a_player_who_won_everything_stays_finite_and_order_is_kept() {
        let table = ratings(&[
            ("v1".into(), "random".into(), 0.5, 20),
            ("v2".into(), "random".into(), 1.0, 20),
            ("v2".into(), "hunter".into(), 0.4, 20),
        ]);
        assert!(table.iter().all(|r| r.elo.is_finite()));
        assert_eq!(table[0].player, "hunter");
    }
}
