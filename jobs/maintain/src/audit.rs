use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flywheel_events::{GameId, System};
use flywheel_game_api::Experience;
use flywheel_lake::{Lake, LakeError, TableName};
use flywheel_log::{EventLog, LogError, LogErrorKind, Position, ReadLimit, Topic, TopicPartition};
use serde::Serialize;

use crate::{
    archive::{Archived, ArchivingError},
    games::{Experiences, Logged, LoggedGame},
    stored::{Stored, StoredGame, Versions},
};

/// What to compare.
pub struct AuditConfig {
    /// Topics of events with their numbers of partitions.
    pub topics: Vec<(Topic, u32)>,
    /// A fresh reader of one game's transitions, as `assemble` has it.
    pub experience: Box<dyn Fn(System) -> Option<Box<dyn Experience>> + Send + Sync>,
    /// What producers were told is durable: for each game the highest `seq`.
    pub acknowledged: BTreeMap<GameId, u64>,
    /// Where days of `events` were moved to: what lies there counts as in the table.
    pub archive: Option<Archived>,
}

/// Why an audit could not be held. (What it finds is in the report.)
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("reading what was archived")]
    Archive(#[from] ArchivingError),
}

/// The books of one game.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GameAudit {
    pub game_id: String,
    /// Distinct events in the log.
    pub events_log: u64,
    /// Distinct events in the table, and in the archive of it.
    pub events_table: u64,
    /// Rows in the table beyond the distinct ones.
    pub duplicate_rows: u64,
    /// Events that `land` has not come to yet.
    pub pending: u64,
    pub max_seq: Option<u64>,
    /// Numbers missing below `max_seq`, in the log itself.
    pub gaps: u64,
    /// Repeats in the log, dropped on the way.
    pub repeats: u64,
    /// Acknowledged events that are in neither.
    pub acknowledged_lost: u64,
    /// `open` until `assemble` has closed it; then `complete` or `incomplete`.
    pub state: &'static str,
    pub transitions_expected: u64,
    pub transitions_present: u64,
    pub ok: bool,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

/// Sums over all games.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditTotals {
    pub records: u64,
    pub games: u64,
    pub games_open: u64,
    pub games_incomplete: u64,
    pub events_log: u64,
    pub events_table: u64,
    pub events_pending: u64,
    pub duplicate_rows: u64,
    pub repeats: u64,
    pub gaps: u64,
    pub acknowledged_lost: u64,
    pub transitions_expected: u64,
    pub transitions_present: u64,
    /// Records that are no events, and those of them that are dead letters.
    pub undecodable: u64,
    pub dead_letters: u64,
    /// Dead letters of other flows, such as payloads that `assemble` could not use.
    pub dead_letters_elsewhere: u64,
}

/// The closed books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Nothing is lost, doubled or changed; what is pending or open is not counted against it.
    pub ok: bool,
    pub totals: AuditTotals,
    /// Part of the log was trimmed: events older than it are not compared.
    pub trimmed: bool,
    /// What is wrong outside of any game.
    pub problems: Vec<String>,
    pub games: Vec<GameAudit>,
}

impl AuditReport {
    /// The games whose books do not close.
    pub fn bad_games(&self) -> impl Iterator<Item = &GameAudit> {
        self.games.iter().filter(|game| !game.ok)
    }
}

/// Compares the log with the tables, game by game.
///
/// Safe beside running flows: the tables are read as of versions that were there before the log was looked at, so
/// all that they hold is in the log; what the flows have not come to yet is told as pending or open. Memory
/// grows with the number of games, and by 8 bytes for each transition.
///
/// # Errors
/// If the log or a table cannot be read.
pub async fn audit(log: &Arc<dyn EventLog>, lake: &Lake, config: &AuditConfig) -> Result<AuditReport, AuditError> {
    // Positions before versions, and versions before the log: what a position covers is in the version, and what the
    // version holds is in the log.
    let events = lake.table(TableName::Events);
    let mut landed_to = BTreeMap::new();
    for (topic, partitions) in &config.topics {
        for partition in 0..*partitions {
            let landed = events.position(&format!("land/{topic}/{partition}")).await?;
            landed_to.insert((topic.as_str(), partition), landed);
        }
    }
    let versions = Versions::now(lake).await?;
    let (mut logged, mut trimmed) = (Logged::default(), false);
    for (topic, partitions) in &config.topics {
        for partition in 0..*partitions {
            let landed = landed_to.get(&(topic.as_str(), partition)).copied().flatten();
            let place = topic.partition(partition);
            let bounds = match log.bounds(&place).await {
                Err(error) if error.kind() == LogErrorKind::NotFound => continue,
                bounds => bounds?,
            };
            trimmed |= bounds.trimmed.is_some();
            let Some(last) = bounds.last else { continue };
            let mut position = bounds.trimmed.map_or(Position::Start, Position::After);
            while position < Position::After(last) {
                let records = match log.read(&place, position, ReadLimit::default()).await {
                    // `up` trims beside this: what is gone was landed, and is not compared.
                    Err(error) if error.kind() == LogErrorKind::Trimmed => {
                        trimmed = true;
                        position = after_trim(log, &place, position, error).await?;
                        continue;
                    }
                    records => records?,
                };
                let Some(newest) = records.last() else { break };
                position = Position::After(newest.offset);
                let make: Experiences<'_> = &*config.experience;
                for record in records.iter().filter(|record| record.offset <= last) {
                    logged.take(record, (topic.as_str(), partition), landed, make);
                }
            }
        }
    }
    let stored = Stored::read(lake, versions, config.archive.as_ref()).await?;
    Ok(compare(&logged, &stored, config, trimmed))
}

