//! The running loop as the page, the status line and the report see it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flywheel_agent::{Agent, AgentStats};
use flywheel_backends::Backends;
use flywheel_catalog::{CatalogError, Lease, Run, RunId};
use flywheel_control::{
    AliasInfo, AliasMove, ControlError, ControlErrorKind, GameFrame, GameInfo, GameWatch, History, HistoryKeeper,
    LatencyPoint, LoopStatus, LoopView, LossPoint, ModelInfo, OpponentScore, Promote, Rollback, ScorePoint,
    ScoreSource, SwapPoint, Tiles, Verdict, Weights,
};
use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_flows::{AssembleStats, LandStats};
use flywheel_ingest::Door;
use flywheel_judge::{Judge, JudgeState, ScoreRow};
use flywheel_kit::{Emitter, EmitterStats};
use flywheel_log::Reserve;
use flywheel_registry::{AliasState, Card, RegistryError};
use flywheel_tank_server::{Farm, FarmStats, GameBackend, GameBackendStats};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    degraded::{Silence, degraded},
    live::LiveResults,
    report::{hard_scores, resident_memory},
    stages,
    trainer::TrainerState,
};
use crate::config::Config;

/// Versions shown in the table of models.
const MODELS_SHOWN: usize = 200;

/// Longest wait for what is looked at once a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// What there is to ask.
pub struct Parts {
    pub config: Config,
    pub run_for: Option<Duration>,
    /// The newest version when the loop started; 0 if there was none.
    pub versions_before: u64,
    pub started: Instant,
    pub started_ms: i64,
    pub base: BaseKey,
    pub backends: Backends,
    pub emitter: Emitter,
    pub door: Arc<Door>,
    pub backend: Arc<GameBackend>,
    pub agent: Arc<Agent>,
    pub farm: Option<Arc<Farm>>,
    pub land: Arc<LandStats>,
    pub assemble: Arc<AssembleStats>,
    pub judge: Judge,
    pub live: Arc<LiveResults>,
    pub run: RunId,
    pub trainer: Arc<Mutex<TrainerState>>,
    pub history: HistoryKeeper,
    /// What new events may not take of the disks.
    pub reserve: Option<Arc<Reserve>>,
    /// Else other processes land and assemble.
    pub lands: bool,
}

/// One look at every part.
#[derive(Debug, Clone)]
pub struct Look {
    pub at: Instant,
    pub emitter: EmitterStats,
    /// Events that the log took, from our own games and through the doors.
    pub acknowledged: u64,
    pub backend: GameBackendStats,
    pub farm: FarmStats,
    pub agent: AgentStats,
    pub judge: JudgeState,
    pub trainer: TrainerState,
    pub landed: u64,
    pub assembled: u64,
    /// Progress of the training run.
    pub progress: Value,
    pub catalog_silence: Silence,
    pub registry_silence: Silence,
}

/// What is asked for less often than it is shown.
#[derive(Debug, Default)]
struct Kept {
    /// The newest two looks, a second apart: rates come from them.
    looks: Option<(Look, Look)>,
    progress: Value,
    catalog_silence: Silence,
    registry_silence: Silence,
    champion: Option<AliasState>,
    candidate: Option<AliasState>,
    published: u64,
    seen_scores: usize,
    seen_promotions: usize,
    /// Revision of the newest move of the champion that the chart has.
    seen_moves: u64,
    ratings: Arc<HashMap<u64, f64>>,
    first_and_best: (Option<f64>, Option<f64>),
    /// How many scores these are made from.
    rated: usize,
    last_loss_step: u64,
    trainer_peak: Option<u64>,
    freshness_worst: (Option<f64>, Option<f64>),
    first_promotion_seconds: Option<f64>,
}

/// Implements [`LoopView`].
pub struct View {
    pub parts: Parts,
    kept: Mutex<Kept>,
}

