//! What each of the six stages says of itself.

use std::{sync::atomic::Ordering, time::Duration};

use flywheel_control::{Candidate, Decisions, LoopStatus, Stage, StageStatus};
use flywheel_flows::FlowState;
use flywheel_registry::AliasState;

use super::view::{Look, Parts, champion_of};
use crate::{commands::doctor::free_bytes, output::thousands};

/// Less free space than this and writes fail.
const FULL_BYTES: u64 = 16 << 20;

/// Fills stages, champion, candidate and decisions.
pub fn fill(
    status: &mut LoopStatus,
    parts: &Parts,
    before: &Look,
    now: &Look,
    champion: Option<&AliasState>,
    candidate: Option<&AliasState>,
) {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let per_second = |from: u64, to: u64| if seconds > 0.1 { to.saturating_sub(from) as f64 / seconds } else { 0.0 };
    status.set_stage(play(parts, now, per_second(before.farm.ticks, now.farm.ticks)));
    status.set_stage(stream(parts, now, per_second(before.acknowledged, now.acknowledged)));
    status.set_stage(land(parts, now, per_second(before.landed, now.landed)));
    status.set_stage(learn(parts, now));
    status.set_stage(judge(now, per_second(before.judge.games, now.judge.games)));
    status.set_stage(swap(parts, now, champion));
    status.champion = champion.map(|alias| champion_of(parts, &now.judge, alias));
    let cap = 2 * u64::from(parts.config.judge.trial.sequential.max_pairs);
    status.candidate = candidate.filter(|_| now.judge.busy).map(|alias| Candidate {
        model_key: parts.base.to_string(),
        version: alias.version.0,
        games: now.judge.trial_games,
        games_cap: cap,
        line: now.judge.doing.clone(),
    });
    let (recent, us) = (now.agent.decision_recent, |d: Duration| d.as_secs_f64() * 1e6);
    status.decisions = Decisions {
        requested: now.agent.decisions_requested,
        answered: now.agent.decisions_answered,
        mixed: now.agent.decisions_mixed,
        per_second: per_second(before.agent.decisions_answered, now.agent.decisions_answered),
        p50_us: (recent.count > 0).then(|| us(recent.p50)),
        p99_us: (recent.count > 0).then(|| us(recent.p99)),
    };
}

fn play(parts: &Parts, now: &Look, farm_rate: f64) -> StageStatus {
    let live_games = parts.live.games.load(Ordering::Relaxed);
    let line = format!(
        "{} live games, {} played; farm {} games",
        now.backend.sessions,
        thousands(now.backend.games_finished),
        thousands(now.farm.games)
    );
    let stage = StageStatus::new(Stage::Play)
        .running(line)
        .rate(farm_rate + now.backend.sessions as f64 * 1000.0 / parts.config.play.tick_ms as f64, "ticks/s")
        .detail("live_games", live_games)
        .detail("live_wins", parts.live.wins.load(Ordering::Relaxed))
        .detail("sockets", now.backend.sockets)
        .detail("farm_wins", now.farm.wins);
    if now.backend.sessions == 0 && now.farm.threads == 0 {
        return stage.waiting("players: none is connected, and the farm is off");
    }
    if now.farm.waiting > 0 && now.backend.sessions == 0 {
        return stage.waiting("the log: the event queue is half full");
    }
    stage
}

fn stream(parts: &Parts, now: &Look, rate: f64) -> StageStatus {
    let stats = &now.emitter;
    let waiting = stats.emitted.saturating_sub(stats.acknowledged);
    let stage = StageStatus::new(Stage::Stream)
        .running(format!("{} events acknowledged, {}", thousands(now.acknowledged), parts.backends.log.durability()))
        .rate(rate, "events/s")
        .lag(waiting as f64, "events")
        .detail("spilled", stats.spilled)
        .detail("spill_bytes", stats.spill_pending)
        .detail("queue_bytes", stats.queue_bytes)
        .detail("lost", stats.lost)
        .detail("through_doors", parts.door.accepted())
        .detail("spooled_at_doors", now.doors.spooled)
        .detail("door_spool_bytes", now.doors.bytes);
    match (&stats.away, &now.doors.away) {
        (Some((_, why)), _) if stats.full => stage.waiting(format!("room on the disk: {why}")),
        (Some((since, why)), _) | (None, Some((since, why))) => {
            let seconds = (jiff::Timestamp::now().as_millisecond() - since) / 1000;
            let kept = match now.doors.bytes {
                0 => String::new(),
                bytes => format!("; the spool of the doors holds {}", kilobytes(bytes)),
            };
            stage.waiting(format!("the log, away for {seconds} s: {why}{kept}{}", what_to_do(parts, seconds)))
        }
        (None, None) if now.doors.bytes > 0 => {
            stage.running(format!("the spool of the doors drains: {} to go", kilobytes(now.doors.bytes)))
        }
        (None, None) => stage,
    }
}

fn kilobytes(bytes: u64) -> String {
    format!("{} kB", thousands(bytes.div_ceil(1000)))
}

