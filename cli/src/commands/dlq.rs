use std::collections::BTreeMap;

use flywheel_maintain::{DeadLetters, Letter, LetterFilter, LetterId, ReplayReport, Which};
use serde_json::json;

use super::up::duration;
use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output::{self, thousands},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List records that could not be used, newest last, and how many there are by reason
    Ls(LsArgs),
    /// Print one letter: where it lies, why it could not be used, and its bytes
    Show {
        /// Such as fw.tank.events/0@17
        position: String,
        /// Print nothing but the bytes
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Put letters that this program can read back into the log, each once
    Replay {
        /// Letters to put back, such as fw.tank.events/0@17
        #[arg(value_name = "POSITION", required_unless_present = "all", conflicts_with = "all")]
        positions: Vec<String>,
        /// Every letter that waits
        #[arg(long)]
        all: bool,
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Only letters of this partition
    #[arg(long)]
    partition: Option<u32>,
    /// Only letters with this reason, such as `malformed`
    #[arg(long)]
    reason: Option<String>,
    /// Only letters of the last 90s, 10m, 2h, or since a time such as 2026-11-21T14:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<i64>,
    /// Also letters that were put back
    #[arg(long)]
    all: bool,
    /// The newest so many
    #[arg(short = 'n', long, default_value_t = 20)]
    count: usize,
}

/// Milliseconds since 1970 of a time, or of so long ago.
fn since(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let ago = duration(text).map_err(|why| format!("{why}; a time looks like 2h, 90s or 2026-11-21T14:00:00Z"))?;
    let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    Ok(jiff::Timestamp::now().as_millisecond().saturating_sub(ago))
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let config = Config::load(global)?;
    match command {
        Command::Ls(args) => ls(global, &config, args).await,
        Command::Show { position, raw } => show(global, &config, &position, raw).await,
        Command::Replay { positions, all, dry_run } => {
            let which = if all {
                Which::All
            } else {
                Which::These(positions.iter().map(|text| position(text)).collect::<Result<_, _>>()?)
            };
            replay(global, &config, &which, dry_run).await
        }
    }
}

fn position(text: &str) -> Result<LetterId, Failure> {
    text.parse().map_err(|error| {
        Failure::new(Code::Usage, anyhow::Error::new::<flywheel_maintain::NotAPosition>(error))
            .hint("`flywheel dlq ls` lists them")
    })
}

async fn ls(global: &Global, config: &Config, args: LsArgs) -> Result<(), Failure> {
    let letters = DeadLetters::new(&crate::systems::open_lake(config).await?);
    let filter =
        LetterFilter { partition: args.partition, reason: args.reason, since_ms: args.since, replayed: args.all };
    let list = letters.list(&filter, args.count).await?;
    if global.json {
        crate::output::out!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    let lines: Vec<_> = list
        .letters
        .iter()
        .map(|letter| {
            let state = if letter.replayed.is_some() { "replayed" } else { "waits" };
            vec![
                letter.position.to_string(),
                output::time(letter.ingest_ms),
                letter.flow.clone(),
                letter.reason.clone(),
                state.to_owned(),
                short(&letter.detail),
            ]
        })
        .collect();
    output::print(global, &list, &["position", "time", "flow", "reason", "", "detail"], lines);
    for (reason, counts) in &list.by_reason {
        crate::output::note!(
            "{reason}: {} waiting, {} put back",
            thousands(counts.waiting),
            thousands(counts.replayed)
        );
    }
    Ok(())
}

/// The beginning of a text, on one line and without what a terminal would obey.
fn short(text: &str) -> String {
    const MOST: usize = 100;
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        line.push('…');
    }
    line
}

async fn show(global: &Global, config: &Config, text: &str, raw: bool) -> Result<(), Failure> {
    let position = position(text)?;
    let letters = DeadLetters::new(&crate::systems::open_lake(config).await?);
    let found = letters.show(&position).await?;
    if found.is_empty() {
        return Err(Failure::msg(Code::NotFound, format!("there is no dead letter at `{position}`"))
            .hint("`flywheel dlq ls` lists them"));
    }
    if raw {
        output::raw(&found[0].1);
        return Ok(());
    }
    if global.json {
        let letters: Vec<_> = found.iter().map(|(letter, bytes)| as_json(letter, bytes)).collect();
        crate::output::out!("{}", serde_json::to_string_pretty(&letters)?);
        return Ok(());
    }
    for (letter, bytes) in &found {
        crate::output::out!("position  {}", letter.position);
        crate::output::out!("time      {}", output::time(letter.ingest_ms));
        crate::output::out!("given up  by {}: {}", letter.flow, letter.reason);
        crate::output::out!("because   {}", letter.detail.escape_debug());
        if let Some(what) = &letter.replayed {
            crate::output::out!("put back  {what}");
        }
        crate::output::out!("bytes     {}", thousands(bytes.len() as u64));
        // Text as it is; of anything else, what a terminal would obey is escaped.
        match std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control)) {
            Some(text) => crate::output::out!("{text}"),
            None => crate::output::out!("{}", bytes.escape_ascii()),
        }
    }
    Ok(())
}

