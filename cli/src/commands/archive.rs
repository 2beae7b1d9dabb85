use std::sync::Arc;

use flywheel_archive::ColdStore;
use flywheel_log::Topic;
use flywheel_maintain::{Archive, ArchiveOptions, ArchiveReport, DayState, Segment, StreamArchive};
use serde::Serialize;

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output::{self, thousands},
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Days before this one, such as 2026-11-21; by default those that `archive.after_days` says
    #[arg(long, value_name = "DATE", value_parser = date)]
    before: Option<String>,
    /// Also days that were restored
    #[arg(long)]
    restored: bool,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the days and the records that the archive holds
    Ls,
    /// Print records that left the log, one a line, oldest first
    Cat {
        /// Such as fw.tank.events/0
        partition: String,
        /// From this offset on
        #[arg(long, value_name = "OFFSET", default_value_t = 0)]
        from: u64,
        #[arg(short = 'n', long, default_value_t = 20)]
        count: usize,
    },
}

/// A calendar day, as the tables write it.
pub fn date(text: &str) -> Result<String, String> {
    let date: jiff::civil::Date = text.parse().map_err(|_| format!("`{text}` is no day; one looks like 2026-11-21"))?;
    Ok(date.to_string())
}

/// Exit code 3 without an archive in the configuration.
pub async fn open(config: &Config) -> Result<Arc<dyn ColdStore>, Failure> {
    if !config.archive.is_on() {
        return Err(Failure::msg(Code::Config, "no archive is configured")
            .hint("set `archive.url` to `file:///folder` or `s3://bucket/prefix`"));
    }
    let store = crate::systems::open_archive(config).await?;
    Ok(store.expect("it is on"))
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let store = open(&config).await?;
    match args.command {
        Some(Command::Ls) => ls(global, &config, store).await,
        Some(Command::Cat { partition, from, count }) => cat(&config, store, &partition, from, count).await,
        None => archive(global, &config, store, args).await,
    }
}

async fn archive(global: &Global, config: &Config, store: Arc<dyn ColdStore>, args: Args) -> Result<(), Failure> {
    let lake = crate::systems::open_lake(config).await?;
    let archive = Archive::new(&lake, store, crate::systems::archiving(config));
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let today = flywheel_tables::day_of(now_ms);
    let before = args.before.unwrap_or_else(|| archive.due_before(now_ms));
    if before > today {
        return Err(Failure::msg(Code::Usage, format!("`{before}` lies ahead; only whole days are archived"))
            .hint(format!("`--before {today}` takes all up to yesterday")));
    }
    let options = ArchiveOptions { before, dry_run: args.dry_run, restored: args.restored };
    let report = archive.archive(&options).await.map_err(|error| {
        Failure::new(Code::Failure, error).hint("run it again: what was done stays done, and nothing is moved twice")
    })?;
    if global.json {
        let mut value = serde_json::to_value(&report)?;
        (value["dry_run"], value["before"]) = (options.dry_run.into(), options.before.into());
        crate::output::out!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        say(&report, &options);
    }
    Ok(())
}

fn say(report: &ArchiveReport, options: &ArchiveOptions) {
    for remark in &report.remarks {
        crate::output::note!("{remark}");
    }
    let verb = if options.dry_run { "would be archived" } else { "archived" };
    for day in &report.archived {
        crate::output::out!(
            "{}: {} rows in {} files of {} bytes {verb}",
            day.day,
            thousands(day.rows),
            day.files,
            thousands(day.bytes)
        );
    }
    for day in &report.waiting {
        crate::output::out!("{} waits: {}", day.day, day.why);
    }
    if report.archived.is_empty() && report.waiting.is_empty() {
        crate::output::out!("no rows of `events` lie before {}", options.before);
    }
}

/// What the stream's archive holds of a partition.
#[derive(Debug, Serialize)]
struct Held {
    topic: String,
    partition: u32,
    first: u64,
    last: u64,
    segments: usize,
}

#[derive(Debug, Serialize)]
struct Listing {
    place: String,
    days: Vec<DayState>,
    stream: Vec<Held>,
}

async fn ls(global: &Global, config: &Config, store: Arc<dyn ColdStore>) -> Result<(), Failure> {
    let lake = crate::systems::open_lake(config).await?;
    let days = Archive::new(&lake, Arc::clone(&store), crate::systems::archiving(config)).days().await?;
    let place = store.place();
    let stream = StreamArchive::new(store, config.archive.segment_bytes).partitions().await?;
    let stream: Vec<Held> = stream.iter().filter_map(|(_, segments)| held(segments)).collect();
    let listing = Listing { place, days, stream };
    if global.json {
        crate::output::out!("{}", serde_json::to_string_pretty(&listing)?);
        return Ok(());
    }
    let lines: Vec<_> = listing.days.iter().map(line).collect();
    let head = ["system", "day", "state", "rows", "files", "bytes", "games", "class", "readable", "rows in table"];
    output::print(global, &listing.days, &head, lines);
    for held in &listing.stream {
        crate::output::out!(
            "{}/{}: offsets {} to {} in {} segments",
            held.topic,
            held.partition,
            held.first,
            held.last,
            thousands(held.segments as u64)
        );
    }
    Ok(())
}

fn line(day: &DayState) -> Vec<String> {
    vec![
        day.day.system.clone(),
        day.day.dt.clone(),
        day.state.to_owned(),
        thousands(day.rows),
        day.files.to_string(),
        thousands(day.bytes),
        thousands(day.games),
        day.class.clone().unwrap_or_else(|| "-".to_owned()),
        day.readiness.map_or_else(|| "-".to_owned(), |readiness| readiness.to_string()),
        thousands(day.rows_in_table),
    ]
}

fn held(segments: &[Segment]) -> Option<Held> {
    let of = &segments.first()?.of;
    Some(Held {
        topic: of.topic.to_string(),
        partition: of.partition,
        first: segments.first()?.first.raw(),
        last: segments.iter().map(|segment| segment.last.raw()).max()?,
        segments: segments.len(),
    })
}

async fn cat(
    config: &Config,
    store: Arc<dyn ColdStore>,
    partition: &str,
    from: u64,
    count: usize,
) -> Result<(), Failure> {
    let of = partition
        .rsplit_once('/')
        .and_then(|(topic, number)| Some(Topic::try_from(topic.to_owned()).ok()?.partition(number.parse().ok()?)));
    let Some(of) = of else {
        return Err(Failure::msg(
            Code::Usage,
            format!("`{partition}` is no partition; one looks like fw.tank.events/0"),
        ));
    };
    let stream = StreamArchive::new(store, config.archive.segment_bytes);
    let segments = stream.segments(&of).await?;
    if segments.is_empty() {
        return Err(Failure::msg(Code::NotFound, format!("the archive holds no records of `{of}`"))
            .hint("`flywheel archive ls` lists what there is"));
    }
    let (mut left, mut next) = (count, from);
    for segment in segments {
        if left == 0 {
            break;
        }
        // Two processes may have cut the same records differently.
        if segment.last.raw() < next {
            continue;
        }
        for record in stream.read(&segment).await? {
            if left == 0 || record.offset.raw() < next {
                continue;
            }
            next = record.offset.raw() + 1;
            left -= 1;
            output::raw(&record.value);
            output::raw(b"\n");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_day_of_the_calendar() {
        assert_eq!(date("2026-11-21"), Ok("2026-11-21".to_owned()));
        for text in ["2026-13-01", "yesterday", "2026-11", ""] {
            assert!(date(text).unwrap_err().contains("2026-11-21"), "{text}");
        }
    }
}
