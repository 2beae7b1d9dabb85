//! The trial of one candidate: what it must show before it may go live.

use std::collections::BTreeMap;

use flywheel_policy::Policy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    arena::{Arena, Fixture, GameResult, fixtures},
    sequential::{Decision, SequentialConfig, SequentialTest, sign_test},
};

/// What a candidate must show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrialConfig {
    /// When the games played are enough to decide.
    pub sequential: SequentialConfig,
    /// Longest median decision, microseconds.
    pub max_decision_us: f64,
    /// Chance below which a loss against one anchor or on one map counts as a fall there.
    pub segment_significance: f64,
    /// Games of the fixed score sheet, for each map and anchor.
    pub sheet_rounds: u64,
    /// Seed of the score sheet; the same for all versions.
    pub sheet_seed: u64,
}

impl Default for TrialConfig {
    fn default() -> Self {
        Self {
            sequential: SequentialConfig::default(),
            max_decision_us: 1000.0,
            segment_significance: 0.005,
            sheet_rounds: 5,
            sheet_seed: 0x5c0_7e5,
        }
    }
}

/// One judged game, as it goes into the table `evaluations`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedGame {
    pub version: u64,
    pub fixture: Fixture,
    pub result: GameResult,
}

/// What the trial found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub candidate: u64,
    pub champion: Option<u64>,
    pub promote: bool,
    /// One sentence for people.
    pub reason: String,
    pub pairs: u32,
    pub decisive_wins: u32,
    pub decisive_losses: u32,
    pub candidate_score: f64,
    pub champion_score: f64,
    pub games: Vec<JudgedGame>,
}

/// A policy with the version that it is.
#[derive(Debug, Clone, Copy)]
pub struct Contender<'a> {
    pub version: u64,
    pub policy: &'a dyn Policy,
}

/// The trial was told to stop.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("the trial was stopped")]
    Stopped,
    #[error("playing {fixture:?}: {reason}")]
    Arena { fixture: Fixture, reason: String },
}

fn play(arena: &dyn Arena, contender: Contender<'_>, fixture: &Fixture) -> Result<GameResult, TrialError> {
    arena
        .play(contender.policy, &fixture.opponent, &fixture.map, fixture.seed)
        .map_err(|reason| TrialError::Arena { fixture: fixture.clone(), reason })
}

/// Plays candidate and champion in the same seeded games until the sequential test speaks.
///
/// Without a champion the candidate only has to be sound. `on_pair` is told after each pair and says whether to
/// go on.
///
/// # Errors
/// If `on_pair` says stop, or the arena knows a fixture not (a defect).
pub fn trial(
    arena: &dyn Arena,
    candidate: Contender<'_>,
    champion: Option<Contender<'_>>,
    config: &TrialConfig,
    seed: u64,
    mut on_pair: impl FnMut(&SequentialTest) -> bool,
) -> Result<Verdict, TrialError> {
    let mut verdict = Verdict {
        candidate: candidate.version,
        champion: champion.map(|c| c.version),
        promote: false,
        reason: String::new(),
        pairs: 0,
        decisive_wins: 0,
        decisive_losses: 0,
        candidate_score: 0.0,
        champion_score: 0.0,
        games: Vec::new(),
    };
    let spec = candidate.policy.spec();
    let (inputs, outputs) = arena.shape();
    if (spec.inputs, spec.outputs) != (inputs, outputs) {
        verdict.reason = format!(
            "it takes {} numbers and chooses among {} actions; the game has {inputs} and {outputs}",
            spec.inputs, spec.outputs
        );
        return Ok(verdict);
    }
    let mut test = SequentialTest::new(config.sequential);
    let mut segments: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let mut medians = Vec::new();
    for fixture in fixtures(arena, seed) {
        let ours = play(arena, candidate, &fixture)?;
        medians.push(ours.decision_p50_us);
        verdict.games.push(JudgedGame { version: candidate.version, fixture: fixture.clone(), result: ours.clone() });
        if let Some(flaw) = flaw(&ours, &mut medians, config) {
            verdict.reason = flaw;
            return Ok(verdict);
        }
        let Some(champion) = champion else {
            // Sound in one game against each anchor on each map: good enough where there is nothing to lose.
            if verdict.games.len() >= arena.maps().len() * arena.anchors().len() {
                verdict.promote = true;
                verdict.reason = "it is sound, and there is no champion yet".to_owned();
                verdict.candidate_score = mean_score(&verdict.games, candidate.version);
                return Ok(verdict);
            }
            continue;
        };
        let theirs = play(arena, champion, &fixture)?;
        for name in [&fixture.map, &fixture.opponent] {
            let segment = segments.entry(name.clone()).or_default();
            segment.0 += u32::from(ours.score > theirs.score);
            segment.1 += u32::from(ours.score < theirs.score);
        }
        let decision = test.add(ours.score, theirs.score);
        verdict.games.push(JudgedGame { version: champion.version, fixture, result: theirs });
        if decision == Decision::GoOn {
            if !on_pair(&test) {
                return Err(TrialError::Stopped);
            }
            continue;
        }
        (verdict.decisive_wins, verdict.decisive_losses) = test.decisive();
        verdict.pairs = test.pairs();
        verdict.candidate_score = mean_score(&verdict.games, candidate.version);
        verdict.champion_score = mean_score(&verdict.games, champion.version);
        let fallen =
            segments.iter().find(|(_, (wins, losses))| sign_test(*wins, wins + losses) < config.segment_significance);
        let record =
            format!("{} won and {} lost of {} pairs", verdict.decisive_wins, verdict.decisive_losses, verdict.pairs);
        (verdict.promote, verdict.reason) = match (decision, fallen) {
            (Decision::Better, None) => (true, format!("better than the champion: {record}")),
            (Decision::Better, Some((segment, (wins, losses)))) => {
                (false, format!("better overall ({record}) but worse against `{segment}`: {wins} won, {losses} lost"))
            }
            (Decision::NotBetter, _) => (false, format!("no better than the champion: {record}")),
            _ => (false, format!("not shown to be better within the cap: {record}")),
        };
        return Ok(verdict);
    }
    unreachable!("there are always more fixtures")
}

