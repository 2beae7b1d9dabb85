//! The judge at work: follows candidates, moves aliases, writes the table.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use flywheel_events::{BaseKey, ModelRef, ModelVersion, System};
use flywheel_lake::{Lake, LakeError};
use flywheel_policy::{Network, VersionedNetwork};
use flywheel_registry::{Registry, RegistryError};
use flywheel_tables::{EvaluationRow, EvaluationsBuilder, TableError, TableName};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    arena::{Arena, split_mix},
    live::{LiveConfig, LivePlay},
    metrics::{GAMES, ROLLBACKS, SCORE, TRIAL_SECONDS, VERDICTS},
    past::Past,
    trial::{Contender, JudgedGame, TrialConfig, TrialError, Verdict, by_opponent, score_sheet, trial},
};

/// Waits of a judge whose tables are away: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a judge judges, and how.
#[derive(Debug, Clone)]
pub struct JudgeConfig {
    pub system: System,
    pub base_key: BaseKey,
    pub seed: u64,
    pub trial: TrialConfig,
    pub live: LiveConfig,
}

/// One finished live game, played by one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveGame {
    pub version: ModelVersion,
    pub won: bool,
}

/// Score of a version against one opponent on the fixed sheet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreRow {
    pub t_ms: i64,
    pub version: u64,
    pub opponent: String,
    pub games: u32,
    /// Share of games won, 0 to 1.
    pub score: f64,
}

/// A move of `champion`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Promotion {
    pub t_ms: i64,
    pub from: Option<u64>,
    pub to: u64,
    pub reason: String,
    pub rollback: bool,
}

/// What the judge has done and is doing. Counters begin with this judge; lists hold what earlier ones found, too.
#[derive(Debug, Clone, Default)]
pub struct JudgeState {
    /// One line for people: what it does, or what it waits for when it is not busy.
    pub doing: String,
    pub busy: bool,
    pub games: u64,
    pub promoted: u64,
    pub refused: u64,
    pub rollbacks: u64,
    /// Score sheets of all champions there ever were, by rising time.
    pub scores: Arc<Vec<ScoreRow>>,
    /// Moves of `champion`, oldest first: those before this judge, whoever made them, and its own.
    pub promotions: Arc<Vec<Promotion>>,
    /// How many of `promotions` were there before this judge.
    pub promotions_before: usize,
    pub last_verdict: Option<String>,
    /// Games of the trial under way.
    pub trial_games: u64,
    /// Version, whether it was promoted, and why; the newest hundred.
    pub verdicts: Vec<(u64, bool, String)>,
}

/// Verdicts kept in memory; the table has them all.
const VERDICTS_KEPT: usize = 100;

/// Why the judge could not go on; it tries again with the next candidate.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("a judged game panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Follows `candidate`, moves `champion`.
#[derive(Clone)]
pub struct Judge {
    registry: Arc<Registry>,
    lake: Lake,
    arena: Arc<dyn Arena>,
    config: JudgeConfig,
    state: Arc<Mutex<JudgeState>>,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("config", &self.config).finish_non_exhaustive()
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

impl Judge {
    pub fn new(registry: Arc<Registry>, lake: Lake, arena: Arc<dyn Arena>, config: JudgeConfig) -> Self {
        Self { registry, lake, arena, config, state: Arc::default() }
    }

    pub fn state(&self) -> JudgeState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, JudgeState> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    /// Takes up what earlier judges found: scores, moves of the champion, verdicts. To be called once, before
    /// [`Judge::run`].
    ///
    /// # Errors
    /// If the table or the registry cannot be read; the judge then begins without a past.
    pub async fn recall(&self) -> Result<(), JudgeError> {
        let Past { scores, promotions, mut verdicts } =
            Past::read(&self.lake, &self.registry, &self.config.base_key).await?;
        verdicts.drain(..verdicts.len().saturating_sub(VERDICTS_KEPT));
        if let Some(champion) = promotions.last() {
            for row in scores.iter().filter(|row| row.version == champion.to) {
                metrics::gauge!(SCORE, "opponent" => row.opponent.clone()).set(row.score);
            }
        }
        let mut state = self.lock();
        state.last_verdict = verdicts.last().map(|(version, promoted, reason)| {
            format!("version {version} {}: {reason}", if *promoted { "promoted" } else { "refused" })
        });
        state.promotions_before = promotions.len();
        state.scores = Arc::new(scores);
        state.promotions = Arc::new(promotions);
        state.verdicts = verdicts;
        Ok(())
    }

