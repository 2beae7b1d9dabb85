//! Records that no flow could use: listed, shown, and put back into the log once they decode.
//!
//! A letter is replayed by appending its very bytes to the partition that they came from, as any producer would. A row of
//! flow `replay` in the same table then says so. Killed between the two, the next replay finds the event in the log or in
//! the table and only writes the row, so the event is there once and the letter is not asked about again.

mod crowded;
mod put_back;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
};

use flywheel_lake::{Lake, LakeError, Range, ScanOptions, Table, TableName};
use flywheel_log::{EventLog, LogError, Topic};
use flywheel_tables::{DeadLetterRow, DecodeView, EventView, TableError, dead_letters_from};
use futures::TryStreamExt;
use serde::{Serialize, Serializer};

use put_back::Ready;

/// The flow whose rows say that a letter was put back.
pub(crate) const REPLAY: &str = "replay";
/// The flow whose letters can be put back: those of others lie in table `events` already.
const LAND: &str = "land";
/// Nothing is wrong with these letters but the rest of their game: `land` would give them up again, each time anew.
const TOO_MANY_GAPS: &str = "too_many_gaps";
/// Letters that are looked up and appended together.
const BATCH_LETTERS: usize = 5_000;
const BATCH_BYTES: usize = 16 << 20;
/// Letters that stay are listed up to this number; all are counted.
const STAYS_LISTED: usize = 1_000;

/// Where a dead letter came from: `fw.tank.events/0@17`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    pub topic: Topic,
    pub partition: u32,
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl Serialize for LetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Text that is no position of a letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no position; it looks like `fw.tank.events/0@17`: topic, partition, offset")]
pub struct NotAPosition(String);

impl FromStr for LetterId {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let parts = || {
            let (lane, offset) = text.rsplit_once('@')?;
            let (topic, partition) = lane.rsplit_once('/')?;
            let topic = Topic::try_from(topic.to_owned()).ok()?;
            Some(Self { topic, partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        parts().ok_or_else(|| NotAPosition(text.to_owned()))
    }
}

/// One dead letter without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    pub position: LetterId,
    pub system: String,
    /// Which flow gave it up.
    pub flow: String,
    pub ingest_ms: i64,
    pub reason: String,
    pub detail: String,
    /// What became of it, if it was put back.
    pub replayed: Option<String>,
}

/// Which letters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    pub partition: Option<u32>,
    pub reason: Option<String>,
    /// Appended to the log at this time or later.
    pub since_ms: Option<i64>,
    /// Also those that were put back.
    pub replayed: bool,
}

/// How many letters of one reason there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LetterCounts {
    pub waiting: u64,
    pub replayed: u64,
}

/// The newest letters, and how many there are in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LetterList {
    pub by_reason: BTreeMap<String, LetterCounts>,
    /// In the order in which they were given up.
    pub letters: Vec<Letter>,
}

/// Which letters to put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    All,
    These(Vec<LetterId>),
}

/// Why a letter stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stays {
    pub position: LetterId,
    pub reason: String,
    pub detail: String,
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// Appended to the log (or, in a dry run, what would be).
    pub restored: u64,
    /// Their event was in the log or in the table already: put back by a replay that was killed, or sent again.
    pub there: u64,
    /// Put back by an earlier replay.
    pub replayed_before: u64,
    /// Given up by a flow behind `land`: their event is in table `events`, there is nothing to put back.
    pub elsewhere: u64,
    pub stay_by_reason: BTreeMap<String, u64>,
    /// The first of those that still cannot be used.
    pub stay: Vec<Stays>,
    /// Asked for by position, and not there.
    pub unknown: Vec<LetterId>,
}

impl ReplayReport {
    fn stays(&mut self, position: LetterId, reason: &str, detail: String) {
        *self.stay_by_reason.entry(reason.to_owned()).or_default() += 1;
        if self.stay.len() < STAYS_LISTED {
            self.stay.push(Stays { position, reason: reason.to_owned(), detail });
        }
    }
}

/// Why a replay ended early. What it had put back is put back; the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The dead letters of a lake.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    table: Table,
    events: Table,
    decode: DecodeView,
}

impl DeadLetters {
    pub fn new(lake: &Lake) -> Self {
        Self::with_decoder(lake, |bytes| EventView::decode(bytes))
    }

