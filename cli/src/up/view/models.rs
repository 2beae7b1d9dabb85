//! Versions with what the judge knows of them.

use std::collections::HashMap;

use flywheel_control::{ModelInfo, OpponentScore, Verdict};
use flywheel_events::ModelVersion;
use flywheel_judge::{JudgeState, ScoreRow};
use flywheel_registry::{AliasState, Card};

use super::Parts;
use crate::up::report::hard_scores;

fn opponent_scores(judge: &JudgeState, version: u64) -> Vec<OpponentScore> {
    let rows = judge.scores.iter().filter(|row| row.version == version);
    rows.map(|row| OpponentScore { opponent: row.opponent.clone(), games: u64::from(row.games), score: row.score })
        .collect()
}

pub fn champion_of(parts: &Parts, judge: &JudgeState, alias: &AliasState) -> flywheel_control::Champion {
    flywheel_control::Champion {
        model_key: parts.base.to_string(),
        version: alias.version.0,
        since_ms: alias.moved_at_ms,
        previous: alias.previous.map(|version| version.0),
        scores: opponent_scores(judge, alias.version.0),
        // From all scores together; the view knows it.
        rating: None,
    }
}

pub(super) fn ratings_of(scores: &[ScoreRow]) -> HashMap<u64, f64> {
    let results: Vec<_> =
        scores.iter().map(|row| (format!("v{}", row.version), row.opponent.clone(), row.score, row.games)).collect();
    let version = |player: &str| player.strip_prefix('v')?.parse().ok();
    flywheel_judge::ratings(&results).into_iter().filter_map(|row| Some((version(&row.player)?, row.elo))).collect()
}

/// Score against `hunter` and `camper` together: of the first champion there ever was, and of the best.
pub fn first_and_best(scores: &[ScoreRow]) -> (Option<f64>, Option<f64>) {
    let hard = hard_scores(scores);
    (hard.first().map(|(_, score)| *score), hard.iter().map(|(_, score)| *score).max_by(f64::total_cmp))
}

pub(super) fn model_info(
    judge: &JudgeState,
    ratings: &HashMap<u64, f64>,
    aliases: &[(&str, ModelVersion)],
    card: Card,
) -> ModelInfo {
    let version = card.version.0;
    let taken_back = judge.promotions.iter().rfind(|p| p.rollback && p.from == Some(version));
    let promotion = judge.promotions.iter().rfind(|p| !p.rollback && p.to == version);
    let refusal = judge.verdicts.iter().find(|(judged, ..)| *judged == version);
    let (verdict, verdict_line) = match (taken_back, promotion, refusal) {
        // What was promoted again since counts as promoted.
        (Some(back), promotion, _) if promotion.is_none_or(|p| p.t_ms < back.t_ms) => {
            (Verdict::RolledBack, back.reason.clone())
        }
        (_, Some(promotion), _) => (Verdict::Promoted, promotion.reason.clone()),
        (_, _, Some((_, true, reason))) => (Verdict::Promoted, reason.clone()),
        (_, _, Some((_, false, reason))) => (Verdict::Refused, reason.clone()),
        _ => (Verdict::Waiting, String::new()),
    };
    ModelInfo {
        model_key: card.base_key.to_string(),
        version,
        parent: card.parent_version.map(|parent| parent.0),
        published_at_ms: card.published_at_ms,
        aliases: aliases.iter().filter(|(_, v)| *v == card.version).map(|(alias, _)| (*alias).to_owned()).collect(),
        verdict,
        verdict_line,
        scores: opponent_scores(judge, version),
        rating: ratings.get(&version).copied(),
        train_steps: card.metrics["steps"].as_u64(),
        size_bytes: card.size_bytes,
        sha256: card.sha256,
    }
}