    fn doing(&self, busy: bool, line: impl Into<String>) {
        let mut state = self.lock();
        state.busy = busy;
        state.doing = line.into();
    }

    /// Judges candidates and watches live games until told to stop.
    ///
    /// # Errors
    /// Only if the registry cannot be watched; a failed trial is logged and the next candidate is taken.
    pub async fn run(&self, mut live: mpsc::Receiver<LiveGame>, cancel: CancellationToken) -> Result<(), JudgeError> {
        let mut candidates = self.registry.watch(&self.config.base_key, "candidate").await?;
        let mut play = LivePlay::new(self.config.live);
        // Tables that are away come back; until then live play and everything else goes on without a judge.
        let mut pause = RETRY_MIN;
        while let Err(error) = self.sheet_of_champion(&cancel).await {
            warn!(%error, "the champion's score sheet failed; trying again");
            self.doing(false, format!("the champion's score sheet: {error}"));
            if cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        let mut last = None;
        loop {
            let newest = candidates.borrow_and_update().as_ref().map(|alias| alias.version);
            if let Some(version) = newest.filter(|version| Some(*version) != last) {
                last = newest;
                // Live games that end meanwhile wait in their channel; it is bounded and the sender never blocks.
                match self.judge(version, &cancel).await {
                    Ok(_) => {}
                    Err(JudgeError::Trial(TrialError::Stopped)) => break,
                    Err(error) => {
                        warn!(version = version.0, %error, "the trial failed");
                        self.lock().last_verdict = Some(format!("trial of version {version} failed: {error}"));
                        // What the tables could not take is played and written again, each game once.
                        if matches!(error, JudgeError::Lake(_)) {
                            self.doing(false, format!("version {version}: {error}"));
                            if cancel.run_until_cancelled(tokio::time::sleep(RETRY_MAX)).await.is_none() {
                                break;
                            }
                            last = None;
                        }
                    }
                }
                continue;
            }
            self.doing(false, self.waiting_line());
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                game = live.recv() => match game {
                    Some(game) => {
                        play.add(game.version.0, game.won);
                        if let Err(error) = self.watch_live(&play).await {
                            warn!(%error, "could not look at live play");
                        }
                    }
                    None => break,
                },
                changed = candidates.changed() => if changed.is_err() { break },
            }
        }
        self.doing(false, "stopped");
        Ok(())
    }

    fn waiting_line(&self) -> String {
        self.lock()
            .last_verdict
            .clone()
            .map_or_else(|| "a first candidate".to_owned(), |verdict| format!("a candidate; last: {verdict}"))
    }

