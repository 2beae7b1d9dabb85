use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use flywheel_maintain::FilesChecked;

use crate::{
    Global,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    output::thousands,
    sharing::who_owns,
};

/// Between two words on how far it is.
const SAY_EVERY: Duration = Duration::from_secs(3);

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

/// Compares log and tables, and the tables' files with their checksums; exit code 7 if the books do not balance, 75 if events are not landed and nobody is at it.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let backends = crate::systems::open_existing(&config).await?;
    let acknowledged = match &args.acks {
        Some(file) => flywheel_maintain::acknowledged(file)?,
        None => Default::default(),
    };
    let files = check_files(global, &backends).await?;
    let audited = crate::systems::audit(&backends, crate::systems::open_archive(&config).await?, acknowledged).await;
    let mut report = match audited {
        Ok(report) => report,
        // The books cannot be read for the damage, which is told of all the same.
        Err(_) if !files.damaged.is_empty() => return Err(damaged(global, &files)),
        Err(error) => return Err(error),
    };
    let ok = report.ok && files.damaged.is_empty();
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
        let mut text = serde_json::to_value(&report)?;
        text["ok"] = ok.into();
        text["files"] = serde_json::to_value(&files)?;
        crate::output::out!("{}", serde_json::to_string_pretty(&text)?);
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
        crate::output::out!("{}", files_in_words(&files));
        for problem in files.damaged.iter().chain(&report.problems) {
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
    if !files.damaged.is_empty() {
        return Err(damaged_files(&files));
    }
    Err(Failure::msg(Code::CheckFailed, "the books do not balance")
        .hint("the games listed above differ; keep the data folder"))
}

/// Reads every byte of the tables; says how far it is where that takes long.
async fn check_files(global: &Global, backends: &flywheel_backends::Backends) -> Result<FilesChecked, Failure> {
    let mut said = Instant::now();
    let progress = |checked: &FilesChecked, total: u64| {
        if !global.quiet && said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let (bytes, total) = (thousands(checked.bytes >> 20), thousands(total >> 20));
            crate::output::note!("{bytes} of {total} MiB of the tables' files are compared with their checksums");
        }
    };
    Ok(flywheel_maintain::check_files(&backends.lake, progress).await?)
}

fn files_in_words(files: &FilesChecked) -> String {
    let mut words = format!(
        "{} files of the tables ({} MiB): {} are not as they were written",
        thousands(files.files),
        thousands(files.bytes >> 20),
        thousands(files.damaged.len() as u64)
    );
    if files.without_checksum > 0 {
        words += &format!("; {} have no checksum: of older programs, or of others", thousands(files.without_checksum));
    }
    words
}

fn damaged(global: &Global, files: &FilesChecked) -> Failure {
    if global.json {
        crate::output::out!("{:#}", serde_json::json!({"ok": false, "files": files}));
    } else {
        crate::output::out!("{}", files_in_words(files));
        files.damaged.iter().for_each(|problem| crate::output::out!("  {problem}"));
    }
    damaged_files(files)
}

fn damaged_files(files: &FilesChecked) -> Failure {
    let n = files.damaged.len();
    Failure::msg(Code::CheckFailed, format!("{n} files of the tables are not as they were written"))
        .hint("keep the data folder, check the disk; rows of theirs may still be in the log or in the archive")
}

/// Whether a loop runs on the data folder, or other processes land from the same log.
async fn somebody_lands(config: &Config) -> Result<bool, Failure> {
    if DataDir::open(&config.data)?.is_taken() {
        return Ok(true);
    }
    Ok(who_owns(config).await?.iter().any(|owner| !owner.is_dead))
}
