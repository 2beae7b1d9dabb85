use std::time::Duration;

use flywheel_events::Event;
use flywheel_log::{Bounds, EventLog, Offset, Position, ReadLimit, Topic, TopicPartition};
use serde::Serialize;

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output::{self, thousands},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List topics and partitions with what they hold
    Ls,
    /// Print the newest events, and follow
    Tail(TailArgs),
}

#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// Topic to read
    #[arg(default_value = "fw.tank.events")]
    topic: String,
    /// Only this partition
    #[arg(long)]
    partition: Option<u32>,
    /// Only events of this game
    #[arg(long, value_name = "GAME")]
    game: Option<String>,
    /// Only events whose kind begins so
    #[arg(long, value_name = "PREFIX")]
    kind: Option<String>,
    /// From the oldest record instead of from now
    #[arg(long)]
    from_start: bool,
    /// Stop after so many events
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Stop at the end instead of waiting for more
    #[arg(long)]
    no_follow: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partition: u32,
    first: Option<u64>,
    last: Option<u64>,
    trimmed: Option<u64>,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let backends = crate::systems::open_existing(&config).await?;
    match command {
        Command::Ls => ls(global, &*backends.log).await,
        Command::Tail(args) => tail(&*backends.log, args).await,
    }
}

async fn ls(global: &Global, log: &dyn EventLog) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (topic, partitions) in log.topics().await? {
        for partition in 0..partitions {
            let Bounds { first, last, trimmed } = log.bounds(&topic.partition(partition)).await?;
            let raw = |offset: Option<Offset>| offset.map(Offset::raw);
            rows.push(Row {
                topic: topic.to_string(),
                partition,
                first: raw(first),
                last: raw(last),
                trimmed: raw(trimmed),
            });
        }
    }
    let text = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), thousands);
    let lines: Vec<_> = rows
        .iter()
        .map(|r| vec![r.topic.clone(), r.partition.to_string(), text(r.first), text(r.last), text(r.trimmed)])
        .collect();
    output::print(global, &rows, &["topic", "partition", "first", "last", "trimmed"], lines);
    Ok(())
}

async fn tail(log: &dyn EventLog, args: TailArgs) -> Result<(), Failure> {
    let topics = log.topics().await?;
    let Some((topic, partitions)) = topics.iter().find(|(topic, _)| topic.as_str() == args.topic) else {
        let known: Vec<_> = topics.iter().map(|(topic, _)| topic.as_str()).collect();
        return Err(Failure::msg(Code::NotFound, format!("there is no topic `{}`", args.topic))
            .hint(format!("known topics: {}", known.join(", "))));
    };
    if let Some(partition) = args.partition.filter(|partition| partition >= partitions) {
        return Err(Failure::msg(Code::NotFound, format!("topic `{topic}` has no partition {partition}"))
            .hint(format!("its partitions are 0 to {}", partitions.saturating_sub(1))));
    }
    if args.count == Some(0) {
        return Ok(());
    }
    let mut lanes: Vec<(TopicPartition, Position)> = Vec::new();
    for partition in (0..*partitions).filter(|p| args.partition.is_none_or(|only| only == *p)) {
        let lane = Topic::partition(topic, partition);
        let bounds = log.bounds(&lane).await?;
        let start = if args.from_start { bounds.trimmed } else { bounds.last };
        lanes.push((lane, start.map_or(Position::Start, Position::After)));
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    // One partition is waited for; several are asked in turn, so that none holds up the others.
    let wait = if args.no_follow { Duration::ZERO } else { Duration::from_millis(500 / lanes.len().max(1) as u64) };
    loop {
        let mut any = false;
        for (lane, position) in &mut lanes {
            let records =
                log.read(lane, *position, ReadLimit { max_records: 1000, ..ReadLimit::waiting(wait) }).await?;
            for record in records {
                any = true;
                *position = Position::After(record.offset);
                let event = Event::decode(&record.value);
                // The game is the event's: a stranger's record may have no key, or another.
                let is_asked = |game: &String| match &event {
                    Ok(event) => event.game_id.as_str() == game,
                    Err(_) => game.as_bytes() == &record.key[..],
                };
                if !args.game.as_ref().is_none_or(is_asked) {
                    continue;
                }
                let line = match event {
                    Ok(event) if args.kind.as_ref().is_some_and(|kind| !event.kind.starts_with(kind)) => continue,
                    Ok(_) => String::from_utf8_lossy(&record.value).into_owned(),
                    Err(error) => serde_json::json!({
                        "undecodable": error.to_string(), "position": format!("{lane}@{}", record.offset)
                    })
                    .to_string(),
                };
                crate::output::out!("{line}");
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
        }
        if args.no_follow && !any {
            return Ok(());
        }
    }
}