    /// Puts `version` on trial against the champion of this moment, and promotes it if it wins.
    ///
    /// # Errors
    /// If the registry or the table fails; the candidate stays where it is.
    pub async fn judge(
        &self,
        version: ModelVersion,
        cancel: &CancellationToken,
    ) -> Result<Option<Verdict>, JudgeError> {
        let started = Instant::now();
        let base = self.config.base_key.clone();
        let champion = self.registry.resolve(&base, "champion").await?;
        if champion.as_ref().is_some_and(|champion| champion.version >= version) {
            return Ok(None);
        }
        self.doing(true, format!("version {version}: fetching"));
        let candidate = match self.registry.fetch(&ModelRef::new(base.clone(), version)).await {
            Ok((_, network)) => network,
            Err(error) => {
                let mut state = self.lock();
                state.refused += 1;
                state.last_verdict = Some(format!("version {version} refused: {error}"));
                return Err(error.into());
            }
        };
        let reigning = match &champion {
            Some(alias) => {
                Some((alias.version, self.registry.fetch(&ModelRef::new(base.clone(), alias.version)).await?.1))
            }
            None => None,
        };
        let verdict = self.play_trial(version, candidate, reigning, cancel.clone()).await?;
        let result = if verdict.promote { "promoted" } else { "refused" };
        metrics::counter!(VERDICTS, "result" => result).increment(1);
        metrics::histogram!(TRIAL_SECONDS).record(started.elapsed().as_secs_f64());
        info!(version = version.0, promote = verdict.promote, reason = %verdict.reason, "judged");
        self.record(&verdict.games, version, champion.as_ref().map(|c| c.version), "trial").await?;
        {
            let mut state = self.lock();
            state.last_verdict = Some(format!("version {version} {result}: {}", verdict.reason));
            state.verdicts.push((version.0, verdict.promote, verdict.reason.clone()));
            let surplus = state.verdicts.len().saturating_sub(VERDICTS_KEPT);
            state.verdicts.drain(..surplus);
        }
        if !verdict.promote {
            self.lock().refused += 1;
            return Ok(Some(verdict));
        }
        let expected = champion.as_ref().map(|c| c.revision);
        match self.registry.promote(&base, "champion", version, expected, &verdict.reason).await {
            Ok(_) => {
                let mut state = self.lock();
                state.promoted += 1;
                Arc::make_mut(&mut state.promotions).push(Promotion {
                    t_ms: now_ms(),
                    from: champion.map(|c| c.version.0),
                    to: version.0,
                    reason: verdict.reason.clone(),
                    rollback: false,
                });
            }
            Err(error) => {
                self.lock().last_verdict = Some(format!("version {version} not promoted: {error}"));
                return Err(error.into());
            }
        }
        self.sheet_of_champion(cancel).await?;
        Ok(Some(verdict))
    }

    async fn play_trial(
        &self,
        version: ModelVersion,
        candidate: Network,
        reigning: Option<(ModelVersion, Network)>,
        cancel: CancellationToken,
    ) -> Result<Verdict, JudgeError> {
        let (judge, stop) = (self.clone(), StopFlag::follow(&cancel));
        let seed = split_mix(self.config.seed ^ split_mix(version.0));
        let base = self.config.base_key.clone();
        let name = move |version| ModelRef::new(base.clone(), version);
        let verdict = tokio::task::spawn_blocking(move || {
            let candidate = VersionedNetwork::new(name(version), candidate);
            let reigning = reigning.map(|(version, network)| (version, VersionedNetwork::new(name(version), network)));
            trial(
                &*judge.arena,
                Contender { version: version.0, policy: &candidate },
                reigning.as_ref().map(|(version, policy)| Contender { version: version.0, policy }),
                &judge.config.trial,
                seed,
                |test| {
                    let (won, lost) = test.decisive();
                    judge.doing(true, format!("version {version}: {} pairs, {won} won, {lost} lost", test.pairs()));
                    judge.lock().trial_games = 2 * u64::from(test.pairs());
                    !stop.is_set()
                },
            )
        })
        .await??;
        self.count(verdict.games.len());
        Ok(verdict)
    }

    fn count(&self, games: usize) {
        metrics::counter!(GAMES).increment(games as u64);
        self.lock().games += games as u64;
    }

