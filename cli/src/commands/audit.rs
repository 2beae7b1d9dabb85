use std::path::PathBuf;

use crate::{
    Global,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    output::thousands,
    sharing::who_owns,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only show this game
    game: Option<String>,
    /// What producers were told is durable, as written by `flywheel up --ack-journal FILE`
    #[arg(long, value_name = "FILE")]
    acks: Option<PathBuf>,
    /// List every game, not only those that differ
    #[arg(long)]
    all: bool,
}

/// Compares log and tables; exit code 7 if the books do not balance, 75 if events are not landed and nobody is at it.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let backends = crate::systems::open_existing(&config).await?;
    let acknowledged = match &args.acks {
        Some(file) => flywheel_maintain::acknowledged(file)?,
        None => Default::default(),
    };
    let mut report =
        crate::systems::audit(&backends, crate::systems::open_archive(&config).await?, acknowledged).await?;
    let ok = report.ok;
    if let Some(game) = &args.game {
        report.games.retain(|row| row.game_id == *game);
        if report.games.is_empty() {
            return Err(Failure::msg(Code::NotFound, format!("there is no game `{game}`"))
                .hint("`flywheel audit --all` lists all"));
        }
    } else if !args.all {
        report.games.retain(|row| !row.ok);
    }
    if global.json {
        crate::output::out!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let totals = &report.totals;
        crate::output::out!(
            "{} games: {} events in the log, {} in the table, {} not landed yet, {} doubled",
            thousands(totals.games),
            thousands(totals.events_log),
            thousands(totals.events_table),
            thousands(totals.events_pending),
            thousands(totals.duplicate_rows)
        );
        crate::output::out!(
            "{} transitions should be there, {} are; {} acknowledged events lost; {} dead letters",
            thousands(totals.transitions_expected),
            thousands(totals.transitions_present),
            thousands(totals.acknowledged_lost),
            thousands(totals.dead_letters)
        );
        for problem in &report.problems {
            crate::output::out!("  {problem}");
        }
        for game in &report.games {
            crate::output::out!("  {} {}: {}", game.game_id, game.state, game.problems.join("; "));
        }
        crate::output::out!("{}", if ok { "the books balance" } else { "the books do NOT balance" });
    }
    let pending = report.totals.events_pending;
    if ok && pending > 0 && !somebody_lands(&config).await? {
        return Err(Failure::msg(
            Code::Temporary,
            format!("{} events of the log are not landed yet, and nobody is landing them", thousands(pending)),
        )
        .hint("run `flywheel up --for 10s` and audit again"));
    }
    if ok {
        return Ok(());
    }
    Err(Failure::msg(Code::CheckFailed, "the books do not balance")
        .hint("the games listed above differ; keep the data folder"))
}

/// Whether a loop runs on the data folder, or other processes land from the same log.
async fn somebody_lands(config: &Config) -> Result<bool, Failure> {
    if DataDir::open(&config.data)?.is_taken() {
        return Ok(true);
    }
    Ok(who_owns(config).await?.iter().any(|owner| !owner.is_dead))
}