    /// With another idea of what an event is: that of a newer program.
    pub fn with_decoder(lake: &Lake, decode: DecodeView) -> Self {
        Self { table: lake.table(TableName::DeadLetters), events: lake.table(TableName::Events), decode }
    }

    /// The newest `count` letters that fit, and how many fit in all. Reads every row but no bytes of records.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn list(&self, filter: &LetterFilter, count: usize) -> Result<LetterList, LakeError> {
        let Some(version) = self.table.version().await? else { return Ok(LetterList::default()) };
        let marks = self.marks(version).await?;
        let mut options =
            ScanOptions::columns(["system", "flow", "topic", "partition", "offset", "ingest_ms", "reason", "detail"]);
        options.version = Some(version);
        options.ranges.extend(filter.since_ms.map(|since| Range::at_least("ingest_ms", since)));
        let (mut by_reason, mut letters) = (BTreeMap::<String, LetterCounts>::new(), VecDeque::new());
        let mut batches = self.table.scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            for row in heads(&batch) {
                let Some(position) = id_of(&row).filter(|_| row.flow != REPLAY) else { continue };
                let fits = filter.partition.is_none_or(|partition| partition == row.partition)
                    && filter.reason.as_ref().is_none_or(|reason| *reason == row.reason)
                    && filter.since_ms.is_none_or(|since| row.ingest_ms >= since);
                if !fits {
                    continue;
                }
                let replayed = marks.get(&position).filter(|_| row.flow == LAND).cloned();
                let counts = by_reason.entry(row.reason.clone()).or_default();
                match replayed {
                    Some(_) => counts.replayed += 1,
                    None => counts.waiting += 1,
                }
                if replayed.is_some() && !filter.replayed {
                    continue;
                }
                letters.push_back(letter(position, row, replayed));
                if letters.len() > count {
                    letters.pop_front();
                }
            }
        }
        Ok(LetterList { by_reason, letters: letters.into() })
    }

    /// Every letter of a position with its bytes: one for each flow that gave the record up.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn show(&self, position: &LetterId) -> Result<Vec<(Letter, Vec<u8>)>, ReplayError> {
        let Some(version) = self.table.version().await? else { return Ok(Vec::new()) };
        let marks = self.marks(version).await?;
        let ranges = vec![
            Range { column: "offset".to_owned(), low: position.offset, high: position.offset },
            Range { column: "partition".to_owned(), low: position.partition.into(), high: position.partition.into() },
        ];
        let options = ScanOptions { version: Some(version), ranges, ..ScanOptions::default() };
        let mut batches = self.table.scan_stream(options).await?;
        let mut found = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            for mut row in dead_letters_from(&batch)? {
                if row.flow != REPLAY && id_of(&row).as_ref() == Some(position) {
                    let raw = std::mem::take(&mut row.raw);
                    let replayed = marks.get(position).filter(|_| row.flow == LAND).cloned();
                    found.push((letter(position.clone(), row, replayed), raw));
                }
            }
        }
        Ok(found)
    }

    /// Puts the letters that decode by now back into `log`, each once, however often this is called or killed. Those of
    /// games that still have too many gaps stay, unless they are asked for by position.
    ///
    /// Beside a running loop, too. Reads the bytes of all letters, the columns `game_id` and `seq` of table `events`, and
    /// what the log holds behind `land`; memory is bounded by a batch of letters.
    ///
    /// # Errors
    /// If the log or a table fails; the next call goes on from there.
    pub async fn replay(
        &self,
        log: &Arc<dyn EventLog>,
        which: &Which,
        dry_run: bool,
    ) -> Result<ReplayReport, ReplayError> {
        let mut report = ReplayReport::default();
        let asked: Option<HashSet<LetterId>> = match which {
            Which::All => None,
            Which::These(positions) => Some(positions.iter().cloned().collect()),
        };
        let mut unseen = asked.clone().unwrap_or_default();
        if let Some(version) = self.table.version().await? {
            let marks = self.marks(version).await?;
            let mut crowded = self.crowded(version).await?;
            let options = ScanOptions { version: Some(version), ..ScanOptions::default() };
            let mut batches = self.table.scan_stream(options).await?;
            let (mut ready, mut bytes) = (Vec::new(), 0);
            while let Some(batch) = batches.try_next().await? {
                for row in dead_letters_from(&batch)? {
                    let Some(position) = id_of(&row).filter(|_| row.flow != REPLAY) else { continue };
                    if asked.as_ref().is_some_and(|asked| !asked.contains(&position)) {
                        continue;
                    }
                    unseen.remove(&position);
                    if row.flow != LAND {
                        report.elsewhere += 1;
                        continue;
                    }
                    if marks.contains_key(&position) {
                        report.replayed_before += 1;
                        continue;
                    }
                    match self.read(&position, row) {
                        Ok(letter) if asked.is_none() && !crowded.has_room(&letter.game_id, letter.seq) => {
                            let why = format!("`{}` still has more gaps in seq than are kept track of", letter.game_id);
                            report.stays(position, TOO_MANY_GAPS, why);
                        }
                        Ok(letter) => {
                            bytes += letter.raw.len();
                            ready.push(letter);
                        }
                        Err((reason, detail)) => report.stays(position, reason, detail),
                    }
                    if ready.len() >= BATCH_LETTERS || bytes >= BATCH_BYTES {
                        self.put_back(log, std::mem::take(&mut ready), dry_run, &mut report).await?;
                        bytes = 0;
                    }
                }
            }
            self.put_back(log, ready, dry_run, &mut report).await?;
        }
        report.unknown = unseen.into_iter().collect();
        report.unknown.sort();
        Ok(report)
    }

    /// The letter as an event that `land` will take; or why it would give it up again.
    fn read(&self, position: &LetterId, row: DeadLetterRow) -> Result<Ready, (&'static str, String)> {
        let event = (self.decode)(&row.raw).map_err(|error| (error.reason(), error.to_string()))?;
        if i64::try_from(event.seq).is_err() {
            return Err(("seq_out_of_range", format!("seq {} does not fit a table's long", event.seq)));
        }
        let (game_id, seq) = (event.game_id.clone().into_owned(), event.seq);
        Ok(Ready { position: position.clone(), system: row.system, game_id, seq, raw: row.raw })
    }

    /// The letters that were put back, and what was said of it.
    async fn marks(&self, version: u64) -> Result<HashMap<LetterId, String>, LakeError> {
        let mut options = ScanOptions::columns(["flow", "topic", "partition", "offset", "detail"]);
        options.version = Some(version);
        let mut batches = self.table.scan_stream(options).await?;
        let mut marks = HashMap::new();
        while let Some(batch) = batches.try_next().await? {
            for row in heads(&batch) {
                if row.flow == REPLAY
                    && let Some(position) = id_of(&row)
                {
                    marks.insert(position, row.detail);
                }
            }
        }
        Ok(marks)
    }
}

