//! How the loop went: scores, swaps, loss and decision time over time, in bounded memory.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Where a score was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreSource {
    /// Seeded games of the judge.
    #[default]
    Judge,
    /// Live games, in a window.
    Live,
}

/// The score of one version against one opponent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScorePoint {
    /// When it was measured.
    pub t_ms: i64,
    /// Which version.
    pub version: u64,
    /// `random`, `camper`, `hunter`, or `champion@12`.
    pub opponent: String,
    /// Games behind it.
    pub games: u64,
    /// Share won by the AI side, in `0.0..=1.0`.
    pub score: f64,
    /// Where it was measured.
    #[serde(default)]
    pub source: ScoreSource,
}

/// The champion moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwapPoint {
    /// When live play took the new version.
    pub t_ms: i64,
    /// The version before.
    pub from: Option<u64>,
    /// The version after.
    pub to: u64,
    /// Why, e.g. `promoted`, `rolled back`.
    pub reason: String,
    /// Time from the alias move to the first decision, where known.
    pub took_ms: Option<f64>,
}

/// Loss of the trainer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// When.
    pub t_ms: i64,
    /// After how many steps.
    pub step: u64,
    /// Mean loss since the point before.
    pub loss: f64,
}

/// Decision time over the last moments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyPoint {
    /// When.
    pub t_ms: i64,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
}

/// Everything that the charts draw, each list by rising time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Scores as judged and as seen live.
    pub scores: Vec<ScorePoint>,
    /// Moves of the champion.
    pub swaps: Vec<SwapPoint>,
    /// Loss of the trainer.
    pub loss: Vec<LossPoint>,
    /// Decision time.
    pub latency: Vec<LatencyPoint>,
}

impl History {
    /// Leaves out the loss and latency points at or before `t_ms`; scores and swaps, which are few, stay.
    pub fn retain_after(&mut self, t_ms: i64) {
        self.loss.retain(|point| point.t_ms > t_ms);
        self.latency.retain(|point| point.t_ms > t_ms);
    }
}

/// Keeps a [`History`] in bounded memory, for views that have no better place.
///
/// Loss and latency are thinned evenly when their lists are full: every second point of the older half goes, so a
/// long run keeps its whole course and the newest points stay exact. Of scores and swaps the oldest go.
#[derive(Debug)]
pub struct HistoryKeeper {
    points_max: usize,
    inner: Mutex<History>,
}

impl Default for HistoryKeeper {
    fn default() -> Self {
        Self::new(2_000)
    }
}

impl HistoryKeeper {
    /// Keeps at most `points_max` points of each kind.
    ///
    /// # Panics
    /// If `points_max` is below 8.
    pub fn new(points_max: usize) -> Self {
        assert!(points_max >= 8, "a history of fewer than 8 points shows nothing");
        Self { points_max, inner: Mutex::new(History::default()) }
    }

    /// Adds a score; one of the same version, opponent and source within the last second is replaced.
    pub fn score(&self, point: ScorePoint) {
        let mut inner = self.inner.lock();
        let same = |known: &ScorePoint| {
            known.version == point.version && known.opponent == point.opponent && known.source == point.source
        };
        if let Some(known) = inner.scores.iter_mut().rev().take(64).find(|known| same(known))
            && point.t_ms - known.t_ms < 1_000
        {
            *known = ScorePoint { t_ms: known.t_ms, ..point };
            return;
        }
        inner.scores.push(point);
        drop_oldest(&mut inner.scores, self.points_max);
    }

    /// Adds a swap.
    pub fn swap(&self, point: SwapPoint) {
        let mut inner = self.inner.lock();
        inner.swaps.push(point);
        drop_oldest(&mut inner.swaps, self.points_max);
    }

    /// Adds a loss.
    pub fn loss(&self, point: LossPoint) {
        let mut inner = self.inner.lock();
        inner.loss.push(point);
        thin(&mut inner.loss, self.points_max);
    }

    /// Adds a latency.
    pub fn latency(&self, point: LatencyPoint) {
        let mut inner = self.inner.lock();
        inner.latency.push(point);
        thin(&mut inner.latency, self.points_max);
    }

    /// The last swap.
    pub fn last_swap(&self) -> Option<SwapPoint> {
        self.inner.lock().swaps.last().cloned()
    }

    /// A copy of everything.
    pub fn get(&self) -> History {
        self.inner.lock().clone()
    }
}

fn drop_oldest<T>(points: &mut Vec<T>, max: usize) {
    if points.len() > max {
        let surplus = points.len() - max;
        points.drain(..surplus);
    }
}

fn thin<T>(points: &mut Vec<T>, max: usize) {
    if points.len() <= max {
        return;
    }
    let half = points.len() / 2;
    let mut index = 0;
    points.retain(|_| {
        let keep = index >= half || index % 2 == 0;
        index += 1;
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(t_ms: i64, version: u64, score: f64) -> ScorePoint {
        ScorePoint { t_ms, version, opponent: "hunter".into(), games: 10, score, source: ScoreSource::Judge }
    }

    #[test]
    fn a_long_run_stays_bounded_and_keeps_its_first_and_last_points() {
        let keeper = HistoryKeeper::new(100);
        for step in 0..100_000_u64 {
            keeper.loss(LossPoint { t_ms: step as i64, step, loss: 1.0 });
        }
        let loss = keeper.get().loss;
        assert!(loss.len() <= 100);
        assert_eq!((loss[0].step, loss.last().unwrap().step), (0, 99_999));
        assert!(loss.windows(2).all(|pair| pair[0].t_ms < pair[1].t_ms));
    }

    #[test]
    fn a_score_that_is_refined_within_a_second_is_one_point() {
        let keeper = HistoryKeeper::default();
        keeper.score(score(0, 1, 0.2));
        keeper.score(score(900, 1, 0.3));
        keeper.score(score(1_000, 1, 0.4));
        keeper.score(score(1_000, 2, 0.5));
        let scores = keeper.get().scores;
        assert_eq!(
            scores.iter().map(|point| (point.t_ms, point.score)).collect::<Vec<_>>(),
            [(0, 0.3), (1_000, 0.4), (1_000, 0.5)]
        );
    }

    #[test]
    fn a_reader_that_has_the_start_gets_only_newer_loss_and_latency() {
        let keeper = HistoryKeeper::default();
        for t_ms in [10, 20, 30] {
            keeper.loss(LossPoint { t_ms, step: 1, loss: 0.5 });
            keeper.latency(LatencyPoint { t_ms, p50_us: 1.0, p99_us: 2.0 });
        }
        keeper.swap(SwapPoint { t_ms: 5, from: None, to: 1, reason: "promoted".into(), took_ms: None });
        let mut history = keeper.get();
        history.retain_after(20);
        assert_eq!((history.loss.len(), history.latency.len(), history.swaps.len()), (1, 1, 1));
    }
}
