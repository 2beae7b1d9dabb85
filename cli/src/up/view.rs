//! The running loop as the page, the status line and the report see it.

mod fresh;
mod models;
mod page;
mod recent;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::{Duration, Instant},
};

use flywheel_agent::{Agent, AgentStats};
use flywheel_backends::Backends;
use flywheel_catalog::RunId;
use flywheel_control::{AliasInfo, HistoryKeeper, LoopStatus};
use flywheel_events::BaseKey;
use flywheel_flows::{AssembleStats, LandStats};
use flywheel_ingest::{Door, SpoolState};
use flywheel_judge::{Judge, JudgeState};
use flywheel_kit::{Emitter, EmitterStats};
use flywheel_log::Reserve;
use flywheel_registry::AliasState;
use flywheel_tank_server::{Farm, FarmStats, GameBackend, GameBackendStats};
use serde_json::Value;

pub use self::models::{champion_of, first_and_best};
use self::recent::Recent;
use super::{
    cold::Cold,
    degraded::{Silence, degraded},
    live::LiveResults,
    stages,
    trainer::TrainerState,
};
use crate::config::Config;

/// Aliases whose answers are remembered for a moment.
const ALIASES_REMEMBERED: usize = 64;

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
    /// The archive, where one is configured.
    pub cold: Option<Arc<Cold>>,
}

/// One look at every part.
#[derive(Debug, Clone)]
pub struct Look {
    pub at: Instant,
    pub emitter: EmitterStats,
    /// What the doors keep while the log is away.
    pub doors: SpoolState,
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
    /// Somebody has the lease of the training run: our own trainer, or one that is a service of its own.
    pub is_trained: bool,
    pub catalog_silence: Silence,
    pub registry_silence: Silence,
}

/// What is asked for less often than it is shown.
#[derive(Debug, Default)]
struct Kept {
    /// The newest two looks, a second apart: rates come from them.
    looks: Option<(Look, Look)>,
    progress: Value,
    is_trained: bool,
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

/// Implements [`LoopView`](flywheel_control::LoopView).
pub struct View {
    pub parts: Parts,
    kept: Mutex<Kept>,
    /// What aliases name, for those who follow them: each asks once a second.
    named: Recent<(BaseKey, String), AliasInfo>,
}

impl View {
    pub fn new(parts: Parts) -> Self {
        Self { parts, kept: Mutex::default(), named: Recent::new(Duration::from_secs(1), ALIASES_REMEMBERED) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds what is kept")
    }

    pub fn look(&self) -> Look {
        let parts = &self.parts;
        let emitter = parts.emitter.stats();
        let (progress, is_trained, catalog_silence, registry_silence) = {
            let kept = self.kept();
            let (catalog, registry) = (kept.catalog_silence.clone(), kept.registry_silence.clone());
            (kept.progress.clone(), kept.is_trained, catalog, registry)
        };
        Look {
            at: Instant::now(),
            acknowledged: emitter.acknowledged + parts.door.accepted(),
            emitter,
            doors: parts.door.spool(),
            backend: parts.backend.stats(),
            farm: parts.farm.as_ref().map(|farm| farm.stats()).unwrap_or_default(),
            agent: parts.agent.stats(),
            judge: parts.judge.state(),
            trainer: parts.trainer.lock().expect("nothing panics while it holds the state").clone(),
            landed: parts.land.events.load(Ordering::Relaxed),
            assembled: parts.assemble.transitions.load(Ordering::Relaxed),
            progress,
            is_trained,
            catalog_silence,
            registry_silence,
        }
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