/// Where to read on when the log was trimmed beyond `position`.
///
/// # Errors
/// With what the log said if it was not.
pub(crate) async fn after_trim(
    log: &Arc<dyn EventLog>,
    of: &TopicPartition,
    position: Position,
    error: LogError,
) -> Result<Position, LogError> {
    let trimmed = log.bounds(of).await?.trimmed.map(Position::After);
    trimmed.filter(|trimmed| *trimmed > position).ok_or(error)
}

fn compare(logged: &Logged, stored: &Stored, config: &AuditConfig, trimmed: bool) -> AuditReport {
    let mut totals = AuditTotals {
        records: logged.records,
        undecodable: logged.undecodable.len() as u64,
        dead_letters: stored.dead.values().sum(),
        dead_letters_elsewhere: stored.dead_elsewhere,
        ..AuditTotals::default()
    };
    let mut ids: BTreeSet<&str> = logged.games.keys().map(GameId::as_str).collect();
    ids.extend(stored.games.keys().map(String::as_str));
    ids.extend(config.acknowledged.keys().map(GameId::as_str));
    let (nothing_logged, nothing_stored) = (LoggedGame::default(), StoredGame::default());
    let mut games = Vec::with_capacity(ids.len());
    for id in ids {
        let game_id = GameId::new(id).ok();
        let log = game_id.as_ref().and_then(|id| logged.games.get(id)).unwrap_or(&nothing_logged);
        let table = stored.games.get(id).unwrap_or(&nothing_stored);
        let promised = game_id.as_ref().and_then(|id| config.acknowledged.get(id)).copied();
        let game = compare_game(id, log, table, promised, trimmed);
        totals.add(&game);
        games.push(game);
    }
    let mut problems = Vec::new();
    let missing = logged.undecodable.iter().filter(|place| !stored.dead.contains_key(*place)).count();
    if missing > 0 {
        problems.push(format!("{missing} undecodable records are not in dead_letters"));
    }
    let doubled = stored.dead.values().filter(|rows| **rows > 1).count();
    if doubled > 0 {
        problems.push(format!("{doubled} records are in dead_letters more than once"));
    }
    AuditReport { ok: problems.is_empty() && games.iter().all(|game| game.ok), totals, trimmed, problems, games }
}

fn compare_game(id: &str, log: &LoggedGame, table: &StoredGame, promised: Option<u64>, trimmed: bool) -> GameAudit {
    let mut problems = Vec::new();
    let mut wrong = |is: bool, why: String| {
        if is {
            problems.push(why);
        }
    };
    let missing = log.seqs.missing_in(&table.seqs);
    let extra = table.seqs.missing_in(&log.seqs);
    let duplicate_rows = table.rows - table.seqs.len();
    wrong(
        missing > log.pending,
        format!("{} events of the log are not in the table", missing - log.pending.min(missing)),
    );
    wrong(extra > 0 && !trimmed, format!("{extra} events of the table are not in the log"));
    wrong(duplicate_rows > 0, format!("{duplicate_rows} rows are doubled"));
    let comparable = missing == 0 && extra == 0;
    wrong(
        comparable && log.content != table.content,
        "the events in the table differ from those in the log".to_owned(),
    );

    let promised = promised.map_or(0, |seq| log.seqs.missing_to(seq, &table.seqs));
    wrong(promised > 0, format!("{promised} acknowledged events are lost"));

    let state = match (table.episodes, table.incomplete) {
        (0, _) => "open",
        (_, true) => "incomplete",
        (_, false) => "complete",
    };
    // A gap may have been filled after it had made the game incomplete, so nothing is due of such a game.
    let due = match state {
        "complete" => log.transitions_due(),
        // It is closed in `transitions` first and in `episodes` after.
        "open" if table.transitions > 0 => log.transitions_due(),
        _ => 0,
    };
    let known = !trimmed || extra == 0;
    wrong(known && due != table.transitions, format!("{due} transitions are due, {} are there", table.transitions));
    wrong(
        table.doubled_transitions > 0 || table.doubled_seats > 0,
        format!("{} transitions and {} episodes are doubled", table.doubled_transitions, table.doubled_seats),
    );
    GameAudit {
        game_id: id.to_owned(),
        events_log: log.seqs.len(),
        events_table: table.seqs.len(),
        duplicate_rows,
        pending: log.pending.min(missing),
        max_seq: log.seqs.last().max(table.seqs.last()),
        gaps: log.gaps(),
        repeats: log.repeats,
        acknowledged_lost: promised,
        state,
        transitions_expected: due,
        transitions_present: table.transitions,
        ok: problems.is_empty(),
        problems,
    }
}

impl AuditTotals {
    fn add(&mut self, game: &GameAudit) {
        self.games += 1;
        self.games_open += u64::from(game.state == "open");
        self.games_incomplete += u64::from(game.state == "incomplete");
        self.events_log += game.events_log;
        self.events_table += game.events_table;
        self.events_pending += game.pending;
        self.duplicate_rows += game.duplicate_rows;
        self.repeats += game.repeats;
        self.gaps += game.gaps;
        self.acknowledged_lost += game.acknowledged_lost;
        self.transitions_expected += game.transitions_expected;
        self.transitions_present += game.transitions_present;
    }
}