impl View {
    pub fn new(parts: Parts) -> Self {
        Self { parts, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds what is kept")
    }

    pub fn look(&self) -> Look {
        let parts = &self.parts;
        let emitter = parts.emitter.stats();
        let (progress, catalog_silence, registry_silence) = {
            let kept = self.kept();
            (kept.progress.clone(), kept.catalog_silence.clone(), kept.registry_silence.clone())
        };
        Look {
            at: Instant::now(),
            acknowledged: emitter.acknowledged + parts.door.accepted(),
            emitter,
            backend: parts.backend.stats(),
            farm: parts.farm.as_ref().map(|farm| farm.stats()).unwrap_or_default(),
            agent: parts.agent.stats(),
            judge: parts.judge.state(),
            trainer: parts.trainer.lock().expect("nothing panics while it holds the state").clone(),
            landed: parts.land.events.load(Ordering::Relaxed),
            assembled: parts.assemble.transitions.load(Ordering::Relaxed),
            progress,
            catalog_silence,
            registry_silence,
        }
    }

    /// Looks at what needs I/O once a second and keeps the charts going.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.refresh().await,
            }
        }
    }

    /// Brings progress, aliases and charts up to date.
    pub async fn refresh(&self) {
        let parts = &self.parts;
        let asked = ask("the catalog", self.run()).await;
        {
            let mut kept = self.kept();
            kept.catalog_silence.note(now_ms(), asked.as_ref().err().cloned());
            if let Ok(run) = asked {
                kept.progress = run.progress;
            }
        }
        let mut registry_error = None;
        for alias in ["champion", "candidate"] {
            match ask("the registry", parts.backends.registry.resolve(&parts.base, alias)).await {
                Ok(state) if alias == "champion" => self.kept().champion = state,
                Ok(state) => {
                    let mut kept = self.kept();
                    let newest = state.as_ref().map_or(0, |state| state.version.0);
                    kept.published = newest.saturating_sub(parts.versions_before);
                    kept.candidate = state;
                }
                Err(error) => registry_error = Some(error),
            }
        }
        self.kept().registry_silence.note(now_ms(), registry_error);
        self.chart_moves().await;
        self.rate().await;
        self.chart(self.look());
    }

    /// The training run, from a catalog that can also be changed: a check under a fence that nobody holds takes the lock
    /// of a change and changes nothing.
    async fn run(&self) -> Result<Run, CatalogError> {
        let runs = self.parts.backends.catalog.runs();
        let nobody = Lease { run: self.parts.run.clone(), owner: "nobody".to_owned(), fence: -1, ttl: PATIENCE };
        match runs.check(&nobody).await {
            Err(error) if !error.is_fenced() => Err(error),
            _ => runs.get(&self.parts.run).await,
        }
    }

    /// Brings the chart's moves of the champion up to date, whoever made them.
    async fn chart_moves(&self) {
        let parts = &self.parts;
        let (revision, seen) = {
            let kept = self.kept();
            (kept.champion.as_ref().map_or(0, |champion| champion.revision), kept.seen_moves)
        };
        if revision <= seen {
            return;
        }
        match parts.backends.registry.moves(&parts.base, "champion", seen).await {
            Ok(moves) => {
                let mut kept = self.kept();
                // A page's move and the regular look may both have read them.
                for state in moves.into_iter().filter(|state| state.revision > seen) {
                    if state.revision > kept.seen_moves {
                        kept.seen_moves = state.revision;
                        parts.history.swap(SwapPoint {
                            t_ms: state.moved_at_ms,
                            from: state.previous.map(|version| version.0),
                            to: state.version.0,
                            reason: state.reason,
                            took_ms: None,
                        });
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "reading the champion's moves"),
        }
    }

    /// Ratings of all versions anew when there are new scores.
    async fn rate(&self) {
        let scores = self.parts.judge.state().scores;
        if self.kept().rated == scores.len() {
            return;
        }
        let rated = scores.len();
        let work = tokio::task::spawn_blocking(move || (ratings_of(&scores), first_and_best(&scores)));
        if let Ok((ratings, first_and_best)) = work.await {
            let mut kept = self.kept();
            kept.rated = rated;
            kept.first_and_best = first_and_best;
            kept.ratings = Arc::new(ratings);
        }
    }

    fn chart(&self, look: Look) {
        let now = jiff::Timestamp::now().as_millisecond();
        let mut kept = self.kept();
        let history = &self.parts.history;
        for row in &look.judge.scores[kept.seen_scores.min(look.judge.scores.len())..] {
            history.score(ScorePoint {
                t_ms: row.t_ms,
                version: row.version,
                opponent: row.opponent.clone(),
                games: u64::from(row.games),
                score: row.score,
                source: ScoreSource::Judge,
            });
        }
        kept.seen_scores = look.judge.scores.len();
        let seen = kept.seen_promotions.max(look.judge.promotions_before).min(look.judge.promotions.len());
        for row in &look.judge.promotions[seen..] {
            if !row.rollback && kept.first_promotion_seconds.is_none() {
                kept.first_promotion_seconds = Some((row.t_ms - self.parts.started_ms) as f64 / 1000.0);
            }
        }
        kept.seen_promotions = look.judge.promotions.len();
        if let (Some(step), Some(loss)) = (look.progress["steps"].as_u64(), look.progress["loss"].as_f64())
            && step > kept.last_loss_step
        {
            kept.last_loss_step = step;
            history.loss(LossPoint { t_ms: now, step, loss });
        }
        let recent = look.agent.decision_recent;
        if recent.count > 0 {
            let us = |d: Duration| d.as_secs_f64() * 1e6;
            history.latency(LatencyPoint { t_ms: now, p50_us: us(recent.p50), p99_us: us(recent.p99) });
        }
        for (name, slot) in [("sample_freshness_p50_ms", 0), ("sample_freshness_p99_ms", 1)] {
            if let Some(ms) = look.progress[name].as_f64() {
                let slot = if slot == 0 { &mut kept.freshness_worst.0 } else { &mut kept.freshness_worst.1 };
                *slot = Some(ms);
            }
        }
        if let Some((peak, _)) = look.trainer.pid.and_then(resident_memory) {
            kept.trainer_peak = Some(kept.trainer_peak.unwrap_or(0).max(peak));
        }
        let before = kept.looks.take().map_or_else(|| look.clone(), |(_, newest)| newest);
        kept.looks = Some((before, look));
    }

    /// The state of this moment.
    pub fn snapshot(&self) -> LoopStatus {
        let now = self.look();
        let kept = self.kept();
        let before = kept.looks.as_ref().map_or_else(|| now.clone(), |(before, _)| before.clone());
        let (champion, candidate) = (kept.champion.clone(), kept.candidate.clone());
        let published = kept.published;
        let first_promotion = kept.first_promotion_seconds;
        let (ratings, (first, best)) = (Arc::clone(&kept.ratings), kept.first_and_best);
        drop(kept);
        let mut status = LoopStatus::new(self.parts.started_ms, jiff::Timestamp::now().as_millisecond());
        status.run_for_seconds = self.parts.run_for.map(|time| time.as_secs_f64());
        status.device = now.progress["device"].as_str().unwrap_or(&self.parts.config.train.device).to_owned();
        status.degraded = degraded(&self.parts, &now);
        stages::fill(&mut status, &self.parts, &before, &now, champion.as_ref(), candidate.as_ref());
        if let Some(champion) = &mut status.champion {
            champion.rating = ratings.get(&champion.version).copied();
        }
        status.last_swap = self.parts.history.last_swap();
        for (name, value) in [
            ("events_acknowledged", now.acknowledged),
            ("events_in_table", now.landed),
            ("transitions", now.assembled),
            ("train_steps", now.progress["steps"].as_u64().unwrap_or(0)),
            ("versions_published", published),
            ("versions_promoted", now.judge.promoted),
            ("versions_refused", now.judge.refused),
            ("swaps", now.agent.swaps),
        ] {
            status.count(name, value as f64);
        }
        for (name, score) in [("score_first", first), ("score_best", best)] {
            if let Some(score) = score {
                status.count(name, score);
            }
        }
        if let Some(seconds) = first_promotion {
            status.count("first_promotion_seconds", seconds);
        }
        status
    }

    pub fn first_promotion_seconds(&self) -> Option<f64> {
        self.kept().first_promotion_seconds
    }

    pub fn published(&self) -> u64 {
        self.kept().published
    }

    pub fn trainer_peak(&self) -> Option<u64> {
        self.kept().trainer_peak
    }

    /// Median and 99th percentile, milliseconds, of the newest report of the trainer.
    pub fn sample_freshness(&self) -> (Option<f64>, Option<f64>) {
        self.kept().freshness_worst
    }
}

/// The answer, or why there is none within [`PATIENCE`]: what is away must not hold up the rest.
async fn ask<T, E: std::fmt::Display>(whom: &str, question: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, question).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{whom} did not answer within {} s", PATIENCE.as_secs())),
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

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

fn ratings_of(scores: &[ScoreRow]) -> HashMap<u64, f64> {
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

fn control_error(operation: &'static str, error: RegistryError) -> ControlError {
    let kind = match &error {
        e if e.is_not_found() => ControlErrorKind::NotFound,
        e if e.is_conflict() => ControlErrorKind::Conflict,
        e if e.is_corrupt() => ControlErrorKind::Invalid,
        _ => ControlErrorKind::Unavailable,
    };
    ControlError::new(kind, operation, error.to_string()).caused_by(error)
}

#[async_trait]
impl LoopView for View {
    fn status(&self) -> LoopStatus {
        self.snapshot()
    }

    fn history(&self) -> History {
        self.parts.history.get()
    }

    fn games(&self) -> Vec<GameInfo> {
        let mut games = self.parts.backend.sessions();
        games.sort_by_key(|session| std::cmp::Reverse(session.started_at_ms));
        games.into_iter().map(|session| self.info(session)).collect()
    }

    fn watch_game(&self, id: &str) -> Option<GameWatch> {
        let session = self.parts.backend.sessions().into_iter().find(|session| session.id.as_str() == id)?;
        let mut source = self.parts.backend.subscribe(id)?;
        let first = Arc::new(frame(&source.borrow_and_update().clone()));
        let (sender, frames) = watch::channel(first);
        tokio::spawn(async move {
            // Ends with the game, or when nobody watches any more.
            loop {
                tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    changed = source.changed() => if changed.is_err() { return },
                }
                let next = frame(&source.borrow_and_update().clone());
                sender.send_replace(Arc::new(next));
            }
        });
        Some(GameWatch { info: self.info(session), frames })
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, ControlError> {
        let parts = &self.parts;
        let registry = &parts.backends.registry;
        let failed = |error| control_error("listing models", error);
        let cards = registry.list_newest(&parts.base, MODELS_SHOWN).await.map_err(failed)?;
        let aliases = self.aliases(&parts.base).await.map_err(failed)?;
        let judge = parts.judge.state();
        let ratings = Arc::clone(&self.kept().ratings);
        Ok(cards.into_iter().map(|card| model_info(&judge, &ratings, &aliases, card)).collect())
    }

    async fn alias(&self, base_key: &str, alias: &str) -> Result<AliasInfo, ControlError> {
        const OPERATION: &str = "reading an alias";
        let (base, registry) = (parse_base(base_key, OPERATION)?, &self.parts.backends.registry);
        let failed = |error| control_error(OPERATION, error);
        let Some(state) = registry.resolve(&base, alias).await.map_err(failed)? else {
            let message = format!("`{alias}` of `{base}` names nothing");
            return Err(ControlError::new(ControlErrorKind::NotFound, OPERATION, message)
                .hint("GET /v1/models lists the versions and their aliases"));
        };
        let model = ModelRef::new(base.clone(), state.version);
        let card = registry.card(&model).await.map_err(failed)?;
        let aliases = self.aliases(&base).await.map_err(failed)?;
        let ratings = Arc::clone(&self.kept().ratings);
        Ok(AliasInfo {
            name: model.to_string(),
            alias: state.alias,
            revision: state.revision,
            moved_at_ms: state.moved_at_ms,
            reason: state.reason,
            card: model_info(&self.parts.judge.state(), &ratings, &aliases, card),
        })
    }

    async fn weights(&self, base_key: &str, version: u64) -> Result<Weights, ControlError> {
        const OPERATION: &str = "reading weights";
        let model = ModelRef::new(parse_base(base_key, OPERATION)?, ModelVersion(version));
        let read = self.parts.backends.registry.weights(&model).await;
        let (card, bytes) = read.map_err(|error| control_error(OPERATION, error))?;
        Ok(Weights { sha256: card.sha256, bytes })
    }

    async fn promote(&self, base_key: &str, request: Promote) -> Result<AliasMove, ControlError> {
        const OPERATION: &str = "promoting a version";
        let (base, registry) = (parse_base(base_key, OPERATION)?, &self.parts.backends.registry);
        let failed = |error| control_error(OPERATION, error);
        let to = ModelVersion(request.version);
        registry.fetch(&ModelRef::new(base.clone(), to)).await.map_err(failed)?;
        let reason = request.reason.as_deref().unwrap_or("promoted by hand");
        let state = registry.promote(&base, "champion", to, request.expected_revision, reason).await.map_err(failed)?;
        self.refresh().await;
        Ok(alias_move(&base, state))
    }

    async fn rollback(&self, base_key: &str, request: Rollback) -> Result<AliasMove, ControlError> {
        const OPERATION: &str = "rolling back";
        let base = parse_base(base_key, OPERATION)?;
        let to = request.to.map(ModelVersion);
        let state =
            self.parts.backends.registry.rollback(&base, to).await.map_err(|error| control_error(OPERATION, error))?;
        self.refresh().await;
        Ok(alias_move(&base, state))
    }
}

impl View {
    /// What the aliases that people know name now.
    async fn aliases(&self, base: &BaseKey) -> Result<Vec<(&'static str, ModelVersion)>, RegistryError> {
        let mut aliases = Vec::new();
        for alias in ["champion", "candidate", "previous"] {
            if let Some(state) = self.parts.backends.registry.resolve(base, alias).await? {
                aliases.push((alias, state.version));
            }
        }
        Ok(aliases)
    }

    fn info(&self, session: flywheel_tank_server::SessionInfo) -> GameInfo {
        GameInfo {
            id: session.id.to_string(),
            system: "tank".to_owned(),
            map: session.map_name,
            opponent: session.opponent,
            model: self.parts.agent.deciding(&session.model_key).map(|model| model.to_string()),
            source: "live".to_owned(),
            tick: session.tick,
            started_at_ms: session.started_at_ms,
            ended: session.ended.map(|end| end.as_str().to_owned()),
        }
    }
}

fn frame(frame: &flywheel_tank_server::GameFrame) -> GameFrame {
    let tiles = &frame.tiles;
    GameFrame {
        tick: frame.tick,
        state: Arc::clone(&frame.state),
        tiles: Arc::new(Tiles {
            revision: tiles.revision,
            tile_size: tiles.tile_size,
            columns: tiles.columns,
            rows: tiles.cells.len() / tiles.columns.max(1),
            cells: tiles.cells.clone(),
        }),
        ended: frame.ended.map(|end| end.as_str().to_owned()),
    }
}

fn parse_base(text: &str, operation: &'static str) -> Result<BaseKey, ControlError> {
    BaseKey::new(text).map_err(|error| ControlError::new(ControlErrorKind::Invalid, operation, error.to_string()))
}

fn alias_move(base: &BaseKey, state: AliasState) -> AliasMove {
    AliasMove {
        model_key: base.to_string(),
        alias: state.alias,
        version: state.version.0,
        previous: state.previous.map(|version| version.0),
        revision: state.revision,
    }
}

fn model_info(
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
