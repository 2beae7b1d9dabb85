//! What the judge counts.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};

pub(crate) const GAMES: &str = "flywheel_judge_games_total";
pub(crate) const VERDICTS: &str = "flywheel_judge_verdicts_total";
pub(crate) const TRIAL_SECONDS: &str = "flywheel_judge_trial_seconds";
pub(crate) const SCORE: &str = "flywheel_judge_champion_score_ratio";
pub(crate) const ROLLBACKS: &str = "flywheel_judge_rollbacks_total";

/// Gives every metric of this crate its help text, and those that can be zero their zero.
pub fn describe_metrics() {
    describe_counter!(GAMES, "games played by the judge");
    describe_counter!(VERDICTS, "verdicts, by result: promoted or refused");
    describe_histogram!(TRIAL_SECONDS, "time of one trial");
    describe_gauge!(SCORE, "score of the champion on the fixed sheet, by opponent");
    describe_counter!(ROLLBACKS, "champions taken back because live play fell");
    counter!(GAMES).increment(0);
    counter!(ROLLBACKS).increment(0);
    for result in ["promoted", "refused"] {
        counter!(VERDICTS, "result" => result).increment(0);
    }
    drop(histogram!(TRIAL_SECONDS));
}