/// What helps when the log is away; nothing while it may come back by itself.
fn what_to_do(parts: &Parts, seconds: i64) -> String {
    let folder = &parts.config.data;
    match free_bytes(folder) {
        Some(free) if free < FULL_BYTES => {
            format!("; the disk of `{}` is full ({} MB free): free some space", folder.display(), free >> 20)
        }
        // A log file whose write has failed is not written again before it is opened anew.
        _ if seconds >= 10 => "; stop and start the loop: what waits here is kept and goes first".to_owned(),
        _ => String::new(),
    }
}

fn land(parts: &Parts, now: &Look, rate: f64) -> StageStatus {
    let (land, assemble) = (&parts.land, &parts.assemble);
    let pending = now.acknowledged.saturating_sub(now.landed);
    let stage = StageStatus::new(Stage::Land)
        .running(format!(
            "{} events, {} transitions of {} games in the tables",
            thousands(now.landed),
            thousands(now.assembled),
            thousands(assemble.games.load(Ordering::Relaxed))
        ))
        .rate(rate, "events/s")
        .lag(land.freshness_p50_ms() as f64, "ms")
        .detail("freshness_p99_ms", land.freshness_p99_ms())
        .detail("pending", pending)
        .detail("duplicates", land.duplicates.load(Ordering::Relaxed))
        .detail("dead", land.dead.load(Ordering::Relaxed))
        .detail("gaps", land.gaps.load(Ordering::Relaxed))
        .detail("partitions", land.owned.partitions.load(Ordering::Relaxed))
        .detail("fenced", land.owned.fenced.load(Ordering::Relaxed) + assemble.owned.fenced.load(Ordering::Relaxed))
        .detail("open_games", assemble.open_games.load(Ordering::Relaxed));
    if !parts.lands {
        return stage.running("left to other processes (--no-land); `flywheel status` says who");
    }
    for status in [&land.status, &assemble.status] {
        let why = status.why().unwrap_or_default();
        match status.state() {
            FlowState::Failed => return stage.failed(why),
            FlowState::Waiting => return stage.waiting(why),
            FlowState::Running | FlowState::Stopped => {}
        }
    }
    stage
}

fn learn(parts: &Parts, now: &Look) -> StageStatus {
    let progress = &now.progress;
    let (steps, rate) = (progress["steps"].as_u64().unwrap_or(0), progress["steps_per_s"].as_f64().unwrap_or(0.0));
    let buffer = progress["buffer_len"].as_u64().unwrap_or(0);
    let loss = progress["loss"].as_f64().map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
    let mut stage = StageStatus::new(Stage::Learn)
        .running(format!("step {}{loss}, {} transitions to learn from", thousands(steps), thousands(buffer)))
        .rate(rate, "steps/s");
    if let Some(ms) = progress["sample_freshness_p99_ms"].as_f64() {
        stage = stage.lag(ms, "ms");
    }
    for key in ["q_mean", "samples_per_insert", "staleness", "buffer_len", "learning_rate", "sample_freshness_p50_ms"] {
        if !progress[key].is_null() {
            stage = stage.detail(key, progress[key].clone());
        }
    }
    if let Some(down) = &now.trainer.down {
        return stage.waiting(down.clone());
    }
    if !parts.config.train.enabled && !now.is_trained {
        return stage.waiting(format!("switched off here (train.enabled), and no other trainer has {}", parts.run));
    }
    if let Some(waiting) = progress["waiting"].as_str() {
        let share = progress["min_size"].as_f64().filter(|min| *min > 0.0).map_or(0.0, |min| buffer as f64 / min);
        let stage = stage.waiting(waiting.to_owned());
        return if steps == 0 { stage.progress(share) } else { stage };
    }
    if progress["steps"].is_null() {
        return stage.waiting("the trainer to start");
    }
    stage
}

fn judge(now: &Look, rate: f64) -> StageStatus {
    let judge = &now.judge;
    let summary = format!("{} promoted, {} refused, {} rolled back", judge.promoted, judge.refused, judge.rollbacks);
    let stage = StageStatus::new(Stage::Judge).rate(rate, "games/s").detail("games", judge.games);
    if judge.busy {
        stage.running(format!("{}; {summary}", judge.doing))
    } else {
        let why = if judge.doing.is_empty() { "the judge to start" } else { judge.doing.as_str() };
        let mut stage = stage.waiting(why);
        stage.line = summary;
        stage
    }
}

fn swap(parts: &Parts, now: &Look, champion: Option<&AliasState>) -> StageStatus {
    let agent = &now.agent;
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let Some(champion) = champion else {
        return StageStatus::new(Stage::Swap).waiting("a first champion");
    };
    let mut stage = StageStatus::new(Stage::Swap)
        .running(format!("version {} plays; {} swaps, {} refused", champion.version, agent.swaps, agent.swaps_refused))
        .rate(0.0, "decisions/s")
        .detail("decisions", agent.decisions_answered)
        .detail("mixed", agent.decisions_mixed)
        .detail("swap_point", parts.config.agent.swap.clone());
    if agent.swap.count > 0 {
        stage = stage.lag(ms(agent.swap.p50), "ms").detail("swap_p99_ms", ms(agent.swap.p99));
    }
    stage.rate = None;
    stage
}
