use std::time::Instant;

use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_judge::{Contender, by_opponent, score_sheet, trial};
use flywheel_policy::VersionedNetwork;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    Global,
    commands::model::failure,
    config::Config,
    exit::{Code, Failure},
    output,
    systems::TankArena,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Version to judge; the newest when left out
    candidate: Option<u64>,
    /// Version to judge it against; the champion when left out
    #[arg(long, value_name = "VERSION")]
    against: Option<u64>,
    /// Base key
    #[arg(long)]
    base_key: Option<String>,
    /// Only play the score sheet against the anchors
    #[arg(long)]
    sheet: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Plays and says; moves no alias.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let registry = crate::systems::open_registry(&config).await?;
    let base = BaseKey::new(args.base_key.as_deref().unwrap_or(&config.agent.base_key))?;
    let newest = registry.list_newest(&base, 1).await.map_err(failure)?.pop();
    let newest = newest.ok_or_else(|| {
        Failure::msg(Code::NotFound, format!("`{base}` has no versions yet")).hint("start the loop with `flywheel up`")
    })?;
    let candidate = args.candidate.map_or(newest.version, ModelVersion);
    let champion = match args.against {
        Some(version) => Some(ModelVersion(version)),
        None => registry.resolve(&base, "champion").await.map_err(failure)?.map(|alias| alias.version),
    };
    let load = async |version: ModelVersion| -> Result<VersionedNetwork, Failure> {
        let model = ModelRef::new(base.clone(), version);
        let (_, network) = registry.fetch(&model).await.map_err(failure)?;
        Ok(VersionedNetwork::new(model, network))
    };
    let ours = load(candidate).await?;
    let theirs = match champion {
        Some(version) if version != candidate && !args.sheet => Some((version, load(version).await?)),
        _ => None,
    };
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
    if global.quiet || global.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let (arena, started) = (TankArena::new(config.play.tank.clone()), Instant::now());
    let (sheet, seed, cap) = (args.sheet, args.seed, config.judge.trial.clone());
    let progress = bar.clone();
    let (verdict, games) = tokio::task::spawn_blocking(move || {
        let contender = Contender { version: candidate.0, policy: &ours };
        let against = theirs.as_ref().map(|(version, policy)| Contender { version: version.0, policy });
        let verdict = if sheet || against.is_none() {
            None
        } else {
            Some(trial(&arena, contender, against, &cap, seed, |test| {
                let (won, lost) = test.decisive();
                progress.set_message(format!("{} pairs, {won} won, {lost} lost", test.pairs()));
                progress.tick();
                true
            })?)
        };
        let games = score_sheet(&arena, contender, &cap, |n| {
            progress.set_message(format!("score sheet, {n} games"));
            progress.tick();
            true
        })?;
        Ok::<_, flywheel_judge::TrialError>((verdict, games))
    })
    .await??;
    bar.finish_and_clear();
    let scores = by_opponent(&games);
    if global.json {
        let mut verdict = serde_json::to_value(&verdict)?;
        if let Some(verdict) = verdict.as_object_mut() {
            verdict.remove("games");
        }
        crate::output::out!("{}", serde_json::json!({"candidate": candidate, "verdict": verdict, "scores": scores}));
        return Ok(());
    }
    if let Some(verdict) = verdict {
        let word = if verdict.promote { "better" } else { "not better" };
        crate::output::out!("version {candidate} is {word}: {}", verdict.reason);
    }
    let rows = scores
        .iter()
        .map(|(opponent, (n, score))| vec![opponent.clone(), n.to_string(), format!("{:.0} %", score * 100.0)]);
    output::print(global, &(), &["against", "games", "won"], rows);
    crate::output::note!("{} games in {:.1} s", games.len(), started.elapsed().as_secs_f64());
    Ok(())
}
