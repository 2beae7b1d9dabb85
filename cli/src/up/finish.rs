//! The orderly end: each stage drained into the next, then the books.

use std::time::Duration;

use flywheel_events::System;
use flywheel_flows::OwnedStats;
use flywheel_log::Topic;
use tokio::task::JoinSet;
use tracing::warn;

use super::{
    Options,
    report::{Report, VersionScore, resident_memory},
    start::Running,
    view::{Parts, View, first_and_best},
};
use crate::{
    config::Config,
    exit::{Code, Failure},
    systems,
};

/// Stops everything, writes the report if one was asked for.
pub async fn finish(mut running: Running, options: &Options, config: &Config) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + config.up.drain;
    let view = std::sync::Arc::clone(&running.view);
    let parts = &view.parts;
    let played_seconds = parts.started.elapsed().as_secs_f64();

    // Play ends first: no game takes another step, every last event is on its way.
    running.stops.play.cancel();
    let unsaved = within(deadline, parts.agent.closed()).await;
    within(deadline, parts.backend.closed()).await;
    join("play", &mut running.play, deadline).await;
    while parts.farm.as_ref().is_some_and(|farm| farm.stats().threads > 0) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if let Err(error) = parts.emitter.close(deadline.saturating_duration_since(tokio::time::Instant::now())).await {
        warn!(%error, "the log did not take everything");
    }
    within(deadline, parts.door.closed()).await;
    // The trainer checkpoints meanwhile.
    running.stops.learn.cancel();
    settle(parts, deadline).await;
    view.refresh().await;
    running.stops.flows.cancel();
    join("land", &mut running.flows, deadline).await;
    join("learn", &mut running.learn, deadline.max(tokio::time::Instant::now() + Duration::from_secs(12))).await;
    if let Some(unsaved) = unsaved.filter(|n| *n > 0) {
        warn!(unsaved, "model saves were left when the agent stopped");
    }
    view.refresh().await;
    let result = match &options.report {
        Some(file) => {
            let report = report(&view, config, played_seconds).await;
            report.write(file)?;
            if options.json {
                crate::output::out!("{}", serde_json::to_string(&report)?);
            } else if !options.quiet {
                crate::output::note!("report in {}", file.display());
            }
            match report.audit_error {
                None if report.audit_ok => Ok(()),
                None => Err(Failure::msg(Code::CheckFailed, "the books do not balance; `flywheel audit` says where")),
                Some(why) => Err(Failure::msg(Code::Unreachable, format!("the books could not be compared: {why}"))
                    .hint("`flywheel audit`, once it answers; nothing is lost, and the report has all the rest")),
            }
        }
        None => Ok(()),
    };
    running.stops.rest.cancel();
    join("rest", &mut running.rest, tokio::time::Instant::now() + Duration::from_secs(6)).await;
    result
}

async fn within<T>(deadline: tokio::time::Instant, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline, work).await.ok()
}

async fn join(stage: &'static str, tasks: &mut JoinSet<()>, deadline: tokio::time::Instant) {
    let all = async {
        while let Some(result) = tasks.join_next().await {
            if let Err(error) = result
                && error.is_panic()
            {
                warn!(stage, %error, "a task panicked");
            }
        }
    };
    if tokio::time::timeout_at(deadline, all).await.is_err() {
        warn!(stage, "did not stop in time; it is safe to go");
        tasks.abort_all();
    }
}