/// What makes a version unfit whatever its score.
fn flaw(game: &GameResult, medians: &mut [f64], config: &TrialConfig) -> Option<String> {
    if game.not_finite > 0 {
        return Some(format!("{} of its decisions had values that are not finite", game.not_finite));
    }
    if game.illegal_actions > 0 {
        return Some(format!("it chose {} actions that the rules do not allow", game.illegal_actions));
    }
    // The median over games of the games' medians: one busy moment of the machine refuses nobody.
    medians.sort_by(f64::total_cmp);
    let median = medians[medians.len() / 2];
    (medians.len() >= 3 && median > config.max_decision_us)
        .then(|| format!("a decision takes {median:.0} us; at most {:.0} us are allowed", config.max_decision_us))
}

fn mean_score(games: &[JudgedGame], version: u64) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for game in games.iter().filter(|game| game.version == version) {
        sum += game.result.score;
        n += 1.0;
    }
    if n > 0.0 { sum / n } else { 0.0 }
}

/// Plays the fixed score sheet: the same games for every version, so that scores compare.
///
/// # Errors
/// If `on_game` says stop, or the arena refuses a fixture.
pub fn score_sheet(
    arena: &dyn Arena,
    contender: Contender<'_>,
    config: &TrialConfig,
    mut on_game: impl FnMut(usize) -> bool,
) -> Result<Vec<JudgedGame>, TrialError> {
    let n = arena.maps().len() * arena.anchors().len() * config.sheet_rounds as usize;
    let mut games = Vec::with_capacity(n);
    for fixture in fixtures(arena, config.sheet_seed).take(n) {
        let result = play(arena, contender, &fixture)?;
        games.push(JudgedGame { version: contender.version, fixture, result });
        if !on_game(games.len()) {
            return Err(TrialError::Stopped);
        }
    }
    Ok(games)
}

/// Games and mean score of `games` against each opponent, by name.
pub fn by_opponent(games: &[JudgedGame]) -> BTreeMap<String, (u32, f64)> {
    let mut table: BTreeMap<String, (u32, f64)> = BTreeMap::new();
    for game in games {
        let entry = table.entry(game.fixture.opponent.clone()).or_default();
        entry.0 += 1;
        entry.1 += game.result.score;
    }
    table.values_mut().for_each(|(n, sum)| *sum /= f64::from(*n));
    table
}