    /// Plays the score sheet of the present champion, unless its scores are known.
    async fn sheet_of_champion(&self, cancel: &CancellationToken) -> Result<(), JudgeError> {
        let base = self.config.base_key.clone();
        let Some(champion) = self.registry.resolve(&base, "champion").await? else { return Ok(()) };
        let version = champion.version;
        if self.lock().scores.iter().any(|row| row.version == version.0) {
            return Ok(());
        }
        let (_, network) = self.registry.fetch(&ModelRef::new(base, version)).await?;
        let (judge, stop) = (self.clone(), StopFlag::follow(cancel));
        let games = tokio::task::spawn_blocking(move || {
            let policy = VersionedNetwork::new(ModelRef::new(judge.config.base_key.clone(), version), network);
            let contender = Contender { version: version.0, policy: &policy };
            score_sheet(&*judge.arena, contender, &judge.config.trial, |n| {
                judge.doing(true, format!("version {version}: score sheet, {n} games"));
                !stop.is_set()
            })
        })
        .await?;
        let games = match games {
            Ok(games) => games,
            Err(TrialError::Stopped) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.count(games.len());
        self.record(&games, version, None, "sheet").await?;
        let mut state = self.lock();
        for (opponent, (n, score)) in by_opponent(&games) {
            metrics::gauge!(SCORE, "opponent" => opponent.clone()).set(score);
            Arc::make_mut(&mut state.scores).push(ScoreRow {
                t_ms: now_ms(),
                version: version.0,
                opponent,
                games: n,
                score,
            });
        }
        Ok(())
    }

    /// Writes games to `evaluations`, once per version and purpose.
    async fn record(
        &self,
        games: &[JudgedGame],
        candidate: ModelVersion,
        champion: Option<ModelVersion>,
        purpose: &str,
    ) -> Result<(), JudgeError> {
        let mut builder = EvaluationsBuilder::new();
        let created_at_ms = now_ms();
        for game in games {
            let opponent = match champion {
                Some(champion) if game.version == champion.0 => continue,
                _ => game.fixture.opponent.clone(),
            };
            builder.push(&EvaluationRow {
                system: self.config.system,
                run_id: format!("{purpose}-{}-{candidate}", self.config.base_key),
                base_key: self.config.base_key.clone(),
                candidate,
                opponent,
                map_key: game.fixture.map.clone(),
                seed: game.fixture.seed,
                seat: "ai".to_owned(),
                result: (game.result.score * 2.0 - 1.0).round() as i32,
                ticks: game.result.ticks,
                created_at_ms,
            });
        }
        // The champion's games of the same pairs: the candidate's result is that of the pair.
        for pair in games.chunks(2) {
            let [ours, theirs] = pair else { continue };
            if champion.is_none_or(|champion| theirs.version != champion.0 || ours.version == champion.0) {
                continue;
            }
            builder.push(&EvaluationRow {
                system: self.config.system,
                run_id: format!("{purpose}-{}-{candidate}", self.config.base_key),
                base_key: self.config.base_key.clone(),
                candidate,
                opponent: format!("champion@{}", theirs.version),
                map_key: ours.fixture.map.clone(),
                seed: ours.fixture.seed,
                seat: "ai".to_owned(),
                result: ours.result.score.total_cmp(&theirs.result.score) as i32,
                ticks: theirs.result.ticks,
                created_at_ms,
            });
        }
        let position = (format!("judge/{purpose}/{}", self.config.base_key), candidate.0 as i64);
        self.lake.table(TableName::Evaluations).append(vec![builder.finish()], &[position]).await?;
        Ok(())
    }

    /// Moves `champion` back if its live play fell below its predecessor's.
    async fn watch_live(&self, play: &LivePlay) -> Result<(), JudgeError> {
        let base = &self.config.base_key;
        let Some(champion) = self.registry.resolve(base, "champion").await? else { return Ok(()) };
        let Some(predecessor) = champion.previous.filter(|previous| *previous < champion.version) else {
            return Ok(());
        };
        let Some(fall) = play.fall(champion.version.0, predecessor.0) else { return Ok(()) };
        let reason = fall.to_string();
        self.registry.promote(base, "champion", predecessor, Some(champion.revision), &reason).await?;
        metrics::counter!(ROLLBACKS).increment(1);
        warn!(from = champion.version.0, to = predecessor.0, %reason, "rolled back");
        let mut state = self.lock();
        state.rollbacks += 1;
        state.last_verdict = Some(format!("rolled back to {predecessor}: {reason}"));
        Arc::make_mut(&mut state.promotions).push(Promotion {
            t_ms: now_ms(),
            from: Some(champion.version.0),
            to: predecessor.0,
            reason,
            rollback: true,
        });
        Ok(())
    }
}

/// A cancellation that blocking code can look at.
#[derive(Clone)]
struct StopFlag(
    Arc<AtomicBool>,
    #[allow(dead_code, reason = "ends the follower when dropped")] Arc<tokio_util::sync::DropGuard>,
);

impl StopFlag {
    fn follow(cancel: &CancellationToken) -> Self {
        let (flag, finished) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let (set, cancel, done) = (flag.clone(), cancel.clone(), finished.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = done.cancelled() => {}
                () = cancel.cancelled() => set.store(true, Ordering::Relaxed),
            }
        });
        Self(flag, Arc::new(finished.drop_guard()))
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
