//! What a run of the loop came to, as JSON.

use std::path::Path;

use anyhow::Context;
use flywheel_judge::ScoreRow;
use serde::Serialize;

/// Score of a version against one opponent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionScore {
    pub version: u64,
    pub opponent: String,
    pub games: u32,
    pub score: f64,
}

/// Written by `flywheel up --report FILE`. Times that were never measured are `null`, and so are the books where a store
/// that they are read from did not answer; `audit_error` says which.
///
/// What is counted in the log, the tables and the scores is the whole data folder's, over all runs on it; everything
/// else is this run's. `train_steps` is the trainer's, which goes on from its checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seconds: f64,
    /// Events in the log: what was acknowledged, in this and earlier runs on the folder.
    pub events_acknowledged: Option<u64>,
    pub events_in_table: Option<u64>,
    /// Rows of `events` that repeat another's `(game_id, seq)`.
    pub events_duplicate_rows: Option<u64>,
    pub events_dead: Option<u64>,
    pub events_spilled: u64,
    /// Rows of `transitions`, over all runs.
    pub transitions: Option<u64>,
    pub episodes: u64,
    pub train_steps: u64,
    /// Versions that this run published, its first one included; likewise promoted and refused.
    pub versions_published: u64,
    pub versions_promoted: u64,
    pub versions_refused: u64,
    pub rollbacks: u64,
    /// From the start of the program to the first promotion that the judge decided.
    pub first_promotion_seconds: Option<f64>,
    pub swaps: u64,
    pub decisions_requested: u64,
    pub decisions_answered: u64,
    pub decisions_mixed: u64,
    pub decision_p50_us: Option<f64>,
    pub decision_p99_us: Option<f64>,
    /// From the move of the alias to the first decision by the new version.
    pub swap_p50_ms: Option<f64>,
    pub swap_p99_ms: Option<f64>,
    /// From acceptance by the log to the commit of the row.
    pub table_freshness_p50_ms: Option<f64>,
    pub table_freshness_p99_ms: Option<f64>,
    /// From acceptance by the log to the replay buffer.
    pub sample_freshness_p50_ms: Option<f64>,
    pub sample_freshness_p99_ms: Option<f64>,
    /// Share of games won by the AI side against `hunter` and `camper` together: of the first champion there
    /// ever was in this data folder, and of the best.
    pub score_first: Option<f64>,
    pub score_best: Option<f64>,
    /// Every champion's, over all runs, from the table `evaluations`.
    pub score_by_version: Vec<VersionScore>,
    pub live_games: u64,
    pub farm_games: u64,
    /// Largest resident memory of this program; the trainer's is apart.
    pub rss_peak_bytes: u64,
    pub trainer_rss_peak_bytes: Option<u64>,
    pub durability: String,
    pub device: String,
    /// The books were compared, and balance.
    pub audit_ok: bool,
    /// Why they could not be compared.
    pub audit_error: Option<String>,
    pub load_average: f64,
    pub seed: u64,
    pub version: &'static str,
}

impl Report {
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("writing the report as JSON")?;
        std::fs::write(file, text + "\n").with_context(|| format!("writing the report `{}`", file.display()))
    }
}

/// Score against `hunter` and `camper` together, by version, in order of versions.
pub fn hard_scores(scores: &[ScoreRow]) -> Vec<(u64, f64)> {
    let mut versions: Vec<u64> = scores.iter().map(|row| row.version).collect();
    versions.sort_unstable();
    versions.dedup();
    versions
        .into_iter()
        .filter_map(|version| {
            let hard =
                scores.iter().filter(|r| r.version == version && ["hunter", "camper"].contains(&r.opponent.as_str()));
            let (games, won) =
                hard.fold((0.0, 0.0), |(g, w), r| (g + f64::from(r.games), w + r.score * f64::from(r.games)));
            (games > 0.0).then_some((version, won / games))
        })
        .collect()
}

/// Largest and present resident memory of a process, bytes; `None` where `/proc` does not say.
pub fn resident_memory(pid: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Some((field("VmHWM:")?, field("VmRSS:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_score_weighs_games_and_leaves_the_easy_opponent_out() {
        let row = |version, opponent: &str, games, score| ScoreRow {
            t_ms: 0,
            version,
            opponent: opponent.into(),
            games,
            score,
        };
        let scores = [
            row(2, "hunter", 30, 1.0),
            row(2, "camper", 10, 0.0),
            row(2, "random", 10, 0.0),
            row(1, "hunter", 4, 0.25),
        ];
        assert_eq!(hard_scores(&scores), [(1, 0.25), (2, 0.75)]);
    }

    #[test]
    fn memory_of_this_process_is_known() {
        let (peak, now) = resident_memory(std::process::id()).expect("Linux");
        assert!(peak >= now && now > 1 << 20);
    }
}