/// The bytes as text where they are text, else in hexadecimal.
fn as_json(letter: &Letter, bytes: &[u8]) -> serde_json::Value {
    let mut value = json!(letter);
    match std::str::from_utf8(bytes) {
        Ok(text) => value["text"] = text.into(),
        Err(_) => value["hex"] = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    value
}

/// Exit code 7 if a letter that was named stays, 5 if there is none.
async fn replay(global: &Global, config: &Config, which: &Which, dry_run: bool) -> Result<(), Failure> {
    let backends = crate::systems::open_existing(config).await?;
    let report = DeadLetters::new(&backends.lake).replay(&backends.log, which, dry_run).await.map_err(|error| {
        Failure::new(Code::Failure, error).hint("run it again: what was put back is not put back twice")
    })?;
    if global.json {
        let mut value = serde_json::to_value(&report)?;
        value["dry_run"] = dry_run.into();
        crate::output::out!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        say(&report, dry_run);
    }
    if let Which::These(positions) = which {
        if let Some(unknown) = report.unknown.first() {
            return Err(Failure::msg(Code::NotFound, format!("there is no dead letter at `{unknown}`"))
                .hint("`flywheel dlq ls` lists them"));
        }
        if let Some(stays) = report.stay.first() {
            let text = format!(
                "{} of {} letters stay; `{}`: {}",
                report.stay.len(),
                positions.len(),
                stays.position,
                stays.detail
            );
            return Err(Failure::msg(Code::CheckFailed, text).hint("`flywheel dlq show POSITION` prints one"));
        }
    }
    Ok(())
}

fn say(report: &ReplayReport, dry_run: bool) {
    let stay: u64 = report.stay_by_reason.values().sum();
    crate::output::out!(
        "{} {}, {} were there already, {} put back before, {stay} stay",
        thousands(report.restored),
        if dry_run { "would be put back" } else { "put back into the log" },
        thousands(report.there),
        thousands(report.replayed_before),
    );
    if report.elsewhere > 0 {
        crate::output::out!(
            "{} were given up behind `land`: their events are in table `events`, their games are closed",
            thousands(report.elsewhere)
        );
    }
    let reasons: &BTreeMap<String, u64> = &report.stay_by_reason;
    for (reason, n) in reasons {
        crate::output::out!("  {}: {}", reason, thousands(*n));
    }
    for stays in &report.stay {
        crate::output::out!("  {} {}: {}", stays.position, stays.reason, short(&stays.detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_printed_and_long_reasons_are_cut() {
        assert_eq!(short("bad \u{1b}[2J\nbyte"), "bad  [2J byte");
        assert_eq!(short(&"x".repeat(500)).chars().count(), 101);
    }

    #[test]
    fn a_time_is_a_moment_or_so_long_ago() {
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(1000));
        let hour = jiff::Timestamp::now().as_millisecond() - since("1h").unwrap();
        assert!((3_540_000..=3_600_000).contains(&hour), "{hour}");
        assert!(since("yesterday").is_err());
    }
}
