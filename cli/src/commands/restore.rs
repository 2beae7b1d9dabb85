use flywheel_events::System;
use flywheel_maintain::{Archive, ArchivingError, Day, Restored};
use serde::Serialize;

use super::archive::date;
use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output::thousands,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Days to bring back, such as 2026-11-21
    #[arg(required = true, value_name = "DATE", value_parser = date)]
    days: Vec<String>,
    /// The system whose days they are
    #[arg(long, default_value = "tank")]
    system: System,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    day: Day,
    #[serde(flatten)]
    restored: Restored,
}

/// Exit code 75 if something has to be thawed first, 5 if a day is not in the archive.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let store = super::archive::open(&config).await?;
    let lake = crate::systems::open_lake(&config).await?;
    let archive = Archive::new(&lake, store, crate::systems::archiving(&config));
    let (mut rows, mut waiting) = (Vec::new(), 0);
    for dt in args.days {
        let day = Day { system: args.system.to_string(), dt };
        let restored = archive.restore(&day).await.map_err(|error| match error {
            ArchivingError::NotArchived(_) => Failure::new(Code::NotFound, error),
            error => {
                Failure::new(Code::Failure, error).hint("run it again: what was brought back is not brought back twice")
            }
        })?;
        waiting += usize::from(matches!(restored, Restored::Thawing { .. }));
        rows.push(Row { day, restored });
    }
    if global.json {
        crate::output::out!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        rows.iter().for_each(say);
    }
    if waiting == 0 {
        return Ok(());
    }
    Err(Failure::msg(Code::Temporary, format!("{waiting} of {} days have to be thawed first", rows.len()))
        .hint("run the same command again in some hours; `flywheel archive ls` says when they are readable"))
}

fn say(row: &Row) {
    match &row.restored {
        Restored::Done { rows, files, version } => crate::output::out!(
            "{}: {} rows in {files} files are in the table again, from version {version} on",
            row.day,
            thousands(*rows)
        ),
        Restored::There => crate::output::out!("{}: is in the table already", row.day),
        Restored::Thawing { waiting, files } => {
            crate::output::out!("{}: {waiting} of {files} files are being thawed", row.day);
        }
    }
}