fn letter(position: LetterId, row: DeadLetterRow, replayed: Option<String>) -> Letter {
    let DeadLetterRow { system, flow, ingest_ms, reason, detail, .. } = row;
    Letter { position, system, flow, ingest_ms, reason, detail, replayed }
}

/// Where the row came from; `None` for a row whose topic cannot be one, which no flow writes.
fn id_of(row: &DeadLetterRow) -> Option<LetterId> {
    let topic = Topic::try_from(row.topic.clone()).ok()?;
    Some(LetterId { topic, partition: row.partition, offset: row.offset })
}

/// The rows of a batch; columns that were not asked for are empty.
fn heads(batch: &arrow::array::RecordBatch) -> Vec<DeadLetterRow> {
    use arrow::{
        array::AsArray,
        datatypes::{Int32Type, Int64Type},
    };
    let text = |name: &str, row: usize| {
        batch.column_by_name(name).map_or_else(String::new, |column| column.as_string::<i32>().value(row).to_owned())
    };
    let long = |name: &str, row: usize| {
        batch.column_by_name(name).map_or(0, |column| column.as_primitive::<Int64Type>().value(row))
    };
    let partition = |row| {
        batch.column_by_name("partition").map_or(0, |column| column.as_primitive::<Int32Type>().value(row) as u32)
    };
    (0..batch.num_rows())
        .map(|row| DeadLetterRow {
            system: text("system", row),
            flow: text("flow", row),
            topic: text("topic", row),
            partition: partition(row),
            offset: long("offset", row),
            ingest_ms: long("ingest_ms", row),
            reason: text("reason", row),
            detail: text("detail", row),
            raw: Vec::new(),
        })
        .collect()
}