/// Waits until the flows have taken everything that was acknowledged; they commit what they took when they end.
async fn settle(parts: &Parts, deadline: tokio::time::Instant) {
    if !parts.lands {
        return;
    }
    let flows = [("land", &parts.land.owned), ("assemble", &parts.assemble.owned)];
    for (flow, owned) in flows {
        let all = async {
            while !taken_all(parts, owned).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if within(deadline, all).await.is_none() {
            warn!(
                flow,
                "is not through with the log; the next start goes on from there (up.drain says how long to wait)"
            );
        }
    }
}

/// Whether a flow has taken the last record of each partition that it works on. Where the log does not say, not yet.
async fn taken_all(parts: &Parts, owned: &OwnedStats) -> bool {
    let topic = Topic::new(System::Tank.topic());
    let Some(reached) = owned.reached() else { return false };
    for (partition, taken) in reached {
        match parts.backends.log.bounds(&topic.partition(partition)).await {
            Ok(bounds) if bounds.last.is_none_or(|last| taken.is_some_and(|taken| taken >= last.as_i64())) => {}
            _ => return false,
        }
    }
    true
}

async fn report(view: &View, config: &Config, seconds: f64) -> Report {
    let parts = &view.parts;
    let look = view.look();
    let archive = parts.cold.as_ref().map(|cold| cold.store());
    let audit = async {
        // An archive that is away may look like an empty one: a disk that is not mounted does.
        if let Some(cold) = &parts.cold {
            cold.check().await?;
        }
        systems::audit(&parts.backends, archive, Default::default()).await
    };
    let audit = audit.await;
    let (audit, audit_error) = match audit {
        Ok(audit) => (Some(audit), None),
        Err(why) => (None, Some(why.to_string())),
    };
    let totals = audit.as_ref().map(|audit| &audit.totals);
    let judge = &look.judge;
    let scores: Vec<VersionScore> = judge
        .scores
        .iter()
        .map(|row| VersionScore {
            version: row.version,
            opponent: row.opponent.clone(),
            games: row.games,
            score: row.score,
        })
        .collect();
    let (first, best) = first_and_best(&judge.scores);
    let agent = &look.agent;
    let us = |count: u64, d: Duration| (count > 0).then_some(d.as_secs_f64() * 1e6);
    let ms = |count: u64, d: Duration| (count > 0).then_some(d.as_secs_f64() * 1e3);
    let (sample_p50, sample_p99) = view.sample_freshness();
    let landed = look.landed > 0;
    Report {
        seconds,
        events_acknowledged: totals.map(|totals| totals.events_log),
        events_in_table: totals.map(|totals| totals.events_table),
        events_duplicate_rows: totals.map(|totals| totals.duplicate_rows),
        events_dead: totals.map(|totals| totals.dead_letters),
        events_spilled: look.emitter.spilled,
        transitions: totals.map(|totals| totals.transitions_present),
        episodes: parts.assemble.episodes.load(std::sync::atomic::Ordering::Relaxed),
        train_steps: look.progress["steps"].as_u64().unwrap_or(0),
        versions_published: view.published(),
        versions_promoted: judge.promoted,
        versions_refused: judge.refused,
        rollbacks: judge.rollbacks,
        first_promotion_seconds: view.first_promotion_seconds(),
        swaps: agent.swaps,
        decisions_requested: agent.decisions_requested,
        decisions_answered: agent.decisions_answered,
        decisions_mixed: agent.decisions_mixed,
        decision_p50_us: us(agent.decision.count, agent.decision.p50),
        decision_p99_us: us(agent.decision.count, agent.decision.p99),
        swap_p50_ms: ms(agent.swap.count, agent.swap.p50),
        swap_p99_ms: ms(agent.swap.count, agent.swap.p99),
        table_freshness_p50_ms: landed.then(|| parts.land.freshness_p50_ms() as f64),
        table_freshness_p99_ms: landed.then(|| parts.land.freshness_p99_ms() as f64),
        sample_freshness_p50_ms: sample_p50,
        sample_freshness_p99_ms: sample_p99,
        score_first: first,
        score_best: best,
        score_by_version: scores,
        live_games: parts.live.games.load(std::sync::atomic::Ordering::Relaxed),
        farm_games: look.farm.games,
        rss_peak_bytes: resident_memory(std::process::id()).map_or(0, |(peak, _)| peak),
        trainer_rss_peak_bytes: view.trainer_peak(),
        durability: parts.backends.log.durability().to_string(),
        device: look.progress["device"].as_str().unwrap_or("none").to_owned(),
        audit_ok: audit.as_ref().is_some_and(|audit| audit.ok),
        audit_error,
        load_average: flywheel_benches::load_average(),
        seed: config.up.seed,
        version: env!("CARGO_PKG_VERSION"),
    }
}
