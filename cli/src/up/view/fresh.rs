//! What needs I/O, looked at once a second, and the charts that are drawn from it.

use std::{sync::Arc, time::Duration};

use flywheel_catalog::{CatalogError, Lease, Run};
use flywheel_control::{LatencyPoint, LossPoint, ScorePoint, ScoreSource, SwapPoint};
use tokio_util::sync::CancellationToken;

use super::{
    Look, View,
    models::{first_and_best, ratings_of},
};
use crate::up::report::resident_memory;

/// Longest wait for what is looked at once a second.
const PATIENCE: Duration = Duration::from_secs(2);

impl View {
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
                kept.is_trained = run.lease_until_ms.is_some_and(|until| until > now_ms());
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
